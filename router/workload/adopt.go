package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/kernel"
)

// adoptSpace tells the space who holds what by the journal. What could not be
// taken from its holder yet counts, too.
func (w *Workload) adoptSpace(ctx context.Context) error {
	if w.space == nil {
		return nil
	}
	var live []SpaceHolder
	w.journal.view(func(s *state) {
		var seen []netip.Prefix
		add := func(key, label string, held []netip.Prefix) {
			held = slices.DeleteFunc(slices.Clone(held), func(p netip.Prefix) bool {
				return len(w.ours([]netip.Prefix{p})) == 0 || holds(seen, p.Addr())
			})
			if len(held) > 0 {
				live = append(live, SpaceHolder{key, label, held})
				seen = append(seen, held...)
			}
		}
		add(exposeKey, exposeKey, s.hostAddresses())
		for i := range s.Containers {
			e := &s.Containers[i]
			add(e.Key, e.who(), e.held())
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			add(e.Key, e.who(), e.Extra)
		}
		for _, x := range s.Reserved {
			if !x.Dead {
				add(x.Key, x.label(), []netip.Prefix{x.Address})
			}
		}
	})
	if err := w.space.Adopt(ctx, live); err != nil {
		return fmt.Errorf("claim the addresses of attached containers: %w", err)
	}
	return nil
}

// adoptFound looks for interfaces that the journal does not know, as when it
// was lost, and writes down whose they are. Those that lead nowhere are
// removed.
func (w *Workload) adoptFound(ctx context.Context) error {
	var keep []string
	w.journal.view(func(s *state) {
		for _, e := range s.Containers {
			keep = append(keep, e.NS.HostEnd())
		}
		for _, e := range s.Endpoints {
			end, _ := attach.EndpointEnds(e.ID)
			keep = append(keep, end)
		}
	})
	strangers, err := w.attacher.Strangers(keep)
	if err != nil {
		return fmt.Errorf("look for interfaces that are not in the journal: %w", err)
	}
	if len(strangers) == 0 {
		return nil
	}
	var errs []error
	ways, err := w.waysIn()
	if err != nil {
		errs = append(errs, err)
	}
	for _, end := range strangers {
		if attach.EndpointOf(end) != "" {
			keep = append(keep, end.Name) // see askEngine
			continue
		}
		ns, ok := ways[end.Name]
		if !ok {
			continue
		}
		adopted, err := w.adopt(ctx, end, ns)
		if err != nil {
			errs = append(errs, fmt.Errorf("adopt interface %s: %w", end.Name, err))
		}
		if adopted || err != nil {
			keep = append(keep, end.Name)
		}
	}
	if err == nil { // otherwise some may lead to where we could not look
		swept, err := w.attacher.Sweep(keep)
		errs = append(errs, err)
		for _, end := range swept {
			w.log.Warn("removed an interface that belongs to no container", "interface", end)
		}
	}
	return errors.Join(errs...)
}

// adopt writes an interface down that leads to the namespace of t. It is not
// adopted when it carries no address.
func (w *Workload) adopt(ctx context.Context, end kernel.Link, t target) (bool, error) {
	sight, err := w.attacher.Look(t.path, t.ns)
	if isGone(err) || errors.Is(err, attach.ErrChanged) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	found := slices.DeleteFunc(sight.Addresses, func(p netip.Prefix) bool { return checkAddress(p) != nil })
	if len(found) == 0 {
		return false, nil
	}
	t = w.recognise(ctx, end.Alias, t)
	e := entry{Key: t.key, Label: t.label, NS: t.ns, Interface: sight.Interface, MAC: sight.MAC.String(), Multicast: sight.Multicast}
	e.refresh(t)
	err = w.journal.update(func(s *state) error {
		if s.find(t.key) != nil {
			// By the journal that container lives elsewhere.
			e.Key = "ns:" + t.ns.String()
		}
		held := s.hostAddresses()
		for i := range s.Containers {
			held = union(held, s.Containers[i].held())
		}
		for _, p := range found {
			if holds(held, p.Addr()) { // both cannot be reached
				e.Removing = append(e.Removing, p)
			} else {
				e.Addresses = append(e.Addresses, p)
			}
		}
		e.Names = w.autoNames(t.docker, e.Addresses)
		s.Containers = append(s.Containers, e)
		return nil
	})
	if err != nil {
		return true, err
	}
	w.log.Warn("adopted a container that was attached and is not in the journal", "container", e.who(),
		"addresses", e.Addresses, "removed", e.Removing, "interface", end.Name)
	_, err = w.check(ctx, e.Key)
	return true, err
}

// recognise finds out what people call the container at t: what they called it
// when it was attached is written on the host's end of its interface.
func (w *Workload) recognise(ctx context.Context, alias string, t target) target {
	if alias == "" {
		return t
	}
	known, err := w.resolve(ctx, alias)
	switch {
	case err == nil && known.ns == t.ns:
		return known
	case err != nil:
		t.label = alias // nobody else is called so
	}
	return t
}

// waysIn returns a way into each namespace that has processes or is mounted,
// by the name of the host's end that would lead there. With an error, some may
// be missing.
func (w *Workload) waysIn() (map[string]target, error) {
	ways := make(map[string]target)
	seen := make(map[string]bool)
	var errs []error
	look := func(path string, pid int) {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil {
			return // gone
		}
		id := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
		if seen[id] {
			return
		}
		var t target
		var err error
		if pid != 0 {
			t, err = w.resolveProcess(pidForm+strconv.Itoa(pid), pid)
		} else {
			t, err = w.resolve(context.Background(), netnsForm+path)
		}
		switch {
		case err == nil:
			seen[id] = true
			ways[t.ns.HostEnd()] = t
		case errors.Is(err, attach.ErrHostNetwork):
			seen[id] = true
		case !isGone(err) && !errors.Is(err, api.ErrNotFound):
			errs = append(errs, err)
		}
	}
	processes, err := filepath.Glob(filepath.Join(w.proc, "[0-9]*"))
	errs = append(errs, err)
	for _, dir := range processes {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			look(w.namespacePath(pid), pid)
		}
	}
	mounts, err := os.ReadFile(filepath.Join(w.proc, "self", "mountinfo"))
	if err != nil && !isGone(err) {
		errs = append(errs, err)
	}
	for _, path := range namespaceMounts(string(mounts)) {
		look(path, 0)
	}
	if err := errors.Join(errs...); err != nil {
		return ways, fmt.Errorf("look into network namespaces: %w", err)
	}
	return ways, nil
}

// namespaceMounts reads the paths at which network namespaces are mounted from
// /proc/self/mountinfo (proc(5)).
func namespaceMounts(mountinfo string) []string {
	var paths []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && strings.HasPrefix(after, "nsfs ") && len(fields) > 4 && strings.HasPrefix(fields[3], "net:[") {
			paths = append(paths, unescapeOctal(fields[4]))
		}
	}
	return paths
}

// unescapeOctal undoes what the kernel does to blanks, \ooo.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

// target is the container that somebody named, as it is now.
type target struct {
	key   string
	label string
	ns    attach.Namespace // zero: it has none now
	path  string           // leads to ns
	pid   int              // that path goes through; 0: none
	start uint64

	docker *Container // nil for pid: and netns:
}

// The forms of a container's name.
const (
	pidForm   = "pid:"
	netnsForm = "netns:"
)

// resolve finds the container called arg. It wraps [api.ErrNotFound] when
// there is none, [api.ErrUsage] when arg cannot be one's name.
func (w *Workload) resolve(ctx context.Context, arg string) (target, error) {
	var t target
	switch {
	case strings.HasPrefix(arg, pidForm):
		pid, err := strconv.Atoi(arg[len(pidForm):])
		if err != nil || pid <= 0 {
			return t, usage("container %s: want pid:N with the number of a process", arg)
		}
		return w.resolveProcess(arg, pid)
	case strings.HasPrefix(arg, netnsForm):
		path := arg[len(netnsForm):]
		if path != "" && !strings.Contains(path, "/") {
			path = "/run/netns/" + path
		}
		if !filepath.IsAbs(path) {
			return t, usage("container %s: want netns:NAME or netns:/PATH", arg)
		}
		ns, err := w.attacher.Identify(filepath.Clean(path))
		if err != nil {
			return t, w.identifyError(arg, path, err)
		}
		return target{key: "ns:" + ns.String(), label: arg, ns: ns, path: filepath.Clean(path)}, nil
	case arg == "" || strings.ContainsAny(arg, ":/ "):
		return t, usage("container %q: want a Docker name or id, pid:N, or netns:NAME-or-path", arg)
	}
	return w.resolveDocker(ctx, arg)
}

func (w *Workload) resolveProcess(arg string, pid int) (target, error) {
	path := w.namespacePath(pid)
	start, err := w.startTime(pid)
	if err != nil {
		return target{}, w.identifyError(arg, path, err)
	}
	ns, err := w.attacher.Identify(path)
	if err != nil {
		return target{}, w.identifyError(arg, path, err)
	}
	// If it is still the same process, what was opened was its namespace.
	if again, err := w.startTime(pid); err != nil || again != start {
		return target{}, notFound("container %s: the process has just ended", arg)
	}
	return target{key: "ns:" + ns.String(), label: arg, ns: ns, path: path, pid: pid, start: start}, nil
}

func (w *Workload) resolveDocker(ctx context.Context, arg string) (target, error) {
	if w.docker == nil {
		return target{}, fmt.Errorf("container %s: names need Docker, which is not in use here; name it pid:N or netns:PATH", arg)
	}
	c, err := w.docker.Inspect(ctx, arg)
	if err != nil {
		return target{}, fmt.Errorf("container %s: %w", arg, err)
	}
	t := target{key: dockerKey(c.ID), label: c.ID[:min(12, len(c.ID))], docker: &c}
	c.Running = c.Running && c.PID > 0 // not between two lives
	if !c.Running || c.HostNetwork {
		return t, nil
	}
	p, err := w.resolveProcess(arg, c.PID)
	if errors.Is(err, attach.ErrHostNetwork) {
		c.HostNetwork = true // by way of another container
		return t, nil
	}
	if err != nil {
		return target{}, err
	}
	t.ns, t.path, t.pid, t.start = p.ns, p.path, p.pid, p.start
	return t, nil
}

func (w *Workload) identifyError(arg, path string, err error) error {
	switch {
	case isGone(err) && strings.HasPrefix(arg, pidForm):
		return notFound("container %s: no such process", arg)
	case isGone(err) && strings.HasPrefix(arg, netnsForm):
		return notFound("container %s: no such network namespace: %s does not exist", arg, path)
	case isGone(err):
		return notFound("container %s: it has just ended", arg)
	}
	return fmt.Errorf("container %s: %w", arg, err)
}

// attachable says why t cannot be put on the switch, if so.
func (t *target) attachable(arg string) error {
	switch {
	case t.docker != nil && !t.docker.Running:
		return fmt.Errorf("container %s is not running", arg)
	case t.docker != nil && t.docker.HostNetwork:
		return fmt.Errorf("container %s: %w", arg, attach.ErrHostNetwork)
	}
	return nil
}

// remembered finds the entries that a name stands for when nothing answers to
// it any more: a process that ended, a container that was removed.
func (s *state) remembered(arg string) []string {
	var keys []string
	for _, e := range s.Containers {
		if e.Label == arg || e.Name != "" && e.Name == arg || e.ID != "" && len(arg) >= 12 && strings.HasPrefix(e.ID, arg) {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

// entriesOf returns the keys of the entries that t speaks for. pid: and netns:
// name a namespace and so everything in it; a Docker container is itself and
// what was attached to its namespace without a container's name.
func (s *state) entriesOf(t target) []string {
	var keys []string
	for _, e := range s.Containers {
		if e.Key == t.key || !t.ns.IsZero() && e.NS == t.ns && (t.docker == nil || e.ID == "") {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

// adopt lets pid: and netns: stand for the one container that is known to live
// in the namespace, if it is one: it has one interface and should not be
// listed twice.
func (s *state) adopt(t target) target {
	if here := s.in(t.ns); t.docker == nil && len(here) == 1 {
		t.key = here[0].Key
	}
	return t
}

// entriesFor finds the entries that arg stands for: of what it names now, which
// is t unless err says otherwise, else of what it named.
func (w *Workload) entriesFor(arg string, t target, err error) (keys []string, _ error) {
	w.journal.view(func(s *state) {
		if err == nil {
			keys = s.entriesOf(t)
		} else if !errors.Is(err, api.ErrUsage) {
			keys = s.remembered(arg)
		}
	})
	if err == nil || len(keys) > 0 {
		return keys, nil
	}
	if errors.Is(err, attach.ErrHostNetwork) {
		return nil, nil // it exists and has nothing
	}
	return nil, err
}

// locate finds a way into the namespace of an entry. It returns no path when
// the namespace is gone, an error when that cannot be told.
func (w *Workload) locate(e *entry) (path string, err error) {
	try := func(p string) bool {
		ns, ierr := w.attacher.Identify(p)
		if ierr != nil && !isGone(ierr) && !errors.Is(ierr, attach.ErrHostNetwork) {
			err = errors.Join(err, ierr)
		}
		return ierr == nil && ns == e.NS
	}
	if (e.PID == 0 || w.sameProcess(e)) && try(e.Path) {
		return e.Path, nil
	}
	for _, p := range w.pathsInto(e.NS) {
		if try(p) {
			return p, nil
		}
	}
	return "", err
}

// sameProcess reports whether the process that e was found by still runs.
func (w *Workload) sameProcess(e *entry) bool {
	start, err := w.startTime(e.PID)
	return err == nil && start == e.Start
}

// pathsInto returns a few processes inside a namespace. Without cookies an
// inode number proves nothing once its process has ended.
func (w *Workload) pathsInto(ns attach.Namespace) []string {
	if ns.Cookie == 0 {
		return nil
	}
	all, err := filepath.Glob(filepath.Join(w.proc, "[0-9]*", "ns", "net"))
	if err != nil {
		return nil
	}
	all = slices.DeleteFunc(all, func(path string) bool {
		var st unix.Stat_t
		return unix.Stat(path, &st) != nil || fmt.Sprintf("%d:%d", st.Dev, st.Ino) != ns.ID
	})
	return all[:min(len(all), 3)]
}

func (w *Workload) namespacePath(pid int) string {
	return filepath.Join(w.proc, strconv.Itoa(pid), "ns", "net")
}

// startTime tells a process from a later one with its number.
func (w *Workload) startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(w.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	return parseStartTime(string(b))
}

// parseStartTime reads field 22 of /proc/PID/stat. Field 2 is the program's
// name in parentheses and may contain anything.
func parseStartTime(stat string) (uint64, error) {
	i := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[i+1:])
	if i < 0 || len(fields) < 20 {
		return 0, errors.New("stat of the process is not understood")
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stat of the process: start time: %w", err)
	}
	return start, nil
}

// isGone recognises what the kernel says about processes and files that are
// no longer there.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

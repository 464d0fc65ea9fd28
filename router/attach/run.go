package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
)

// rounds bounds converge. One round is enough unless the kernel took more than
// was asked for: without promotion, other addresses of a subnet go with the
// first one.
const rounds = 3

// run is one Set: it looks, plans, does, and can undo.
type run struct {
	*Attacher
	guest Guest
	end   string
	spec  Spec

	as      string // name of a new interface; empty: the first free one
	keep    bool   // what is not there, or elsewhere, stays so
	waiting bool   // for the engine: how the interface is inside, save what nobody else sets, is not ours yet

	undos  []func() error // newest last
	waited bool           // for the end to forward
}

// converge does what must be done until nothing is left to do.
func (r *run) converge() (State, error) {
	var st State
	for range rounds {
		w, s, err := r.look()
		if err != nil {
			return State{}, err
		}
		if r.keep && s.link == nil {
			return st, nil
		}
		steps := plan(w, s)
		if s.link != nil {
			st.MAC = s.link.MAC
		}
		st.Interface = s.name
		again := false
		for _, p := range steps {
			if err := r.do(p, w, s); err != nil {
				return State{}, fmt.Errorf("%s: %w", r.name(p, s), err)
			}
			again = again || p.op == delAddr
			if p.op == addVeth {
				st.Made, st.MAC = true, r.spec.MAC
			}
			if p.op != announce {
				st.Changed = append(st.Changed, r.name(p, s))
			}
		}
		if !again {
			return st, nil
		}
	}
	return State{}, fmt.Errorf("%s does not keep its addresses: something else changes them", st.Interface)
}

// look asks the kernel for everything that plan needs.
func (r *run) look() (want, seen, error) {
	w := want{Spec: r.spec, end: r.end, mtu: r.mtu(), dns: r.dns, outside: r.as != ""}
	if r.waiting {
		w.Multicast, w.NoDNS = false, true
	}
	s := seen{sysctl: make(map[string]string)}
	bridge, err := r.host.Link(r.bridge)
	if err != nil {
		return w, s, fmt.Errorf("bridge %s: %w", r.bridge, err)
	}
	w.bridge = bridge.Index
	links, err := r.guest.Links()
	if err != nil {
		return w, s, fmt.Errorf("list links of the container: %w", err)
	}
	if s.routes, err = r.guest.Routes(0); err != nil {
		return w, s, fmt.Errorf("list routes of the container: %w", err)
	}
	if s.name = r.as; r.as == "" {
		s.name = guestName(links)
	}
	end, err := r.host.Link(r.end)
	if errors.Is(err, fs.ErrNotExist) {
		return w, s, nil
	}
	if err != nil {
		return w, s, err
	}
	s.end = &end
	if s.link = match(end, links); s.link != nil && r.as != "" && s.link.Name != r.as {
		s.link = nil
	}
	if s.link == nil {
		return w, s, nil
	}
	s.name = s.link.Name
	return w, s, r.lookInside(w, &s)
}

// lookInside adds what is known only of an interface that exists.
func (r *run) lookInside(w want, s *seen) (err error) {
	if s.addrs, err = r.guest.Addrs(s.name); err != nil {
		return err
	}
	for _, kv := range hostSysctls(r.end) {
		if s.sysctl[kv[0]], err = r.host.Sysctl(kv[0]); err != nil {
			return err
		}
	}
	for _, kv := range w.guestSysctls(s.name) {
		if s.sysctl[kv[0]], err = r.guest.Sysctl(kv[0]); missing(err) != nil {
			return err
		}
		if err != nil {
			s.sysctl[kv[0]] = kv[1] // not in this kernel: nothing to be done
		}
	}
	return nil
}

// do performs one step and remembers how to undo it.
func (r *run) do(p step, w want, s seen) error {
	switch p.op {
	case delEnd:
		return r.host.DelLink(r.end)
	case addVeth:
		if r.spec.MAC == (kernel.MAC{}) {
			r.spec.MAC = NewMAC()
		}
		// The undo comes first: a failure may leave one end behind.
		r.push(func() error { return r.host.DelLink(r.end) })
		return r.host.AddVeth(r.end, w.mtu, r.guest, s.name, r.spec.MAC)
	case hostSysctl:
		return r.host.SetSysctl(p.key, p.value)
	case setAlias:
		return r.host.SetAlias(r.end, p.value)
	case hostMTU:
		return r.host.SetMTU(r.end, number(p.value))
	case setMaster:
		return r.host.SetMaster(r.end, r.bridge)
	case hostUp:
		return r.host.SetUp(r.end, true)
	case guestSysctl:
		return missing(r.guest.SetSysctl(p.key, p.value))
	case guestMTU:
		return r.guest.SetMTU(s.name, number(p.value))
	case addAddr:
		err := r.guest.AddAddr(s.name, p.prefix, true)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		if err == nil {
			r.push(func() error { return missing(r.guest.DelAddr(s.name, p.prefix)) })
		}
		return err
	case delAddr:
		return missing(r.guest.DelAddr(s.name, p.prefix))
	case guestUp:
		return r.guest.SetUp(s.name, true)
	case addRoute:
		rt := kernel.Route{Dst: p.prefix, Link: s.name, Scope: kernel.ScopeLink}
		err := r.guest.ReplaceRoute(rt)
		if err == nil {
			r.push(func() error { return missing(r.guest.DelRoute(rt)) })
		}
		return err
	case announce:
		r.waitForwarding()
		return r.guest.Announce(s.name, p.prefix.Addr())
	}
	return fmt.Errorf("unknown step %d", p.op)
}

// How long an announcement waits for the host's end, and how often it looks.
// The wait is over at once unless the machine is busy; a second is what the
// kernel may take at worst.
const (
	forwardTime = 1500 * time.Millisecond
	forwardPoll = 5 * time.Millisecond
)

// waitForwarding waits, once a run, until the kernel has noticed that both ends
// are up. It does so in a queue of its own, and until then the bridge drops
// what comes from the container: an announcement would be lost, and nobody
// would find a container that took an address over. If it does not come to
// that, the announcement is made all the same.
func (r *run) waitForwarding() {
	if r.waited {
		return
	}
	r.waited = true
	for range forwardTime / forwardPoll {
		// Asking for a link makes a newer kernel (6.8) work its queue off.
		if _, err := r.host.Link(r.end); err != nil {
			return
		}
		if running, err := isRunning(r.host, r.end); running || err != nil {
			return
		}
		time.Sleep(forwardPoll)
	}
}

// isRunning reports whether an interface is up in earnest (RFC 2863), which
// for a port of a bridge is when it forwards.
func isRunning(h Host, name string) (running bool, err error) {
	err = h.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return err
		}
		running = ifr.Uint16()&unix.IFF_RUNNING != 0
		return nil
	})
	return running, err
}

func (r *run) push(f func() error) { r.undos = append(r.undos, f) }

// undo takes back what this run added, newest first.
func (r *run) undo() error {
	var errs []error
	for len(r.undos) > 0 {
		last := len(r.undos) - 1
		errs = append(errs, r.undos[last]())
		r.undos = r.undos[:last]
	}
	return errors.Join(errs...)
}

// name returns the step as a command.
func (r *run) name(p step, s seen) string {
	return strings.NewReplacer("END", r.end, "LINK", s.name, "BRIDGE", r.bridge).Replace(p.String())
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("attach: a step's number is written by plan: " + s)
	}
	return n
}

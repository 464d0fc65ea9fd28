package kerneltest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
)

// MDB is [kernel.Kernel.MDB].
func (f *Fake) MDB(name string) ([]kernel.MDB, error) {
	return list(f, name, "list multicast entries", func(l *link) []kernel.MDB { return l.mdb })
}

// AddMDB is [kernel.Kernel.AddMDB].
func (f *Fake) AddMDB(name string, e kernel.MDB) error {
	return f.change(name, func(l *link) error {
		if l.Kind != "vxlan" {
			return errors.ErrUnsupported
		}
		l.mdb = slices.DeleteFunc(l.mdb, func(x kernel.MDB) bool { return x.Group == e.Group && x.Dst == e.Dst })
		l.mdb = append(l.mdb, e)
		f.did(0, "%s", commandMDB("replace", name, e))
		return nil
	})
}

// DelMDB is [kernel.Kernel.DelMDB].
func (f *Fake) DelMDB(name string, e kernel.MDB) error {
	return f.change(name, func(l *link) error {
		i := slices.IndexFunc(l.mdb, func(x kernel.MDB) bool { return x.Group == e.Group && x.Dst == e.Dst })
		if i < 0 {
			return nil
		}
		f.did(0, "%s", commandMDB("del", name, l.mdb[i]))
		l.mdb = slices.Delete(l.mdb, i, i+1)
		return nil
	})
}

func commandMDB(verb, link string, e kernel.MDB) string {
	s := fmt.Sprintf("bridge mdb %s dev %s port %s grp %s permanent dst %s", verb, link, link, e.Group, e.Dst)
	if e.VNI != 0 {
		s += fmt.Sprintf(" vni %d", e.VNI)
	}
	return s
}

// Deafen is [kernel.Kernel.Deafen].
func (f *Fake) Deafen(name string) error {
	return f.change(name, func(l *link) error {
		l.Deaf = true
		f.did(kernel.LinkChanged, "%s", commandDeaf(name))
		return nil
	})
}

func commandDeaf(link string) string {
	return fmt.Sprintf("ip link set %s xdpgeneric object drop.o", link)
}

// diversion is the fake's; there is no command for it.
type diversion struct {
	f        *Fake
	from, to *link
	groups   map[netip.Addr]bool
}

// Divert is [kernel.Kernel.Divert].
func (f *Fake) Divert(from, to string, except []netip.Addr) (kernel.Diversion, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return nil, err
	}
	a, err := f.find(from)
	if err != nil {
		return nil, err
	}
	b, err := f.find(to)
	if err != nil {
		return nil, err
	}
	d := &diversion{f, a, b, make(map[netip.Addr]bool)}
	for _, g := range except {
		d.groups[g] = true
	}
	a.diversions = append(a.diversions, d)
	f.did(0, "divert multicast from %s to %s but %v", from, to, except)
	return d, nil
}

// Except is part of [kernel.Diversion].
func (d *diversion) Except(group netip.Addr, on bool) error {
	leave, err := d.f.call()
	defer leave()
	if err != nil {
		return err
	}
	if d.groups[group] == on {
		return nil
	}
	d.groups[group] = on
	word := "of"
	if on {
		word = "but"
	}
	d.f.did(0, "divert multicast from %s %s %s", d.from.Name, word, group)
	return nil
}

// Stands is part of [kernel.Diversion].
func (d *diversion) Stands() bool {
	d.f.machine.mu.Lock()
	defer d.f.machine.mu.Unlock()
	return slices.Contains(d.f.links, d.from) && slices.Contains(d.from.diversions, d)
}

// Close is part of [kernel.Diversion].
func (d *diversion) Close() error {
	defer d.f.enter()()
	d.from.diversions = slices.DeleteFunc(d.from.diversions, func(x *diversion) bool { return x == d })
	d.f.did(0, "divert no multicast from %s", d.from.Name)
	return nil
}

// ear is one end of a pair of sockets.
type ear struct {
	*os.File
	f    *Fake
	link string
	in   *os.File
	lost int
}

// Overhear is [kernel.Kernel.Overhear], but for the filter: what [Fake.Hear] is
// given is heard.
func (f *Fake) Overhear(name string, _ uint16, _ []unix.SockFilter) (kernel.Ear, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return nil, err
	}
	if _, err := f.find(name); err != nil {
		return nil, fmt.Errorf("overhear: %w", err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	e := &ear{File: os.NewFile(uintptr(fds[0]), "ear"), f: f, link: name, in: os.NewFile(uintptr(fds[1]), "packets")}
	f.ears = append(f.ears, e)
	return e, nil
}

// Lost is part of [kernel.Ear].
func (e *ear) Lost() (int, error) {
	leave, err := e.f.call()
	defer leave()
	n := e.lost
	e.lost = 0
	return n, err
}

// Close is part of [kernel.Ear].
func (e *ear) Close() error {
	e.f.machine.mu.Lock()
	e.f.ears = slices.DeleteFunc(e.f.ears, func(x *ear) bool { return x == e })
	e.f.machine.mu.Unlock()
	return errors.Join(e.File.Close(), e.in.Close())
}

// Hear makes a packet come in by an interface; nil is one that is lost because
// nobody read the others in time. It fails when nobody listens there.
func (f *Fake) Hear(name string, packet []byte) error {
	f.machine.mu.Lock()
	i := slices.IndexFunc(f.ears, func(e *ear) bool { return e.link == name })
	if i < 0 {
		f.machine.mu.Unlock()
		return syscall.ENOENT
	}
	e := f.ears[i]
	if packet == nil {
		e.lost++
	}
	f.machine.mu.Unlock()
	if packet == nil {
		return nil
	}
	_, err := e.in.Write(packet)
	return err
}

// SendFrames is [kernel.Kernel.SendFrames].
func (f *Fake) SendFrames(links []int, frames ...[]byte) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	for _, l := range f.links {
		if slices.Contains(links, l.Index) && l.Up {
			for _, frame := range frames {
				f.sent = append(f.sent, fmt.Sprintf("%x dev %s", frame, l.Name))
			}
		}
	}
	return nil
}

// Sent lists what SendFrames sent, "frame dev link".
func (f *Fake) Sent() []string {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	return slices.Clone(f.sent)
}

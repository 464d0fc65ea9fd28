package kerneltest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/weftnet/weft/router/kernel"
)

// ErrElsewhere says that a guest is no namespace of the same imagined machine.
var ErrElsewhere = errors.New("the guest is not of this machine")

// Links is [kernel.Kernel.Links].
func (f *Fake) Links() ([]kernel.Link, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return nil, err
	}
	var links []kernel.Link
	for _, l := range f.links {
		links = append(links, l.Link)
	}
	return links, nil
}

// Link is [kernel.Kernel.Link].
func (f *Fake) Link(name string) (kernel.Link, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return kernel.Link{}, err
	}
	l, err := f.find(name)
	if err != nil {
		return kernel.Link{}, err
	}
	return l.Link, nil
}

// AddBridge is [kernel.Kernel.AddBridge].
func (f *Fake) AddBridge(name string, mac kernel.MAC, mtu int) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	_, err = f.add(kernel.Link{Name: name, Kind: "bridge", MAC: mac, MTU: mtu})
	return wrap(err, "add bridge %s", name)
}

// AddVXLAN is [kernel.Kernel.AddVXLAN].
func (f *Fake) AddVXLAN(name string, v kernel.VXLAN) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	_, err = f.add(kernel.Link{
		Name: name, Kind: "vxlan", MTU: v.MTU, VNI: v.VNI, Port: v.Port, PortLow: v.PortLow, PortHigh: v.PortHigh,
		Local: v.Local, Learning: v.Learning, ZeroChecksums: true, Limit: v.Limit,
	})
	return wrap(err, "add vxlan %s", name)
}

// AddWireGuard is [kernel.Kernel.AddWireGuard].
func (f *Fake) AddWireGuard(name string, mtu int) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	_, err = f.add(kernel.Link{Name: name, Kind: "wireguard", MTU: mtu})
	return wrap(err, "add wireguard device %s", name)
}

// AddTUN makes a TUN or TAP device as a program does that opens one.
func (f *Fake) AddTUN(name string, mtu int) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	_, err = f.add(kernel.Link{Name: name, Kind: "tun", MTU: mtu})
	return wrap(err, "add tun %s", name)
}

// AddVeth is [kernel.Kernel.AddVeth]; guest is a *Fake of the same machine.
func (f *Fake) AddVeth(host string, mtu int, guest kernel.Guest, guestName string, guestMAC kernel.MAC) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	g, ok := guest.(*Fake)
	if !ok || g.machine != f.machine {
		return wrap(ErrElsewhere, "add veth %s", host)
	}
	if _, err := f.find(host); err == nil {
		return wrap(fs.ErrExist, "add veth %s", host)
	}
	inner, err := g.add(kernel.Link{Name: guestName, Kind: "veth", MAC: guestMAC, MTU: mtu})
	if err != nil {
		return wrap(err, "add veth %s with %s in the other namespace", host, guestName)
	}
	outer, err := f.add(kernel.Link{Name: host, Kind: "veth", MTU: mtu})
	if err != nil {
		g.remove(inner)
		return wrap(err, "add veth %s", host)
	}
	inner.peer, outer.peer = outer, inner
	inner.PeerIndex, outer.PeerIndex = outer.Index, inner.Index
	return nil
}

func (f *Fake) add(l kernel.Link) (*link, error) {
	if _, err := f.find(l.Name); err == nil {
		return nil, syscall.EEXIST
	}
	if l.Name == "" || len(l.Name) > 15 || strings.ContainsAny(l.Name, "/: \t\n") {
		return nil, syscall.EINVAL
	}
	f.machine.index++
	l.Index = f.machine.index
	if l.MAC == (kernel.MAC{}) && l.Kind != "wireguard" && l.Kind != "tun" {
		l.MAC = kernel.MAC{0x02, 0, 0, 0, byte(l.Index >> 8), byte(l.Index)}
	}
	n := &link{Link: l, home: f}
	f.links = append(f.links, n)
	f.sysctls["net/ipv6/conf/"+l.Name+"/disable_ipv6"] = f.sysctls["net/ipv6/conf/default/disable_ipv6"]
	for _, key := range []string{"ipv4/conf/%s/rp_filter", "ipv4/conf/%s/arp_ignore", "ipv4/conf/%s/forwarding", "ipv6/conf/%s/accept_ra"} {
		f.sysctls["net/"+fmt.Sprintf(key, l.Name)] = "0"
	}
	f.did(kernel.LinkChanged, "%s", commandAdd(l))
	return n, nil
}

// DelLink is [kernel.Kernel.DelLink].
func (f *Fake) DelLink(name string) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	l, err := f.find(name)
	if err != nil {
		return nil // what is gone is gone
	}
	f.remove(l)
	return nil
}

// remove takes a link and what depends on it away.
func (f *Fake) remove(l *link) {
	f.links = slices.DeleteFunc(f.links, func(x *link) bool { return x == l })
	for _, x := range f.links {
		if x.Master == l.Index {
			x.Master = 0
			x.leave()
		}
	}
	f.dropRoutes(func(r kernel.Route) bool { return r.Link == l.Name })
	for key := range f.sysctls {
		if strings.Contains(key, "/conf/"+l.Name+"/") {
			delete(f.sysctls, key)
		}
	}
	f.did(kernel.LinkChanged|kernel.AddrChanged|kernel.RouteChanged, "ip link del %s", l.Name)
	if p := l.peer; p != nil {
		p.peer, l.peer = nil, nil
		p.home.remove(p)
	}
}

// MoveLink is what an engine does with an interface: it goes to another
// namespace of the machine under a new name, down and without addresses.
func (f *Fake) MoveLink(name string, to *Fake, as string) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	l, err := f.find(name)
	if err != nil {
		return wrap(err, "move link %s", name)
	}
	if _, err := to.find(as); err == nil {
		return wrap(fs.ErrExist, "move link %s", name)
	}
	peer := l.peer
	l.peer = nil // it is not deleted
	f.remove(l)
	l.peer, l.home, l.Name, l.Up, l.Master, l.addrs = peer, to, as, false, 0, nil
	to.links = append(to.links, l)
	to.sysctls["net/ipv6/conf/"+as+"/disable_ipv6"] = to.sysctls["net/ipv6/conf/default/disable_ipv6"]
	to.sysctls["net/ipv4/conf/"+as+"/promote_secondaries"] = "0"
	return nil
}

// SetUp is [kernel.Kernel.SetUp].
func (f *Fake) SetUp(name string, up bool) error {
	return f.change(name, func(l *link) error {
		if l.Up == up {
			return nil
		}
		l.Up = up
		if !up {
			l.neighbours = nil
		}
		if up {
			f.did(kernel.LinkChanged, "ip link set %s up", name)
			return nil
		}
		f.did(kernel.LinkChanged|kernel.AddrChanged|kernel.RouteChanged, "ip link set %s down", name)
		l.addrs = slices.DeleteFunc(l.addrs, isIPv6)
		f.dropRoutes(func(r kernel.Route) bool { return r.Link == name })
		return nil
	})
}

// SetMTU is [kernel.Kernel.SetMTU].
func (f *Fake) SetMTU(name string, mtu int) error {
	return f.change(name, func(l *link) error {
		l.MTU = mtu
		f.did(kernel.LinkChanged, "ip link set %s mtu %d", name, mtu)
		return nil
	})
}

// SetMAC is [kernel.Kernel.SetMAC].
func (f *Fake) SetMAC(name string, mac kernel.MAC) error {
	return f.change(name, func(l *link) error {
		l.MAC = mac
		f.did(kernel.LinkChanged, "ip link set %s address %s", name, mac)
		return nil
	})
}

// SetMaster is [kernel.Kernel.SetMaster].
func (f *Fake) SetMaster(name, master string) error {
	return f.change(name, func(l *link) error {
		if master == "" {
			l.Master = 0
			l.leave()
			f.did(kernel.LinkChanged, "ip link set %s nomaster", name)
			return nil
		}
		m, err := f.find(master)
		if err != nil {
			return err
		}
		if m.Kind != "bridge" {
			return syscall.EOPNOTSUPP
		}
		if l.Master != m.Index {
			l.leave()
		}
		l.Master = m.Index
		f.did(kernel.LinkChanged, "ip link set %s master %s", name, master)
		return nil
	})
}

// SetAlias is [kernel.Kernel.SetAlias].
func (f *Fake) SetAlias(name, alias string) error {
	return f.change(name, func(l *link) error {
		l.Alias = alias
		f.did(kernel.LinkChanged, "ip link set %s alias %q", name, alias)
		return nil
	})
}

func (f *Fake) change(name string, fn func(*link) error) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	l, err := f.find(name)
	if err == nil {
		err = fn(l)
	}
	return wrap(err, "change link %s", name)
}

// list is a call that returns a copy of what of reads off a link.
func list[T any](f *Fake, name, what string, of func(*link) []T) ([]T, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return nil, err
	}
	l, err := f.find(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return slices.Clone(of(l)), nil
}

// FDB is [kernel.Kernel.FDB].
func (f *Fake) FDB(name string) ([]kernel.FDB, error) {
	return list(f, name, "list forwarding entries", func(l *link) []kernel.FDB { return l.fdb })
}

// AddFDB is [kernel.Kernel.AddFDB].
func (f *Fake) AddFDB(name string, e kernel.FDB) error {
	return f.change(name, func(l *link) error {
		if l.Kind != "vxlan" {
			return errors.ErrUnsupported
		}
		l.fdb = slices.DeleteFunc(l.fdb, func(x kernel.FDB) bool {
			return x.MAC == e.MAC && (x.Dst == e.Dst || e.MAC != kernel.MAC{})
		})
		l.fdb = append(l.fdb, e)
		f.did(neighEvent(e), "%s", commandFDB("append", name, e))
		return nil
	})
}

// DelFDB is [kernel.Kernel.DelFDB].
func (f *Fake) DelFDB(name string, e kernel.FDB) error {
	return f.change(name, func(l *link) error {
		i := slices.IndexFunc(l.fdb, func(x kernel.FDB) bool { return x.MAC == e.MAC && x.Dst == e.Dst })
		if i < 0 {
			return nil
		}
		f.did(neighEvent(l.fdb[i]), "%s", commandFDB("del", name, e))
		l.fdb = slices.Delete(l.fdb, i, i+1)
		return nil
	})
}

func neighEvent(e kernel.FDB) kernel.Event {
	if e.Permanent {
		return kernel.NeighChanged
	}
	return 0
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

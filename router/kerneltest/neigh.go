package kerneltest

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"syscall"

	"github.com/weftnet/weft/router/kernel"
)

// BridgeFDB is [kernel.Kernel.BridgeFDB].
func (f *Fake) BridgeFDB(bridge string) ([]kernel.BridgeFDB, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return nil, err
	}
	b, err := f.find(bridge)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var list []kernel.BridgeFDB
	for _, l := range f.links {
		if l.Master == b.Index {
			list = append(list, l.behind...)
		}
	}
	return list, nil
}

// AddBridgeFDB is [kernel.Kernel.AddBridgeFDB].
func (f *Fake) AddBridgeFDB(port string, m kernel.MAC) error {
	return f.behind(port, kernel.BridgeFDB{MAC: m, Told: true})
}

// LearnBridgeFDB is what happens when a frame comes through a port.
func (f *Fake) LearnBridgeFDB(port string, m kernel.MAC) error {
	return f.behind(port, kernel.BridgeFDB{MAC: m})
}

func (f *Fake) behind(port string, e kernel.BridgeFDB) error {
	return f.change(port, func(l *link) error {
		if l.Master == 0 {
			return syscall.EINVAL
		}
		for _, other := range f.links {
			if other.Master == l.Master {
				other.behind = slices.DeleteFunc(other.behind, func(x kernel.BridgeFDB) bool { return x.MAC == e.MAC })
			}
		}
		e.Port = l.Index
		l.behind = append(l.behind, e)
		if e.Told {
			f.did(0, "%s", commandBridgeFDB("replace", port, e.MAC))
		}
		return nil
	})
}

// DelBridgeFDB is [kernel.Kernel.DelBridgeFDB].
func (f *Fake) DelBridgeFDB(port string, m kernel.MAC) error {
	return f.change(port, func(l *link) error {
		if l.Master == 0 {
			return syscall.EINVAL
		}
		n := len(l.behind)
		l.behind = slices.DeleteFunc(l.behind, func(x kernel.BridgeFDB) bool { return x.MAC == m })
		if len(l.behind) < n {
			f.did(0, "%s", commandBridgeFDB("del", port, m))
		}
		return nil
	})
}

// Neighbours is [kernel.Kernel.Neighbours].
func (f *Fake) Neighbours(name string) ([]kernel.Neighbour, error) {
	return list(f, name, "list neighbours", func(l *link) []kernel.Neighbour { return l.neighbours })
}

// AddNeighbour is [kernel.Kernel.AddNeighbour].
func (f *Fake) AddNeighbour(name string, n kernel.Neighbour) error {
	return f.change(name, func(l *link) error {
		l.forget(n.Addr)
		l.neighbours = append(l.neighbours, n)
		f.did(0, "%s", commandNeighbour("replace", name, n))
		return nil
	})
}

// DelNeighbour is [kernel.Kernel.DelNeighbour].
func (f *Fake) DelNeighbour(name string, a netip.Addr) error {
	return f.change(name, func(l *link) error {
		if l.forget(a) {
			f.did(0, "ip neigh del %s dev %s", a, name)
		}
		return nil
	})
}

func (l *link) forget(a netip.Addr) bool {
	n := len(l.neighbours)
	l.neighbours = slices.DeleteFunc(l.neighbours, func(x kernel.Neighbour) bool { return x.Addr == a })
	return len(l.neighbours) < n
}

// ProxyARP is [kernel.Kernel.ProxyARP].
func (f *Fake) ProxyARP(port string) (bool, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return false, err
	}
	l, err := f.find(port)
	if err != nil {
		return false, fmt.Errorf("bridge port: %w", err)
	}
	if l.Master == 0 {
		return false, fmt.Errorf("%s is no bridge port: %w", port, fs.ErrInvalid)
	}
	return l.proxyARP, nil
}

// SetProxyARP is [kernel.Kernel.SetProxyARP].
func (f *Fake) SetProxyARP(port string, on bool) error {
	return f.change(port, func(l *link) error {
		if l.Master == 0 {
			return syscall.EINVAL
		}
		l.proxyARP = on
		f.did(kernel.LinkChanged, "%s", commandProxyARP(port, on))
		return nil
	})
}

// leave is what a link loses when it leaves its bridge.
func (l *link) leave() { l.proxyARP, l.behind = false, nil }

func commandProxyARP(port string, on bool) string {
	word := "off"
	if on {
		word = "on"
	}
	return fmt.Sprintf("ip link set %s type bridge_slave proxy_arp_wifi %s", port, word)
}

func commandBridgeFDB(verb, port string, m kernel.MAC) string {
	return fmt.Sprintf("bridge fdb %s %s dev %s master dynamic extern_learn", verb, m, port)
}

func commandNeighbour(verb, link string, n kernel.Neighbour) string {
	return fmt.Sprintf("ip neigh %s %s lladdr %s dev %s nud noarp extern_learn", verb, n.Addr, n.MAC, link)
}

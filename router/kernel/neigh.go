package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Entries of bridges and neighbours are entered as "learnt externally": such do
// not age, and unlike permanent ones their coming and going is no [Event].

// BridgeFDB lists what a bridge knows of addresses behind its ports.
func (k *Kernel) BridgeFDB(bridge string) ([]BridgeFDB, error) {
	l, err := k.find(bridge)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	list, err := dump(func() ([]netlink.Neigh, error) {
		return k.nl.NeighList(0, unix.AF_BRIDGE)
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses of bridge %s: %w", bridge, err)
	}
	var entries []BridgeFDB
	for _, n := range list {
		own := n.State&netlink.NUD_PERMANENT != 0
		if n.MasterIndex != l.Attrs().Index || n.LinkIndex == n.MasterIndex || n.Flags&netlink.NTF_SELF != 0 || own || n.Vlan != 0 {
			continue
		}
		e := BridgeFDB{Port: n.LinkIndex, Told: n.Flags&netlink.NTF_EXT_LEARNED != 0}
		copy(e.MAC[:], n.HardwareAddr)
		entries = append(entries, e)
	}
	return entries, nil
}

// AddBridgeFDB tells a bridge that an address is behind a port, wherever it was
// before.
func (k *Kernel) AddBridgeFDB(port string, m MAC) error {
	return k.change(port, "add address "+m.String()+" behind the bridge port", func(l netlink.Link) error {
		return k.nl.NeighSet(bridgeNeigh(l, m))
	})
}

// DelBridgeFDB makes a bridge forget an address behind a port, learnt or not;
// nil when it is not there.
func (k *Kernel) DelBridgeFDB(port string, m MAC) error {
	return k.change(port, "delete address "+m.String()+" behind the bridge port", func(l netlink.Link) error {
		err := k.nl.NeighDel(bridgeNeigh(l, m))
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

func bridgeNeigh(l netlink.Link, m MAC) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex:    l.Attrs().Index,
		Family:       unix.AF_BRIDGE,
		Flags:        netlink.NTF_MASTER | netlink.NTF_EXT_LEARNED,
		State:        netlink.NUD_REACHABLE,
		HardwareAddr: net.HardwareAddr(m[:]),
	}
}

// Neighbours lists the neighbours at an interface that AddNeighbour made.
func (k *Kernel) Neighbours(link string) ([]Neighbour, error) {
	l, err := k.find(link)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	list, err := dump(func() ([]netlink.Neigh, error) {
		return k.nl.NeighList(l.Attrs().Index, unix.AF_INET)
	})
	if err != nil {
		return nil, fmt.Errorf("list neighbours at %s: %w", link, err)
	}
	var entries []Neighbour
	for _, n := range list {
		if n.Flags&netlink.NTF_EXT_LEARNED == 0 {
			continue
		}
		e := Neighbour{Addr: toAddr(n.IP)}
		copy(e.MAC[:], n.HardwareAddr)
		entries = append(entries, e)
	}
	return entries, nil
}

// AddNeighbour tells the kernel a neighbour's hardware address, whatever it
// believed before.
func (k *Kernel) AddNeighbour(link string, n Neighbour) error {
	return k.change(link, fmt.Sprintf("add neighbour %s at %s", n.Addr, n.MAC), func(l netlink.Link) error {
		return k.nl.NeighSet(neighbour(l, n.Addr, n.MAC))
	})
}

// DelNeighbour makes the kernel forget a neighbour, told or not; nil when there
// is none.
func (k *Kernel) DelNeighbour(link string, a netip.Addr) error {
	return k.change(link, fmt.Sprintf("delete neighbour %s", a), func(l netlink.Link) error {
		err := k.nl.NeighDel(neighbour(l, a, MAC{}))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func neighbour(l netlink.Link, a netip.Addr, m MAC) *netlink.Neigh {
	n := &netlink.Neigh{
		LinkIndex: l.Attrs().Index,
		Family:    unix.AF_INET,
		Flags:     netlink.NTF_EXT_LEARNED,
		State:     netlink.NUD_NOARP,
		IP:        a.AsSlice(),
	}
	if m != (MAC{}) {
		n.HardwareAddr = net.HardwareAddr(m[:])
	}
	return n
}

// ProxyARP says whether a bridge answers ARP requests for what is behind a port
// of it, see SetProxyARP.
func (k *Kernel) ProxyARP(port string) (bool, error) {
	l, err := k.find(port)
	if err != nil {
		return false, fmt.Errorf("bridge port: %w", err)
	}
	if l.Attrs().MasterIndex == 0 {
		return false, fmt.Errorf("%s is no bridge port: %w", port, fs.ErrInvalid)
	}
	list, err := dump(func() ([]netlink.Protinfo, error) {
		info, err := k.nl.LinkGetProtinfo(l)
		return []netlink.Protinfo{info}, err
	})
	if err != nil {
		return false, fmt.Errorf("bridge port %s: %w", port, err)
	}
	return list[0].ProxyArpWiFi, nil
}

// SetProxyARP lets a bridge answer ARP requests for addresses of which it knows
// the neighbour, if that is behind this port, and not send them there. This is
// what IEEE 802.11 asks of access points. Another flag, neigh_suppress, answers
// IPv6 as well, but also keeps from the port what must pass: announcements, and
// probes whether an address is taken.
func (k *Kernel) SetProxyARP(port string, on bool) error {
	return k.change(port, "set proxy ARP", func(l netlink.Link) error {
		return k.nl.LinkSetBrProxyArpWiFi(l, on)
	})
}

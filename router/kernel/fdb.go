package kernel

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FDB lists the forwarding entries of a VXLAN device, one per MAC and remote;
// entries that its bridge keeps about it are not among them.
func (k *Kernel) FDB(link string) ([]FDB, error) {
	l, err := k.find(link)
	if err != nil {
		return nil, fmt.Errorf("list forwarding entries: %w", err)
	}
	list, err := dump(func() ([]netlink.Neigh, error) {
		return k.nl.NeighList(l.Attrs().Index, unix.AF_BRIDGE)
	})
	if err != nil {
		return nil, fmt.Errorf("list forwarding entries of %s: %w", link, err)
	}
	entries := make([]FDB, 0, len(list))
	for _, n := range list {
		if n.Flags&netlink.NTF_SELF == 0 || n.IP == nil {
			continue
		}
		e := FDB{Dst: toAddr(n.IP), Permanent: n.State&netlink.NUD_PERMANENT != 0, VNI: uint32(n.VNI)}
		e.Fixed = !e.Permanent && n.State&netlink.NUD_NOARP != 0
		copy(e.MAC[:], n.HardwareAddr)
		entries = append(entries, e)
	}
	return entries, nil
}

// AddFDB adds an entry, or replaces where frames for its MAC go. The zero MAC
// keeps one entry per remote; adding one that is there changes nothing.
func (k *Kernel) AddFDB(link string, f FDB) error {
	return k.change(link, fmt.Sprintf("add forwarding entry %s dst %s", f.MAC, f.Dst), func(l netlink.Link) error {
		if f.MAC == (MAC{}) {
			return k.nl.NeighAppend(toNeigh(l, f))
		}
		return k.nl.NeighSet(toNeigh(l, f))
	})
}

// DelFDB removes an entry, learnt or not; nil when there is none (the kernel
// does not always say).
func (k *Kernel) DelFDB(link string, f FDB) error {
	return k.change(link, fmt.Sprintf("delete forwarding entry %s dst %s", f.MAC, f.Dst), func(l netlink.Link) error {
		err := k.nl.NeighDel(toNeigh(l, f))
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

func toNeigh(l netlink.Link, f FDB) *netlink.Neigh {
	n := &netlink.Neigh{
		LinkIndex:    l.Attrs().Index,
		Family:       unix.AF_BRIDGE,
		Flags:        netlink.NTF_SELF,
		State:        netlink.NUD_REACHABLE,
		HardwareAddr: net.HardwareAddr(f.MAC[:]),
		IP:           f.Dst.AsSlice(),
		VNI:          int(f.VNI),
	}
	switch {
	case f.Permanent:
		n.State = netlink.NUD_NOARP | netlink.NUD_PERMANENT
	case f.Fixed:
		n.State |= netlink.NUD_NOARP
	}
	return n
}

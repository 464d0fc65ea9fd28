package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The netlink library has no multicast database of VXLAN devices. Numbers are
// those of linux/if_bridge.h.
const (
	mdbEntry, mdbEntryAttrs                  = 1, 2    // of a request
	mdbList, mdbListEntry, mdbListInfo       = 1, 1, 1 // of an answer, one inside the other
	mdbSetDst, mdbSetVNI, mdbIsDst, mdbIsVNI = 5, 7, 6, 8
	mdbPermanent                             = 1
	mdbEntrySize                             = 28
	mdbPortSize                              = 8
)

// MDB lists the entries of a VXLAN device's multicast database, one per group
// and remote. A kernel that has none (before Linux 6.4) says that there are no
// entries.
func (k *Kernel) MDB(link string) (entries []MDB, err error) {
	l, err := k.find(link)
	if err != nil {
		return nil, fmt.Errorf("list multicast entries: %w", err)
	}
	messages, err := dump(func() (list [][]byte, err error) {
		err = k.Do(func() (err error) {
			req := nl.NewNetlinkRequest(unix.RTM_GETMDB, unix.NLM_F_DUMP)
			req.AddData(mdbPort(0))
			list, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWMDB)
			return err
		})
		return list, err
	})
	if err != nil {
		return nil, fmt.Errorf("list multicast entries of %s: %w", link, err)
	}
	for _, m := range messages {
		if len(m) < mdbPortSize || int(binary.NativeEndian.Uint32(m[4:])) != l.Attrs().Index {
			continue // of another device
		}
		for _, e := range mdbInside(m[mdbPortSize:], mdbList, mdbListEntry, mdbListInfo) {
			if x, ok := parseMDB(e); ok {
				entries = append(entries, x)
			}
		}
	}
	return entries, nil
}

// mdbInside returns the attributes at the end of a path of types.
func mdbInside(b []byte, path ...uint16) (found [][]byte) {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil
	}
	for _, a := range list {
		switch {
		case a.Attr.Type&^unix.NLA_F_NESTED != path[0]:
		case len(path) == 1:
			found = append(found, a.Value)
		default:
			found = append(found, mdbInside(a.Value, path[1:]...)...)
		}
	}
	return found
}

func parseMDB(b []byte) (e MDB, ok bool) {
	if len(b) < mdbEntrySize {
		return MDB{}, false
	}
	switch binary.BigEndian.Uint16(b[24:]) {
	case unix.ETH_P_IP:
		e.Group = netip.AddrFrom4([4]byte(b[8:]))
	case unix.ETH_P_IPV6:
		e.Group = netip.AddrFrom16([16]byte(b[8:]))
	default:
		return MDB{}, false
	}
	for _, d := range mdbInside(b[mdbEntrySize:], mdbIsDst) {
		e.Dst = toAddr(d)
	}
	for _, v := range mdbInside(b[mdbEntrySize:], mdbIsVNI) {
		if len(v) == 4 {
			e.VNI = binary.NativeEndian.Uint32(v)
		}
	}
	return e, e.Dst.IsValid()
}

// AddMDB adds a remote to those that get a group, or changes its VNI. The
// device sends the group to nobody else from then on. A kernel without such a
// database (before Linux 6.4) gives [errors.ErrUnsupported].
func (k *Kernel) AddMDB(link string, e MDB) error {
	return k.change(link, fmt.Sprintf("add multicast entry %s dst %s", e.Group, e.Dst), func(l netlink.Link) error {
		return k.changeMDB(unix.RTM_NEWMDB, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, l, e)
	})
}

// DelMDB takes a remote away from those that get a group; nil when it is none.
func (k *Kernel) DelMDB(link string, e MDB) error {
	return k.change(link, fmt.Sprintf("delete multicast entry %s dst %s", e.Group, e.Dst), func(l netlink.Link) error {
		err := k.changeMDB(unix.RTM_DELMDB, 0, l, e)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

func (k *Kernel) changeMDB(message, flags int, l netlink.Link, e MDB) error {
	b := make([]byte, mdbEntrySize)
	binary.NativeEndian.PutUint32(b, uint32(l.Attrs().Index))
	b[4] = mdbPermanent // the only kind that there is
	copy(b[8:], e.Group.AsSlice())
	binary.BigEndian.PutUint16(b[24:], unix.ETH_P_IP)
	if e.Group.Is6() {
		binary.BigEndian.PutUint16(b[24:], unix.ETH_P_IPV6)
	}
	attrs := nl.NewRtAttr(mdbEntryAttrs|unix.NLA_F_NESTED, nil)
	attrs.AddRtAttr(mdbSetDst, e.Dst.AsSlice())
	if e.VNI != 0 {
		attrs.AddRtAttr(mdbSetVNI, nl.Uint32Attr(e.VNI))
	}
	return k.Do(func() error {
		req := nl.NewNetlinkRequest(message, flags|unix.NLM_F_ACK)
		req.AddData(mdbPort(l.Attrs().Index))
		req.AddData(nl.NewRtAttr(mdbEntry, b))
		req.AddData(attrs)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// mdbPort is struct br_port_msg: the device that a message is about.
type mdbPort int

func (mdbPort) Len() int { return mdbPortSize }

func (p mdbPort) Serialize() []byte {
	b := make([]byte, mdbPortSize)
	b[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(b[4:], uint32(p))
	return b
}

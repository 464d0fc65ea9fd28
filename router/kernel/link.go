package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// bridgeLimit bounds the addresses that a bridge learns, where the kernel can
// (Linux 6.7): without it one container fills the memory of its host by
// sending from ever new addresses. Frames to an address that was not learnt
// are flooded, so the switch goes on working.
const bridgeLimit = 1 << 16

// iflaBrFDBMaxLearned is IFLA_BR_FDB_MAX_LEARNED of linux/if_link.h.
const iflaBrFDBMaxLearned = 49

// Links lists the interfaces of the namespace.
func (k *Kernel) Links() ([]Link, error) {
	list, err := dump(k.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	links := make([]Link, 0, len(list))
	for _, l := range list {
		links = append(links, fromLink(l))
	}
	return links, nil
}

// Link returns one interface; [fs.ErrNotExist] when there is none.
func (k *Kernel) Link(name string) (Link, error) {
	l, err := k.find(name)
	if err != nil {
		return Link{}, err
	}
	return fromLink(l), nil
}

func (k *Kernel) find(name string) (netlink.Link, error) {
	l, err := k.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", name, translate(err))
	}
	return l, nil
}

// AddBridge makes a bridge, down, with a MAC address of its own (otherwise it
// would take that of its ports, and change it with them) and an MTU that its
// ports do not change. It floods multicast: snooping needs a querier.
func (k *Kernel) AddBridge(name string, mac MAC, mtu int) error {
	flood := false
	b := &netlink.Bridge{LinkAttrs: attrs(name, mac, 0), MulticastSnooping: &flood}
	if err := k.nl.LinkAdd(b); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, translate(err))
	}
	// Not with the rest: the kernel would go on believing that the bridge has an
	// MTU of 1500 where bridged frames pass through iptables, and drop fragments
	// that are larger.
	if err := k.SetMTU(name, mtu); err != nil {
		return errors.Join(fmt.Errorf("add bridge %s: %w", name, err), k.DelLink(name))
	}
	if err := k.limitBridge(name); err != nil {
		return errors.Join(fmt.Errorf("add bridge %s: bound what it learns: %w", name, err), k.DelLink(name))
	}
	return nil
}

// limitBridge sets what the netlink library has no field for. Kernels that do
// not know the attribute ignore it.
func (k *Kernel) limitBridge(name string) error {
	return k.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
		info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(iflaBrFDBMaxLearned, nl.Uint32Attr(bridgeLimit))
		req.AddData(info)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return translate(err)
	})
}

// AddVXLAN makes a VXLAN device, down and without remotes.
func (k *Kernel) AddVXLAN(name string, v VXLAN) error {
	x := &netlink.Vxlan{
		LinkAttrs:      attrs(name, MAC{}, v.MTU),
		VxlanId:        int(v.VNI),
		SrcAddr:        v.Local.AsSlice(),
		Learning:       v.Learning,
		UDP6ZeroCSumTx: true,
		UDP6ZeroCSumRx: true,
		Age:            int(v.Ageing / time.Second),
		Limit:          v.Limit,
		Port:           int(v.Port),
		PortLow:        int(v.PortLow),
		PortHigh:       int(v.PortHigh),
	}
	if err := k.nl.LinkAdd(x); err != nil {
		return fmt.Errorf("add vxlan %s: %w", name, translate(err))
	}
	return nil
}

// AddWireGuard makes a WireGuard device, down and without keys. A kernel that
// has no WireGuard gives an error wrapping [errors.ErrUnsupported].
func (k *Kernel) AddWireGuard(name string, mtu int) error {
	if err := k.nl.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs(name, MAC{}, mtu)}); err != nil {
		return fmt.Errorf("add wireguard device %s: %w", name, translate(err))
	}
	return nil
}

// AddVeth makes a pair of interfaces, down: guestName inside the guest's
// namespace, where it cannot be seen half made under another name, and host
// in this one. guestMAC may be zero. guest is a *Kernel.
func (k *Kernel) AddVeth(host string, mtu int, guest Guest, guestName string, guestMAC MAC) error {
	g, ok := guest.(*Kernel)
	if !ok {
		return fmt.Errorf("add veth %s: %T is no namespace of this machine", host, guest)
	}
	v := &netlink.Veth{
		LinkAttrs:     attrs(guestName, guestMAC, mtu),
		PeerName:      host,
		PeerNamespace: netlink.NsFd(k.ns),
		PeerTxQLen:    -1,
	}
	if err := g.nl.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth %s with %s in the other namespace: %w", host, guestName, translate(err))
	}
	// The answer of the kernel says that a pair was made, not that both ends
	// are where they should be: something may have moved or renamed one.
	if _, err := k.find(host); err != nil {
		return errors.Join(fmt.Errorf("add veth %s: %w", host, err), g.DelLink(guestName))
	}
	return nil
}

// DelLink removes an interface; nil when there is none.
func (k *Kernel) DelLink(name string) error {
	l, err := k.find(name)
	if err == nil {
		err = translate(k.nl.LinkDel(l))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// SetUp sets an interface up or down.
func (k *Kernel) SetUp(name string, up bool) error {
	if up {
		return k.change(name, "set up", k.nl.LinkSetUp)
	}
	return k.change(name, "set down", k.nl.LinkSetDown)
}

// SetMTU sets the MTU in bytes, without the Ethernet header.
func (k *Kernel) SetMTU(name string, mtu int) error {
	return k.change(name, "set mtu", func(l netlink.Link) error { return k.nl.LinkSetMTU(l, mtu) })
}

// SetMAC sets the hardware address.
func (k *Kernel) SetMAC(name string, mac MAC) error {
	return k.change(name, "set address", func(l netlink.Link) error {
		return k.nl.LinkSetHardwareAddr(l, mac[:])
	})
}

// SetMaster makes an interface a port of a bridge, or of none ("").
func (k *Kernel) SetMaster(name, master string) error {
	if master == "" {
		return k.change(name, "leave bridge", k.nl.LinkSetNoMaster)
	}
	m, err := k.find(master)
	if err != nil {
		return fmt.Errorf("make %s a port: %w", name, err)
	}
	return k.change(name, "make it a port of "+master, func(l netlink.Link) error {
		return k.nl.LinkSetMasterByIndex(l, m.Attrs().Index)
	})
}

// SetAlias sets the free text that `ip link` shows.
func (k *Kernel) SetAlias(name, alias string) error {
	return k.change(name, "set alias", func(l netlink.Link) error { return k.nl.LinkSetAlias(l, alias) })
}

func (k *Kernel) change(name, what string, f func(netlink.Link) error) error {
	l, err := k.find(name)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := f(l); err != nil {
		return fmt.Errorf("%s of link %s: %w", what, name, translate(err))
	}
	return nil
}

func attrs(name string, mac MAC, mtu int) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	a.MTU = mtu
	if mac != (MAC{}) {
		a.HardwareAddr = net.HardwareAddr(mac[:])
	}
	return a
}

func fromLink(l netlink.Link) Link {
	a := l.Attrs()
	link := Link{
		Index:  a.Index,
		Name:   a.Name,
		Kind:   l.Type(),
		MTU:    a.MTU,
		Up:     a.Flags&net.FlagUp != 0,
		Master: a.MasterIndex,
		Alias:  a.Alias,
		Deaf:   a.Xdp != nil && a.Xdp.Attached,
	}
	copy(link.MAC[:], a.HardwareAddr)
	switch l := l.(type) {
	case *netlink.Device:
		link.Kind = ""
	case *netlink.Tuntap:
		link.Kind = "tun"
	case *netlink.Veth:
		link.PeerIndex = a.ParentIndex
	case *netlink.Vxlan:
		link.VNI = uint32(l.VxlanId)
		link.Port = uint16(l.Port)
		link.PortLow, link.PortHigh = uint16(l.PortLow), uint16(l.PortHigh)
		link.Local = toAddr(l.SrcAddr)
		link.Learning = l.Learning
		link.ZeroChecksums = l.UDP6ZeroCSumTx && l.UDP6ZeroCSumRx
		link.Limit = l.Limit
	}
	return link
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

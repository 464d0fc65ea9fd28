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

// Addrs lists the addresses of an interface, IPv4 and IPv6.
func (k *Kernel) Addrs(link string) ([]netip.Prefix, error) {
	l, err := k.find(link)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	list, err := dump(func() ([]netlink.Addr, error) { return k.nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link, err)
	}
	addrs := make([]netip.Prefix, 0, len(list))
	for _, a := range list {
		addrs = append(addrs, toPrefix(a.IPNet))
	}
	return addrs, nil
}

// AddAddr gives an interface an address; [fs.ErrExist] when it has it. With
// nodad an IPv6 address is usable at once, without duplicate detection. A
// link-local IPv4 address gets link scope: it is never chosen as a source for
// anything else.
func (k *Kernel) AddAddr(link string, p netip.Prefix, nodad bool) error {
	a := &netlink.Addr{IPNet: toIPNet(p)}
	if nodad && p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if p.Addr().IsLinkLocalUnicast() {
		a.Scope = unix.RT_SCOPE_LINK
	}
	return k.change(link, "add address "+p.String(), func(l netlink.Link) error { return k.nl.AddrAdd(l, a) })
}

// DelAddr takes an address from an interface; [fs.ErrNotExist] when it does
// not have it.
func (k *Kernel) DelAddr(link string, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: toIPNet(p)}
	return k.change(link, "delete address "+p.String(), func(l netlink.Link) error {
		err := k.nl.AddrDel(l, a)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return fault{err, fs.ErrNotExist}
		}
		return err
	})
}

// toIPNet keeps the host bits, as the kernel wants them for addresses.
func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix returns the zero prefix for nil.
func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(toAddr(n.IP), bits)
}

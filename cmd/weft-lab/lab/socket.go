package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Dial connects from inside the place to a literal address. A link-local
// address needs its interface: see [Place.Scoped].
func (p *Place) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := p.Do(func() error {
		var err error
		c, err = (&net.Dialer{}).DialContext(ctx, network, to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return c, nil
}

// Listen opens a TCP listener inside the place.
func (p *Place) Listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	var l net.Listener
	err := p.Do(func() error {
		var err error
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return l, nil
}

// ListenUDP opens a UDP socket inside the place. The optional control functions
// run before it is bound.
func (p *Place) ListenUDP(ctx context.Context, at netip.AddrPort, control ...func(fd int) error) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var errs []error
		err := c.Control(func(fd uintptr) {
			for _, f := range control {
				errs = append(errs, f(int(fd)))
			}
		})
		return errors.Join(append(errs, err)...)
	}}
	var u *net.UDPConn
	err := p.Do(func() error {
		c, err := lc.ListenPacket(ctx, "udp", at.String())
		if err == nil {
			u = c.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return u, nil
}

// Index returns the number of an interface inside the place.
func (p *Place) Index(link string) (int, error) {
	l, err := p.nl.LinkByName(link)
	if err != nil {
		return 0, fmt.Errorf("%s: interface %s: %w", p.name, link, err)
	}
	return l.Attrs().Index, nil
}

// Scoped gives a link-local address the interface by which this place reaches
// it. The interface goes by number: names are looked up in the wrong namespace.
func (p *Place) Scoped(a netip.Addr, link string) (netip.Addr, error) {
	i, err := p.Index(link)
	if err != nil {
		return a, err
	}
	return a.WithZone(fmt.Sprint(i)), nil
}

// LinkLocal returns the IPv6 link-local address of an interface of the place,
// without a zone; an error while there is none that may be used.
func (p *Place) LinkLocal(link string) (netip.Addr, error) {
	l, err := p.nl.LinkByName(link)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: interface %s: %w", p.name, link, err)
	}
	addrs, err := p.nl.AddrList(l, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: addresses of %s: %w", p.name, link, err)
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		if ip.IsLinkLocalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s: %s has no usable link-local address yet", p.name, link)
}

// Addrs returns the addresses of an interface of the place.
func (p *Place) Addrs(link string) ([]netip.Prefix, error) {
	l, err := p.nl.LinkByName(link)
	if err != nil {
		return nil, fmt.Errorf("%s: interface %s: %w", p.name, link, err)
	}
	addrs, err := p.nl.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("%s: addresses of %s: %w", p.name, link, err)
	}
	var out []netip.Prefix
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		out = append(out, netip.PrefixFrom(ip.Unmap(), ones))
	}
	return out, nil
}

// JoinGroup returns a control function for [Place.ListenUDP] that joins a
// multicast group on an interface, sends there by it too, and lets several
// sockets share the port.
func (p *Place) JoinGroup(group netip.Addr, link string) (func(fd int) error, error) {
	i, err := p.Index(link)
	if err != nil {
		return nil, err
	}
	return func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if group.Is4() {
			m := &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(i)}
			if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, m); err != nil {
				return fmt.Errorf("join %s: %w", group, err)
			}
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, m)
		}
		m := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(i)}
		if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m); err != nil {
			return fmt.Errorf("join %s: %w", group, err)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, i)
	}, nil
}

// resolvConf returns what the place's /etc/resolv.conf says.
func parseResolvConf(text string) (servers []netip.Addr, search []string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				servers = append(servers, a)
			}
		case "search", "domain":
			search = f[1:]
		}
	}
	return servers, search
}

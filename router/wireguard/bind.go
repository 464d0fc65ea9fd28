package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// bind is wireguard-go's own Bind, which batches and uses UDP GSO and GRO,
// with two differences.
//
// Its sockets do not believe path MTUs: otherwise one forged "fragmentation
// needed" makes every coalesced send fail (PROTOCOL section 6).
//
// And it copes with a local address that is gone. wireguard-go answers a peer
// from the address that the peer wrote to, and follows the routing table by
// netlink to know when that has become wrong; but only for its own Bind, not
// for one around it. Here a packet that fails for want of its source address
// goes out again without one, and the next that the peer sends sets it anew.
// A source that has merely become a bad choice is dropped by WireGuard after
// 15 s without an answer.
type bind struct {
	conn.Bind // a *conn.StdNetBind
}

func newBind() *bind { return &bind{conn.NewStdNetBind()} }

// Open is [conn.Bind.Open]. It may be called again after Close, by changing
// the port or by setting the interface down and up.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := b.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	if err := b.ignorePathMTU(); err != nil {
		return nil, 0, errors.Join(err, b.Bind.Close())
	}
	return fns, port, nil
}

func (b *bind) ignorePathMTU() error {
	for _, s := range []struct {
		field                string
		level, option, value int
	}{
		{"ipv4", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_INTERFACE},
		{"ipv6", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_INTERFACE},
	} {
		c, err := b.socket(s.field)
		if err != nil {
			return err
		}
		if c == nil {
			continue // no such protocol here
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return fmt.Errorf("%s socket: %w", s.field, err)
		}
		var serr error
		err = raw.Control(func(fd uintptr) {
			serr = unix.SetsockoptInt(int(fd), s.level, s.option, s.value)
		})
		if err = errors.Join(err, serr); err != nil {
			return fmt.Errorf("%s socket: set path MTU discovery: %w", s.field, err)
		}
	}
	return nil
}

// socket returns one of the sockets that the inner Bind keeps to itself. A
// wireguard-go that has them no longer under that name is noticed at once.
func (b *bind) socket(field string) (*net.UDPConn, error) {
	var c *net.UDPConn
	v := reflect.ValueOf(b.Bind).Elem().FieldByName(field)
	if !v.IsValid() || v.Type() != reflect.TypeOf(c) {
		return nil, fmt.Errorf("this wireguard-go hides its %s socket elsewhere", field)
	}
	return (*net.UDPConn)(v.UnsafePointer()), nil
}

// Send is [conn.Bind.Send].
func (b *bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	err := b.Bind.Send(bufs, ep)
	if err == nil {
		return nil
	}
	if std, ok := ep.(*conn.StdNetEndpoint); ok && std.SrcIP() != (netip.Addr{}) && sourceGone(err) {
		ep = &conn.StdNetEndpoint{AddrPort: std.AddrPort}
		if err = b.Bind.Send(bufs, ep); err == nil {
			return nil
		}
	}
	if len(bufs) > 1 && tooLarge(err) {
		// One packet larger than the interface must not take its whole batch
		// with it. WireGuard drops those that arrive twice.
		err = nil
		for i := range bufs {
			err = errors.Join(err, b.Bind.Send(bufs[i:i+1], ep))
		}
	}
	return err
}

// sourceGone says that a send may work from another address.
func sourceGone(err error) bool {
	for _, errno := range []unix.Errno{unix.EINVAL, unix.ENODEV, unix.EADDRNOTAVAIL, unix.ENETUNREACH} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// tooLarge says that a packet exceeds the interface's MTU; before Linux 6.14
// UDP GSO calls that EINVAL.
func tooLarge(err error) bool {
	return errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL)
}

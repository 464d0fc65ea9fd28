package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// bind is the UDP side of an in-process device: one socket for IPv4 and one
// for IPv6 on the same port, read and written in batches, with UDP GSO and GRO
// where the kernel has them.
//
// wireguard-go's own is not used, nor wrapped, for two reasons. Its sockets
// believe path MTUs, and it hides them: one forged "fragmentation needed" then
// makes every coalesced send fail (PROTOCOL section 6). And it keeps IPv4 and
// IPv6 addresses in one pool of buffers in a way that sends to a wrong IPv6
// address once it has sent to an IPv4 one: with peers of both kinds, measured,
// the IPv6 ones are never reached.
//
// A peer is answered from the address that it wrote to, as long as that works.
// Like any Bind but its own this one is not told of changed routes by
// wireguard-go: a source address that is gone is left out at once, one that
// has merely become a bad choice when WireGuard has had no answer for 15 s.
type bind struct {
	mu sync.RWMutex // guards what follows
	v4 *socket      // nil: closed, or no such protocol
	v6 *socket
}

func newBind() *bind { return new(bind) }

// Open is [conn.Bind.Open]. Port 0 takes a free one.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.v4 != nil || b.v6 != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	var v4, v6 *socket
	var err error
	for tries := 0; ; tries++ {
		v4, v6, err = listenBoth(port)
		// The port that IPv4 found free may be taken for IPv6.
		if port != 0 || tries == 100 || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return nil, 0, err
	}
	b.v4, b.v6 = v4, v6
	var fns []conn.ReceiveFunc
	for _, s := range []*socket{v6, v4} {
		if s != nil {
			fns = append(fns, newReceiver(s).receive)
			port = s.port
		}
	}
	return fns, port, nil
}

// listenBoth opens what this host has of the two protocols on one port.
func listenBoth(port uint16) (v4, v6 *socket, err error) {
	v4, err = listen("udp4", port)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil, err
	}
	if v4 != nil {
		port = v4.port
	}
	v6, err6 := listen("udp6", port)
	if v4 != nil && errors.Is(err6, unix.EAFNOSUPPORT) {
		return v4, nil, nil
	}
	if err6 != nil {
		if v4 != nil {
			err6 = errors.Join(err6, v4.Close())
		}
		return nil, nil, err6
	}
	return v4, v6, nil
}

// Close is [conn.Bind.Close]. Receivers that wait return [net.ErrClosed].
func (b *bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	b.v4, b.v6 = nil, nil
	return err
}

// SetMark is [conn.Bind.SetMark]: the firewall mark of what is sent.
func (b *bind) SetMark(mark uint32) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, s := range []*socket{b.v4, b.v6} {
		if s == nil {
			continue
		}
		if err := s.set(unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			return fmt.Errorf("set firewall mark: %w", err)
		}
	}
	return nil
}

// BatchSize is [conn.Bind.BatchSize].
func (b *bind) BatchSize() int { return conn.IdealBatchSize }

// Send is [conn.Bind.Send].
func (b *bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.mu.RLock()
	s := b.v4
	if e.dst.Addr().Is6() {
		s = b.v6
	}
	b.mu.RUnlock()
	if s == nil {
		return unix.EAFNOSUPPORT
	}
	return s.send(bufs, e)
}

// ParseEndpoint is [conn.Bind.ParseEndpoint].
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	dst, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	e := &endpoint{dst: netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())}
	if zone := dst.Addr().Zone(); zone != "" {
		i, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", s, err)
		}
		e.scope = uint32(i.Index)
	}
	return e, nil
}

// endpoint is where a peer is, and which of our addresses it knows. It does
// not change, except that the latter may be forgotten.
type endpoint struct {
	dst       netip.AddrPort
	scope     uint32     // interface of a link-local dst
	src       netip.Addr // zero: the kernel chooses
	forgotten atomic.Bool
}

// source is the address to send from; zero: the kernel chooses.
func (e *endpoint) source() netip.Addr {
	if e.forgotten.Load() {
		return netip.Addr{}
	}
	return e.src
}

func (e *endpoint) ClearSrc()           { e.forgotten.Store(true) }
func (e *endpoint) SrcToString() string { return e.source().String() }
func (e *endpoint) SrcIP() netip.Addr   { return e.source() }
func (e *endpoint) DstToString() string { return e.dst.String() }
func (e *endpoint) DstIP() netip.Addr   { return e.dst.Addr() }

// DstToBytes is what cookies are bound to.
func (e *endpoint) DstToBytes() []byte {
	b, _ := e.dst.MarshalBinary() // never fails
	return b
}

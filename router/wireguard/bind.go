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

	"github.com/weftnet/weft/router/udp"
)

// bind is the UDP side of an in-process device: one socket for IPv4 and one
// for IPv6 on the same port, read and written in batches, with UDP GSO and GRO
// where the kernel has them.
//
// wireguard-go's own is not used, nor wrapped, for two reasons. Its sockets
// believe path MTUs, and it hides them: one forged "fragmentation needed" then
// makes every coalesced send fail (docs/protocol.md#path-mtu). And it keeps IPv4 and
// IPv6 addresses in one pool of buffers in a way that sends to a wrong IPv6
// address once it has sent to an IPv4 one: with peers of both kinds, measured,
// the IPv6 ones are never reached.
//
// A peer is answered from the address that it wrote to, as long as that works.
// Like any Bind but its own this one is not told of changed routes by
// wireguard-go: a source address that is gone is left out at once, one that
// has merely become a bad choice when WireGuard has had no answer for 15 s.
type bind struct {
	plain bool // constant: packets go and come one by one

	mu sync.RWMutex // guards what follows
	v4 *udp.Socket  // nil: closed, or no such protocol
	v6 *udp.Socket

	single atomic.Pointer[map[netip.AddrPort]bool] // where packets go one by one; never changed; nil: nowhere
}

func newBind() *bind { return new(bind) }

// Open is [conn.Bind.Open]. Port 0 takes a free one.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.v4 != nil || b.v6 != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	v4, v6, err := udp.ListenBoth(port)
	if err != nil {
		return nil, 0, err
	}
	if b.plain {
		for _, s := range []*udp.Socket{v6, v4} {
			if s != nil {
				if err := s.Plain(); err != nil {
					return nil, 0, errors.Join(err, closeBoth(v4, v6))
				}
			}
		}
	}
	b.v4, b.v6 = v4, v6
	var fns []conn.ReceiveFunc
	for _, s := range []*udp.Socket{v6, v4} {
		if s != nil {
			fns = append(fns, newReceiver(s).receive)
			port = s.Port()
		}
	}
	return fns, port, nil
}

func closeBoth(v4, v6 *udp.Socket) (err error) {
	for _, s := range []*udp.Socket{v4, v6} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

// Close is [conn.Bind.Close]. Receivers that wait return [net.ErrClosed].
func (b *bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := closeBoth(b.v4, b.v6)
	b.v4, b.v6 = nil, nil
	return err
}

// SetMark is [conn.Bind.SetMark]: the firewall mark of what is sent.
func (b *bind) SetMark(mark uint32) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, s := range []*udp.Socket{b.v4, b.v6} {
		if s == nil {
			continue
		}
		if err := s.SetMark(mark); err != nil {
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
	single := e.row == rowSingle
	if m := b.single.Load(); m != nil && e.row == rowNormal {
		single = (*m)[e.dst]
	}
	return s.Send(bufs, udp.Flow{Remote: e.dst, Scope: e.scope, Local: e.source(), Single: single})
}

// singly says to which endpoints packets leave one by one. The map is the
// bind's from now on.
func (b *bind) singly(m map[netip.AddrPort]bool) {
	if len(m) == 0 {
		b.single.Store(nil)
		return
	}
	b.single.Store(&m)
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

// receiver is the receiving side of one socket.
type receiver struct {
	*udp.Receiver
	coalesced bool // packets may come coalesced
	messages  [conn.IdealBatchSize]udp.Message
	last      *endpoint // most packets come from where the one before came from
}

func newReceiver(s *udp.Socket) *receiver {
	r := &receiver{Receiver: s.NewReceiver(), last: new(endpoint)}
	r.coalesced, _ = s.Coalesces()
	return r
}

// receive is a [conn.ReceiveFunc]. Coalesced packets are read into the last
// few buffers and cut up into all of them, in order.
func (r *receiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	first := 0
	bufs = bufs[:min(len(bufs), len(r.messages))]
	if r.coalesced {
		first = len(bufs) - max(1, len(bufs)/udp.MaxSegments)
	}
	n, err := r.Receive(bufs[first:], r.messages[:])
	if err != nil {
		return 0, err
	}
	done := 0
	for i, m := range r.messages[:n] {
		e, segment := r.from(m.Flow), m.Segment
		if segment <= 0 {
			segment = max(1, len(m.Bytes))
		}
		// A buffer is written only after it was read: there are at most
		// MaxSegments pieces of a packet, and what is too much is dropped.
		for cut := 0; (cut < len(m.Bytes) || cut == 0) && done <= first+i; cut += segment {
			sizes[done] = copy(bufs[done], m.Bytes[cut:min(cut+segment, len(m.Bytes))])
			eps[done] = e
			done++
		}
	}
	return done, nil
}

// from is the endpoint of a packet that came along f.
func (r *receiver) from(f udp.Flow) *endpoint {
	if e := r.last; e.dst == f.Remote && e.scope == f.Scope && e.source() == f.Local {
		return e
	}
	r.last = &endpoint{dst: f.Remote, scope: f.Scope, src: f.Local}
	return r.last
}

// endpoint is where a peer is, and which of our addresses it knows. It does
// not change, except that the latter may be forgotten.
type endpoint struct {
	dst       netip.AddrPort
	scope     uint32     // interface of a link-local dst
	src       netip.Addr // zero: the kernel chooses
	row       row        // how several packets leave at once
	forgotten atomic.Bool
}

// row is how several packets to an endpoint leave at once.
type row uint8

const (
	rowNormal    row = iota // coalesced, if they arrive so
	rowCoalesced            // even if they do not, to find out
	rowSingle               // one by one
)

// source is the address to send from; zero: the kernel chooses.
func (e *endpoint) source() netip.Addr {
	if e.forgotten.Load() {
		return netip.Addr{}
	}
	return e.src
}

func (e *endpoint) where() netip.AddrPort { return e.dst }

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

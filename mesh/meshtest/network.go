// Package meshtest is a network in memory for tests of mesh: packets may be
// lost or late, streams break, directions are cut and healed.
//
// It owns no goroutine and works inside a testing/synctest bubble. What does
// not find room is dropped, as on a real network: nothing here waits for a
// receiver that is gone. It knows memberlist's transport and nothing of mesh.
package meshtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Network joins transports. The zero value is ready, with a delay of 0 and no
// loss. It is safe for concurrent use.
type Network struct {
	mu      sync.Mutex // guards the fields below
	hosts   map[netip.Addr]*Transport
	cut     map[direction]bool
	streams map[*stream]direction
	loss    float64
	delay   time.Duration
	filter  func(from, to netip.Addr) bool
	packets int
	bytes   int
	largest int
}

type direction struct{ from, to netip.Addr }

// Cut stops everything between a and b and breaks their streams.
func (n *Network) Cut(a, b netip.Addr) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// CutOneWay stops packets from one host to another. Streams need both
// directions, so they break.
func (n *Network) CutOneWay(from, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut == nil {
		n.cut = make(map[direction]bool)
	}
	n.cut[direction{from, to}] = true
	n.breakLocked(func(d direction) bool { return d == direction{from, to} || d == direction{to, from} })
}

// Split cuts every host of one group from every host of the other.
func (n *Network) Split(a, b []netip.Addr) {
	for _, x := range a {
		for _, y := range b {
			n.Cut(x, y)
		}
	}
}

// Heal undoes all cuts between a and b.
func (n *Network) Heal(a, b netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, direction{a, b})
	delete(n.cut, direction{b, a})
}

// HealAll undoes all cuts.
func (n *Network) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Loss makes packets disappear with probability p from 0 to 1. Streams are
// not affected, as TCP would not be for long.
func (n *Network) Loss(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = p
}

// Delay is the time that a packet takes, and half of what a connection takes.
func (n *Network) Delay(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = d
}

// Filter adds a condition: what f refuses is dropped as if cut. It is asked at
// each packet and connection, with the network's lock held; it must not call
// the network. Nil removes it.
func (n *Network) Filter(f func(from, to netip.Addr) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filter = f
}

// Open reports whether packets pass from one host to another.
func (n *Network) Open(from, to netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.cut[direction{from, to}]
}

// Traffic returns how many packets were sent so far, lost ones included, and
// their bytes.
func (n *Network) Traffic() (packets, bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.packets, n.bytes
}

// Largest returns the size of the largest packet that was sent so far.
func (n *Network) Largest() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.largest
}

// Transport returns a host's end at addr, in place of an earlier one there.
func (n *Network) Transport(addr netip.AddrPort) *Transport {
	t := &Transport{
		net:     n,
		addr:    addr,
		packets: make(chan *memberlist.Packet, 1024),
		conns:   make(chan net.Conn, 128),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = make(map[netip.Addr]*Transport)
	}
	n.hosts[addr.Addr()] = t
	return t
}

func (n *Network) openLocked(from, to netip.Addr) bool {
	return !n.cut[direction{from, to}] && (n.filter == nil || n.filter(from, to))
}

func (n *Network) breakLocked(f func(direction) bool) {
	for s, d := range n.streams {
		if f(d) {
			delete(n.streams, s)
			_ = s.Conn.Close()
		}
	}
}

// Transport is one host's end of a [Network].
type Transport struct {
	net     *Network
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	conns   chan net.Conn
}

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IP(t.addr.Addr().AsSlice()), int(t.addr.Port()), nil
}

// WriteTo implements memberlist.Transport.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport. It fails only for
// an address that cannot be read.
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, err
	}
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(t.addr), Timestamp: time.Now()}
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	n.packets++
	n.bytes += len(b)
	n.largest = max(n.largest, len(b))
	if n.hosts[t.addr.Addr()] != t || !n.openLocked(t.addr.Addr(), to.Addr()) || rand.Float64() < n.loss {
		return p.Timestamp, nil
	}
	if n.delay == 0 {
		n.deliverLocked(p, to)
		return p.Timestamp, nil
	}
	time.AfterFunc(n.delay, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		p.Timestamp = time.Now()
		n.deliverLocked(p, to)
	})
	return p.Timestamp, nil
}

func (n *Network) deliverLocked(p *memberlist.Packet, to netip.AddrPort) {
	dest := n.hosts[to.Addr()]
	if dest == nil || dest.addr != to {
		return
	}
	select {
	case dest.packets <- p:
	default:
	}
}

// PacketCh implements memberlist.Transport.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout implements memberlist.Transport.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport. Towards a host
// that is cut off it takes the whole timeout, towards one where nobody listens
// it fails at once.
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	n := t.net
	n.mu.Lock()
	wait := 2 * n.delay
	open := n.openLocked(t.addr.Addr(), to.Addr()) && n.openLocked(to.Addr(), t.addr.Addr())
	n.mu.Unlock()
	if !open {
		time.Sleep(timeout)
		return fail(os.ErrDeadlineExceeded)
	}
	time.Sleep(wait)

	n.mu.Lock()
	defer n.mu.Unlock()
	dest := n.hosts[to.Addr()]
	if dest == nil || dest.addr != to || n.hosts[t.addr.Addr()] != t {
		return fail(fmt.Errorf("connection refused"))
	}
	p1, p2 := net.Pipe()
	here := &stream{Conn: p1, net: n, local: t.addr, remote: to}
	there := &stream{Conn: p2, net: n, local: to, remote: t.addr}
	select {
	case dest.conns <- there:
	default:
		_, _ = p1.Close(), p2.Close()
		return fail(fmt.Errorf("connection refused"))
	}
	if n.streams == nil {
		n.streams = make(map[*stream]direction)
	}
	n.streams[here] = direction{t.addr.Addr(), to.Addr()}
	n.streams[there] = direction{to.Addr(), t.addr.Addr()}
	return here, nil
}

// StreamCh implements memberlist.Transport.
func (t *Transport) StreamCh() <-chan net.Conn { return t.conns }

// Shutdown implements memberlist.Transport: the host is gone at once.
func (t *Transport) Shutdown() error {
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts[t.addr.Addr()] == t {
		delete(n.hosts, t.addr.Addr())
	}
	a := t.addr.Addr()
	n.breakLocked(func(d direction) bool { return d.from == a || d.to == a })
	for {
		select {
		case c := <-t.conns: // broken above, but not yet taken
			_ = c.(*stream).Conn.Close()
		default:
			return nil
		}
	}
}

// stream is a connection that breaks when its network is cut.
type stream struct {
	net.Conn
	net           *Network
	local, remote netip.AddrPort
}

func (s *stream) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(s.local) }
func (s *stream) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

func (s *stream) Close() error {
	s.net.mu.Lock()
	delete(s.net.streams, s)
	s.net.mu.Unlock()
	return s.Conn.Close()
}

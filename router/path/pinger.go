package path

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An echo request or reply (RFC 4443 section 4), and what is in it:
//
//	1  type
//	1  code 0
//	2  checksum, by the kernel
//	2  identifier, of this Pinger
//	2  sequence, the low bits of the number
//	8  number
//	16 tag: HMAC-SHA256 of the peer's address and the number, cut short
//	40 zeros
//
// The zeros make the packet that carries it through a tunnel long enough for a
// relay to answer with a notice (docs/protocol.md#sessions).
const (
	pingHeader  = 8
	pingPayload = 64
	pingSize    = pingHeader + pingPayload
	pingTagEnd  = pingHeader + 8 + 16

	pingRequest = 128
	pingReply   = 129
)

// Pinger asks hosts in the overlay for an echo through their tunnels, by the
// kernels of both ends. It keeps one raw socket, which sees nothing but echo
// replies. It does not remember what it asked: the tag, under a key that
// nobody else has, says that a reply is to a request of ours. It is safe for
// concurrent use.
type Pinger struct {
	// Constant after OpenPinger.
	self   netip.Addr
	link   string
	reply  func(peer netip.Addr, number uint64, at time.Time)
	id     uint16
	secret [32]byte

	mu     sync.Mutex    // guards all following fields
	conn   *net.IPConn   // nil: to be opened by the next Send
	change chan struct{} // closed and replaced with conn
	closed bool
}

// OpenPinger opens the socket at the overlay address of this host and on the
// link that carries it; "": on any. As long as they are not there, the next
// Send opens it. reply is told what Run receives, a duplicate once more; it
// must not block.
func OpenPinger(self netip.Addr, link string, reply func(peer netip.Addr, number uint64, at time.Time)) (*Pinger, error) {
	if !self.Is6() || self.Is4In6() || self.IsUnspecified() || self.IsMulticast() {
		return nil, fmt.Errorf("ping from %v: not an IPv6 address of a host", self)
	}
	p := &Pinger{self: self, link: link, reply: reply, change: make(chan struct{})}
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails
	_, _ = rand.Read(p.secret[:])
	p.id = binary.BigEndian.Uint16(id[:])
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.openLocked(); err != nil && !pingSocketIsStale(err) {
		return nil, err
	}
	return p, nil
}

// Send asks a peer for an echo of number. It does not block. When the link is
// gone that is an error; when the link was made anew the socket is too.
func (p *Pinger) Send(peer netip.Addr, number uint64) error {
	b := make([]byte, pingSize)
	b[0] = pingRequest
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], uint16(number))
	binary.BigEndian.PutUint64(b[pingHeader:], number)
	copy(b[pingHeader+8:pingTagEnd], p.tag(peer, number))

	p.mu.Lock()
	defer p.mu.Unlock()
	had := p.conn
	err := p.sendLocked(peer, b)
	if had != nil && pingSocketIsStale(err) {
		p.setLocked(nil)
		err = p.sendLocked(peer, b)
	}
	if err != nil {
		return fmt.Errorf("ping %v: %w", peer, err)
	}
	return nil
}

func (p *Pinger) sendLocked(peer netip.Addr, b []byte) error {
	if p.closed {
		return net.ErrClosed
	}
	if p.conn == nil {
		if err := p.openLocked(); err != nil {
			return err
		}
	}
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &unix.SockaddrInet6{Addr: peer.As16()})
		return true // do not wait for room: a late ping is worse than none
	})
	return errors.Join(err, os.NewSyscallError("sendto", sent))
}

// pingSocketIsStale reports whether a socket fails because the link or the
// address that it is bound to is gone; another one may be there by now. Linux
// says that there is no route.
func pingSocketIsStale(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// Run hands on replies until ctx is done or the pinger is closed, and then it
// is closed.
func (p *Pinger) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = p.Close() })()
	b := make([]byte, pingSize+1)
	for {
		p.mu.Lock()
		conn, change, closed := p.conn, p.change, p.closed
		p.mu.Unlock()
		switch {
		case closed:
			return nil
		case conn == nil:
			<-change
		default:
			p.receive(conn, b)
		}
	}
}

// receive hands on what a socket receives until it is no longer ours.
func (p *Pinger) receive(conn *net.IPConn, b []byte) {
	for {
		n, from, err := conn.ReadFromIP(b)
		if err != nil {
			p.mu.Lock()
			if p.conn == conn { // nobody else has seen that it is useless
				p.setLocked(nil)
			}
			p.mu.Unlock()
			return
		}
		at := time.Now()
		if peer, ok := netip.AddrFromSlice(from.IP); ok {
			if number, ok := p.parse(peer, b[:n]); ok {
				p.reply(peer, number, at)
			}
		}
	}
}

// parse returns the number in a reply to a request of ours.
func (p *Pinger) parse(peer netip.Addr, b []byte) (number uint64, ok bool) {
	if len(b) != pingSize || b[0] != pingReply || b[1] != 0 || binary.BigEndian.Uint16(b[4:]) != p.id {
		return 0, false
	}
	number = binary.BigEndian.Uint64(b[pingHeader:])
	if !hmac.Equal(b[pingHeader+8:pingTagEnd], p.tag(peer, number)) {
		return 0, false
	}
	return number, true
}

func (p *Pinger) tag(peer netip.Addr, number uint64) []byte {
	h := hmac.New(sha256.New, p.secret[:])
	a := peer.As16()
	h.Write(binary.BigEndian.AppendUint64(a[:], number))
	return h.Sum(nil)[:pingTagEnd-pingHeader-8]
}

// Close closes the socket, which ends Run. Closing twice is no error.
func (p *Pinger) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.setLocked(nil)
	return nil
}

// openLocked opens a socket.
func (p *Pinger) openLocked() error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		if err := c.Control(func(fd uintptr) { set = p.prepare(int(fd)) }); err != nil {
			return err
		}
		return set
	}}
	conn, err := lc.ListenPacket(context.Background(), "ip6:58", p.self.String())
	if err != nil {
		return fmt.Errorf("open ping socket: %w", err)
	}
	p.setLocked(conn.(*net.IPConn))
	return nil
}

// prepare has the kernel drop whatever is not an echo reply (RFC 3542 section
// 3.2: a set bit blocks a type), or did not come by the link.
func (p *Pinger) prepare(fd int) error {
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	filter.Data[pingReply/32] &^= 1 << (pingReply % 32)
	const filterOption = 1 // ICMPV6_FILTER of linux/icmpv6.h
	if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, filterOption, &filter); err != nil {
		return os.NewSyscallError("set ICMPv6 filter", err)
	}
	if p.link == "" {
		return nil
	}
	return os.NewSyscallError("bind to "+p.link, unix.BindToDevice(fd, p.link))
}

// setLocked replaces the socket and tells Run.
func (p *Pinger) setLocked(conn *net.IPConn) {
	if p.conn != nil {
		p.conn.Close()
	}
	p.conn = conn
	close(p.change)
	p.change = make(chan struct{})
}

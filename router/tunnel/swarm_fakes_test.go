package tunnel_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/meshtest"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/wireguard"
)

// device is WireGuard as the tunnels see it.
type device struct{ *member }

func (d device) Readd(p wireguard.Peer) error { return d.SetEndpoint(p.PublicKey, p.Endpoint) }

func (d device) SetEndpoint(key [32]byte, ep netip.AddrPort) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.device[key]
	if s == nil {
		return errors.New("no such peer")
	}
	if ep.IsValid() {
		s.Endpoint = ep
	}
	return nil
}

func (d device) Initiate(key [32]byte) error {
	time.AfterFunc(trip(), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if s := d.device[key]; s != nil && s.Endpoint.IsValid() {
			d.shake(d.member, d.byKey[key], s.Endpoint)
		}
	})
	return nil
}

func (d device) Peers() ([]wireguard.PeerStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]wireguard.PeerStatus, 0, len(d.device))
	for _, s := range d.device {
		list = append(list, *s)
	}
	return list, nil
}

func (d device) Quiet(netip.AddrPort, time.Duration) error { return nil }

func (d device) Send(to netip.AddrPort, b []byte, o wireguard.SendOptions) error {
	if o.Segment > 0 {
		for one := range slices.Chunk(b, o.Segment) {
			if err := d.send(6784, to, one, sizes); err != nil {
				return err
			}
		}
		return nil
	}
	n := len(b) + headers(to.Addr())
	if n > 1500 && o.DontFragment {
		return wireguard.ErrTooLarge
	}
	k := probes
	if n > 150 {
		k = sizes
	}
	return d.send(6784, to, b, k)
}

// send brings a signal to the other host, and the relay's answer back.
func (m *member) send(port uint16, to netip.AddrPort, b []byte, k kind) error {
	p, err := signal.Parse(b)
	if err != nil {
		return err
	}
	if p.Kind == signal.Bind || p.Kind == signal.BindReply {
		k = binds
	}
	from := m.eps[0]
	if to.Addr().Is6() {
		from = m.eps[1]
	}
	from = netip.AddrPortFrom(from.Addr(), port)
	o := m.byAddr[to.Addr()]
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(k, len(b)+headers(to.Addr()))
	b = slices.Clone(b)
	time.AfterFunc(trip(), func() {
		switch {
		case o == nil || o.tunnels == nil:
		case p.Kind == signal.Bind:
			a := signal.Packet{
				Kind: signal.BindReply, From: p.To, To: p.From, Number: p.Number, Boot: uint64(o.number + 1), Role: p.Role,
				Cookie: [8]byte{1}, Accepted: p.Cookie != [8]byte{}, Observed: from,
			}
			if a.Accepted && p.Role == signal.WireGuardPort {
				o.mu.Lock()
				o.bound[m.key.Identity()] = true
				o.mu.Unlock()
			}
			_ = o.send(6783, from, a.Append(nil, m.keys.PairKey(m.key.Identity(), o.key.Identity())), binds)
		case to.Port() == 6783:
			o.tunnels.ReceiveRelay(from, b)
		default:
			o.tunnels.Receive(from, to.Addr(), b)
		}
	})
	return nil
}

// relayer relays for nobody, but lets everybody bind.
type relayer struct{ *member }

func (r relayer) Set(relay.Config) {}

func (r relayer) Send(to netip.AddrPort, b []byte) error { return r.send(6783, to, b, binds) }

func (r relayer) Bound() (list []relay.Binding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.bound {
		list = append(list, relay.Binding{Identity: id, Role: signal.WireGuardPort})
	}
	return list
}

func (r relayer) Invite(_ crypto.Identity, addr netip.AddrPort) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(binds, signal.Invite.Least()+headers(addr.Addr()))
	return nil
}

func (r relayer) Forget(crypto.Identity, uint32) {}
func (r relayer) ForgetAll(crypto.Identity)      {}
func (r relayer) Stats() relay.Stats             { return relay.Stats{} }
func (r relayer) Withdraw()                      {}

// pinger sends echo requests, which the other kernel answers.
type pinger struct{ *member }

func (p pinger) Send(peer netip.Addr, number uint64) error {
	const ping = 40 + 64 // bytes of ICMPv6, and IPv6's own
	o := p.byOverlay[peer]
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.session(p.member, o)
	if x == nil {
		return nil // lost
	}
	p.through(x, p.member, pings, ping)
	time.AfterFunc(trip()+trip(), func() {
		p.mu.Lock()
		p.through(x, o, pings, ping)
		p.mu.Unlock()
		p.tunnels.Echoed(peer, number, time.Now())
	})
	return nil
}

// introducer introduces hosts without TCP.
type introducer struct{ *member }

func (m introducer) Serve(ctx context.Context, _ net.Listener, done func(hello.Result)) error {
	m.known <- done
	<-ctx.Done()
	return nil
}

func (m introducer) Dial(_ context.Context, addr netip.AddrPort, pin *crypto.Identity) (hello.Result, error) {
	time.Sleep(20 * time.Millisecond)
	o := m.byAddr[addr.Addr()]
	switch {
	case o == nil || o.mesh == nil:
		return hello.Result{}, errors.New("connection refused")
	case o == m.member:
		return hello.Result{}, hello.ErrSelf
	case pin != nil && *pin != o.key.Identity():
		return hello.Result{}, hello.ErrIdentity
	}
	m.mu.Lock()
	m.order++
	o.order++
	here, there := m.order, o.order
	m.mu.Unlock()
	ours, theirs := m.mesh.Adverts(), o.mesh.Adverts()
	done := <-o.known
	o.known <- done
	done(hello.Result{Peer: m.key.Identity(), Boot: uint64(m.number + 1), Adverts: ours, Order: there, Remote: netip.AddrPortFrom(m.eps[0].Addr(), 40000)})
	return hello.Result{
		Peer: o.key.Identity(), Boot: uint64(o.number + 1), Adverts: theirs, Dialled: true, Initiator: true, Order: here, Remote: addr,
	}, nil
}

type nobody struct{ net.Listener }

// counted is gossip's way through the tunnels.
type counted struct {
	*meshtest.Transport
	m *member
}

var _ memberlist.NodeAwareTransport = (*counted)(nil)

// Bytes of headers inside the tunnel.
const (
	insideUDP = 40 + 8
	insideTCP = 40 + 32 // with timestamps
	segment   = 1440 - insideTCP
)

func (c *counted) packet(to netip.Addr, k kind, inner int) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if x := c.m.session(c.m, c.m.byOverlay[to]); x != nil {
		c.m.through(x, c.m, k, inner)
	}
}

func (c *counted) WriteTo(b []byte, addr string) (time.Time, error) {
	return c.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (c *counted) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	c.packet(netip.MustParseAddrPort(a.Addr).Addr(), gossip, insideUDP+len(b))
	return c.Transport.WriteToAddress(b, a)
}

func (c *counted) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return c.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout counts what opening and closing take on both sides.
func (c *counted) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := c.Transport.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	to := netip.MustParseAddrPort(a.Addr).Addr()
	s := &stream{conn, c, &counted{m: c.m.byOverlay[to]}, to, c.m.key.Identity().Overlay()}
	for range 3 {
		s.here.packet(s.to, streams, insideTCP) // SYN, ACK of the other's, FIN
	}
	for range 2 {
		s.there.packet(s.from, streams, insideTCP) // SYN, FIN
	}
	return s, nil
}

// stream is the end of a connection that dialled; it counts for both.
type stream struct {
	net.Conn
	here, there *counted
	to, from    netip.Addr
}

// data counts segments, and an acknowledgement of every other one.
func data(from, to *counted, there, here netip.Addr, n int) {
	for i := 0; n > 0; i++ {
		from.packet(there, streams, insideTCP+min(n, segment))
		n -= segment
		if i%2 == 0 {
			to.packet(here, streams, insideTCP)
		}
	}
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	data(s.here, s.there, s.to, s.from, n)
	return n, err
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	data(s.there, s.here, s.from, s.to, n)
	return n, err
}

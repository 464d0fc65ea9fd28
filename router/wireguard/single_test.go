package wireguard

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weft/router/signal"
)

// A kernel that loses what it is given in one piece: what a Set marks leaves one
// by one and arrives, and rows of probes leave as they are told to, whatever is
// marked.
func TestSingle(t *testing.T) {
	if !alone(t) {
		return
	}
	// Only what is cut up later is so long here.
	run(t, "nft", "add table netdev eat; add chain netdev eat out { type filter hook egress device lo priority 0; }; add rule netdev eat out meta l4proto udp meta length > 1600 drop")
	a, b := newBind(), newBind()
	openBind(t, a)
	port, in := openBind(t, b)
	d := &Device{door: &door{Bind: a}}
	batch := make([][]byte, 10)
	for i := range batch {
		batch[i] = slices.Repeat([]byte{byte(i)}, 1200)
	}
	row := slices.Concat(batch[:3]...)
	for _, host := range []string{"127.0.0.1", "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(host), port)
		ep := parse(t, a, host, port)
		// arrives counts what comes of a send.
		arrives := func(send error) (n int) {
			t.Helper()
			must(t, send)
			must(t, a.Send([][]byte{{0xff}}, ep))
			for {
				switch r := in.next(t); {
				case len(r.b) == 1:
					return n
				case len(r.b) != 1200 || r.b[0] != byte(n) || r.b[1199] != byte(n):
					t.Fatalf("to %s: packet %d has %d bytes and begins with %d", to, n, len(r.b), r.b[0])
				}
				n++
			}
		}
		if n := arrives(a.Send(batch, ep)); n != 0 {
			t.Fatalf("to %s: %d packets arrive that were sent in one piece: the kernel did not", to, n)
		}
		for range 2 {
			if n := arrives(d.Send(to, row, SendOptions{Segment: 1200, Coalesced: true})); n != 0 {
				t.Errorf("to %s: %d packets of a coalesced row arrive", to, n)
			}
			if n := arrives(d.Send(to, row, SendOptions{Segment: 1200})); n != 3 {
				t.Errorf("to %s: %d packets of a single row arrive", to, n)
			}
			other := netip.AddrPortFrom(to.Addr(), 1)
			d.setSingle(Config{Peers: []Peer{{PathEndpoint: other, Single: true}, {PathEndpoint: to, Single: true}, {Single: true}}})
			if n := arrives(a.Send(batch, ep)); n != len(batch) {
				t.Errorf("to %s: %d packets arrive that were sent one by one", to, n)
			}
		}
		d.setSingle(Config{Peers: []Peer{{PathEndpoint: to}}})
		if n := arrives(a.Send(batch, ep)); n != 0 || a.single.Load() != nil {
			t.Errorf("to %s: %d packets arrive that were sent in one piece", to, n)
		}
	}
	for _, o := range []SendOptions{{Segment: 1200, TTL: 4}, {Segment: 1200, DontFragment: true}} {
		if err := d.Send(one, row, o); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// The kernel's WireGuard lends nobody its socket, and the raw one coalesces
// nothing: a row is refused, not sent as one large packet.
func TestRowKernel(t *testing.T) {
	d, _, _ := openFake(t)
	d.raw = &rawPort{port: 6784}
	if err := d.Send(one, make([]byte, 3*signal.Probe.Least()), SendOptions{Segment: signal.Probe.Least()}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a row: %v", err)
	}
}

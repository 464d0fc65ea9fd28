package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// ambush is a chain of three hosts and a stranger on the network of the first
// two, who can send in anybody's name and gets what the relay sends to addresses
// that it does not know.
type ambush struct {
	*cluster
	stranger *lab.Host
	relay    *node
	boxes    []*box
	wire     *wire
	mac      net.HardwareAddr // of the relay, towards the stranger
	captured *lab.Capture
}

func newAmbush(t *testing.T) *ambush {
	t.Helper()
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.Chain(name, 3)
		topology.AddHost("stranger", "net1-2")
		topology.Hosts[1].Gateway = "stranger"
		return topology
	})
	c.nodes = c.nodes[:3]
	a := &ambush{cluster: c, stranger: c.Host("stranger"), relay: c.nodes[1]}
	var err error
	if a.captured, err = c.Capture("", nil); err != nil {
		t.Fatal(err)
	}
	c.joinGraph(inOrder(3))
	a.boxes = c.attachEach()
	c.allReach(a.boxes, reachSoon)
	c.within("the ends are relayed", reachSoon, func() error { return usesPath(c.nodes[0], c.nodes[2], "host2") })
	a.wire, a.mac = openWire(t, a.stranger.Place, "eth0"), macOf(t, a.relay.Place, "eth0")
	return a
}

// send sends a datagram to a port of the relay in somebody's name.
func (a *ambush) send(from netip.AddrPort, port uint16, payload []byte) {
	d := datagram{src: from, dst: netip.AddrPortFrom(a.relay.Addr(), port)}
	for _, p := range d.packets(payload) {
		_ = a.wire.send(ethernet(a.mac, a.wire.mac, p))
	}
}

// nobodys is one of a million addresses that belong to nobody here.
func nobodys(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64 | byte(i>>16)&15, byte(i >> 8), byte(i)}), uint16(1024+i%50000))
}

// udpPayload returns what a captured frame carries; nil when it is not UDP over
// IPv4.
func udpPayload(frame []byte) []byte {
	p := parse(frame)
	if p.kind != "udp" || !p.src.Is4() || len(frame) < 14+28 {
		return nil
	}
	return frame[14+28:]
}

// find returns the first captured payload that one of the hosts sent to a port
// and that is as wanted.
func (a *ambush) find(from string, port uint16, want func([]byte) bool) []byte {
	for _, f := range a.captured.Frames() {
		if b := udpPayload(f.Data); f.From == from && b != nil && parse(f.Data).dstPort == port && want(b) {
			return b
		}
	}
	return nil
}

// Strangers send the relay all that hurts: garbage, packets cut short and much
// too long, initiations from everywhere, and true packets of the cluster again,
// from thousands of addresses. It forwards none of it, answers no more than it
// gets, does not grow, and those that it relays notice nothing.
func TestRelayStrangers(t *testing.T) {
	parallelAs(t, calm, 20*time.Second)
	a := newAmbush(t)
	relay, first := a.relay, a.nodes[0]
	isKind := func(size int, first ...byte) func([]byte) bool {
		return func(b []byte) bool { return len(b) >= size && bytes.HasPrefix(b, first) }
	}
	var initiation []byte
	a.within("a handshake through the relay was captured", 5*time.Second, func() error {
		if initiation = a.find("host1", helloPort, isKind(148, 1)); initiation == nil {
			initiation = a.find("host3", helloPort, isKind(148, 1))
		}
		if initiation == nil {
			return fmt.Errorf("no initiation to port %d among %d frames", helloPort, len(a.captured.Frames()))
		}
		return nil
	})
	var signals [][]byte
	var transport []byte
	a.within("a bind, a probe and something relayed were captured", 5*time.Second, func() error {
		signals = [][]byte{a.find("host1", helloPort, isKind(40, 0x57, 3)), a.find("host1", tunnelPort, isKind(40, 0x57, 1))}
		transport = a.find("host1", helloPort, isKind(32, 4))
		if signals[0] == nil || signals[1] == nil || transport == nil {
			return errors.New("one is missing")
		}
		return nil
	})
	// Whatever it answers to nobody would be seen: pings, for a start.
	echo := ip4Packet(icmp4, nobodys(0).Addr(), relay.Addr(), []byte{8, 0, 0, 0, 0, 1, 0, 1}, 2)
	copy(echo[22:], []byte{0, 0})
	binary.BigEndian.PutUint16(echo[22:], internetChecksum(echo[20:]))
	a.within("what is sent to nobody is seen", 5*time.Second, func() error {
		_ = a.wire.send(ethernet(a.mac, a.wire.mac, echo))
		for _, f := range a.captured.Frames() {
			if p := parse(f.Data); f.From == relay.Name() && p.dst == nobodys(0).Addr() {
				return nil
			}
		}
		return errors.New("no answer to a ping")
	})
	p := startPulse(t, a.boxes[0], a.boxes[2])
	p.steady(t)
	before := relay.daemonUse(t)
	begun := time.Now()
	sent := 0
	attack := func(from netip.AddrPort, port uint16, payload []byte) {
		a.send(from, port, payload)
		if sent++; sent%50 == 0 {
			rest(t.Context(), 5*time.Millisecond)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 10_000 {
		attack(nobodys(i), helloPort, initiation)
		switch port := []uint16{helloPort, tunnelPort}[i%2]; i % 5 {
		case 0: // of every type, too short, too long, or just right, and wrong
			b := strangePacket(r.IntN(1 << 20))
			attack(nobodys(r.IntN(1<<20)), port, b[:len(b)-min(len(b), r.IntN(4))])
		case 1:
			attack(nobodys(i), port, make([]byte, 1400))
		case 2: // true signals from elsewhere, and cut
			s := signals[r.IntN(len(signals))]
			attack(nobodys(i), port, s)
			attack(nobodys(i), port, s[:r.IntN(len(s)+1)])
		case 3: // and changed, in the name of who sent them
			s := slices.Clone(signals[r.IntN(2)])
			if i%2 == 0 {
				s[r.IntN(len(s))] ^= 1 << r.IntN(8)
			}
			attack(netip.AddrPortFrom(first.Addr(), tunnelPort), port, s)
		case 4: // what goes through, again, by itself and from its own address
			attack(netip.AddrPortFrom(first.Addr(), tunnelPort), helloPort, initiation)
			attack(netip.AddrPortFrom(first.Addr(), tunnelPort), helloPort, transport)
		}
	}
	took := time.Since(begun)
	p.steady(t)
	during := relay.daemonUse(t)
	if gap := p.answers.gap(begun, time.Now()); gap > 5*time.Second*run.slow() {
		t.Errorf("pings through the relay were interrupted for %s", gap)
	}
	rest(t.Context(), time.Second)
	frames, missed := a.captured.Stop()
	if missed > 0 {
		t.Errorf("the capture missed %d frames, so it proves nothing", missed)
	}
	forwarded, in, out := 0, 0, 0
	carrier := netip.MustParsePrefix("100.64.0.0/10")
	for _, f := range frames {
		h := parse(f.Data)
		switch {
		case f.From == "stranger" && carrier.Contains(h.src):
			in += len(f.Data)
		case f.From == relay.Name() && carrier.Contains(h.dst) && h.kind == "udp":
			out += len(f.Data)
			if len(f.Data) > 14+28+100 {
				t.Errorf("the relay sends %d bytes to a stranger", len(f.Data))
			}
		}
		if b := udpPayload(f.Data); f.From == relay.Name() && b != nil && bytes.Equal(b, initiation) {
			forwarded++
		}
	}
	if forwarded != 1 {
		t.Errorf("the initiation was forwarded %d times, the first of them rightly", forwarded)
	}
	if out > in {
		t.Errorf("strangers sent %d bytes, and %d bytes were sent to them", in, out)
	}
	after := relay.daemonUse(t)
	t.Logf("FIGURE %d packets of strangers in %s; %d bytes in, %d out; the relay before: %s; during: %s; after: %s", sent, took.Round(time.Millisecond), in, out, before, during, after)
	for _, u := range []use{during, after} {
		if u.memory > before.memory+32<<20 {
			t.Errorf("the daemon grew from %s to %s", before, u)
		}
	}
	if after.logLines-before.logLines > 100 {
		t.Errorf("strangers wrote %d lines into the log", after.logLines-before.logLines)
	}
	a.within("the ends are still relayed", 5*time.Second, func() error { return usesPath(a.nodes[0], a.nodes[2], relay.Name()) })
	if err := a.noFalseDeath(); err != nil {
		t.Error(err)
	}
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tunnelPort is the port that the tests of NATs use on every host.
const tunnelPort = 6784

// udpPort is a socket on a port of a host.
type udpPort struct {
	*net.UDPConn
	t *testing.T
	h *Host
}

func openUDP(t *testing.T, h *Host, port uint16) udpPort {
	t.Helper()
	u, err := h.ListenUDP(t.Context(), netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	return udpPort{u, t, h}
}

func (u udpPort) at() netip.AddrPort {
	return netip.AddrPortFrom(u.h.Addr(), uint16(u.LocalAddr().(*net.UDPAddr).Port))
}

// send sends a text; that it is refused is a fine answer.
func (u udpPort) send(to netip.AddrPort, text string) {
	u.t.Helper()
	if _, err := u.WriteToUDPAddrPort([]byte(text), to); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		u.t.Fatal(err)
	}
}

// hears waits for a text and returns where it came from; an invalid address
// when it does not come.
func (u udpPort) hears(text string, wait time.Duration) netip.AddrPort {
	u.t.Helper()
	if err := u.SetReadDeadline(time.Now().Add(wait)); err != nil {
		u.t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, from, err := u.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return netip.AddrPort{}
		}
		if err == nil && string(buf[:n]) == text {
			return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		}
	}
}

// count counts a text until another one comes.
func (u udpPort) count(t *testing.T, text, last string) (n int) {
	t.Helper()
	if err := u.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for {
		size, _, err := u.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Errorf("%q does not come", last)
			return n
		case err == nil && string(buf[:size]) == last:
			return n
		case err == nil && string(buf[:size]) == text:
			n++
		}
	}
}

const (
	soon  = 20 * time.Second       // what arrives does so at once
	never = 200 * time.Millisecond // and what has not by then does not
)

// finds sends a text until the other end hears it, and returns where it came from.
func (u udpPort) finds(other udpPort, to netip.AddrPort, text string) (from netip.AddrPort) {
	u.t.Helper()
	for deadline := time.Now().Add(soon); !from.IsValid() && time.Now().Before(deadline); {
		u.send(to, text)
		from = other.hears(text, never)
	}
	return from
}

// natLab is a host behind a NAT and three on the network outside.
func natLab(t *testing.T, nat NAT) (l *Lab, in udpPort, out []udpPort, outer netip.Addr) {
	t.Helper()
	topology := Topology{}
	topology.AddNetwork("internet")
	for i := range 3 {
		topology.AddHost(fmt.Sprintf("s%d", i+1), "internet")
	}
	topology.AddNAT("nat", "internet", nat, "h")
	l = up(t, topology)
	for i := range 3 {
		out = append(out, openUDP(t, l.Host(fmt.Sprintf("s%d", i+1)), tunnelPort))
	}
	return l, openUDP(t, l.Host("h"), tunnelPort), out, l.Host("nat").Addr()
}

// Each kind of NAT does what makes it that kind, seen from plain sockets.
func TestNATKinds(t *testing.T) {
	t.Parallel()
	for _, mapping := range []Mapping{PortPreserving, RandomPort} {
		for _, unsolicited := range []Unsolicited{Drop, Answer} {
			t.Run(string(mapping)+","+string(unsolicited), func(t *testing.T) {
				t.Parallel()
				l, in, out, outer := natLab(t, NAT{Mapping: mapping, Unsolicited: unsolicited})

				// Outer ports: the same for all destinations, or one for each.
				var seen []netip.AddrPort
				for i, s := range out[:2] {
					in.send(s.at(), "hello")
					from := s.hears("hello", soon)
					if from.Addr() != outer {
						t.Fatalf("s%d sees %s, want the address of the router, %s", i+1, from, outer)
					}
					seen = append(seen, from)
				}
				if kept := seen[0].Port() == tunnelPort && seen[1].Port() == tunnelPort; kept != (mapping == PortPreserving) {
					t.Errorf("outer addresses are %v", seen)
				}
				if mapping == RandomPort && seen[0] == seen[1] {
					t.Errorf("two destinations see %s", seen[0])
				}

				// Only who was sent something gets in, from that very port.
				out[0].send(seen[0], "answer")
				if from := in.hears("answer", soon); from != out[0].at() {
					t.Errorf("the answer comes from %s", from)
				}
				other := openUDP(t, l.Host("s1"), 7000)
				other.send(seen[0], "from another port")
				out[1].send(seen[0], "from another host, to the same mapping")
				if mapping == PortPreserving {
					out[2].send(seen[0], "from a stranger")
				}
				if from := in.hears("from another port", never); from.IsValid() {
					t.Errorf("a stranger's packet comes in from %s", from)
				}

				// Strangers are answered, or not.
				wait := never
				if unsolicited == Answer {
					wait = soon
				}
				err := refused(t, l.Host("s3"), netip.AddrPortFrom(outer, 9999), wait)
				if got := errors.Is(err, unix.ECONNREFUSED); got != (unsolicited == Answer) {
					t.Errorf("unsolicited packets: %v", err)
				}
			})
		}
	}
}

// refused says what a connected socket learns within a time after a packet to a
// port.
func refused(t *testing.T, from *Host, to netip.AddrPort, wait time.Duration) error {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("anybody?")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 100))
	return err
}

// A packet that comes too early moves the mapping of a NAT that answers, and no
// other: that is what makes both kinds worth testing.
func TestNATEarlyPacket(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		unsolicited Unsolicited
		moved       bool
	}{{Drop, false}, {Answer, true}} {
		t.Run(string(tc.unsolicited), func(t *testing.T) {
			_, in, out, outer := natLab(t, NAT{Unsolicited: tc.unsolicited})
			out[0].send(netip.AddrPortFrom(outer, tunnelPort), "early")
			if from := in.hears("early", never); from.IsValid() {
				t.Fatalf("the early packet came in from %s", from)
			}
			in.send(out[0].at(), "late")
			if from := out[0].hears("late", soon); (from.Port() != tunnelPort) != tc.moved {
				t.Errorf("after an early packet the other end sees %s, want it moved: %v", from, tc.moved)
			}
		})
	}
}

// Two hosts behind NATs of the good kind reach each other when both send; a
// mapping that moves is forgotten at once, and stays where it was put.
func TestNATPunchAndRemap(t *testing.T) {
	t.Parallel()
	l := up(t, BehindNATs("", 3))
	a, b := openUDP(t, l.Host("host2"), tunnelPort), openUDP(t, l.Host("host3"), tunnelPort)
	hole := func(router string) netip.AddrPort { return netip.AddrPortFrom(l.Host(router).Addr(), tunnelPort) }
	a.send(hole("nat3"), "first")
	if from := b.finds(a, hole("nat2"), "second"); from != hole("nat3") {
		t.Errorf("the second comes from %s", from)
	}
	a.send(hole("nat3"), "third")
	if from := b.hears("third", soon); from != hole("nat2") {
		t.Errorf("the third comes from %s", from)
	}

	edge := l.Host("nat2").Spec().Edge
	edge.NAT = &NAT{Ports: map[uint16]uint16{tunnelPort: 7784}}
	if err := l.SetEdge(t.Context(), "nat2", edge); err != nil {
		t.Fatal(err)
	}
	b.send(hole("nat2"), "to the former mapping")
	if from := a.hears("to the former mapping", never); from.IsValid() {
		t.Errorf("the former mapping still leads in, from %s", from)
	}
	public := openUDP(t, l.Host("host1"), 7000)
	for range 2 {
		a.send(public.at(), "from the new mapping")
		if from := public.hears("from the new mapping", soon); from != netip.AddrPortFrom(l.Host("nat2").Addr(), 7784) {
			t.Errorf("host1 sees %s", from)
		}
		a.send(hole("nat3"), "again")
	}
}

// A firewall lets answers in, and nothing else, at a host and at a router.
func TestFirewall(t *testing.T) {
	t.Parallel()
	topology := Flat("", 2)
	topology.Hosts[0].Firewall = true
	topology.AddNetwork("inside")
	topology.AddHost("r", "lan", "inside")
	topology.Hosts[2].Forward, topology.Hosts[2].Firewall = true, true
	topology.AddHost("h", "inside")
	topology.Hosts[3].Gateway = "r"
	topology.Hosts[1].Gateway = "r"
	l := up(t, topology)
	out := openUDP(t, l.Host("host2"), tunnelPort)
	for _, name := range []string{"host1", "h"} {
		in := openUDP(t, l.Host(name), tunnelPort)
		out.send(in.at(), "knock")
		if in.hears("knock", never).IsValid() {
			t.Errorf("%s is reached from outside", name)
		}
		in.send(out.at(), "ask")
		if from := out.hears("ask", soon); from != in.at() {
			t.Errorf("%s is seen at %s", name, from)
		}
		out.send(in.at(), "tell")
		if !in.hears("tell", soon).IsValid() {
			t.Errorf("%s gets no answer", name)
		}
		if answers(t, l.Host("host2"), l.Host(name).Addr()) {
			t.Errorf("%s answers a ping from outside", name)
		}
		if err := ping(t, l.Host(name), l.Host("host2").Addr()); err != nil {
			t.Error(err)
		}
	}
	// IPv6 needs its neighbours all the same.
	if err := ping(t, l.Host("host1"), l.Host("host2").Addr6()); err != nil {
		t.Error(err)
	}
	if answers(t, l.Host("host2"), l.Host("host1").Addr6()) {
		t.Error("host1 answers a ping over IPv6 from outside")
	}
	if err := l.SetEdge(t.Context(), "host1", Edge{}); err != nil {
		t.Fatal(err)
	}
	if err := ping(t, l.Host("host2"), l.Host("host1").Addr()); err != nil {
		t.Errorf("after the firewall has gone: %v", err)
	}
}

func TestEdgeRefused(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*HostSpec)
	}{
		{"a NAT that does not forward", func(h *HostSpec) { h.NAT = &NAT{} }},
		{"another mapping", func(h *HostSpec) { h.Forward, h.NAT = true, &NAT{Mapping: "full-cone"} }},
		{"another answer", func(h *HostSpec) { h.Forward, h.NAT = true, &NAT{Unsolicited: "shout"} }},
		{"an outside elsewhere", func(h *HostSpec) { h.Firewall, h.Outside = true, "wan" }},
		{"no outside", func(h *HostSpec) { h.Firewall, h.Links = true, nil }},
		{"a limit that does not forward", func(h *HostSpec) { h.MaxUDP = 700 }},
		{"a negative limit", func(h *HostSpec) { h.Forward, h.MaxUDP = true, -1 }},
	} {
		topology := Flat("x", 2)
		tc.change(&topology.Hosts[0])
		if _, err := topology.complete(); err == nil {
			t.Errorf("%s is accepted", tc.name)
		}
	}
	l := up(t, Flat("", 1))
	for _, e := range []Edge{{NAT: &NAT{}}, {Outside: "wan"}} {
		if err := l.SetEdge(t.Context(), "host1", e); err == nil {
			t.Errorf("%+v is accepted", e)
		}
	}
	if err := l.SetEdge(t.Context(), "host9", Edge{}); err == nil {
		t.Error("an unknown host has an edge")
	}
}

// The edge of a router outlives its reboot.
func TestEdgeAfterReboot(t *testing.T) {
	t.Parallel()
	l, in, out, outer := natLab(t, NAT{})
	if err := l.Host("nat").Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	for ctx.Err() == nil { // the neighbours have to learn its new hardware address
		in.send(out[0].at(), "hello")
		if from := out[0].hears("hello", never); from.IsValid() {
			if !slices.Contains([]netip.Addr{outer}, from.Addr()) {
				t.Errorf("after the reboot s1 sees %s", from)
			}
			return
		}
	}
	t.Error("nothing passes the rebooted router")
}

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// narrow is two hosts with a router between them.
func narrow(change func(r *HostSpec), mtu int) Topology {
	t := Topology{}
	t.AddNetwork("wide")
	t.AddNetwork("narrow")
	t.Networks[1].MTU = mtu
	t.AddHost("a", "wide")
	t.AddHost("r", "wide", "narrow")
	t.AddHost("b", "narrow")
	t.Hosts[0].Gateway, t.Hosts[2].Gateway = "r", "r"
	t.Hosts[1].Forward = true
	change(&t.Hosts[1])
	return t
}

// whole forbids anybody to cut the packets of a socket; probe makes the socket
// ignore what it is told about the path besides; inPieces lets everybody cut.
func whole(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
}

func inPieces(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
}

func probe(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

// fate is what is to become of a packet.
type fate int

const (
	isLost  fate = iota // nobody hears of it
	isTold              // it is lost, and the sender learns that
	arrives             // it is heard
)

// passes says whether a UDP packet of so many bytes, headers included, gets from
// one host to the other, and what the sender is told. It waits for what is
// wanted.
func passes(t *testing.T, l *Lab, from, to string, size int, want fate, control ...func(int) error) (bool, error) {
	t.Helper()
	in := openUDP(t, l.Host(to), 0)
	out, err := l.Host(from).ListenUDP(t.Context(), netip.AddrPortFrom(netip.IPv4Unspecified(), 0), control...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	var said error
	deadline := time.Now().Add(soon)
	for n := 1; ; n++ {
		if _, err := out.WriteToUDPAddrPort(make([]byte, size-28), in.at()); err != nil {
			said = err
		}
		if in.hears(string(make([]byte, size-28)), never).IsValid() {
			return true, said
		}
		// The first may be what somebody has to be told about.
		if n > 1 && (want == isLost || want == isTold && said != nil || time.Now().After(deadline)) {
			return false, said
		}
	}
}

// A narrow network is told about, or not, when the router hides that; a hop that
// drops long UDP packets drops just these.
func TestMTUHops(t *testing.T) {
	t.Parallel()
	for _, mtu := range []int{1280, 1000, 576} {
		for _, hidden := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d,hidden=%v", mtu, hidden), func(t *testing.T) {
				t.Parallel()
				l := up(t, narrow(func(r *HostSpec) { r.HideMTU = hidden }, mtu))
				if ok, err := passes(t, l, "a", "b", mtu, arrives, whole); !ok {
					t.Errorf("%d bytes do not pass: %v", mtu, err)
				}
				want := isTold
				if hidden {
					want = isLost
				}
				ok, err := passes(t, l, "a", "b", mtu+1, want, whole)
				if ok || errors.Is(err, unix.EMSGSIZE) == hidden {
					t.Errorf("%d bytes: passed %v, the sender was told %v", mtu+1, ok, err)
				}
				if ok, err := passes(t, l, "a", "b", 1500, arrives, inPieces); !ok {
					t.Errorf("1500 bytes that may be cut do not pass: %v", err)
				}
			})
		}
	}
}

func TestMaxUDP(t *testing.T) {
	t.Parallel()
	l := up(t, narrow(func(r *HostSpec) { r.MaxUDP = 700 }, 1500))
	for size, want := range map[int]fate{700: arrives, 701: isLost, 1500: isLost} {
		if ok, err := passes(t, l, "a", "b", size, want, probe); ok != (want == arrives) || err != nil {
			t.Errorf("a packet of %d bytes passes: %v (%v)", size, ok, err)
		}
	}
	if _, err := l.Host("a").Ping(t.Context(), l.Host("b").Addr(), 1400, nil); err != nil {
		t.Errorf("what is not UDP: %v", err)
	}
	// Several packets of one sender travel as one until they come to the hop.
	in := openUDP(t, l.Host("b"), 0)
	out, err := l.Host("a").ListenUDP(t.Context(), netip.AddrPortFrom(netip.IPv4Unspecified(), 0), func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 600)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	if _, err := out.WriteToUDPAddrPort(make([]byte, 6000), in.at()); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if !in.hears(string(make([]byte, 600)), soon).IsValid() {
			t.Fatalf("%d of ten packets sent at once pass", i)
		}
	}
	// And pieces of a longer one pass when each is short enough.
	if err := l.SetMTU(t.Context(), "wide", 696); err != nil {
		t.Fatal(err)
	}
	if ok, err := passes(t, l, "a", "b", 2000, arrives, inPieces); !ok {
		t.Errorf("a packet of 2000 bytes in pieces of at most 696 does not pass: %v", err)
	}
}

// A link of its own MTU is a hole that tells nobody.
func TestLinkMTU(t *testing.T) {
	t.Parallel()
	topology := Flat("", 2)
	topology.Hosts[1].Links[0].MTU = 1300
	l := up(t, topology)
	for size, want := range map[int]fate{1300: arrives, 1400: isLost} {
		if ok, err := passes(t, l, "host1", "host2", size, want, probe); ok != (want == arrives) || err != nil {
			t.Errorf("a packet of %d bytes passes: %v (%v)", size, ok, err)
		}
	}
}

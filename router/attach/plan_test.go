package attach

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, prefix(s))
	}
	return out
}

// whole is an attachment that is as it should be.
func whole() (want, seen) {
	w := want{
		Spec:   Spec{Label: "web", Addresses: prefixes("10.32.0.1/12"), Multicast: true},
		end:    "wv0123456789ab",
		bridge: 3,
		mtu:    1370,
		dns:    netip.MustParseAddr("169.254.67.83"),
	}
	s := seen{
		end:   &kernel.Link{Name: w.end, Index: 7, PeerIndex: 2, MTU: 1370, Up: true, Master: 3, Alias: "web"},
		link:  &kernel.Link{Name: "weft0", Kind: "veth", Index: 2, PeerIndex: 7, MTU: 1370, Up: true},
		name:  "weft0",
		addrs: prefixes("10.32.0.1/12", "fe80::1/64"),
		routes: []kernel.Route{
			{Dst: prefix("224.0.0.0/4"), Link: "weft0"},
			{Dst: prefix("169.254.67.83/32"), Link: "weft0"},
		},
		sysctl: map[string]string{
			"net/ipv6/conf/wv0123456789ab/disable_ipv6":  "1",
			"net/ipv6/conf/weft0/disable_ipv6":           "0",
			"net/ipv4/conf/weft0/promote_secondaries":    "1",
			"net/ipv6/conf/other/disable_ipv6":           "0",
			"net/ipv6/conf/weft1/disable_ipv6":           "0",
			"net/ipv4/conf/weft1/promote_secondaries":    "1",
			"net/ipv6/conf/wv0123456789ab/something_new": "0",
		},
	}
	return w, s
}

const freshPlan = `ip link add LINK type veth peer END
sysctl net/ipv6/conf/wv0123456789ab/disable_ipv6=1
sysctl net/ipv6/conf/weft0/disable_ipv6=0
sysctl net/ipv4/conf/weft0/promote_secondaries=1
ip link set END alias "web"
ip link set END master BRIDGE
ip link set END up
ip addr add 10.32.0.1/12 dev LINK
ip link set LINK up
ip route add 224.0.0.0/4 dev LINK
ip route add 169.254.67.83/32 dev LINK
arping -U 10.32.0.1`

func TestPlan(t *testing.T) {
	tests := []struct {
		name   string
		change func(w *want, s *seen)
		want   string
	}{
		{"nothing to do", func(*want, *seen) {}, ""},
		{"fresh", func(_ *want, s *seen) {
			*s = seen{name: "weft0"}
		}, freshPlan},
		{"fresh, the container has a multicast route of its own", func(_ *want, s *seen) {
			*s = seen{name: "weft0", routes: []kernel.Route{{Dst: prefix("224.0.0.0/4"), Link: "eth0"}}}
		}, strings.Replace(freshPlan, "ip route add 224.0.0.0/4 dev LINK\n", "", 1)},
		{"the end leads elsewhere", func(_ *want, s *seen) {
			s.link = nil
		}, "ip link del END\n" + freshPlan},
		{"bare: no multicast, no name server, no label", func(w *want, s *seen) {
			*s = seen{name: "weft0"}
			w.Multicast, w.dns, w.Label = false, netip.Addr{}, ""
		}, `ip link add LINK type veth peer END
sysctl net/ipv6/conf/wv0123456789ab/disable_ipv6=1
sysctl net/ipv6/conf/weft0/disable_ipv6=0
sysctl net/ipv4/conf/weft0/promote_secondaries=1
ip link set END master BRIDGE
ip link set END up
ip addr add 10.32.0.1/12 dev LINK
ip link set LINK up
arping -U 10.32.0.1`},
		{"one more address", func(w *want, _ *seen) {
			w.Addresses = prefixes("10.32.0.1/12", "10.32.0.2/12", "10.32.0.2/12")
		}, "ip addr add 10.32.0.2/12 dev LINK\narping -U 10.32.0.2"},
		{"one less", func(w *want, s *seen) {
			s.addrs = prefixes("10.32.0.1/12", "10.32.0.2/12")
			w.Remove = prefixes("10.32.0.2/12", "10.32.0.3/12")
		}, "ip addr del 10.32.0.2/12 dev LINK"},
		{"wanted wins over removed", func(w *want, _ *seen) {
			w.Remove = prefixes("10.32.0.1/12")
		}, ""},
		{"add before delete", func(w *want, _ *seen) {
			w.Remove, w.Addresses = w.Addresses, prefixes("10.32.0.9/12")
		}, "ip addr add 10.32.0.9/12 dev LINK\nip addr del 10.32.0.1/12 dev LINK\narping -U 10.32.0.9"},
		{"the container's own addresses stay", func(_ *want, s *seen) {
			s.addrs = append(s.addrs, prefix("192.0.2.1/24"))
		}, ""},
		{"lost from the bridge", func(_ *want, s *seen) {
			s.end.Master = 0
		}, "ip link set END master BRIDGE\narping -U 10.32.0.1"},
		{"end set down", func(_ *want, s *seen) {
			s.end.Up = false
		}, "ip link set END up\narping -U 10.32.0.1"},
		{"set down inside", func(_ *want, s *seen) {
			s.link.Up = false
		}, "ip link set LINK up\nip route add 224.0.0.0/4 dev LINK\nip route add 169.254.67.83/32 dev LINK\narping -U 10.32.0.1"},
		{"routes deleted", func(_ *want, s *seen) {
			s.routes = nil
		}, "ip route add 224.0.0.0/4 dev LINK\nip route add 169.254.67.83/32 dev LINK"},
		{"the name server is routed elsewhere", func(_ *want, s *seen) {
			s.routes[1].Link = "eth0"
		}, "ip route add 169.254.67.83/32 dev LINK"},
		{"another mtu", func(w *want, _ *seen) {
			w.mtu = 1350
		}, "ip link set END mtu 1350\nip link set LINK mtu 1350"},
		{"renamed container", func(w *want, _ *seen) {
			w.Label = "web2"
		}, `ip link set END alias "web2"`},
		{"IPv6 toggled on both sides", func(_ *want, s *seen) {
			s.sysctl["net/ipv6/conf/wv0123456789ab/disable_ipv6"] = "0"
			s.sysctl["net/ipv6/conf/weft0/disable_ipv6"] = "1"
		}, "sysctl net/ipv6/conf/wv0123456789ab/disable_ipv6=1\nsysctl net/ipv6/conf/weft0/disable_ipv6=0"},
		{"a long label is cut", func(w *want, s *seen) {
			w.Label = strings.Repeat("x", 300)
			s.end.Alias = strings.Repeat("x", maxAlias)
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, s := whole()
			tt.change(&w, &s)
			var got []string
			for _, st := range plan(w, s) {
				got = append(got, st.String())
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGuestName(t *testing.T) {
	tests := []struct {
		have []string
		want string
	}{
		{nil, "weft0"},
		{[]string{"lo", "eth0"}, "weft0"},
		{[]string{"weft0"}, "weft1"},
		{[]string{"weft1", "weft0", "weft3"}, "weft2"},
	}
	for _, tt := range tests {
		var links []kernel.Link
		for _, n := range tt.have {
			links = append(links, kernel.Link{Name: n})
		}
		if got := guestName(links); got != tt.want {
			t.Errorf("guestName(%v) = %s, want %s", tt.have, got, tt.want)
		}
	}
}

func TestMatch(t *testing.T) {
	end := kernel.Link{Index: 7, PeerIndex: 2}
	tests := []struct {
		name string
		link kernel.Link
		want bool
	}{
		{"ours", kernel.Link{Kind: "veth", Index: 2, PeerIndex: 7}, true},
		{"a veth of somebody else with our index", kernel.Link{Kind: "veth", Index: 2, PeerIndex: 9}, false},
		{"another index", kernel.Link{Kind: "veth", Index: 3, PeerIndex: 7}, false},
		{"no veth", kernel.Link{Kind: "macvlan", Index: 2, PeerIndex: 7}, false},
	}
	for _, tt := range tests {
		if got := match(end, []kernel.Link{tt.link}) != nil; got != tt.want {
			t.Errorf("%s: match = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestHostEnd(t *testing.T) {
	a, b := Namespace{ID: "4:4026532301", Cookie: 1}, Namespace{ID: "4:4026532301", Cookie: 2}
	if a.HostEnd() != a.HostEnd() || a.HostEnd() == b.HostEnd() {
		t.Error("the name must be stable, and another one for a later namespace with the same inode")
	}
	if n := a.HostEnd(); len(n) > 15 || !isHostEnd(n) {
		t.Errorf("HostEnd = %q", n)
	}
	for _, n := range []string{"", "wv", "wv0", "weft0", "wv0123456789AB", "wv0123456789abc", "wvg123456789ab"} {
		if isHostEnd(n) {
			t.Errorf("isHostEnd(%q)", n)
		}
	}
}

func TestNewMAC(t *testing.T) {
	seen := map[kernel.MAC]bool{}
	for range 1000 {
		m := NewMAC()
		if m[0]&3 != 2 || seen[m] {
			t.Fatalf("NewMAC = %s: want a new locally administered unicast address", m)
		}
		seen[m] = true
	}
}

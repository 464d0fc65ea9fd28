package main

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/router/kernel"
)

func TestOverlap(t *testing.T) {
	within := netip.MustParsePrefix("10.32.0.0/12")
	for _, c := range []struct {
		dst, link string
		want      bool
	}{
		{"10.40.0.0/16", "eth0", true},
		{"10.0.0.0/8", "eth0", true},
		{"10.33.1.1/32", "tun0", true},
		{"10.32.0.0/12", "weft", false},
		{"10.48.0.0/16", "eth0", false},
		{"0.0.0.0/0", "eth0", false},
		{"::/0", "eth0", false},
		{"fd00::/8", "eth0", false},
	} {
		r, got := overlap([]kernel.Route{{Dst: netip.MustParsePrefix(c.dst), Link: c.link}}, within)
		if got != c.want {
			t.Errorf("route %s dev %s: %v, want %v", c.dst, c.link, got, c.want)
		}
		if got && r.Link != c.link {
			t.Errorf("route %s dev %s: named %s", c.dst, c.link, r.Link)
		}
	}
	if _, got := overlap([]kernel.Route{{Link: "eth0"}}, within); got {
		t.Error("a route without destination overlaps")
	}
}

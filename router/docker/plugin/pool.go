package plugin

import (
	"fmt"
	"net/netip"
	"strings"
)

// pool is a network's subnet as an engine knows it by its id, which it gives
// back with every request and keeps where we keep nothing.
type pool struct {
	subnet netip.Prefix
	within netip.Prefix // part of it to choose from; zero: all of it
}

// id returns what [parsePool] reads.
func (p pool) id() string {
	if p.within.IsValid() {
		return p.subnet.String() + "," + p.within.String()
	}
	return p.subnet.String()
}

func parsePool(id string) (p pool, err error) {
	subnet, within, both := strings.Cut(id, ",")
	if p.subnet, err = netip.ParsePrefix(subnet); err == nil && both {
		p.within, err = netip.ParsePrefix(within)
	}
	if err != nil || p.id() != id {
		return pool{}, fmt.Errorf("%q is no address pool of weft", id)
	}
	return p, nil
}

// gateway is the answer to whoever asks for one: the network's own address,
// which no container gets. Nothing is routed through it, and so no address is
// spent on it.
func (p pool) gateway() netip.Prefix { return p.subnet.Masked() }

// parseNetwork reads a subnet as people type it.
func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("subnet %q: want a network such as 10.32.0.0/16", s)
	}
	return p.Masked(), nil
}

// inside reports whether a network is a part of another one.
func inside(part, whole netip.Prefix) bool {
	return part.Bits() >= whole.Bits() && whole.Contains(part.Addr())
}

package lab

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
)

// AddNetwork adds a network with a subnet of each family that no other network
// made this way has.
func (t *Topology) AddNetwork(name string) {
	k := byte(len(t.Networks))
	t.Networks = append(t.Networks, Network{Name: name, Subnets: []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, k, 0}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, k}), 64),
	}})
}

// AddHost adds a host that is on all of the networks.
func (t *Topology) AddHost(name string, networks ...string) {
	h := HostSpec{Name: name}
	for _, n := range networks {
		h.Links = append(h.Links, Link{Network: n})
	}
	t.Hosts = append(t.Hosts, h)
}

// AddNAT adds a network of IPv4 only with hosts on it, and the router that hides
// it from the network outside.
func (t *Topology) AddNAT(router, outside string, nat NAT, hosts ...string) {
	inside := router + "-lan"
	t.AddNetwork(inside)
	n := &t.Networks[len(t.Networks)-1]
	n.Subnets = n.Subnets[:1]
	t.AddHost(router, outside, inside)
	r := &t.Hosts[len(t.Hosts)-1]
	r.Forward, r.NAT = true, &nat
	for _, h := range hosts {
		t.AddHost(h, inside)
		t.Hosts[len(t.Hosts)-1].Gateway = router
	}
}

// Chain is n hosts host1 … hostN, each on one network with the next and on none
// with any other.
func Chain(name string, n int) Topology {
	return linked(name, n, func(i int) int { return i - 1 }, false)
}

// Star is n hosts of which host1 is on a network with each of the others.
func Star(name string, n int) Topology { return linked(name, n, func(int) int { return 1 }, false) }

// Ring is a [Chain] whose ends are on one network, too.
func Ring(name string, n int) Topology {
	return linked(name, n, func(i int) int { return i - 1 }, n > 2)
}

// linked puts each host but the first on a network with one of lower number.
func linked(name string, n int, to func(int) int, closed bool) Topology {
	t := Topology{Name: name}
	networks := make([][]string, n+1)
	link := func(a, b int) {
		net := fmt.Sprintf("net%d-%d", a, b)
		t.AddNetwork(net)
		networks[a], networks[b] = append(networks[a], net), append(networks[b], net)
	}
	for i := 2; i <= n; i++ {
		link(to(i), i)
	}
	if closed {
		link(1, n)
	}
	for i := 1; i <= n; i++ {
		t.AddHost(fmt.Sprintf("host%d", i), networks[i]...)
	}
	return t
}

// TwoSites is n hosts on two networks that nothing but host1 joins, which
// forwards nothing.
func TwoSites(name string, n int) Topology {
	t := Topology{Name: name}
	t.AddNetwork("west")
	t.AddNetwork("east")
	t.AddHost("host1", "west", "east")
	for i := 2; i <= n; i++ {
		t.AddHost(fmt.Sprintf("host%d", i), []string{"west", "east"}[i%2])
	}
	return t
}

// BehindNATs is host1 on a network with the routers of the n-1 others, each of
// which is alone behind a NAT.
func BehindNATs(name string, n int) Topology {
	t := Topology{Name: name}
	t.AddNetwork("internet")
	t.AddHost("host1", "internet")
	for i := 2; i <= n; i++ {
		t.AddNAT(fmt.Sprintf("nat%d", i), "internet", NAT{Mapping: PortPreserving, Unsolicited: Drop}, fmt.Sprintf("host%d", i))
	}
	return t
}

// Random is [Flat] with most pairs of hosts cut, such that the others connect
// all hosts. A seed gives the same graph every time; sparse ones are trees.
func Random(name string, n int, seed uint64) Topology {
	t := Flat(name, n)
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	edge := map[[2]int]bool{}
	order := r.Perm(n)
	for i := 1; i < n; i++ {
		a, b := order[i], order[r.IntN(i)]
		edge[[2]int{min(a, b), max(a, b)}] = true
	}
	more := []float64{0, 0.05, 0.15, 0.4}[r.IntN(4)]
	for a := range n {
		for b := range a {
			if r.Float64() < more {
				edge[[2]int{b, a}] = true
			}
		}
	}
	t.Faults = Except(t, func(a, b string) bool {
		i := slices.IndexFunc(t.Hosts, func(h HostSpec) bool { return h.Name == a })
		j := slices.IndexFunc(t.Hosts, func(h HostSpec) bool { return h.Name == b })
		return edge[[2]int{min(i, j), max(i, j)}]
	})
	return t
}

// Except returns faults that cut every pair of hosts but those that are linked.
func Except(t Topology, linked func(a, b string) bool) []Fault {
	var out []Fault
	for _, a := range t.Hosts {
		for _, b := range t.Hosts {
			if a.Name != b.Name && !linked(a.Name, b.Name) {
				out = append(out, Fault{From: a.Name, To: b.Name, Percent: 100})
			}
		}
	}
	return out
}

// shapes are the topologies that go by a name.
func shapes(seed uint64) map[string]func(string, int) Topology {
	return map[string]func(string, int) Topology{
		"flat": Flat, "chain": Chain, "star": Star, "ring": Ring, "two-sites": TwoSites, "behind-nats": BehindNATs,
		"random": func(name string, n int) Topology { return Random(name, n, seed) },
	}
}

// Shapes lists the names that [Shaped] knows.
func Shapes() []string { return slices.Sorted(maps.Keys(shapes(0))) }

// Shaped returns the topology of n hosts of one of the [Shapes]; only the random
// one depends on the seed.
func Shaped(shape, name string, n int, seed uint64) (Topology, error) {
	f := shapes(seed)[shape]
	if f == nil {
		return Topology{}, fmt.Errorf("there is no shape %q: %s", shape, strings.Join(Shapes(), ", "))
	}
	if n < 1 || n > 200 {
		return Topology{}, fmt.Errorf("%d hosts: one to 200", n)
	}
	return f(name, n), nil
}

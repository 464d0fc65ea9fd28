package attach

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/kernel"
)

// multicast is what `weft0` takes unless told otherwise.
func multicast() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4) }

// maxAlias is what the kernel takes (IFALIASZ), in bytes.
const maxAlias = 255

// op is a kind of step.
type op uint8

const (
	delEnd      op = iota // host: delete an end that leads elsewhere
	addVeth               // guest: make the pair
	hostSysctl            // host: key, value
	setAlias              // host: value
	hostMTU               // host
	setMaster             // host: to the bridge
	hostUp                // host
	guestSysctl           // guest: key, value
	guestMTU              // guest
	addAddr               // guest: prefix
	delAddr               // guest: prefix
	guestUp               // guest
	addRoute              // guest: prefix through the interface
	announce              // guest: gratuitous ARP for prefix's address
)

// step is one thing to do. Steps are values, so that a test can compare a plan
// with what it should be.
type step struct {
	op         op
	key, value string
	prefix     netip.Prefix
}

// String returns the step as the command that a person would type.
func (s step) String() string {
	switch s.op {
	case delEnd:
		return "ip link del END"
	case addVeth:
		return "ip link add LINK type veth peer END"
	case hostSysctl, guestSysctl:
		return "sysctl " + s.key + "=" + s.value
	case setAlias:
		return fmt.Sprintf("ip link set END alias %q", s.value)
	case hostMTU:
		return "ip link set END mtu " + s.value
	case setMaster:
		return "ip link set END master BRIDGE"
	case hostUp:
		return "ip link set END up"
	case guestMTU:
		return "ip link set LINK mtu " + s.value
	case addAddr:
		return fmt.Sprintf("ip addr add %s dev LINK", s.prefix)
	case delAddr:
		return fmt.Sprintf("ip addr del %s dev LINK", s.prefix)
	case guestUp:
		return "ip link set LINK up"
	case addRoute:
		return fmt.Sprintf("ip route add %s dev LINK", s.prefix)
	case announce:
		return fmt.Sprintf("arping -U %s", s.prefix.Addr())
	}
	return fmt.Sprintf("step %d", s.op)
}

// want is the desired state with everything that the spec does not say.
type want struct {
	Spec
	end    string
	bridge int // index
	mtu    int
	dns    netip.Addr
	// outside: the guest's end is in the host's namespace, for an engine to
	// take from there.
	outside bool
}

// seen is what the kernel says about one attachment.
type seen struct {
	end    *kernel.Link // host's end; nil: none
	link   *kernel.Link // its other end, in this namespace; nil: none
	name   string       // of link, or of the one to be made
	addrs  []netip.Prefix
	routes []kernel.Route // main table of the namespace
	sysctl map[string]string
}

// The sysctls that are held, by side. IPv6 is off on the host's end: the host
// is not on the switch. Inside, Docker turns it off. Without promotion the
// kernel would delete the other addresses of a subnet with the first one.
func hostSysctls(end string) [][2]string {
	return [][2]string{{"net/ipv6/conf/" + end + "/disable_ipv6", "1"}}
}

func (w want) guestSysctls(name string) [][2]string {
	if w.outside { // the host is not on the switch by this end either
		return hostSysctls(name)
	}
	return [][2]string{
		{"net/ipv6/conf/" + name + "/disable_ipv6", "0"},
		{"net/ipv4/conf/" + name + "/promote_secondaries", "1"},
	}
}

// plan says what must be done to come from s to w; nothing when s is w.
// Addresses that w does not mention belong to the container and stay.
func plan(w want, s seen) []step {
	var p []step
	add := func(st step) { p = append(p, st) }

	fresh := s.link == nil
	if fresh {
		if s.end != nil {
			add(step{op: delEnd})
		}
		s.end, s.link, s.addrs, s.sysctl = &kernel.Link{MTU: w.mtu}, &kernel.Link{MTU: w.mtu}, nil, nil
		add(step{op: addVeth})
	}
	mtu := fmt.Sprint(w.mtu)
	if s.end.MTU != w.mtu {
		add(step{op: hostMTU, value: mtu})
	}
	if s.link.MTU != w.mtu {
		add(step{op: guestMTU, value: mtu})
	}
	for _, kv := range hostSysctls(w.end) {
		if s.sysctl[kv[0]] != kv[1] {
			add(step{op: hostSysctl, key: kv[0], value: kv[1]})
		}
	}
	for _, kv := range w.guestSysctls(s.name) {
		if s.sysctl[kv[0]] != kv[1] {
			add(step{op: guestSysctl, key: kv[0], value: kv[1]})
		}
	}
	if label := w.Label[:min(len(w.Label), maxAlias)]; label != "" && s.end.Alias != label {
		add(step{op: setAlias, value: label})
	}
	cut := s.end.Master != w.bridge || !s.end.Up || !s.link.Up && !w.outside
	if s.end.Master != w.bridge {
		add(step{op: setMaster})
	}
	if !s.end.Up {
		add(step{op: hostUp})
	}
	var added []netip.Prefix
	for _, a := range w.Addresses {
		if !slices.Contains(s.addrs, a) && !slices.Contains(added, a) {
			add(step{op: addAddr, prefix: a})
			added = append(added, a)
		}
	}
	for _, a := range w.Remove {
		if slices.Contains(s.addrs, a) && !slices.Contains(w.Addresses, a) {
			add(step{op: delAddr, prefix: a})
		}
	}
	if !s.link.Up && !w.outside {
		add(step{op: guestUp})
	}
	for _, dst := range w.routes() {
		if !hasRoute(s, dst) {
			add(step{op: addRoute, prefix: dst})
		}
	}
	// Neighbours learn again where an address is: frames went elsewhere until
	// now, or nowhere.
	if cut {
		added = w.Addresses
	}
	for _, a := range added {
		add(step{op: announce, prefix: a})
	}
	return p
}

// routes returns the destinations that lead through the interface besides the
// subnets of its addresses.
func (w want) routes() []netip.Prefix {
	var dst []netip.Prefix
	if w.Multicast {
		dst = append(dst, multicast())
	}
	if w.dns.IsValid() && !w.NoDNS {
		dst = append(dst, netip.PrefixFrom(w.dns, w.dns.BitLen()))
	}
	return dst
}

// hasRoute reports whether dst is routed. The kernel drops an interface's
// routes when it goes down. A multicast route through another interface is the
// container's own choice and stays; the DNS address is on the switch only.
func hasRoute(s seen, dst netip.Prefix) bool {
	return slices.ContainsFunc(s.routes, func(r kernel.Route) bool {
		if r.Link == s.name {
			return r.Dst == dst && s.link.Up
		}
		return r.Dst == dst && dst == multicast()
	})
}

// guestName returns the first of weft0, weft1… that is free.
func guestName(links []kernel.Link) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("weft%d", i)
		if !slices.ContainsFunc(links, func(l kernel.Link) bool { return l.Name == name }) {
			return name
		}
	}
}

// match finds the guest's end of end among the links of a namespace. Indices
// are counted in every namespace, so both directions must agree.
func match(end kernel.Link, links []kernel.Link) *kernel.Link {
	for i, l := range links {
		if l.Kind == "veth" && l.Index == end.PeerIndex && l.PeerIndex == end.Index {
			return &links[i]
		}
	}
	return nil
}

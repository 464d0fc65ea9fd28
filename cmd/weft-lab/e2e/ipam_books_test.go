package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// theRange is what addresses are given from unless a test says otherwise.
func theRange() netip.Prefix { return netip.MustParsePrefix("10.32.0.0/12") }

// space is what a host says of the addresses.
func (n *node) space() (api.IPAM, error) {
	r := n.weft("status", "ipam", "-o", "json")
	if r.Err != nil {
		return api.IPAM{}, r.Err
	}
	var s *api.IPAM
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		return api.IPAM{}, fmt.Errorf("weft status ipam: %w: %s", err, r.Stdout)
	}
	if s == nil {
		return api.IPAM{}, fmt.Errorf("the allocator of %s is off", n.Name())
	}
	return *s, nil
}

func (n *node) mustSpace() api.IPAM {
	n.c.t.Helper()
	s, err := n.space()
	if err != nil {
		n.c.t.Fatal(err)
	}
	return s
}

// entryOf is what n says that another host, or n itself, owns.
func (n *node) entryOf(who identity) api.IPAMEntry {
	n.c.t.Helper()
	for _, e := range n.mustSpace().Entries {
		if e.Identity == who.Identity {
			return e
		}
	}
	return api.IPAMEntry{}
}

// give starts a container, with a name, and leaves the choice of its address to
// the allocator; ask is what is asked for, nothing as a rule.
func (n *node) give(name string, ask ...string) *box {
	n.c.t.Helper()
	b := n.start(name)
	b.addr = n.allot(b.Ref(), ask...)
	n.must("dns-add", b.addr.String(), b.Ref(), "-h", name+".weft.internal")
	return b
}

// giveEach gives every host a container with an address: c1, c2 and so on.
func (c *cluster) giveEach() []*box {
	c.t.Helper()
	var out []*box
	for _, n := range c.nodes {
		out = append(out, n.give(fmt.Sprintf("c%d", n.number)))
	}
	return out
}

// allot attaches and returns the one address that is printed.
func (n *node) allot(ref string, ask ...string) netip.Addr {
	n.c.t.Helper()
	a, err := n.tryAllot(ref, ask...)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return a
}

func (n *node) tryAllot(ref string, ask ...string) (netip.Addr, error) {
	r := n.weft(append(append([]string{"attach"}, ask...), ref)...)
	if r.Err != nil {
		return netip.Addr{}, r.Err
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(r.Stdout, "\n"))
	if err != nil {
		err = fmt.Errorf("%v: want one address: %w", r, err)
	}
	return a, err
}

// namespaces makes network namespaces, which are cheaper than containers, and
// returns how weft calls them.
func (n *node) namespaces(count int) []string {
	n.c.t.Helper()
	n.sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do ip netns add ns$i || exit; i=$((i+1)); done", count))
	var out []string
	for i := range count {
		out = append(out, fmt.Sprintf("netns:/run/netns/ns%d", i))
	}
	return out
}

// book says who has which addresses, each list in order.
type book map[string][]netip.Prefix

func (b book) add(who string, cidr string) error {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return err
	}
	b[who] = append(b[who], p)
	slices.SortFunc(b[who], netip.Prefix.Compare)
	return nil
}

// within counts the addresses that lie in a range.
func (b book) within(r netip.Prefix) (count uint64) {
	for p := range b.all() {
		if r.Contains(p.Addr()) {
			count++
		}
	}
	return count
}

func (b book) all() map[netip.Prefix]string {
	out := map[netip.Prefix]string{}
	for _, who := range slices.Sorted(maps.Keys(b)) {
		for _, p := range b[who] {
			out[p] = who
		}
	}
	return out
}

// listing is the book that `weft ps` shows.
func (n *node) listing() (book, error) {
	r := n.weft("ps")
	if r.Err != nil {
		return nil, r.Err
	}
	b := book{}
	for line := range strings.Lines(r.Stdout) {
		f := strings.Fields(line)
		for _, cidr := range f[min(len(f), 2):] {
			if err := b.add(f[0], cidr); err != nil {
				return nil, fmt.Errorf("weft ps on %s: %w: %s", n.Name(), err, line)
			}
		}
	}
	return b, nil
}

// interfaces is the book that the interfaces themselves are, of lab containers
// and of what [node.namespaces] made.
func (n *node) interfaces() (book, error) {
	b := book{}
	script := `for f in /run/netns/*; do [ -e $f ] || continue
		ip -n ${f##*/} -o -4 addr show dev weft0 2>/dev/null | while read a b c cidr rest; do echo netns:$f $cidr; done; done
		ip -o -4 addr show dev weft | while read a b c cidr rest; do [ $cidr = 169.254.67.83/32 ] || echo weft:expose $cidr; done`
	r := n.Run(n.c.t.Context(), "sh", "-c", script)
	if r.Err != nil {
		return nil, r.Err
	}
	for line := range strings.Lines(r.Stdout) {
		who, cidr, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := b.add(who, cidr); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", n.Name(), err, line)
		}
	}
	for _, c := range n.Containers() {
		addrs, err := c.Addrs("weft0")
		if err != nil {
			continue // not attached
		}
		for _, p := range addrs {
			if p.Addr().Is4() {
				if err := b.add(c.Ref(), p.String()); err != nil {
					return nil, err
				}
			}
		}
	}
	return b, nil
}

// accounted says what is wrong unless what ps lists, what the interfaces have
// and what the allocator counts is the same on each of the hosts, all when none
// are named, and no two of them have one address of the range.
func (c *cluster) accounted(within netip.Prefix, nodes ...*node) error {
	if len(nodes) == 0 {
		nodes = c.nodes
	}
	holder := map[netip.Addr]string{}
	for _, n := range nodes {
		listed, err := n.listing()
		if err != nil {
			return err
		}
		there, err := n.interfaces()
		if err != nil {
			return err
		}
		if diff := cmp.Diff(there, listed, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			return fmt.Errorf("%s: ps does not list what is on the interfaces (-interfaces +ps):\n%s", n.Name(), diff)
		}
		s, err := n.space()
		if err != nil {
			return err
		}
		if s.Active != listed.within(within) {
			return fmt.Errorf("%s: the allocator counts %d addresses, ps %d: %v", n.Name(), s.Active, listed.within(within), listed)
		}
		if len(s.Duplicates) > 0 {
			return fmt.Errorf("%s tells of duplicates: %+v", n.Name(), s.Duplicates)
		}
		for p, who := range listed.all() {
			if other, ok := holder[p.Addr()]; ok && within.Contains(p.Addr()) {
				return fmt.Errorf("%s is held by %s and by %s of %s", p, other, who, n.Name())
			}
			holder[p.Addr()] = who + " of " + n.Name()
		}
	}
	return nil
}

// settles waits until everything is accounted for and all hosts agree.
func (c *cluster) settles(what string, goal time.Duration, nodes ...*node) {
	c.t.Helper()
	c.wait(what, goal, func() error {
		return errors.Join(c.accounted(theRange(), nodes...), c.agreed(nodes...))
	})
}

// agreed says what is wrong unless the hosts, all when none are named, say the
// same of who owns what and of how much of it is in use.
func (c *cluster) agreed(nodes ...*node) error {
	if len(nodes) == 0 {
		nodes = c.nodes
	}
	type owner struct {
		Name    string
		Token   string
		IPs     uint64
		Blocks  int
		Version uint64
		Active  int
	}
	type view struct {
		Ring   string
		Owners map[string]owner
	}
	var first view
	for i, n := range nodes {
		s, err := n.space()
		if err != nil {
			return err
		}
		v := view{s.Ring, map[string]owner{}}
		for _, e := range s.Entries {
			if e.Blocks == 0 {
				continue // each host lists itself, though it owns nothing
			}
			v.Owners[e.Identity] = owner{e.Name, e.Token.String(), e.IPs, e.Blocks, e.Version, e.Active}
		}
		if i == 0 {
			first = v
		}
		if diff := cmp.Diff(first, v); diff != "" {
			return fmt.Errorf("%s and %s do not agree (-/+):\n%s", nodes[0].Name(), n.Name(), diff)
		}
	}
	return nil
}

// distinct fails the test when an address is there twice.
func distinct(t testing.TB, addrs []netip.Addr) {
	t.Helper()
	sorted := slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
	for i, a := range sorted {
		if i > 0 && a == sorted[i-1] {
			t.Errorf("%s was given twice: %v", a, sorted)
		}
	}
}

// addrsOf returns the addresses of containers.
func addrsOf(boxes ...*box) []netip.Addr {
	var out []netip.Addr
	for _, b := range boxes {
		out = append(out, b.addr)
	}
	return out
}

// refused fails the test unless the command failed with that exit code, one
// line on stderr that has all the words, and nothing on stdout. Lines that say
// what is waited for do not count.
func (n *node) refused(exit int, words []string, args ...string) {
	n.c.t.Helper()
	r := n.weft(args...)
	var lines []string
	for line := range strings.Lines(r.Stderr) {
		if !strings.HasPrefix(line, "weft: waiting") {
			lines = append(lines, line)
		}
	}
	if r.Exit != exit || r.Stdout != "" || len(lines) != 1 {
		n.c.t.Errorf("%s: %v\nwant exit %d and one line on stderr", n.Name(), r, exit)
		return
	}
	for _, w := range words {
		if !strings.Contains(lines[0], w) {
			n.c.t.Errorf("%s: weft %s says %q, want %q in it", n.Name(), strings.Join(args, " "), lines[0], w)
		}
	}
}

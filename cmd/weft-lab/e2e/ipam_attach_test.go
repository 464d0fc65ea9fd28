package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// Containers on three hosts get addresses that nobody named: all different, the
// lowest that is free on each host, and those work like any other.
func TestAddresses(t *testing.T) {
	parallel(t)
	c := joined(t, 3)
	for _, n := range c.nodes {
		if s := n.mustSpace(); s.State != "idle" || len(s.Entries) > 0 || s.Active > 0 {
			t.Errorf("%s divides before anybody needs it: %+v", n.Name(), s)
		}
		if out := n.must("status", "ipam"); out != "" {
			t.Errorf("status ipam before the division prints %q", out)
		}
	}
	begun := time.Now()
	boxes := c.giveEach()
	t.Logf("the first address of each of three hosts, the division and a name for each: %s", time.Since(begun).Round(time.Millisecond))
	distinct(t, addrsOf(boxes...))
	whole(c, boxes)
	c.settles("all agree", 2*time.Second)

	owned := uint64(0)
	for i, n := range c.nodes {
		e := n.entryOf(n.identity())
		owned += e.IPs
		first := e.Token
		if first == theRange().Addr() {
			first = first.Next() // the network's
		}
		if boxes[i].addr != first {
			t.Errorf("%s gave %s first, its lowest is %s", n.Name(), boxes[i].addr, first)
		}
		t.Run("on "+n.Name(), func(t *testing.T) { lowestFirst(t, boxes[i]) })
		if n.entryOf(n.identity()).IPs != e.IPs {
			t.Errorf("the space of %s changed", n.Name())
		}
	}
	if s := c.nodes[0].mustSpace(); owned != 1<<20 || s.RangeIPs != owned {
		t.Errorf("the hosts own %d addresses, the range has %d", owned, s.RangeIPs)
	}
	t.Run("table", func(t *testing.T) { // the others are told of what was detached
		wait(t, "all print the same", time.Second, func() error { return spaceTable(c) })
	})
	t.Run("subnet", func(t *testing.T) { oneBlock(t, c) })
	t.Run("expose", func(t *testing.T) { exposeAny(t, c.nodes[1], boxes) })
	t.Run("metrics", func(t *testing.T) {
		for _, n := range c.nodes {
			wait(t, "metrics of "+n.Name(), time.Second, func() error {
				m, err := n.metrics()
				if err != nil {
					return err
				}
				for name, want := range map[string]float64{
					`weft_ips{state="local-used"}`: float64(n.mustSpace().Active), "weft_max_ips": 1 << 20, "weft_ipam_unreachable_count": 0,
					"weft_ipam_unreachable_percentage": 0, "weft_ipam_pending_allocates": 0, "weft_ipam_pending_claims": 0,
				} {
					if got, ok := m[name]; !ok || got != want {
						return fmt.Errorf("%s is %v (there: %t), want %v", name, got, ok, want)
					}
				}
				return nil
			})
		}
	})
	c.settles("all is accounted for", 2*time.Second)
	whole(c, boxes)
}

// lowestFirst attaches and detaches beside a container that has its host's
// lowest address.
func lowestFirst(t *testing.T, b *box) {
	n := b.n
	more, last := n.start("more"), n.start("last")
	more.addr, last.addr = n.allot(more.Ref()), n.allot(last.Ref())
	if want := b.addr.Next(); more.addr != want || last.addr != want.Next() {
		t.Errorf("after %s came %s and %s: not the lowest", b.addr, more.addr, last.addr)
	}
	for _, ask := range [][]string{nil, {"net:default"}, {"net:10.32.0.0/12"}, {b.addr.String() + "/12"}} {
		if again := n.allot(b.Ref(), ask...); again != b.addr {
			t.Errorf("attach %v again gives %s, it has %s", ask, again, b.addr)
		}
	}
	if got := n.must("detach", more.Ref()); got != more.addr.String()+"\n" {
		t.Errorf("detach prints %q, it had %s", got, more.addr)
	}
	next := n.start("next")
	if next.addr = n.allot(next.Ref()); next.addr != more.addr {
		t.Errorf("%s was detached, the next one gets %s", more.addr, next.addr)
	}
	wait(t, "its new owner answers", time.Second, func() error { return b.reaches(next) })
	for _, gone := range []*box{next, last} {
		n.must("detach", gone.Ref())
	}
}

// spaceTable compares what people see with what the numbers are.
func spaceTable(c *cluster) error {
	for _, n := range c.nodes {
		var want []string
		order := slices.Clone(c.nodes)
		slices.SortStableFunc(order, func(a, b *node) int {
			switch {
			case a == n:
				return -1
			case b == n:
				return 1
			}
			return strings.Compare(a.Name(), b.Name())
		})
		for _, o := range order {
			e := n.entryOf(o.identity())
			want = append(want, fmt.Sprintf("%-37v %8d IPs (%04.1f%% of total) (%d active)\n",
				e.Name+"("+o.Name()+")", e.IPs, float64(e.IPs)*100/(1<<20), e.Active))
		}
		if got := n.must("status", "ipam"); got != strings.Join(want, "") {
			return fmt.Errorf("%s prints\n%swant\n%s", n.Name(), got, strings.Join(want, ""))
		}
		if got, want := n.must("status"), `
        Service: ipam
         Status: ready
          Range: 10.32.0.0/12
  DefaultSubnet: 10.32.0.0/12
`; !strings.Contains(got, want) {
			return fmt.Errorf("status of %s lacks %s:\n%s", n.Name(), want, got)
		}
	}
	return nil
}

// oneBlock has every host give addresses of a subnet that is a single block.
func oneBlock(t *testing.T, c *cluster) {
	subnet := netip.MustParsePrefix("10.40.5.0/24")
	var boxes []*box
	for _, n := range c.nodes {
		begun := time.Now()
		b := n.start("sub")
		b.addr = n.allot(b.Ref(), "net:"+subnet.String())
		boxes = append(boxes, b)
		t.Logf("%s has %s after %s", n.Name(), b.addr, time.Since(begun).Round(time.Millisecond))
	}
	got := addrsOf(boxes...)
	slices.SortFunc(got, netip.Addr.Compare)
	if want := "[10.40.5.1 10.40.5.2 10.40.5.3]"; fmt.Sprint(got) != want {
		t.Errorf("the hosts gave %v, want %s", got, want)
	}
	wait(t, "they reach each other", time.Second, func() error { return linked(boxes) })
	for _, b := range boxes {
		if addrs, err := b.Addrs("weft0"); err != nil || !slices.Contains(addrs, netip.PrefixFrom(b.addr, 24)) {
			t.Errorf("%s has %v on its interface, %v", b.Name(), addrs, err)
		}
		b.n.must("detach", b.Ref())
	}
}

// exposeAny puts a host on the switch at an address that is found for it.
func exposeAny(t *testing.T, n *node, boxes []*box) {
	before := n.mustSpace().Active
	a, err := netip.ParseAddr(strings.TrimSpace(n.must("expose")))
	if err != nil || !theRange().Contains(a) {
		t.Fatalf("expose prints %s: %v", a, err)
	}
	if again := n.must("expose"); again != a.String()+"\n" {
		t.Errorf("expose again prints %q, it has %s", again, a)
	}
	distinct(t, append(addrsOf(boxes...), a))
	for _, b := range boxes {
		wait(t, b.Name()+" reaches the host", time.Second, func() error {
			ctx, cancel := tries(t, 500*time.Millisecond)
			defer cancel()
			_, err := b.Ping(ctx, a, 64, nil)
			return err
		})
	}
	if first, _, _ := strings.Cut(n.must("ps"), "\n"); !strings.HasSuffix(first, " "+a.String()+"/12") {
		t.Errorf("ps begins with %q", first)
	}
	if got := n.mustSpace().Active; got != before+1 {
		t.Errorf("%d addresses are active with the host's, %d without", got, before)
	}
	if got := n.must("hide"); got != a.String()+"\n" {
		t.Errorf("hide prints %q", got)
	}
	if got := n.mustSpace().Active; got != before {
		t.Errorf("%d addresses are active after hide, %d before", got, before)
	}
}

// Twenty containers on each of two hosts are attached at one moment, when
// nothing is divided yet, and get forty addresses; so many of a subnet that is
// a single block, too.
func TestAddressesAtOnce(t *testing.T) {
	parallel(t)
	const each = 20
	c := joined(t, 2)
	refs := map[*node][]string{}
	for _, n := range c.nodes {
		refs[n] = n.namespaces(each)
	}
	for _, ask := range []string{"net:default", "net:10.40.5.0/24"} {
		begun := time.Now()
		got := make([][]netip.Addr, len(c.nodes))
		var g errgroup.Group
		for i, n := range c.nodes {
			got[i] = make([]netip.Addr, each)
			for j, ref := range refs[n] {
				g.Go(func() (err error) {
					got[i][j], err = n.tryAllot(ref, ask)
					return err
				})
			}
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d at once with %s: %s", each*len(c.nodes), ask, time.Since(begun).Round(time.Millisecond))
		distinct(t, slices.Concat(got...))
		c.settles("all are accounted for", 2*time.Second)
		begun = time.Now()
		for i, n := range c.nodes {
			for j, ref := range refs[n] {
				g.Go(func() error {
					r := n.weft("detach", ref)
					return asked(j, strings.TrimSpace(r.Stdout), got[i][j].String(), r.Err)
				})
			}
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		t.Logf("detached in %s", time.Since(begun).Round(time.Millisecond))
		c.settles("all are free again", 2*time.Second)
		for _, n := range c.nodes {
			if s := n.mustSpace(); s.Active > 0 {
				t.Errorf("%s counts %d addresses", n.Name(), s.Active)
			}
		}
	}
}

// An address that somebody names is his or he learns whose it is, on whichever
// host; what lies outside of the range is nobody's business.
func TestNamedAddresses(t *testing.T) {
	parallel(t)
	c := joined(t, 2)
	c.nodes[0].must("prime")
	owner, other := c.nodes[0], c.nodes[1]
	if owner.entryOf(owner.identity()).Token != theRange().Addr() {
		owner, other = other, owner
	}
	attach := func(n *node, name, addr string) *box {
		b := n.start(name)
		b.addr = netip.MustParseAddr(addr)
		if got := n.must("attach", addr+"/12", b.Ref()); got != addr+"\n" {
			t.Errorf("attach of %s on %s prints %q", addr, n.Name(), got)
		}
		return b
	}
	// The first is where its owner is, the second is not; then who has none
	// gets the next.
	mine, lent := attach(owner, "mine", "10.32.0.1"), attach(other, "lent", "10.32.0.2")
	any1 := owner.give("any")
	if any1.addr.String() != "10.32.0.3" {
		t.Errorf("after 10.32.0.1 and 10.32.0.2 were named, %s was given", any1.addr)
	}
	wait(t, "they reach each other", time.Second, func() error { return linked([]*box{mine, lent, any1}) })

	c.settles("both are accounted for", time.Second)
	rest := map[*node]*box{owner: owner.start("rest"), other: other.start("rest")}
	for _, taken := range []*box{mine, lent, any1} {
		for _, n := range c.nodes {
			words := []string{taken.addr.String(), taken.Ref()}
			if n != taken.n {
				words = append(words, taken.n.Name())
			}
			n.refused(1, words, "attach", taken.addr.String()+"/12", rest[n].Ref())
			n.refused(1, words, "expose", taken.addr.String()+"/12")
		}
		if got := taken.n.must("attach", taken.addr.String()+"/12", taken.Ref()); got != taken.addr.String()+"\n" {
			t.Errorf("attach of what it has prints %q", got)
		}
	}
	// One of two is somebody else's: neither is given.
	other.refused(1, []string{"10.32.0.1"}, "attach", "10.32.0.9/12", "10.32.0.1/12", rest[other].Ref())
	// And never to be had.
	for _, n := range c.nodes {
		n.refused(2, []string{"192.168.7.0/24", "10.32.0.0/12"}, "attach", "net:192.168.7.0/24", rest[n].Ref())
		n.refused(2, []string{"10.0.0.0/8", "10.32.0.0/12"}, "attach", "net:10.0.0.0/8", rest[n].Ref())
	}
	c.settles("nothing was changed by that", time.Second)

	before := map[*node]uint64{owner: owner.mustSpace().Active, other: other.mustSpace().Active}
	for _, n := range c.nodes {
		if got := n.must("attach", "10.99.0.1/24", rest[n].Ref()); got != "10.99.0.1\n" {
			t.Errorf("attach outside the range on %s prints %q", n.Name(), got)
		}
		if got := n.mustSpace().Active; got != before[n] {
			t.Errorf("the allocator of %s counts an address that is outside of its range: %d, was %d", n.Name(), got, before[n])
		}
	}
	// What is given back can be had at once, here and there.
	for _, b := range []*box{lent, mine} {
		b.n.must("detach", b.addr.String()+"/12", b.Ref())
	}
	for n, addr := range map[*node]string{owner: "10.32.0.2", other: "10.32.0.1"} {
		moved := n.start("moved")
		wait(t, addr+" moves to "+n.Name(), time.Second, func() error { return n.weft("attach", addr+"/12", moved.Ref()).Err })
	}
	c.settles("both are accounted for at last", time.Second)
}

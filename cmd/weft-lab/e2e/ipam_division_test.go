package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A host that is alone has the whole range, and its settings decide what is
// given of it.
func TestDivisionAlone(t *testing.T) {
	parallel(t)
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.launch("--ipalloc-default-subnet", "10.32.128.0/24")
	b := n.start("c1")
	if b.addr = n.allot(b.Ref()); b.addr.String() != "10.32.128.1" {
		t.Errorf("the first of the default subnet is %s", b.addr)
	}
	if addrs, err := b.Addrs("weft0"); err != nil || len(addrs) == 0 || addrs[0].String() != "10.32.128.1/24" {
		t.Errorf("on its interface: %v, %v", addrs, err)
	}
	if a := n.allot(n.start("c2").Ref(), "net:10.32.0.0/12"); a.String() != "10.32.0.1" {
		t.Errorf("the first of the range is %s", a)
	}
	who := n.identity()
	if got, want := n.must("status", "ipam"), fmt.Sprintf("%-37v %8d IPs (100.0%% of total) (2 active)\n", who.Name+"(host1)", 1<<20); got != want {
		t.Errorf("status ipam prints %q, want %q", got, want)
	}
	if text := n.must("status"); !strings.Contains(text, "          Range: 10.32.0.0/12\n  DefaultSubnet: 10.32.128.0/24\n") {
		t.Errorf("status:\n%s", text)
	}
	again := func(args ...string) {
		n.must("stop")
		c.wait("the daemon ends", time.Second, n.noDaemon)
		n.relaunch(args...)
	}
	again()
	if a := n.allot(b.Ref(), "net:10.32.128.0/24"); a != b.addr {
		t.Errorf("after a restart it gets %s, it had %s", a, b.addr)
	}
	c.settles("after a restart", time.Second)

	// With another name or range, what was divided before means nothing.
	again("--name", "::7")
	if !strings.Contains(n.log(), "address space forgotten") {
		t.Errorf("the log does not tell that the name changed:\n%s", n.log())
	}
	if a := n.allot(n.start("c3").Ref(), "net:10.32.0.0/12"); a.String() != "10.32.0.2" {
		t.Errorf("with another name %s is given", a)
	}
	c.settles("with another name", time.Second)
	ps := n.must("ps")
	again("--ipalloc-range", "10.48.0.0/16")
	if !strings.Contains(n.log(), "address space forgotten") || !strings.Contains(n.log(), "10.32.0.0/12") {
		t.Errorf("the log does not tell that the range changed:\n%s", n.log())
	}
	if got := n.must("ps"); got != ps {
		t.Errorf("with another range ps prints\n%swas\n%s", got, ps)
	}
	if a := n.allot(n.start("c4").Ref()); a.String() != "10.48.0.1" {
		t.Errorf("the first of the other range is %s", a)
	}
	if s := n.mustSpace(); s.Active != 1 || s.RangeIPs != 1<<16 {
		t.Errorf("%d of %d addresses are active", s.Active, s.RangeIPs)
	}

	// Without a range, nothing is given.
	again("--ipalloc-range=")
	const off = "weft: the address allocator is off: name an address, e.g. 10.32.0.1/12\n"
	last := n.start("c5")
	for _, args := range []string{
		"attach " + last.Ref(), "attach net:default " + last.Ref(), "attach net:10.32.0.0/12 " + last.Ref(),
		"attach 10.32.0.9/12 net:default " + last.Ref(), "detach net:default " + b.Ref(), "expose", "expose net:default", "hide net:default",
	} {
		if r := n.weft(strings.Fields(args)...); r.Exit != 1 || r.Stdout != "" || r.Stderr != off {
			t.Errorf("without an allocator: %v", r)
		}
	}
	n.must("attach", "10.32.0.9/12", last.Ref())
	if text := n.must("status"); strings.Contains(text, "ipam") {
		t.Errorf("the status without an allocator:\n%s", text)
	}
	if r := n.weft("status", "ipam"); r.Exit != 0 || r.Stdout != "" {
		t.Errorf("without an allocator: %v", r)
	}

	// The default range must not be where the host goes another way.
	n.must("stop")
	c.wait("the daemon ends", time.Second, n.noDaemon)
	n.sh("ip route add 10.40.0.0/16 dev eth0")
	n.refused(1, []string{"10.32.0.0/12", "10.40.0.0/16", "eth0", "--ipalloc-range"}, "launch", "--datapath", run.datapath)
	if err := n.noDaemon(); err != nil {
		t.Error(err)
	}
	if r := n.weft("launch", "--datapath", run.datapath, "--ipalloc-range", "10.32.0.0/12"); r.Exit != 0 || !strings.Contains(r.Stderr, "10.40.0.0/16") {
		t.Errorf("with the range named: %v", r)
	}
}

// Of two hosts that are to be, the first one waits for the other, says so, and
// can be told to give up.
func TestDivisionConsensus(t *testing.T) {
	parallel(t) // it waits for what others notice
	c := newCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.launch(h2.Addr().String())
	const why = "awaiting consensus (quorum: 2, known: 1)"
	b := h1.start("c1")
	ask := h1.request(t, "attach", b.Ref())
	ask.says(t, "weft: waiting: ", why)
	s := h1.mustSpace()
	if s.State != why || len(s.Pending) != 1 || s.Pending[0].Container != b.Ref() || !strings.Contains(s.Pending[0].Why, why) {
		t.Errorf("status ipam: %q, %+v", s.State, s.Pending)
	}
	if r := h1.weft("status", "ipam"); r.Stdout != "" || !strings.Contains(r.Stderr, b.Ref()) || !strings.Contains(r.Stderr, why) {
		t.Errorf("%v\nwant who waits for what on stderr", r)
	}
	if text := h1.must("status"); !strings.Contains(text, "         Status: "+why+"\n") {
		t.Errorf("status:\n%s", text)
	}
	ask.interrupted(t, 0)

	// Several wait, and all are served when the other one comes.
	prime, first := h1.request(t, "prime"), h1.request(t, "attach", b.Ref())
	static := h1.request(t, "attach", "10.32.0.77/12", h1.start("c3").Ref())
	for _, r := range []*request{prime, first, static} {
		r.says(t, why)
	}
	h2.launch(h1.Addr().String())
	if out := prime.succeeds(t); out != "" {
		t.Errorf("prime prints %q", out)
	}
	b.addr = netip.MustParseAddr(first.succeeds(t))
	if out := static.succeeds(t); out != "10.32.0.77" {
		t.Errorf("attach of an address that was named prints %q", out)
	}
	other := h2.give("c2")
	c.wait("they reach each other", time.Second, func() error { return linked([]*box{b, other}) })
	c.settles("both agree", 2*time.Second)
	if s := h1.mustSpace(); s.State != "ready" || len(s.Entries) != 2 {
		t.Errorf("after all: %q, %+v", s.State, s.Entries)
	}
}

// With consensus=3 two of three are enough, one is not, though it named nobody;
// who comes later gets its part of what is there.
func TestDivisionConsensusOfThree(t *testing.T) {
	parallel(t) // it waits for what others notice
	c := newCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.launch("--ipalloc-init", "consensus=3")
	b := h1.start("c1")
	ask := h1.request(t, "attach", b.Ref())
	ask.says(t, "awaiting consensus (quorum: 2, known: 1)")
	h2.launch("--ipalloc-init", "consensus=3", h1.Addr().String())
	b.addr = netip.MustParseAddr(ask.succeeds(t))
	boxes := []*box{b, h2.give("c2")}
	c.settles("the first two agree", 2*time.Second, h1, h2)
	if s := h2.mustSpace(); len(s.Entries) != 2 {
		t.Errorf("owners: %+v", s.Entries)
	}
	h3.launch("--ipalloc-init", "consensus=3", h1.Addr().String())
	c.waitMesh()
	begun := time.Now()
	boxes = append(boxes, h3.give("c3"))
	t.Logf("who owns nothing gets an address after %s", time.Since(begun).Round(time.Millisecond))
	distinct(t, addrsOf(boxes...))
	c.settles("all agree", 2*time.Second)
	if e := h1.entryOf(h3.identity()); e.IPs == 0 || e.Active != 1 {
		t.Errorf("the one who came later owns %+v", e)
	}
}

// Hosts that were given one list of names divide without asking, and without
// having met; when they do meet, it is one space.
func TestDivisionSeed(t *testing.T) {
	parallel(t)
	c := newCluster(t, 2)
	names := []string{"00:00:00:00:00:01", "00:00:00:00:00:02"}
	var boxes []*box
	for i, n := range c.nodes {
		n.launch("--name", fmt.Sprintf("::%d", n.number), "--ipalloc-init", "seed=::1,"+names[1])
		boxes = append(boxes, n.give(fmt.Sprintf("c%d", n.number)))
		s := n.mustSpace()
		if s.State != "ready" || len(s.Entries) != 2 || s.Entries[0].IPs != 1<<19 || s.Entries[1].IPs != 1<<19 {
			t.Errorf("%s: %q, %+v", n.Name(), s.State, s.Entries)
		}
		if out := n.must("status", "ipam"); strings.Count(out, " - unreachable!\n") != 1 || !strings.Contains(out, names[1-i]+"(") {
			t.Errorf("status ipam of %s:\n%s", n.Name(), out)
		}
	}
	if a := boxes[0].addr.String(); a != "10.32.0.1" {
		t.Errorf("the first host gives %s", a)
	}
	if a := boxes[1].addr.String(); a != "10.40.0.0" {
		t.Errorf("the second host gives %s", a)
	}
	ring := c.nodes[0].mustSpace().Ring
	c.nodes[1].must("connect", c.nodes[0].Addr().String())
	c.waitMesh()
	whole(c, boxes)
	c.settles("they have one space", 2*time.Second)
	if s := c.nodes[1].mustSpace(); s.Ring != ring || len(s.Warnings) > 0 {
		t.Errorf("the ring was %s, now: %+v", ring, s)
	}
	c.wait("nobody is out of reach", time.Second, func() error {
		if out := c.nodes[0].must("status", "ipam"); strings.Contains(out, "unreachable") {
			return errors.New(out)
		}
		return nil
	})
}

// An observer has others divide, and gets of theirs.
func TestDivisionObserver(t *testing.T) {
	parallel(t) // it waits for what others notice
	c := newCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.launch("--ipalloc-init", "observer")
	b := h1.start("c1")
	ask := h1.request(t, "attach", b.Ref())
	ask.says(t, "weft: waiting: ")
	t.Logf("alone it says %q", ask.stderr())
	h2.launch(h1.Addr().String())
	b.addr = netip.MustParseAddr(ask.succeeds(t))
	c.settles("both agree", 2*time.Second)
	if s := h2.mustSpace(); s.Active != 0 || s.State != "ready" {
		t.Errorf("the voter: %+v", s)
	}
	other := h2.give("c2")
	c.wait("they reach each other", time.Second, func() error { return linked([]*box{b, other}) })
	distinct(t, addrsOf(b, other))
}

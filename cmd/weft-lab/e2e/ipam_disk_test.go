package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// belongings is what a request for an address could leave behind.
func (n *node) belongings() string {
	n.c.t.Helper()
	return fmt.Sprint(n.must("ps"), n.sh("ip -o link | cut -d' ' -f2-4; ls /var/lib/weft"), n.mustSpace().Active, " active")
}

// On a full disk an address is given whole or not at all, the error says why in
// one line, and all is well once there is room.
func TestDiskFull(t *testing.T) {
	parallel(t)
	skipHere(t)
	small := func(dir string) string {
		return fmt.Sprintf("mkdir -p %[1]s && mount -t tmpfs -o size=3m,mode=700 small %[1]s", dir)
	}
	for _, tc := range []struct {
		name, disk string
		containers int // that are there before; none: nothing was divided
		move       string
	}{
		{"from the start", "/var/lib/weft", 0, ""},
		{"state directory", "/var/lib/weft", 2, ""},
		{
			"database", "/run/small", 2,
			"mv /var/lib/weft/ipam.db /run/small && touch /var/lib/weft/ipam.db && mount --bind /run/small/ipam.db /var/lib/weft/ipam.db",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 1)
			n := c.nodes[0]
			if tc.move != "" {
				n.launch()
				n.must("stop")
				c.wait("the daemon ends", time.Second, n.noDaemon)
			}
			n.sh(small(tc.disk))
			n.sh(tc.move)
			n.launch()
			var boxes []*box
			for i := range tc.containers {
				boxes = append(boxes, n.give(fmt.Sprintf("c%d", i)))
			}
			refs := n.namespaces(51)
			n.sh("cat /dev/zero >" + tc.disk + "/fill 2>/dev/null; true")
			given := 0
			for given < 50 && n.whileFull(t, "attach", refs[given]) {
				given++
			}
			if given == 50 {
				t.Fatal("the disk is not full")
			}
			t.Logf("%d addresses were given before the disk was full", given)
			// What happens to fit where something was before may still be done.
			static := n.whileFull(t, "attach", "10.32.0.200/12", refs[50])
			exposed := n.whileFull(t, "expose")
			c.wait("all that was given is there", time.Second, func() error { return errors.Join(linked(boxes), c.accounted(theRange())) })
			n.sh("rm " + tc.disk + "/fill")
			c.wait("it works again", time.Second, func() error {
				a, err := n.tryAllot(refs[given])
				if want := fmt.Sprintf("10.32.0.%d", len(boxes)+given+1); err == nil && !exposed && a.String() != want {
					t.Errorf("with room again, %s was given, want %s", a, want)
				}
				return err
			})
			if !static {
				n.allot(refs[50], "10.32.0.200/12")
			}
			n.must("expose")
			c.settles("all is accounted for", time.Second)
		})
	}
}

// whileFull runs a command that gives an address, or not: then it must say why
// in one line, and leave nothing.
func (n *node) whileFull(t *testing.T, args ...string) bool {
	t.Helper()
	before := n.belongings()
	r := n.weft(args...)
	if r.Exit == 0 {
		return true
	}
	if r.Exit != 1 || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, "no space left on device") {
		t.Errorf("%v\nwant exit 1 and one line that says why", r)
	}
	if diff := cmp.Diff(before, n.belongings()); diff != "" {
		t.Fatalf("something is half kept after\n%v\n(-before +after):\n%s", r, diff)
	}
	return false
}

// A database that was damaged is set aside with a message. What it said comes
// back: space from the peers, addresses from the containers.
func TestDamagedDatabase(t *testing.T) {
	parallel(t) // it waits for the peers after each start
	c := joined(t, 2)
	h1 := c.nodes[0]
	boxes := append(c.giveEach(), h1.give("d1"))
	lent := h1.start("lent") // in the other host's space, or in our own
	lent.addr = h1.allot(lent.Ref(), "net:10.40.5.0/24")
	theirs := c.nodes[1].start("theirs")
	theirs.addr = c.nodes[1].allot(theirs.Ref(), "net:10.40.5.0/24")
	whole(c, boxes)
	c.settles("all agree", time.Second)
	const db = "/var/lib/weft/ipam.db"
	aside := 0
	for i, tc := range []struct{ name, do, says string }{
		{"truncated", "truncate -s 5000 " + db, "damaged"},
		{"garbage", "dd if=/dev/urandom of=" + db + " bs=4096 count=8 conv=notrunc 2>/dev/null", "damaged"},
		{"middle", "dd if=/dev/urandom of=" + db + " bs=4096 seek=4 count=200 conv=notrunc 2>/dev/null", "damaged"},
		{"nothing", ": >" + db, "empty"},
		{"deleted", "rm " + db, ""},
	} {
		ps, before := h1.must("ps"), h1.mustSpace()
		h1.kill()
		h1.sh(tc.do)
		h1.relaunch()
		c.wait(tc.name+": all is as before", 2*time.Second, func() error {
			s, err := h1.space()
			if err != nil {
				return err
			}
			if s.Active != before.Active || s.Ring != before.Ring || len(s.Pending) > 0 || s.State != "ready" {
				return fmt.Errorf("it says %+v, before %+v", s, before)
			}
			return errors.Join(c.isMesh(), c.accounted(theRange()), c.agreed())
		})
		if diff := cmp.Diff(ps, h1.must("ps")); diff != "" {
			t.Errorf("%s: ps (-before +after):\n%s", tc.name, diff)
		}
		whole(c, boxes)
		if a := h1.give(fmt.Sprintf("e%d", i)); a.addr.Compare(boxes[2].addr) <= 0 {
			t.Errorf("%s: then %s was given", tc.name, a.addr)
		}
		if tc.says == "" {
			continue
		}
		warnings := strings.Join(h1.mustSpace().Warnings, "\n")
		if !strings.Contains(h1.log(), db) || !strings.Contains(h1.log(), tc.says) || !strings.Contains(warnings, tc.says) {
			t.Errorf("%s: the status says %q, the log\n%s", tc.name, warnings, h1.log())
		}
		if tc.says == "damaged" {
			aside++
		}
		if list := strings.Fields(h1.sh("ls " + db + ".damaged-*")); len(list) != aside {
			t.Errorf("%s: set aside: %v", tc.name, list)
		}
	}

	// Two daemons cannot have one.
	before := h1.belongings()
	h1.refused(1, []string{db, "another weftd has it open"}, "launch", "--socket", "/run/weft2/weft.sock", "--port", "7783",
		"--status-addr", "127.0.0.1:7782", "--datapath", run.datapath)
	if diff := cmp.Diff(before, h1.belongings()); diff != "" {
		t.Errorf("the second daemon changed something (-before +after):\n%s", diff)
	}
	whole(c, boxes)
}

// Somebody removes the state directory under running containers. With it went
// the identity: the host is a new one, whose containers go on, and keep their
// addresses, though these belong to a host that will not come back.
func TestStateDirectoryDeleted(t *testing.T) {
	parallelAs(t, idle, 20*time.Second) // the former identity must be found dead
	c := joined(t, 3)
	h1, h2 := c.nodes[0], c.nodes[1]
	boxes := append(c.giveEach(), h1.give("d1"))
	mine := []*box{boxes[0], boxes[3]}
	whole(c, boxes)
	c.settles("all agree", time.Second)
	former, ps := h1.identity(), h1.must("ps")
	lost := h1.entryOf(former).IPs

	h1.sh("rm -rf /var/lib/weft")
	h1.kill()
	h1.launch(h2.Addr().String())
	if now := h1.identity(); now == former {
		t.Fatalf("the identity %v came back", now)
	}
	_, ps, _ = strings.Cut(ps, "\n") // the bridge may have another address
	c.wait("containers go on, and are listed", 2*time.Second, func() error {
		if _, now, _ := strings.Cut(h1.must("ps"), "\n"); now != ps {
			return errors.New(cmp.Diff(ps, now))
		}
		return linked(boxes)
	})
	// Nobody gets their addresses, and this host does give others.
	for _, n := range c.nodes[1:] {
		for _, b := range mine {
			n.refused(1, []string{b.addr.String()}, "attach", b.addr.String()+"/12", n.start("x"+b.name).Ref())
		}
	}
	more := []*box{h1.give("e1"), h2.give("e2"), c.nodes[2].give("e3")}
	distinct(t, addrsOf(append(more, boxes...)...))
	c.wait("the new ones reach all", 2*time.Second, func() error { return linked(append(more, boxes...)) })
	c.wait("the new host says what it waits for", time.Second, func() error {
		if s := h1.mustSpace(); s.Active != 3 || len(s.Pending) != len(mine) || s.Pending[0].Kind != "claim" || s.Pending[0].Why == "" {
			return fmt.Errorf("%d active, pending %+v", s.Active, s.Pending)
		}
		return nil
	})

	// The remedy is the one for every host that is gone.
	n := c.nodes[2]
	n.refused(1, []string{"2 peers are called host1"}, "rmpeer", "host1")
	want := fmt.Sprintf("%d IPs taken over from %s(host1)\n", lost, former.Name)
	c.wait("the former identity is found dead", foundDead, func() error {
		r := n.weft("rmpeer", former.Name)
		if r.Err == nil && r.Stdout != want {
			t.Errorf("rmpeer prints %q, want %q", r.Stdout, want)
		}
		return r.Err
	})
	c.wait("the addresses are the containers' for good", 5*time.Second, func() error {
		if s := h1.mustSpace(); len(s.Pending) > 0 || len(s.Duplicates) > 0 {
			return fmt.Errorf("pending %+v, duplicates %+v", s.Pending, s.Duplicates)
		}
		return errors.Join(c.accounted(theRange()), c.agreed())
	})
	for _, b := range mine {
		n.refused(1, []string{b.addr.String(), "host1"}, "attach", b.addr.String()+"/12", n.start("y"+b.name).Ref())
	}
	// Whoever had the former identity as a target introduces itself to who is
	// there now, which begins their tunnel anew.
	c.wait("all still reach all", 2*time.Second, func() error { return linked(append(more, boxes...)) })
}

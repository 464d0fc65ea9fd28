package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

// engineWorld has a range of 10.32.0.0 to 10.63.255.255, of which the lower
// half is the default subnet, and an engine without containers.
func engineWorld(t *testing.T) (*world, *Workload) {
	t.Helper()
	w := newWorld(t)
	w.addSpace("10.32.0.0/11", "10.32.0.0/12")
	return w, w.restart()
}

// shown is what `weft ps` and the name server show of containers.
func (w *world) shown(d *Workload) string {
	w.t.Helper()
	list, err := d.PS(context.Background(), nil)
	check(w.t, err)
	var b strings.Builder
	for _, a := range list[1:] {
		fmt.Fprintln(&b, a.Container, a.Interface, a.Addresses, a.Names)
	}
	w.see(d)
	return b.String()
}

// TestEndpoint is the life of a container on a network of its engine.
func TestEndpoint(t *testing.T) {
	ctx := context.Background()
	w, d := engineWorld(t)
	e, err := w.engineSteps(d, endpointID("e"), "", "")
	check(t, err)
	if e.Addresses[0].String() != "10.32.0.1/12" || e.DNS != dnsAddress() || !e.Multicast || e.Prefix != "weft" || e.MAC == "" {
		t.Errorf("%+v", e)
	}
	if diff := cmp.Diff("endpoint:eeeeeeeeeeee  [10.32.0.1/12] []\n", w.shown(d)); diff != "" {
		t.Errorf("joined:\n%s", diff)
	}
	if err := d.settleEndpoint(ctx, e.ID); !errors.Is(err, attach.ErrNotReady) {
		t.Errorf("before there is a sandbox: %v", err)
	}
	n := w.take(e, 100)
	w.know(d, webID, "web", e, 100, "")
	check(t, d.settleEndpoint(ctx, e.ID))
	check(t, d.ContainerStarted(ctx, webID))
	if diff := cmp.Diff("aaaaaaaaaaaa weft0 [10.32.0.1/12] [web.weft.internal. shop.weft.internal.]\n", w.shown(d)); diff != "" {
		t.Errorf("started:\n%s", diff)
	}
	if v, err := n.Fake.Sysctl("net/ipv6/conf/weft0/disable_ipv6"); v != "0" || err != nil {
		t.Errorf("IPv6 inside: %v, %v", v, err)
	}
	if w.led[n.ID()] != 1 {
		t.Error("its resolver does not ask us")
	}
	if got := n.Announced(); len(got) != 1 || got[0] != "10.32.0.1 dev weft0" {
		t.Errorf("announced %q", got)
	}
	again, err := d.AddEndpoint(ctx, api.EndpointRequest{ID: e.ID, Network: "wide-id", Addresses: e.Addresses})
	check(t, err)
	if again.MAC != e.MAC {
		t.Errorf("asked again: %+v", again)
	}
	repaired, err := d.Sweep(ctx)
	check(t, err)
	if len(repaired) != 0 {
		t.Errorf("the sweep repaired %q", repaired)
	}

	w.docker.set("web", func() Container { c := w.docker.containers["web"]; c.Name = "www"; return c }())
	check(t, d.ContainerRenamed(ctx, webID))
	if got := w.shown(d); !strings.Contains(got, "[www.weft.internal. shop.weft.internal.]") {
		t.Errorf("renamed: %s", got)
	}
	w.down(d, "web")
	if got := w.shown(d); got != "" || len(w.names) != 0 || len(w.hostEnds()) != 0 {
		t.Errorf("stopped: %q, names %v, ends %v", got, w.names, w.hostEnds())
	}
	if got := w.space.dying(); strings.Count(got, "\n") != 1 {
		t.Errorf("kept: %s", got)
	}
	for _, f := range []func(context.Context, string) error{d.LeaveEndpoint, d.RemoveEndpoint} {
		check(t, f(ctx, e.ID)) // unknown by now
	}
	if _, err := d.JoinEndpoint(ctx, api.EndpointJoin{ID: e.ID, Sandbox: "/x"}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("join of one that is gone: %v", err)
	}
}

// TestAddressesComeBack is the rule by which containers that ask for no address
// keep theirs.
func TestAddressesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := engineWorld(t)
		ids := map[string]string{}
		round := 0
		up := func(name, address string) string {
			round++
			if ids[name] == "" {
				ids[name] = fmt.Sprintf("%064x", 0xc0ffee00+len(ids))
			}
			return w.up(d, ids[name], name, fmt.Sprintf("%064x", 0xe0000000+round), 100+round, address).Addr().String()
		}
		want := func(name, address, pinned string) {
			t.Helper()
			if got := up(name, pinned); got != address {
				t.Errorf("%s got %s, want %s", name, got, address)
			}
			w.see(d)
		}
		want("a", "10.32.0.1", "")
		want("b", "10.32.0.2", "")
		want("c", "10.32.0.3", "")
		w.down(d, "b")
		want("b", "10.32.0.2", "") // restarted
		w.down(d, "a")
		time.Sleep(time.Second)
		w.down(d, "c")
		want("c", "10.32.0.3", "") // the last one first
		want("a", "10.32.0.1", "")

		// A new container gets an address of its own, if we know of it in time.
		w.down(d, "b")
		w.docker.set("new", Container{ID: ids["new"], Name: "new", Created: true, Networks: []Network{{Name: wide}}})
		ids["new"] = strings.Repeat("f", 64)
		w.docker.set("new", Container{ID: ids["new"], Name: "new", Created: true, Networks: []Network{{Name: wide}}})
		d.NoteCreated(ids["new"])
		check(t, d.ContainerCreated(context.Background(), ids["new"]))
		want("new", "10.32.0.4", "")
		want("b", "10.32.0.2", "")

		// One that is removed does not come back.
		w.down(d, "a")
		w.rm(d, "a")
		want("other", "10.32.0.5", "")
		time.Sleep(31 * time.Second)
		w.space.expire()
		want("later", "10.32.0.1", "")

		// One that names its address has it as long as it exists.
		want("pinned", "10.32.0.77", "10.32.0.77")
		w.down(d, "pinned")
		time.Sleep(time.Hour)
		w.space.expire()
		_, err := d.Sweep(context.Background())
		check(t, err)
		if _, err := d.Attach(context.Background(), api.AttachRequest{Container: "other", Addresses: []string{"10.32.0.77/12"}}); !errors.Is(err, api.ErrConflict) {
			t.Errorf("somebody else: %v", err)
		}
		want("pinned", "10.32.0.77", "10.32.0.77")
		w.down(d, "pinned")
		w.rm(d, "pinned")
		time.Sleep(31 * time.Second)
		w.space.expire()
		want("again", "10.32.0.77", "10.32.0.77")
	})
}

// TestSmallSubnet lets many short-lived containers use few addresses.
func TestSmallSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := engineWorld(t)
		ctx := context.Background()
		r := api.ReserveRequest{Subnet: netip.MustParsePrefix("10.48.0.0/28"), Label: "small"}
		begun := time.Now()
		for range 50 {
			p, err := d.Reserve(ctx, r)
			check(t, err)
			check(t, d.Unreserve(ctx, p.Addr()))
		}
		if time.Since(begun) > time.Second {
			t.Errorf("50 containers took %v", time.Since(begun))
		}
		var all []netip.Addr
		for range 14 {
			p, err := d.Reserve(ctx, r)
			check(t, err)
			all = append(all, p.Addr())
		}
		slices.SortFunc(all, netip.Addr.Compare)
		if all = slices.Compact(all); len(all) != 14 {
			t.Errorf("addresses given twice: %v", all)
		}
		begun = time.Now()
		_, err := d.Reserve(ctx, r)
		if !errors.Is(err, api.ErrConflict) || time.Since(begun) != engineTime ||
			err.Error() != "an address of 10.48.0.0/28 cannot be had within 10s: no address of 10.48.0.0/28 is free" {
			t.Errorf("full: %v after %v", err, time.Since(begun))
		}
		w.see(d)
	})
}

func TestReserveIsRefused(t *testing.T) {
	ctx := context.Background()
	w, d := engineWorld(t)
	w.run(webID, "web", 100)
	mustAttach(t, d, "web", "10.32.0.9/12")
	_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.10/12"}})
	check(t, err)
	w.up(d, dbID, "db", endpointID("d"), 101, "10.32.0.11")
	p := netip.MustParsePrefix
	for _, tt := range []struct {
		r     api.ReserveRequest
		class error
		want  string
	}{
		{api.ReserveRequest{}, api.ErrUsage, "only IPv4"},
		{api.ReserveRequest{Subnet: p("fd00::/64")}, api.ErrUsage, "only IPv4"},
		{api.ReserveRequest{Subnet: p("10.32.0.0/12"), Within: p("10.0.0.0/8")}, api.ErrUsage, "is not inside the subnet"},
		{api.ReserveRequest{Subnet: p("10.32.0.0/12"), Within: p("10.48.0.0/24")}, api.ErrUsage, "is not inside the subnet"},
		{api.ReserveRequest{Subnet: p("10.32.0.0/12"), Address: netip.MustParseAddr("10.48.0.1")}, api.ErrUsage, "is not inside the subnet"},
		{api.ReserveRequest{Subnet: p("10.32.0.0/12"), Address: netip.MustParseAddr("10.32.0.0")}, api.ErrUsage, "address of its network"},
		{api.ReserveRequest{Subnet: p("192.0.2.0/24")}, api.ErrUsage, "is not inside 10.32.0.0/11"},
		{api.ReserveRequest{Subnet: p("10.32.0.0/12"), Address: netip.MustParseAddr("10.32.0.250")}, api.ErrConflict, "held by web2 on host2"},
		{api.ReserveRequest{Subnet: p("10.32.0.0/12"), Address: netip.MustParseAddr("10.32.0.9")}, api.ErrConflict, "held by container web of this host"},
		{api.ReserveRequest{Subnet: p("10.32.0.0/12"), Address: netip.MustParseAddr("10.32.0.10")}, api.ErrConflict, "held by this host itself"},
		{api.ReserveRequest{Subnet: p("10.32.0.0/12"), Address: netip.MustParseAddr("10.32.0.11")}, api.ErrConflict, "held by container db of this host"},
	} {
		w.space.held[netip.MustParseAddr("10.32.0.250")] = fakeHolder{key: elsewhere, label: "web2 on host2"}
		if _, err := d.Reserve(ctx, tt.r); !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.r, err, tt.want)
		}
	}
	// And the other way round.
	for _, line := range []string{"attach 10.32.0.11/12 web", "expose 10.32.0.11/12"} {
		if got := w.say(d, line); !strings.Contains(got, "address 10.32.0.11 is held by container db of this host") {
			t.Errorf("%s: %s", line, got)
		}
	}
	// Outside of the range addresses are nobody's business but this host's.
	got, err := d.Reserve(ctx, api.ReserveRequest{Subnet: p("192.0.2.0/24"), Address: netip.MustParseAddr("192.0.2.7")})
	if err != nil || got != p("192.0.2.7/24") {
		t.Errorf("outside: %v, %v", got, err)
	}
}

// TestEndpointAndAttach has one container both ways.
func TestEndpointAndAttach(t *testing.T) {
	ctx := context.Background()
	w, d := engineWorld(t)
	w.up(d, webID, "web", endpointID("e"), 100, "")
	for _, line := range [][2]string{
		{"attach web", "10.32.0.1/12"},
		{"attach 10.32.0.1/12 web", "10.32.0.1/12"},
		{"attach net:default pid:100", "10.32.0.1/12"},
		{"ps web", "10.32.0.1/12"},
		{"detach web", "detach web: its engine gave it 10.32.0.1/12 by a network; use 'docker network disconnect'"},
		{"detach net:default web", "detach web: its engine gave it 10.32.0.1/12 by a network; use 'docker network disconnect'"},
		{"attach net:10.48.0.0/24 net:default web", "10.48.0.1/24 10.32.0.1/12"},
		{"ps web", "10.48.0.1/24 10.32.0.1/12"},
		{"detach web", "10.48.0.1/24"},
	} {
		if got := w.say(d, line[0]); got != line[1] {
			t.Errorf("%s: %q, want %q", line[0], got, line[1])
		}
		w.see(d)
	}
	// What was attached before has taken the name that the engine would give.
	w.run(dbID, "db", 101)
	mustAttach(t, d, "db", "net:default")
	w.paths[sandboxOf(endpointID("d"))] = w.paths[w.nspath(101)]
	e, err := w.engineSteps(d, endpointID("d"), "", "")
	check(t, err)
	if e.Prefix != "weftn" {
		t.Errorf("prefix %q", e.Prefix)
	}
	w.move(e, w.paths[w.nspath(101)])
	check(t, d.settleEndpoint(ctx, e.ID))
	w.see(d)
	// It goes on without us.
	check(t, d.LeaveEndpoint(ctx, e.ID))
	if w.led[w.paths[w.nspath(101)].ID()] != 0 {
		t.Error("its resolver still asks us")
	}
}

// TestSettling runs the daemon's task: what the engine does not set is set as
// soon as the interface is in the container.
func TestSettling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := engineWorld(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		var all []api.Endpoint
		for i := range 20 {
			e, err := w.engineSteps(d, fmt.Sprintf("%064x", 0xe0000000+i), "", "")
			check(t, err)
			all = append(all, e)
			name := fmt.Sprintf("c%d", i)
			w.know(d, fmt.Sprintf("%064x", 0xc0ffee00+i), name, e, 100+i, "")
		}
		time.Sleep(5 * time.Second)
		for i, e := range all[:19] {
			begun := time.Now()
			n := w.take(e, 100+i)
			for len(n.Announced()) == 0 {
				time.Sleep(time.Millisecond)
				if time.Since(begun) > 2*settleSlow {
					t.Fatal("it is not settled")
				}
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		w.take(all[19], 119) // too late for the task
		_, err := d.Sweep(ctx)
		check(t, err)
		time.Sleep(time.Second)
		w.see(d)
		if n := len(d.endpointIDs((*endpoint).settled)); n != 20 {
			t.Errorf("%d of 20 are settled", n)
		}
		cancel()
		check(t, <-done)
	})
}

// TestEngineForgetsWithoutAWord starts a container anew whose former endpoint
// the engine dropped while it could not reach us: it gets its address, also by
// name and with its own MAC address. Another one does not, while it lives.
func TestEngineForgetsWithoutAWord(t *testing.T) {
	w, d := engineWorld(t)
	w.up(d, webID, "web", endpointID("1"), 100, "10.32.0.7")
	if _, err := w.engineSteps(d, endpointID("2"), "10.32.0.7", ""); !errors.Is(err, api.ErrConflict) {
		t.Errorf("the address of a container that lives: %v", err)
	}
	w.kill(100)
	delete(w.paths, sandboxOf(endpointID("1")))
	c := w.docker.containers["web"]
	c.Running, c.PID, c.Networks[0].Endpoint = false, 0, ""
	w.docker.set("web", c)
	d = w.restart()
	if got := w.up(d, webID, "web", endpointID("3"), 101, "10.32.0.7"); got.Addr().String() != "10.32.0.7" {
		t.Errorf("it comes back with %s", got)
	}
	w.see(d)
}

// TestSweepBetweenAddAndJoin lets a sweep come while an engine starts a
// container that it has not written down yet.
func TestSweepBetweenAddAndJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w, d := engineWorld(t)
		time.Sleep(foundYouth) // we are not young ourselves
		p, err := d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12")})
		check(t, err)
		id := endpointID("1")
		_, err = d.AddEndpoint(ctx, api.EndpointRequest{ID: id, Network: "wide-id", Addresses: []netip.Prefix{p}})
		check(t, err)
		_, err = d.Sweep(ctx)
		check(t, err)
		_, err = d.JoinEndpoint(ctx, api.EndpointJoin{ID: id, Sandbox: sandboxOf(id)})
		check(t, err)
		w.see(d)
	})
}

// TestHungEngine lets an engine hang: a sweep waits for it once, and people are
// told only what it says to them.
func TestHungEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		f := &fakeDocker{containers: map[string]Container{}, err: context.DeadlineExceeded}
		h := &hasty{Resolver: f}
		ask := func(inspect func(context.Context, string) (Container, error), want error, times int) {
			t.Helper()
			before := f.asked
			if _, err := inspect(ctx, webID); !errors.Is(err, want) || f.asked-before != times {
				t.Errorf("%v, want %v; the engine was asked %d times", err, want, f.asked-before)
			}
		}
		ask(h.Glance, context.DeadlineExceeded, 1)
		ask(h.Glance, errHung, 0)
		ask(h.Inspect, context.DeadlineExceeded, 1)
		f.err = nil
		ask(h.Inspect, api.ErrNotFound, 1)
		time.Sleep(hungTime)
		ask(h.Glance, api.ErrNotFound, 1)
		// That we had no time says nothing of the engine.
		f.err = context.DeadlineExceeded
		h.hurry(patience)
		ask(h.Glance, context.DeadlineExceeded, 1)
		h.relax()
		ask(h.Glance, context.DeadlineExceeded, 1)
	})
}

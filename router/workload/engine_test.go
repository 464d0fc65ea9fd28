package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

// TestEngineForgot lets an engine lose its state, or a part of it: nothing of
// what it had stays here.
func TestEngineForgot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w, d := engineWorld(t)
		w.up(d, webID, "web", endpointID("1"), 100, "")
		_, err := w.engineSteps(d, endpointID("2"), "", "") // joined, and then it died
		check(t, err)
		_, err = d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12")})
		check(t, err)
		sweep := func() {
			t.Helper()
			_, err := d.Sweep(ctx)
			check(t, err)
			w.see(d)
		}
		time.Sleep(youth - time.Second)
		sweep()
		if n := len(d.endpointIDs(nil)); n != 2 {
			t.Errorf("%d of 2 endpoints after less than a minute", n)
		}
		w.docker.err = errors.New("no answer")
		time.Sleep(time.Hour)
		sweep()
		if n := len(d.endpointIDs(nil)); n != 2 {
			t.Errorf("%d of 2 endpoints while the engine does not answer", n)
		}
		w.docker.err = nil
		sweep()
		if diff := cmp.Diff("aaaaaaaaaaaa weft0 [10.32.0.1/12] [web.weft.internal. shop.weft.internal.]\n", w.shown(d)); diff != "" {
			t.Errorf("it knows one of them:\n%s", diff)
		}
		w.docker.remove("web")
		sweep()
		if got := w.shown(d); got != "" || len(w.hostEnds()) != 0 || len(w.names) != 0 {
			t.Errorf("it knows nothing: %q, ends %v, names %v", got, w.hostEnds(), w.names)
		}
		time.Sleep(2 * time.Minute)
		w.space.expire()
		sweep()
		if got := w.space.live() + w.space.dying(); got != "" {
			t.Errorf("addresses are held:\n%s", got)
		}
		d.journal.view(func(s *state) {
			if len(s.Reserved)+len(s.Endpoints) != 0 {
				t.Errorf("in the journal: %+v", s)
			}
		})
	})
}

// TestJournalLost deletes the state directory under running containers of an
// engine: they keep everything.
func TestJournalLost(t *testing.T) {
	ctx := context.Background()
	w, d := engineWorld(t)
	w.up(d, webID, "web", endpointID("1"), 100, "")
	w.up(d, dbID, "db", endpointID("2"), 101, "10.32.0.9")
	before := w.shown(d)
	// One that no engine knows any more.
	_, err := w.engineSteps(d, endpointID("3"), "", "")
	check(t, err)
	w.loseState()
	d = w.restart()
	if diff := cmp.Diff(before, w.shown(d)); diff != "" {
		t.Error(diff)
	}
	if got := w.space.live(); got != "space 10.32.0.1 endpoint-ip \nspace 10.32.0.9 endpoint-ip \n" {
		t.Errorf("claimed:\n%s", got)
	}
	w.down(d, "web")
	w.down(d, "db")
	if got := w.shown(d); got != "" {
		t.Error(got)
	}

	// The engine does not answer while we start: nothing is taken from anybody.
	w.up(d, webID, "web", endpointID("4"), 102, "")
	w.docker.err = errors.New("no answer")
	w.loseState()
	d = w.restart()
	if n := len(w.hostEnds()); n != 1 {
		t.Errorf("%d interfaces", n)
	}
	w.docker.err = nil
	_, err = d.Sweep(ctx)
	check(t, err)
	if got := w.shown(d); !strings.Contains(got, "[web.weft.internal. shop.weft.internal.]") {
		t.Errorf("after it answers: %s", got)
	}
}

// TestMachineRestarts keeps addresses for who comes back, for a while.
func TestMachineRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w, d := engineWorld(t)
		w.up(d, webID, "web", endpointID("1"), 100, "")
		w.up(d, dbID, "db", endpointID("2"), 101, "10.32.0.9")
		for _, name := range []string{"web", "db"} {
			c := w.docker.containers[name]
			w.kill(c.PID)
			c.Running, c.Networks[0].Endpoint = false, ""
			w.docker.set(name, c)
		}
		w.paths = map[string]*namespace{w.nspath(1): w.host}
		w.boot = "boot-2"
		d = w.restart()
		if got := w.shown(d); got != "" || len(w.names) != 0 {
			t.Errorf("after the restart: %q, %v", got, w.names)
		}
		// The engine clears up what it knows from before.
		for _, id := range []string{endpointID("1"), endpointID("2")} {
			check(t, d.LeaveEndpoint(ctx, id))
			check(t, d.RemoveEndpoint(ctx, id))
		}
		check(t, d.Unreserve(ctx, netip.MustParseAddr("10.32.0.1")))
		check(t, d.Unreserve(ctx, netip.MustParseAddr("10.32.0.9")))
		if got := w.up(d, webID, "web", endpointID("3"), 102, ""); got.Addr().String() != "10.32.0.1" {
			t.Errorf("web got %s", got)
		}
		time.Sleep(time.Hour)
		w.space.expire()
		if got := w.up(d, dbID, "db", endpointID("4"), 103, "10.32.0.9"); got.Addr().String() != "10.32.0.9" {
			t.Errorf("db got %s", got)
		}
		w.see(d)
	})
}

// TestEngineSaidSoWhileDead stops a container while no daemon runs: the engine
// takes the interface back, and nobody hears the rest.
func TestEngineSaidSoWhileDead(t *testing.T) {
	for _, answers := range []bool{true, false} {
		w, d := engineWorld(t)
		w.up(d, webID, "web", endpointID("1"), 100, "")
		w.up(d, dbID, "db", endpointID("2"), 101, "")
		c := w.docker.containers["web"]
		_, guest := attach.EndpointEnds(endpointID("1"))
		n := w.paths[w.nspath(100)]
		check(t, n.Fake.MoveLink("weft0", w.host.Fake, guest))
		w.kill(100)
		delete(w.paths, sandboxOf(endpointID("1")))
		c.Running, c.PID, c.Networks[0].Endpoint = false, 0, ""
		w.docker.set("web", c)
		if !answers {
			w.docker.err = errors.New("no answer")
		}
		d = w.restart()
		if got := w.shown(d); strings.Count(got, "\n") != 1 || !strings.Contains(got, "10.32.0.2/12") {
			t.Errorf("after the start: %s", got)
		}
		if ends := w.hostEnds(); len(ends) != 1 || ends[0] != endpointID("2") {
			t.Errorf("ends of %v", ends)
		}
		w.docker.err = nil
		if got := w.up(d, webID, "web", endpointID("3"), 102, ""); got.Addr().String() != "10.32.0.1" {
			t.Errorf("it comes back with %s", got)
		}
		w.see(d)
	}
}

// TestWithdrawDNS is what a reset does inside containers.
func TestWithdrawDNS(t *testing.T) {
	w, d := engineWorld(t)
	w.up(d, webID, "web", endpointID("1"), 100, "")
	_, err := w.engineSteps(d, endpointID("2"), "", "")
	check(t, err)
	id := w.paths[w.nspath(100)].ID()
	if w.led[id] != 1 {
		t.Error("it was not led to us")
	}
	check(t, WithdrawDNS(w.dir, d.attacher.WithdrawDNS))
	if w.led[id] != 0 {
		t.Error("it is still led to us")
	}
	check(t, WithdrawDNS(t.TempDir(), d.attacher.WithdrawDNS))
}

// stuck is an engine that answers nothing: it waits for us.
type stuck struct{ *fakeDocker }

func (s stuck) Inspect(ctx context.Context, _ string) (Container, error) {
	<-ctx.Done()
	return Container{}, ctx.Err()
}

func (s stuck) Endpoints(ctx context.Context) (map[string]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestEngineWaitsForUs starts a daemon while the engine waits for its answers:
// both go on, and soon.
func TestEngineWaitsForUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w, d := engineWorld(t)
		for i := range 5 {
			name := fmt.Sprintf("c%d", i)
			w.run(strings.Repeat(fmt.Sprint(i), 64), name, 100+i)
			mustAttach(t, d, name, "net:default")
		}
		w.up(d, webID, "web", endpointID("1"), 200, "")
		d = w.start()
		d.docker = &hasty{Resolver: stuck{w.docker}}
		asked := make(chan time.Duration)
		begun := time.Now()
		go func() {
			_, err := d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12")})
			if err != nil {
				t.Error(err)
			}
			asked <- time.Since(begun)
		}()
		synctest.Wait()
		check(t, d.Restore(ctx))
		if took := <-asked; took > patience {
			t.Errorf("the engine waited %v", took)
		}
		w.see(d)
	})
}

// TestStarting bounds what an engine waits for a daemon that does not come up.
func TestStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		w.addSpace("10.32.0.0/11", "10.32.0.0/12")
		d := w.start()
		begun := time.Now()
		_, err := d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12")})
		if err == nil || time.Since(begun) != engineTime || !strings.Contains(err.Error(), "weftd is starting") {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

// TestEnginesAtOnce is many containers that start and stop at the same time,
// and two requests for everything.
func TestEnginesAtOnce(t *testing.T) {
	ctx := context.Background()
	w, d := engineWorld(t)
	const callers, rounds = 8, 10
	var wg sync.WaitGroup
	var mu sync.Mutex
	given := map[netip.Addr]string{}
	for caller := range callers {
		wg.Go(func() {
			for round := range rounds {
				id := fmt.Sprintf("%032x%032x", caller, round)
				p, err := d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12")})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if who := given[p.Addr()]; who != "" {
					t.Errorf("%s was given to %s and %s", p, who, id)
				}
				given[p.Addr()] = id
				mu.Unlock()
				twice(t, func() error {
					_, err := d.AddEndpoint(ctx, api.EndpointRequest{ID: id, Network: "n", Addresses: []netip.Prefix{p}, Extra: []string{"net:10.48.0.0/16"}})
					return err
				})
				twice(t, func() error {
					_, err := d.JoinEndpoint(ctx, api.EndpointJoin{ID: id, Sandbox: sandboxOf(id)})
					return err
				})
				if round%2 == 0 {
					continue
				}
				twice(t, func() error { return d.LeaveEndpoint(ctx, id) })
				twice(t, func() error { return d.RemoveEndpoint(ctx, id) })
				mu.Lock()
				delete(given, p.Addr())
				mu.Unlock()
				twice(t, func() error { return d.Unreserve(ctx, p.Addr()) })
			}
		})
	}
	wg.Wait()
	w.see(d)
	if n := len(d.endpointIDs(nil)); n != callers*rounds/2 {
		t.Errorf("%d endpoints", n)
	}
	for _, id := range d.endpointIDs(nil) {
		check(t, d.RemoveEndpoint(ctx, id))
	}
	w.see(d)
	if n := len(d.locks.held); n != 0 {
		t.Errorf("%d locks are left", n)
	}
}

// twice asks two times at once.
func twice(t *testing.T, f func() error) {
	t.Helper()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestEndpointDies lets the container's namespace end without a word of the
// engine: its names are gone with it.
func TestEndpointDies(t *testing.T) {
	ctx := context.Background()
	w, d := engineWorld(t)
	w.up(d, webID, "web", endpointID("1"), 100, "")
	w.kill(100)
	delete(w.paths, sandboxOf(endpointID("1")))
	_, err := d.LinksChanged(ctx)
	check(t, err)
	if got := w.shown(d); got != "" || len(w.names) != 0 {
		t.Errorf("%q, names %v", got, w.names)
	}

	// Somebody deletes the interface of one that lives: it comes back.
	w.docker.remove("web")
	w.up(d, dbID, "db", endpointID("2"), 101, "")
	before := w.shown(d)
	end, _ := attach.EndpointEnds(endpointID("2"))
	check(t, w.host.Fake.DelLink(end))
	repaired, err := d.LinksChanged(ctx)
	check(t, err)
	if len(repaired) != 1 || !strings.Contains(repaired[0], "its interface was gone") {
		t.Errorf("repaired %q", repaired)
	}
	if diff := cmp.Diff(before, w.shown(d)); diff != "" {
		t.Error(diff)
	}
}

func TestEndpointIsRefused(t *testing.T) {
	ctx := context.Background()
	w, d := engineWorld(t)
	w.up(d, webID, "web", endpointID("1"), 100, "10.32.0.1")
	mac, _ := d.endpointOf(endpointID("1"))
	p := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, tt := range []struct {
		r     api.EndpointRequest
		class error
		want  string
	}{
		{api.EndpointRequest{Addresses: p("10.32.0.2/12")}, api.ErrUsage, "want the ids of an engine"},
		{api.EndpointRequest{ID: "../x", Addresses: p("10.32.0.2/12")}, api.ErrUsage, "want the ids of an engine"},
		{api.EndpointRequest{ID: "x"}, api.ErrUsage, "it has no IPv4 address"},
		{api.EndpointRequest{ID: "x", Addresses: p("10.32.0.0/12")}, api.ErrUsage, "address of its network"},
		{api.EndpointRequest{ID: "x", Addresses: p("10.32.0.2/12"), MAC: "01:00:00:00:00:01"}, api.ErrUsage, "not a unicast address"},
		{api.EndpointRequest{ID: "x", Addresses: p("10.32.0.2/12"), MAC: mac.MAC}, api.ErrConflict, "MAC address " + mac.MAC + " is held by container web"},
		{api.EndpointRequest{ID: "x", Addresses: p("10.32.0.1/12")}, api.ErrConflict, "address 10.32.0.1 is held by container web"},
		{api.EndpointRequest{ID: "x", Addresses: p("10.32.0.2/12"), Extra: []string{"net:10.32.5.0/24"}}, nil, "overlaps"},
		{api.EndpointRequest{ID: "x", Addresses: p("10.32.0.2/12"), Extra: []string{"10.32.0.1/12"}}, api.ErrConflict, "held by"},
		{api.EndpointRequest{ID: "x", Addresses: p("10.32.0.2/12"), Extra: []string{"x"}}, api.ErrUsage, "want ADDRESS/LENGTH"},
	} {
		before := w.see(d)
		_, err := d.AddEndpoint(ctx, tt.r)
		if err == nil || tt.class != nil && !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.r, err, tt.want)
		}
		if diff := cmp.Diff(before, w.see(d)); diff != "" {
			t.Errorf("%+v left something:\n%s", tt.r, diff)
		}
	}
	if _, err := d.JoinEndpoint(ctx, api.EndpointJoin{ID: endpointID("1"), Sandbox: "x"}); !errors.Is(err, api.ErrUsage) {
		t.Errorf("a relative sandbox: %v", err)
	}
}

// FuzzJournal: what is understood of a journal, written again, is understood as
// the same.
func FuzzJournal(f *testing.F) {
	for _, s := range []string{
		`{"format":1}`, `{"format":1,"boot":"b","reserved":[{"key":"k","address":"10.32.0.1/12","dead":true}]}`,
		`{"format":1,"endpoints":[{"id":"e","key":"k","mac":"02:00:00:00:00:01","addresses":["10.32.0.1/12"],"joined":true,"ns":{"id":"4:1","cookie":7}}],
			"reserved":[{"key":"k","address":"10.32.0.1/12","endpoint":"e","container":"c","pinned":true,"bound":true}]}`,
		`{"format":1,"containers":[{"key":"a","ns":{"id":"1"},"addresses":["10.0.0.1/8"],"names":[{"hostname":"a.","addr":"::1"}]}]}`,
		`{"format":1,"reserved":[{"key":"k","address":"10.32.0.1/12","endpoint":"nobody"}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		first, err := s.bytes()
		check(t, err)
		again, err := parseState(first)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		second, err := again.bytes()
		check(t, err)
		if string(first) != string(second) {
			t.Fatalf("%s became %s", first, second)
		}
		copied := s.clone()
		third, err := copied.bytes()
		check(t, err)
		if string(first) != string(third) {
			t.Fatalf("a copy of %s is %s", first, third)
		}
		s.otherBoot()
		if err := s.checkEngines(); err != nil {
			t.Fatal(err)
		}
	})
}

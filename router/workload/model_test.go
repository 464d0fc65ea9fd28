package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/api"
)

// TestModel lets people do what they like and compares with a naive model: a
// map from containers to addresses.
func TestModel(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		containers := []string{"c0", "c1", "c2", "pid:50"}
		w.process(50, 5, "4:50")
		for i, c := range containers[:3] {
			w.run(strings.Repeat(fmt.Sprint(i), 64), c, 100+i)
		}
		d := w.restart()
		const host = "host"
		model := map[string][]netip.Prefix{}
		address := rapid.Custom(func(t *rapid.T) netip.Prefix {
			bits := rapid.SampledFrom([]int{24, 24, 24, 28}).Draw(t, "bits")
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, rapid.ByteRange(0, 1).Draw(t, "net"), rapid.ByteRange(1, 4).Draw(t, "host")}), bits)
		})
		who := rapid.SampledFrom(append([]string{host}, containers...))
		// allowed is the rule, said once more.
		allowed := func(c string, asked []netip.Prefix) bool {
			for _, a := range asked {
				for other, held := range model {
					for _, h := range held {
						if other != c && h.Addr() == a.Addr() {
							return false
						}
					}
				}
				for _, h := range append(slices.Clone(model[c]), asked...) {
					if h != a && h.Bits() != a.Bits() && h.Overlaps(a) {
						return false
					}
				}
			}
			return true
		}
		typed := func(list []netip.Prefix) (s []string) {
			for _, p := range list {
				s = append(s, p.String())
			}
			return s
		}
		rt.Repeat(map[string]func(*rapid.T){
			"attach": func(rt *rapid.T) {
				c := who.Draw(rt, "who")
				asked := rapid.SliceOfN(address, 1, 2).Draw(rt, "addresses")
				var err error
				if c == host {
					_, err = d.Expose(ctx, api.ExposeRequest{Addresses: typed(asked)})
				} else {
					_, err = d.Attach(ctx, api.AttachRequest{Container: c, Addresses: typed(asked)})
				}
				if want := allowed(c, asked); (err == nil) != want {
					rt.Fatalf("%s %v: %v, want allowed: %v (%v)", c, asked, err, want, model)
				}
				if err == nil {
					model[c] = union(model[c], asked)
				}
			},
			"detach": func(rt *rapid.T) {
				c := who.Draw(rt, "who")
				asked := rapid.SliceOfN(address, 0, 2).Draw(rt, "addresses")
				var got api.Addresses
				var err error
				if c == host {
					got, err = d.Hide(ctx, api.HideRequest{Addresses: typed(asked)})
				} else {
					got, err = d.Detach(ctx, api.DetachRequest{Container: c, Addresses: typed(asked)})
				}
				if err != nil {
					rt.Fatal(err)
				}
				want := union(nil, asked)
				if len(asked) == 0 {
					want, asked = model[c], model[c]
				}
				if !slices.Equal(got, want) {
					rt.Fatalf("%s %v: released %v, want %v", c, asked, got, want)
				}
				model[c] = without(model[c], asked)
			},
			"crash": func(*rapid.T) { d = w.restart() },
			"": func(rt *rapid.T) {
				list, err := d.PS(ctx, nil)
				if err != nil {
					rt.Fatal(err)
				}
				seen := 0
				for _, a := range list {
					c := a.Container
					for i, name := range containers[:3] {
						if c == strings.Repeat(fmt.Sprint(i), 12) {
							c = name
						}
					}
					if c == api.ExposeName {
						c = host
					}
					if !slices.Equal(a.Addresses, model[c]) {
						rt.Fatalf("%s has %v, want %v", c, a.Addresses, model[c])
					}
					seen += len(a.Addresses)
				}
				for _, held := range model {
					seen -= len(held)
				}
				if seen != 0 {
					rt.Fatalf("%v is listed, want %v", list, model)
				}
				w.see(d)
			},
		})
	})
}

// TestManyAtOnceOnFakes is 200 attachments by eight callers, some of whom want
// the same addresses.
func TestManyAtOnceOnFakes(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx := context.Background()
	w := newWorld(t)
	const containers, callers = 200, 8
	for i := range containers {
		w.process(1000+i, 1, fmt.Sprintf("4:%d", 1000+i))
	}
	d := w.restart()
	before := w.see(d)
	won := make([]int, callers)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range containers {
				r := api.AttachRequest{Container: fmt.Sprintf("pid:%d", 1000+i), Addresses: []string{fmt.Sprintf("10.32.%d.1/12", i)}}
				if i%callers != caller {
					// Somebody else's address, for one's own container.
					r.Container = fmt.Sprintf("pid:%d", 1000+(i+1)%containers)
				}
				if _, err := d.Attach(ctx, r); err == nil {
					won[caller]++
				} else if !errors.Is(err, api.ErrConflict) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	w.see(d)
	count := 0
	for i := range containers {
		list, err := d.PS(ctx, []string{fmt.Sprintf("pid:%d", 1000+i)})
		check(t, err)
		for _, a := range list {
			count += len(a.Addresses)
		}
	}
	if count != containers {
		t.Errorf("%d addresses are held, want each of %d once", count, containers)
	}
	for caller := range callers {
		wg.Go(func() {
			for i := range containers {
				if i%callers == caller {
					if _, err := d.Detach(ctx, api.DetachRequest{Container: fmt.Sprintf("pid:%d", 1000+i)}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if after := w.see(d); after != before {
		t.Errorf("left:\n%s", after)
	}
	if len(d.keys()) != 0 || len(d.locks.held) != 0 {
		t.Errorf("left: entries %v, locks %v", d.keys(), d.locks.held)
	}
}

// TestJournalSharesWrites wants callers that come during a write to share the
// next one.
func TestJournalSharesWrites(t *testing.T) {
	var last []byte
	writes, begun, hold := 0, make(chan struct{}, 2), make(chan struct{})
	j := &journal{path: "x", state: state{Format: journalFormat}, write: func(_ string, b []byte) error {
		writes++
		last = b
		begun <- struct{}{}
		<-hold
		return nil
	}}
	var wg sync.WaitGroup
	add := func(i int) {
		version, err := j.change(func(s *state) error {
			s.Exposed = append(s.Exposed, exposure{Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 24)})
			return nil
		})
		check(t, err)
		wg.Go(func() {
			if err := j.save(version); err != nil {
				t.Error(err)
			}
		})
	}
	add(1)
	<-begun
	for i := 2; i < 20; i++ {
		add(i)
	}
	close(hold)
	wg.Wait()
	if writes != 2 {
		t.Errorf("%d writes, want 2", writes)
	}
	s, err := parseState(last)
	check(t, err)
	if len(s.Exposed) != 19 {
		t.Errorf("%d of 19 changes are on disk", len(s.Exposed))
	}
	check(t, j.update(func(*state) error { return nil }))
	if writes != 2 {
		t.Error("nothing was written")
	}
}

func TestJournalFile(t *testing.T) {
	w := newWorld(t)
	path := w.dir + "/workloads.json"
	for _, bad := range []string{
		"", "{", `{"format":2}`, `{"format":1,"new":1}`, `{"format":1,"containers":[{"key":"a"}]}`,
		`{"format":1,"containers":[{"key":"a","ns":{"id":"1"},"addresses":[""]}]}`,
		`{"format":1,"containers":[{"key":"a","ns":{"id":"1"}},{"key":"a","ns":{"id":"2"}}]}`,
	} {
		check(t, os.WriteFile(path, []byte(bad), 0o600))
		_, err := New(Config{StateDir: w.dir})
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move the file away") {
			t.Errorf("journal %q: %v", bad, err)
		}
	}
	check(t, os.Remove(path))
	check(t, writeAtomically(path, []byte(`{"format":1}`)))
	st, err := os.Stat(path)
	check(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if _, err := New(Config{StateDir: w.dir}); err != nil {
		t.Error(err)
	}
}

func TestLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l locks
		ctx, cancel := context.WithCancel(context.Background())
		unlock, err := l.lock(ctx, "a")
		check(t, err)
		other, err := l.lock(ctx, "b")
		check(t, err)
		other()
		done := make(chan error)
		go func() {
			u, err := l.lock(context.Background(), "a")
			if err == nil {
				u()
			}
			done <- err
		}()
		go func() {
			_, err := l.lock(ctx, "a")
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the one who gave up: %v", err)
		}
		unlock()
		check(t, <-done)
		if len(l.held) != 0 {
			t.Errorf("left: %v", l.held)
		}
	})
}

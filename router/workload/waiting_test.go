package workload

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// request is an attach or expose under way.
type request struct {
	cancel  context.CancelFunc
	done    chan struct{}
	reasons []string
	got     api.Addresses
	err     error
}

func begin(f func(ctx context.Context) (api.Addresses, error)) *request {
	r := &request{done: make(chan struct{})}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	ctx = api.WithProgress(ctx, func(reason string) { r.reasons = append(r.reasons, reason) })
	go func() {
		defer close(r.done)
		r.got, r.err = f(ctx)
	}()
	synctest.Wait()
	return r
}

func attaching(d *Workload, container string, addresses ...string) *request {
	return begin(func(ctx context.Context) (api.Addresses, error) {
		return d.Attach(ctx, api.AttachRequest{Container: container, Addresses: addresses})
	})
}

func (r *request) ended() bool {
	synctest.Wait()
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// end wants the request to have ended with addresses, or an error.
func (r *request) end(t *testing.T, want string) {
	t.Helper()
	if !r.ended() {
		t.Fatalf("it still waits: %q; want %s", r.reasons, want)
	}
	var text []string
	for _, p := range r.got {
		text = append(text, p.String())
	}
	got := strings.Join(text, " ")
	if r.err != nil {
		got = r.err.Error()
	}
	if got != want {
		t.Errorf("it ended with %q, want %q", got, want)
	}
}

const (
	full   = "net:10.48.0.0/30" // of its two addresses another host has both
	noFree = "no address of 10.48.0.0/30 is free"
)

// waitingWorld is one in which nothing is free in one subnet.
func waitingWorld(t *testing.T) *world {
	t.Helper()
	w := spaceWorld(t)
	w.fill()
	return w
}

func (w *world) fill() {
	for _, a := range []string{"10.48.0.1", "10.48.0.2"} {
		w.space.held[netip.MustParseAddr(a)] = fakeHolder{key: elsewhere, label: "host2"}
	}
}

// free lets the other host give an address back.
func (w *world) free(a string) {
	w.t.Helper()
	check(w.t, w.space.Release(context.Background(), elsewhere, []netip.Addr{netip.MustParseAddr(a)}))
}

func TestWaiting(t *testing.T) {
	ctx := context.Background()
	tests := map[string]func(t *testing.T, w *world, d *Workload){
		"until there is one": func(t *testing.T, w *world, d *Workload) {
			r := attaching(d, "db", "net:default", full)
			if r.ended() || !cmp.Equal(r.reasons, []string{noFree}) {
				t.Errorf("%q, %v", r.reasons, r.err)
			}
			w.free("10.48.0.2")
			r.end(t, "10.32.0.2/12 10.48.0.2/30")
			w.say(d, "detach db")
		},
		"given up": func(t *testing.T, _ *world, d *Workload) {
			r := attaching(d, "db", "10.32.0.9/12", "net:10.49.0.0/24", full)
			r.cancel()
			r.end(t, "attach db: context canceled")
			if !errors.Is(r.err, context.Canceled) {
				t.Errorf("%v", r.err)
			}
		},
		"nobody else waits": func(t *testing.T, w *world, d *Workload) {
			r := attaching(d, "web", full)
			for _, line := range [][2]string{
				{"ps web", "10.32.0.1/12"},
				{"ps", "10.32.0.1/12"},
				{"attach db", "10.32.0.2/12"},
				{"detach db", "10.32.0.2/12"},
				{"detach 10.99.0.1/24 web", "10.99.0.1/24"},
			} {
				if got := w.say(d, line[0]); got != line[1] {
					t.Errorf("%s: %s", line[0], got)
				}
			}
			repaired, err := d.Sweep(ctx)
			check(t, err)
			if len(repaired) > 0 || r.ended() {
				t.Errorf("the sweep repaired %q, %v", repaired, r.err)
			}
			check(t, d.DNSAdd(ctx, api.NameRequest{Container: "web", FQDN: "www"}))
			check(t, d.DNSRemove(ctx, api.NameRequest{Container: "web", FQDN: "www"}))
			r.cancel()
			r.end(t, "attach web: context canceled")
		},
		"detached": func(t *testing.T, w *world, d *Workload) {
			one, two := attaching(d, "web", full), attaching(d, "pid:100", full)
			if got := w.say(d, "detach web"); got != "10.32.0.1/12" {
				t.Errorf("detach: %s", got)
			}
			one.end(t, "attach web: it was detached meanwhile")
			two.end(t, "attach pid:100: it was detached meanwhile")
			w.say(d, "attach web")
		},
		"detached before it ever was attached": func(t *testing.T, w *world, d *Workload) {
			r := attaching(d, "db", "net:default", full)
			if got := w.say(d, "detach db"); got != "" {
				t.Errorf("detach: %q", got)
			}
			r.end(t, "attach db: it was detached meanwhile")
		},
		"something else is detached": func(t *testing.T, w *world, d *Workload) {
			r := attaching(d, "web", "net:default", full)
			if got := w.say(d, "detach 10.32.0.1/12 web"); got != "10.32.0.1/12" || r.ended() {
				t.Errorf("detach: %s, %v", got, r.err)
			}
			if got := w.say(d, "attach db"); got != "10.32.0.1/12" {
				t.Errorf("attach db: %s", got)
			}
			w.free("10.48.0.1")
			r.end(t, "10.32.0.2/12 10.48.0.1/30")
			w.say(d, "detach web")
			w.say(d, "detach db")
			w.say(d, "attach web")
		},
		"twice at once": func(t *testing.T, w *world, d *Workload) {
			one, two := attaching(d, "db", full), attaching(d, "pid:101", full)
			if !cmp.Equal(two.reasons, []string{"another request for the same container"}) {
				t.Errorf("%q", two.reasons)
			}
			w.free("10.48.0.2")
			one.end(t, "10.48.0.2/30")
			two.end(t, "10.48.0.2/30")
			w.say(d, "detach db")
		},
		"the first of two gives up": func(t *testing.T, w *world, d *Workload) {
			one, two := attaching(d, "db", full), attaching(d, "db", full)
			one.cancel()
			one.end(t, "attach db: context canceled")
			w.free("10.48.0.2")
			two.end(t, "10.48.0.2/30")
			w.say(d, "detach db")
		},
		"killed": func(t *testing.T, w *world, d *Workload) {
			r := attaching(d, "db", full)
			p := attaching(d, "pid:200", full)
			w.kill(200)
			w.say(d, "end db")
			r.end(t, "attach db: it ended meanwhile")
			p.end(t, "attach pid:200: it ended meanwhile")
		},
		"killed, and only the sweep sees it": func(t *testing.T, w *world, d *Workload) {
			r := attaching(d, "pid:200", full)
			w.kill(200)
			_, err := d.Sweep(ctx)
			check(t, err)
			r.end(t, "attach pid:200: it ended meanwhile")
		},
		"its next life asks, too": func(t *testing.T, w *world, d *Workload) {
			one := attaching(d, "db", "net:default", full)
			w.kill(101)
			w.run(dbID, "db", 151)
			two := attaching(d, "db", "net:default", full)
			check(t, d.ContainerDied(ctx, dbID)) // news of the first life
			one.end(t, "attach db: it ended meanwhile")
			if got := w.say(d, "attach pid:200"); got != "10.32.0.3/12" {
				t.Errorf("somebody else: %s", got)
			}
			w.free("10.48.0.1")
			two.end(t, "10.32.0.2/12 10.48.0.1/30")
			w.see(d)
			w.say(d, "detach db")
			w.say(d, "detach pid:200")
		},
		"it turns out to be another holder": func(t *testing.T, w *world, d *Workload) {
			r := attaching(d, "pid:101", "net:default", full)
			printer := []netip.Addr{netip.MustParseAddr("192.0.2.7")}
			check(t, d.DNSAdd(ctx, api.NameRequest{Container: "db", FQDN: "box", Addresses: printer}))
			w.free("10.48.0.1")
			r.end(t, "10.32.0.2/12 10.48.0.1/30")
			if live := w.see(d); !strings.Contains(live, "space 10.32.0.2 "+dockerKey(dbID)+" db\n") {
				t.Errorf("whose it is:\n%s", live)
			}
			w.say(d, "detach db")
			check(t, d.DNSRemove(ctx, api.NameRequest{Container: "db"}))
		},
		"host": func(t *testing.T, w *world, d *Workload) {
			r := begin(func(ctx context.Context) (api.Addresses, error) {
				return d.Expose(ctx, api.ExposeRequest{Addresses: []string{"net:10.49.0.0/24", full}})
			})
			if got := w.say(d, "hide 10.99.0.1/24"); got != "10.99.0.1/24" || r.ended() {
				t.Errorf("hide one: %s, %v", got, r.err)
			}
			if got := w.say(d, "hide"); got != "" {
				t.Errorf("hide: %s", got)
			}
			r.end(t, "expose: it was detached meanwhile")
		},
		"something else is hidden": func(t *testing.T, w *world, d *Workload) {
			w.say(d, "expose")
			r := begin(func(ctx context.Context) (api.Addresses, error) {
				return d.Expose(ctx, api.ExposeRequest{Addresses: []string{"net:default", full}})
			})
			if got := w.say(d, "hide net:default"); got != "10.32.0.2/12" {
				t.Errorf("hide: %s", got)
			}
			if got := w.say(d, "attach db"); got != "10.32.0.2/12" {
				t.Errorf("attach db: %s", got)
			}
			w.free("10.48.0.1")
			r.end(t, "10.32.0.3/12 10.48.0.1/30")
			w.see(d)
			w.say(d, "hide")
			w.say(d, "detach db")
		},
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := waitingWorld(t)
				d := w.restart()
				mustAttach(t, d, "web", "10.32.0.1/12")
				before := keyless(w.see(d))
				f(t, w, d)
				w.fill()
				if diff := cmp.Diff(before, keyless(w.see(d))); diff != "" {
					t.Errorf("something is left:\n%s", diff)
				}
				if len(d.locks.held) != 0 || len(d.flights.list) != 0 || w.space.dying() != "" {
					t.Errorf("left: locks %v, requests %v\n%s", d.locks.held, d.flights.list, w.space.dying())
				}
			})
		})
	}
}

// keyless leaves MAC addresses out, which are random.
func keyless(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		if before, after, ok := strings.Cut(line, `"MAC":"`); ok {
			line = before + after[len("02:00:00:00:00:00"):]
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}

// TestBeforeRestore wants nothing to be given before it is known who has what.
func TestBeforeRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := spaceWorld(t)
		d := w.restart()
		mustAttach(t, d, "web", "10.32.0.1/12")
		clear(w.space.held) // its file was lost
		d = w.start()
		r := attaching(d, "db")
		if r.ended() || !cmp.Equal(r.reasons, []string{"weftd looks for the containers that are attached"}) {
			t.Errorf("%q, %v", r.reasons, r.err)
		}
		given := attaching(d, "pid:200")
		given.cancel()
		given.end(t, "attach pid:200: context canceled")
		check(t, d.Restore(context.Background()))
		r.end(t, "10.32.0.2/12")
		w.see(d)
	})
}

// slowSpace lets a release take its time.
type slowSpace struct {
	*fakeSpace
	slow chan struct{}
}

func (s *slowSpace) Release(ctx context.Context, key string, addrs []netip.Addr) error {
	<-s.slow
	return s.fakeSpace.Release(ctx, key, addrs)
}

// TestAskedWhileReleased asks for an address that is about to be released: by
// then the journal has forgotten it and the space has not.
func TestAskedWhileReleased(t *testing.T) {
	for _, line := range []string{"detach net:default web", "hide net:default"} {
		t.Run(line, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := spaceWorld(t)
				d := w.restart()
				mustAttach(t, d, "web", "10.32.0.1/12")
				w.say(d, "expose 10.32.0.2/12")
				slow := &slowSpace{w.space, make(chan struct{})}
				d.space = slow
				take := begin(func(context.Context) (api.Addresses, error) {
					w.say(d, line)
					return nil, nil
				})
				again := begin(func(ctx context.Context) (api.Addresses, error) {
					if strings.HasPrefix(line, "hide") {
						return d.Expose(ctx, api.ExposeRequest{})
					}
					return d.Attach(ctx, api.AttachRequest{Container: "web"})
				})
				if take.ended() || again.ended() {
					t.Fatal("nobody waits")
				}
				close(slow.slow)
				if !take.ended() || !again.ended() || again.err != nil {
					t.Fatalf("it does not end: %v", again.err)
				}
				w.see(d)
			})
		})
	}
}

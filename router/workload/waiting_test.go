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
				{"ps web", "10.32.0.1/12"}, {"ps", "10.32.0.1/12"}, {"attach db", "10.32.0.2/12"}, {"detach db", "10.32.0.2/12"},
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

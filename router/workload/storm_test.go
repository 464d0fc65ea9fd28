package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weftnet/weft/router/api"
)

// TestStorm is eight people who attach, detach, give up and kill what they can
// reach, some of them the same containers, while sweeps go on. Addresses are
// scarce. No two containers may ever have the same one, and at the end
// journal, kernel and space must agree.
func TestStorm(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx := context.Background()
	w := newWorld(t)
	w.addSpace("10.48.0.0/28", "10.48.0.0/29") // six addresses and eight
	const containers, people, rounds = 5, 8, 150
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var lives sync.Mutex // one death at a time
	pids := make([]int, containers)
	var adding sync.Mutex
	onlyOnce := func(n *namespace, p netip.Prefix) {
		adding.Lock()
		defer adding.Unlock()
		w.mu.Lock()
		others := make([]*namespace, 0, len(w.paths))
		for _, o := range w.paths {
			others = append(others, o)
		}
		w.mu.Unlock()
		for _, o := range others {
			if have, err := o.Fake.Addrs("weft0"); err == nil && o != n && holds(have, p.Addr()) {
				t.Errorf("%s gets %s, which %s has", n.ID(), p, o.ID())
			}
		}
	}
	run := func(i, pid int) {
		pids[i] = pid
		w.run(strings.Repeat(fmt.Sprint(i), 64), fmt.Sprintf("c%d", i), pid)
		w.mu.Lock()
		w.paths[w.nspath(pid)].added = onlyOnce
		w.mu.Unlock()
	}
	for i := range containers {
		run(i, 100+i)
	}
	d := w.restart()
	last := 200
	person := func(r *rand.Rand) {
		for range rounds {
			i := r.IntN(containers)
			lives.Lock()
			name := []string{fmt.Sprintf("c%d", i), fmt.Sprintf("pid:%d", pids[i])}[r.IntN(2)]
			lives.Unlock()
			asked := [][]string{nil, {"net:default"}, {"net:10.48.0.8/29"}, {"net:10.48.0.8/29", "net:default"}, {"10.48.0.3/29"}, {"10.99.0.1/24"}}[r.IntN(6)]
			short, cancel := context.WithTimeout(ctx, time.Duration(r.IntN(3000))*time.Microsecond)
			var err error
			switch r.IntN(12) {
			case 0, 1, 2, 3, 4:
				_, err = d.Attach(short, api.AttachRequest{Container: name, Addresses: asked})
			case 5, 6:
				_, err = d.Detach(short, api.DetachRequest{Container: name, Addresses: asked})
			case 7:
				_, err = d.Expose(short, api.ExposeRequest{Addresses: asked})
			case 8:
				_, err = d.Hide(short, api.HideRequest{Addresses: asked})
			case 9:
				_, err = d.Sweep(ctx)
			case 10:
				w.space.expire()
			default:
				lives.Lock()
				last++
				w.kill(pids[i])
				run(i, last)
				lives.Unlock()
				err = d.ContainerDied(ctx, strings.Repeat(fmt.Sprint(i), 64))
			}
			cancel()
			if err != nil && !tolerable(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	var wg sync.WaitGroup
	for i := range people {
		wg.Go(func() { person(rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	wg.Wait()
	_, err := d.Sweep(ctx)
	check(t, err)
	// Who of two in one namespace holds what both have is not for ever.
	noKeys := func(s string) string { return regexp.MustCompile(`(?m)^(space \S+) .*$`).ReplaceAllString(s, "$1") }
	before := noKeys(w.see(d))
	d = w.restart()
	if diff := cmp.Diff(before, noKeys(w.see(d))); diff != "" {
		t.Errorf("a restart changed something:\n%s", diff)
	}
	for i := range containers {
		w.say(d, fmt.Sprintf("detach c%d", i))
	}
	w.say(d, "hide")
	w.see(d)
	if w.space.live() != "" || len(d.keys()) != 0 || len(d.locks.held) != 0 || len(d.flights.list) != 0 {
		t.Errorf("left: entries %v, locks %v, requests %v\n%s", d.keys(), d.locks.held, d.flights.list, w.space.live())
	}
}

// tolerable is what happens to those who want the same thing at once.
func tolerable(err error) bool {
	for _, e := range []error{context.DeadlineExceeded, api.ErrConflict, api.ErrNotFound, errDetached, errEnded} {
		if errors.Is(err, e) {
			return true
		}
	}
	texts := []string{"its network namespace is another one now", "no such network namespace", "it was restarted just now", "file does not exist"}
	return slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(err.Error(), s) })
}

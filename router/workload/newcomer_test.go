package workload

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/router/workload/guess"
)

// TestNewcomers lets a container ask for its first address before it is known
// on which network it is: it gets none that is kept for one that comes back,
// which gets that.
func TestNewcomers(t *testing.T) {
	id := func(i int) string { return fmt.Sprintf("%064x", 0xc0ffee00+i) }
	// Container 1 had 10.32.0.1 and stopped just now; another one was made.
	type scene struct {
		w     *world
		d     *Workload
		round int
	}
	up := func(s *scene, i int) string {
		s.round++
		return s.w.up(s.d, id(i), fmt.Sprintf("c%d", i), endpointID(fmt.Sprintf("%x", s.round)), 100+s.round, "").Addr().String()
	}
	made := func(s *scene, i int, network string) {
		s.w.docker.set(fmt.Sprintf("c%d", i), Container{ID: id(i), Name: fmt.Sprintf("c%d", i), Created: true, Networks: []Network{{Name: network}}})
		s.d.NoteCreated(id(i))
		go func() { check(s.w.t, s.d.ContainerCreated(context.Background(), id(i))) }()
	}
	for _, tc := range []struct {
		name    string
		network string
		slow    time.Duration // until the engine says on which network it is
		asks    []int         // who starts, in order
		want    []string
		waits   time.Duration
	}{
		{"it asks before we know", wide, 300 * time.Millisecond, []int{2, 1}, []string{"10.32.0.2", "10.32.0.1"}, 300 * time.Millisecond},
		{"it asks when we know", wide, 0, []int{2, 1}, []string{"10.32.0.2", "10.32.0.1"}, 0},
		{"it is on another network", "bridge", 300 * time.Millisecond, []int{1}, []string{"10.32.0.1"}, 300 * time.Millisecond},
		{"the engine does not say", wide, time.Hour, []int{2, 1}, []string{"10.32.0.2", "10.32.0.1"}, guess.SureTime},
		{"the engine does not say, and it is on another one", "bridge", time.Hour, []int{1}, []string{"10.32.0.2"}, guess.SureTime},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scene{}
				s.w, s.d = engineWorld(t)
				up(s, 1)
				s.w.down(s.d, "c1")
				s.w.docker.slow = tc.slow
				made(s, 2, tc.network)
				if tc.slow == 0 {
					synctest.Wait()
				}
				begun := time.Now()
				for k, i := range tc.asks {
					if got := up(s, i); got != tc.want[k] {
						t.Errorf("container %d got %s, want %s", i, got, tc.want[k])
					}
					if took := time.Since(begun); k == 0 && took != tc.waits {
						t.Errorf("it took %s, want %s", took, tc.waits)
					}
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

package path

import (
	"fmt"
	"testing"
	"time"
)

// stall lets time pass in which the daemon gets no processor: what is answered
// meanwhile is read after it looked at the clock. told is whether it knows of
// [Late].
func (r *rig) stall(d time.Duration, told bool) {
	r.t.Helper()
	due := r.machine.Next()
	r.now += d
	if by := r.at().Sub(due); told && by > 0 {
		r.step(Late{By: by})
	}
	r.step(Tick{})
	waiting := r.coming
	r.coming = nil
	for _, c := range waiting {
		if c.at > r.now {
			r.coming = append(r.coming, c)
			continue
		}
		c.do()
	}
}

// A host that had no time to look does not take its own answers for lost: a path
// that was just changed is kept, and none that stands is doubted.
func TestLate(t *testing.T) {
	for _, d := range []time.Duration{500 * time.Millisecond, time.Second, 1800 * time.Millisecond} {
		for _, told := range []bool{false, true} {
			t.Run(fmt.Sprintf("standing, %s, told %t", d, told), func(t *testing.T) {
				r := standing(t, true, Route{Endpoint: one})
				before := r.machine.Status()
				for range 60 { // with pings under way each time
					for len(r.machine.pulse.flying) == 0 {
						r.run(10 * time.Millisecond)
					}
					r.stall(d, told)
				}
				after := r.machine.Status()
				lost := after.Unanswered - before.Unanswered
				if (lost == 0) != told || after.Changes != before.Changes {
					t.Errorf("of %d pings %d were lost, and the path changed %d times", after.Pings-before.Pings, lost, after.Changes-before.Changes)
				}
			})
		}
	}
	for _, told := range []bool{false, true} {
		t.Run(fmt.Sprintf("returning, told %t", told), func(t *testing.T) {
			r := standing(t, true, viaR)
			r.opens[one] = true
			for range 10_000 {
				if r.run(10 * time.Millisecond); r.machine.move.on() {
					break
				}
			}
			if !r.machine.move.on() || !r.machine.Route().Direct() {
				t.Fatalf("the direct path is not taken: %v", r.lines)
			}
			r.stall(r.machine.move.deadline.Sub(r.at())+time.Second, told)
			r.run(5 * time.Second)
			if r.machine.Route().Direct() != told {
				t.Errorf("the path is %s: %v", r.machine.Route(), r.lines)
			}
		})
	}
}

// However late a host always is, it notices that a path died.
func TestLateAlways(t *testing.T) {
	for _, d := range []time.Duration{60 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second, 10 * time.Second} {
		r := standing(t, true, Route{Endpoint: one})
		delete(r.passes, one)
		died := r.now
		for r.machine.Route().Direct() {
			r.stall(d, true)
			r.run(100 * time.Millisecond)
			if r.now-died > 6*time.Second+20*(d+100*time.Millisecond) {
				t.Fatalf("always %s late: not noticed within %s", d, r.now-died)
			}
		}
		t.Logf("always %s late: noticed after %s", d, r.now-died)
	}
}

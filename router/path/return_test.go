package path

import (
	"testing"
	"time"
)

// TestReturnThroughLoss wants a direct path that was away for a few seconds to
// be taken again soon after it has rested, once, also where probes get lost: the end
// of the rest waits for none.
func TestReturnThroughLoss(t *testing.T) {
	for _, c := range []struct {
		loss int // percent, each way
		goal time.Duration
	}{{0, 9 * time.Second}, {20, 25 * time.Second}} {
		var worst, all time.Duration
		const runs = 20
		for seed := range uint64(runs) {
			p := newPair(t, seed, 1, 1)
			p.begin(20*time.Second + time.Duration(seed)*37*time.Millisecond)
			p.both("0.0", "1.0", func(l *simLink) { l.loss, l.jitter = c.loss, 20*time.Millisecond })
			p.cut("0.0", "1.0", true)
			p.wait(4 * time.Second)
			p.want("relay 0")
			p.cut("0.0", "1.0", false)
			p.changes()
			healed := p.now
			direct := func() bool { return p.routes() == [2]string{"direct 0", "direct 0"} }
			if !p.run(healed+time.Minute, direct) {
				t.Fatalf("it is not taken again\n%s", p)
			}
			worst, all = max(worst, p.now-healed), all+p.now-healed
			p.wait(10 * time.Second)
			if n := p.changes(); n != [2]int{1, 1} || !direct() {
				t.Errorf("%v changes\n%s", n, p)
			}
		}
		t.Logf("with %d %% loss it is taken again after %s on average, %s at most", c.loss, all/runs, worst)
		if worst > c.goal {
			t.Errorf("want %s", c.goal)
		}
	}
}

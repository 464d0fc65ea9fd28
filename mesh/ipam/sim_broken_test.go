package ipam

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/ipam/store"
)

// TestSimNotices breaks the machine on purpose, one thing at a time: the
// simulation must notice within so many operations.
func TestSimNotices(t *testing.T) {
	const limit = 240_000
	base := func(seed uint64) rules {
		return rules{
			seed: seed, space: netip.MustParsePrefix("10.32.0.0/26"), hosts: 4, late: 1, ops: 2000, phases: 1,
			pace: 30 * time.Millisecond, loss: 0.02, dup: 0.02, slow: 0.02, churn: 0.35, faults: 0.04, narrow: 0.2, static: 0.1,
			takeover: true, leave: true,
		}
	}
	for _, tt := range []struct {
		name  string
		apply func(r *rules)
	}{
		{"a block is given away without a higher version", func(r *rules) { r.sabotage.sameVersion = true }},
		{"rmpeer asks nobody", func(r *rules) {
			r.sabotage.unasked, r.hosts, r.late, r.script = true, 3, 0, donorDies
		}},
		{"an old copy of the database is believed", func(r *rules) {
			r.sabotage.trusting, r.hosts, r.late, r.script = true, 3, 0, oldCopy
		}},
		{"leases are not written", func(r *rules) {
			r.space, r.narrow = netip.MustParsePrefix("10.32.0.0/16"), 0.9
			r.loseWrite = func(_ *disk, x store.Write) bool { return strings.HasPrefix(x.Key, "x/") && x.Value != nil }
		}},
		{"blocks that are given away are not written", func(r *rules) {
			r.loseWrite = func(d *disk, x store.Write) bool {
				_, known := d.now[x.Key]
				return known && strings.HasPrefix(x.Key, "b/")
			}
		}},
		{"a lease ends by time", func(r *rules) {
			r.space, r.narrow = netip.MustParsePrefix("10.32.0.0/16"), 0.9
			r.onStart = func(h *host) { h.forgetLeases() }
		}},
		{"nothing is compared after a restart", func(r *rules) {
			r.oldDisk = true
			r.onStart = func(h *host) { h.core.sureness.unproven, h.core.sureness.mustMeet = false, false }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			done := 0
			for seed := uint64(1); done < limit && seed <= 200; seed++ {
				r := base(seed)
				r.name = t.Name()
				tt.apply(&r)
				w := newWorld(r)
				err := w.run()
				done += w.done
				if err != nil {
					first, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("%s: noticed in seed %d, after %d operations: %s", tt.name, seed, done, first)
					return
				}
			}
			t.Errorf("not noticed in %d operations", done)
		})
	}
}

// forgetLeases drops a lease of the host every ten seconds.
func (h *host) forgetLeases() {
	w, life := h.w, h.life
	var again func()
	again = func() {
		if h.life != life || !h.on {
			return
		}
		if h.core != nil && !h.busy && len(h.core.leased) > 0 {
			h.core.dropLease(sortedAddrs(h.core.leased)[0])
		}
		w.after(10*time.Second, again)
	}
	w.after(10*time.Second, again)
}

package e2e

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/bench"
	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// How fast weft carries traffic, compared with other ways, is measured by
// `weft-lab bench`; here are single parts.

const (
	rounds   = 3 // of each measurement; the paths take turns
	duration = 2 * time.Second
)

// way is where one measurement goes.
type way struct {
	name  string
	from  *lab.Place
	at    netip.Addr
	rates []float64 // Gbit/s, one for each round
}

// median of what was measured.
func (w *way) median() float64 {
	s := slices.Sorted(slices.Values(w.rates))
	return s[len(s)/2]
}

// How long it takes until a host that is launched has an established connection
// to one that runs, and that one to it.
func BenchmarkLaunch(b *testing.B) {
	const pairs = 7
	c := newCluster(b, 2*pairs)
	b.ResetTimer()
	var took, alone []time.Duration
	for pair := range slices.Chunk(c.nodes, 2) {
		begun := time.Now()
		pair[0].launch()
		alone = append(alone, time.Since(begun))
		begun = time.Now()
		pair[1].launch(pair[0].Addr().String())
		for deadline := begun.Add(time.Minute); ; {
			err := c.isMesh(pair...)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				b.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		took = append(took, time.Since(begun))
		for _, n := range pair { // the next two have the machine for themselves
			n.must("stop")
		}
	}
	slices.Sort(took)
	slices.Sort(alone)
	middle := took[len(took)/2]
	b.Logf("data path %s: from launch to established at both ends %s (median of %d, %s to %s); the first launch alone %s",
		run.datapath, middle.Round(time.Millisecond), pairs, took[0].Round(time.Millisecond), took[pairs-1].Round(time.Millisecond),
		alone[pairs/2].Round(time.Millisecond))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(middle.Milliseconds()), "ms")
}

// The ways of weft that `weft-lab bench` compares with others can be measured.
// What they were is worth nothing beside other tests.
func TestBenchWays(t *testing.T) {
	parallelAs(t, engined, 15*time.Second)
	skipHere(t)
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join(run.bin, "weft-lab"), "bench", "--rounds", "1", "--ways", "weft", "--out", out)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	b, err := os.ReadFile(filepath.Join(out, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r bench.Results
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Ways) != 1 || len(r.Failed) > 0 {
		t.Errorf("%d ways, failed: %q", len(r.Ways), r.Failed)
	}
	for _, w := range r.Ways {
		for _, name := range []string{"tcp1", "cpu1"} {
			if f := w.Figures[name]; f == nil || f.Median <= 0 {
				t.Errorf("%s: no figure %s: %+v", w.Title, name, f)
			}
		}
	}
}

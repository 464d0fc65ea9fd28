package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

const (
	rounds   = 3 // of each measurement; the paths take turns
	duration = 2 * time.Second
)

// way is where one measurement goes.
type way struct {
	name     string
	from, to *lab.Place
	at       netip.Addr
	streams  int
	rates    []float64 // Gbit/s, one for each round
}

// median of what was measured.
func (w *way) median() float64 {
	s := slices.Sorted(slices.Values(w.rates))
	return s[len(s)/2]
}

// Throughput of TCP between containers on two hosts, next to the network that
// is below it, in one run: what counts is the ratio.
func BenchmarkThroughput(b *testing.B) {
	if _, err := exec.LookPath("iperf3"); err != nil {
		b.Skip("SKIPPED, NOT MEASURED: ", err)
	}
	c := joined(b, 2)
	boxes := c.attachEach()
	whole(c, boxes)
	h1, h2 := c.nodes[0], c.nodes[1]
	neighbour := h1.attach("neighbour", "10.32.0.9")
	ways := []*way{
		{name: "bare veth between the hosts", from: h1.Place, to: h2.Place, at: h2.Addr(), streams: 1},
		{name: "containers on two hosts", from: boxes[0].Place, to: boxes[1].Place, at: boxes[1].addr, streams: 1},
		{name: "containers on two hosts, 4 streams", from: boxes[0].Place, to: boxes[1].Place, at: boxes[1].addr, streams: 4},
		{name: "containers on one host", from: boxes[0].Place, to: neighbour.Place, at: neighbour.addr, streams: 1},
	}
	for _, p := range []*lab.Place{h2.Place, boxes[1].Place, neighbour.Place} {
		log := filepath.Join(b.TempDir(), "iperf3-"+strings.ReplaceAll(p.Name(), "/", "-"))
		if _, err := p.Start(b.Context(), log, "iperf3", "--server"); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for range rounds {
		for _, w := range ways {
			rate, err := w.measure(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			w.rates = append(w.rates, rate)
		}
	}
	bare := ways[0].median()
	var text strings.Builder
	for _, w := range ways {
		fmt.Fprintf(&text, "\n%-36s %6.2f Gbit/s  %5.1f %% of bare veth  (%.2f)", w.name, w.median(), 100*w.median()/bare, w.rates)
	}
	b.Logf("data path %s, TCP, median of %d rounds of %s:%s", run.datapath, rounds, duration, text.String())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(bare, "bare-Gbit/s")
	b.ReportMetric(ways[1].median(), "weft-Gbit/s")
	b.ReportMetric(ways[1].median()/bare, "weft/bare")
}

// measure runs iperf3 once and returns what the other end got, in Gbit/s.
func (w *way) measure(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, (duration+20*time.Second)*run.slow())
	defer cancel()
	args := []string{"iperf3", "--json", "--client", w.at.String(), "--time", fmt.Sprint(int(duration.Seconds())), "--parallel", fmt.Sprint(w.streams)}
	var out struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	for {
		r := w.from.Run(ctx, args...)
		err := json.Unmarshal([]byte(r.Stdout), &out)
		if err == nil && out.Error == "" && r.Err == nil {
			return out.End.Received.Rate / 1e9, nil
		}
		// The server may not listen yet.
		if ctx.Err() != nil || !strings.Contains(out.Error, "refused") && !strings.Contains(out.Error, "busy") {
			return 0, fmt.Errorf("%s: %w: %s", w.name, errors.Join(err, r.Err), out.Error)
		}
		out.Error = ""
		time.Sleep(50 * time.Millisecond)
	}
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

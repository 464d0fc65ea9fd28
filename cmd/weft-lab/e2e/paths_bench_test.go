package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pin makes the host's daemon compute on one core only. Threads that it makes
// later are made by those that are pinned.
func (n *node) pin(t testing.TB, core int) {
	t.Helper()
	for pid, name := range n.processes() {
		if name != "weftd" {
			continue
		}
		if r := n.Run(t.Context(), "taskset", "-a", "-p", "-c", strconv.Itoa(core), pid); r.Err != nil {
			t.Fatal(r)
		}
		return
	}
	t.Fatalf("%s has no daemon", n.Name())
}

// pinned measures with both ends of iperf3 on one core, too.
func (w *way) pinned(ctx context.Context, core int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, (duration+20*time.Second)*run.slow())
	defer cancel()
	r := w.from.Run(ctx, "iperf3", "--json", "--client", w.at.String(), "--time", fmt.Sprint(int(duration.Seconds())),
		"--affinity", fmt.Sprintf("%d,%d", core, core))
	var out struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil || r.Err != nil || out.Error != "" {
		return 0, fmt.Errorf("%s: %w: %s", w.name, errors.Join(err, r.Err), out.Error)
	}
	return out.End.Received.Rate / 1e9, nil
}

// Throughput of TCP between containers on two hosts, directly and through a
// third, in turns. The relay computes on one core and both ends on the other,
// directly and relayed alike: what counts is the ratio.
func BenchmarkRelay(b *testing.B) {
	for _, p := range []string{"iperf3", "taskset"} {
		if _, err := exec.LookPath(p); err != nil {
			b.Skip("SKIPPED, NOT MEASURED: ", err)
		}
	}
	const ends, relay = 0, 1
	c := joined(b, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.pin(b, ends)
	h2.pin(b, ends)
	h3.pin(b, relay)
	log := filepath.Join(b.TempDir(), "iperf3")
	if _, err := boxes[1].Start(b.Context(), log, "iperf3", "--server"); err != nil {
		b.Fatal(err)
	}
	type figures struct {
		way          way
		trip         []time.Duration
		ends, middle []float64 // seconds of CPU for a gigabyte
	}
	at := func(name string) *figures {
		return &figures{way: way{name: name, from: boxes[0].Place, at: boxes[1].addr}}
	}
	direct, relayed := at("directly"), at("through a relay")
	measure := func(f *figures, path string) {
		c.within("the path is "+path, returnTime, func() error { return usesPath(h1, h2, path) })
		for range 50 {
			ctx, cancel := tries(b, time.Second)
			if d, err := boxes[0].Ping(ctx, boxes[1].addr, 64, nil); err == nil {
				f.trip = append(f.trip, d)
			}
			cancel()
		}
		e, m := h1.cpu(b)+h2.cpu(b), h3.cpu(b)
		rate, err := f.way.pinned(b.Context(), ends)
		if err != nil {
			b.Fatal(err)
		}
		gigabytes := rate * duration.Seconds() / 8
		f.way.rates = append(f.way.rates, rate)
		f.ends = append(f.ends, (h1.cpu(b)+h2.cpu(b)-e).Seconds()/gigabytes)
		f.middle = append(f.middle, (h3.cpu(b)-m).Seconds()/gigabytes)
	}
	b.ResetTimer()
	for range rounds {
		measure(direct, "direct")
		if err := c.CutPair(b.Context(), "host1", "host2"); err != nil {
			b.Fatal(err)
		}
		measure(relayed, "host3")
		if err := c.HealAll(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	middle := func(s []float64) float64 { return slices.Sorted(slices.Values(s))[len(s)/2] }
	trip := func(s []time.Duration) time.Duration {
		if len(s) == 0 {
			b.Fatal("no ping was answered")
		}
		return slices.Sorted(slices.Values(s))[len(s)/2]
	}
	var text strings.Builder
	for _, f := range []*figures{direct, relayed} {
		fmt.Fprintf(&text, "\n%-16s %6.2f Gbit/s (%.2f); round trip %s; CPU for a gigabyte: both ends %.1f s, relay %.1f s",
			f.way.name, f.way.median(), f.way.rates, trip(f.trip).Round(10*time.Microsecond), middle(f.ends), middle(f.middle))
	}
	ratio := relayed.way.median() / direct.way.median()
	b.Logf("TCP, median of %d rounds of %s, relay on one core and both ends on the other:%s\nrelayed is %.0f %% of direct", rounds, duration, text.String(), 100*ratio)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(relayed.way.median(), "relayed-Gbit/s")
	b.ReportMetric(ratio, "relayed/direct")
	b.ReportMetric(float64((trip(relayed.trip) - trip(direct.trip)).Microseconds()), "added-µs")
}

// What hosts that have nothing to say send each other, and what a daemon takes
// of its machine, by the number of hosts. WEFT_HOSTS looks at any other number.
func BenchmarkIdle(b *testing.B) {
	sizes := []int{3, 12, 50}
	if text := os.Getenv("WEFT_HOSTS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		sizes = []int{n}
	}
	for _, n := range sizes {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			c := newCluster(b, n)
			begun := time.Now()
			for _, h := range c.nodes {
				if h.number == 1 {
					h.launch(withoutSpace)
				} else {
					h.launch(withoutSpace, c.nodes[0].Addr().String())
				}
			}
			launched := time.Now()
			c.wait("all see all", time.Duration(n)*time.Second, func() error { return c.isMesh() })
			b.Logf("%d hosts: launched one after the other in %s, all see all %s after the last one",
				n, launched.Sub(begun).Round(100*time.Millisecond), time.Since(launched).Round(10*time.Millisecond))
			const settle, look = 30 * time.Second, time.Minute
			rest(b.Context(), settle) // probes of paths become rare with time
			b.ResetTimer()
			var bytes, packets, memory uint64
			var cpu time.Duration
			count := func() (by, pk uint64, cp time.Duration) {
				for _, h := range c.nodes {
					l, err := h.Netlink().LinkByName("eth0")
					if err != nil {
						b.Fatal(err)
					}
					by, pk, cp = by+l.Attrs().Statistics.TxBytes, pk+l.Attrs().Statistics.TxPackets, cp+h.cpu(b)
				}
				return by, pk, cp
			}
			by, pk, cp := count()
			begun = time.Now()
			rest(b.Context(), look)
			bytes, packets, cpu = count()
			bytes, packets, cpu = bytes-by, packets-pk, cpu-cp
			took := time.Since(begun).Seconds()
			for _, h := range c.nodes {
				memory += uint64(h.daemonUse(b).memory)
			}
			hosts := float64(n)
			b.Logf("%d idle hosts for %.0f s; each sends %.0f bytes and %.1f packets a second, and takes %.2f %% of a core and %.1f MB",
				n, took, float64(bytes)/took/hosts, float64(packets)/took/hosts, 100*cpu.Seconds()/took/hosts, float64(memory)/1e6/hosts)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(bytes)/took/hosts, "B/s/host")
			b.ReportMetric(float64(packets)/took/hosts, "packets/s/host")
			b.ReportMetric(float64(memory)/1e6/hosts, "MB/host")
			b.ReportMetric(100*cpu.Seconds()/took/hosts, "%CPU/host")
		})
	}
}

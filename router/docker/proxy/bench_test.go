package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// BenchmarkProxy does the same beside the proxy and through it, in turn, and
// reports both and their ratio. The engine is a fake one that answers at once:
// what a real one takes hides the difference.
func BenchmarkProxy(b *testing.B) {
	const bulk = 64 << 20
	get := func(path string) func(*testing.B, *http.Client) {
		return func(b *testing.B, c *http.Client) {
			r, err := c.Get("http://docker" + path)
			check(b, err)
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				b.Fatal(err)
			}
			r.Body.Close()
		}
	}
	runs := []struct {
		name string
		do   func(*testing.B, *http.Client)
		size float64 // bytes; zero: latency counts
	}{
		{"ping", get("/_ping"), 0},
		{"connect+ping", func(b *testing.B, c *http.Client) { get("/_ping")(b, c); c.CloseIdleConnections() }, 0},
		{"create", func(b *testing.B, c *http.Client) {
			r, err := c.Post("http://docker/containers/create?name=web", "application/json", strings.NewReader(`{"Image":"x"}`))
			check(b, err)
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}, 0},
		{"download", get("/bulk?n=67108864"), bulk},
		{"download-chunked", get("/bulk?chunked=1&n=67108864"), bulk},
		{"upload", func(b *testing.B, c *http.Client) {
			r, err := c.Post("http://docker/sink", "application/x-tar", io.LimitReader(zeros{}, bulk))
			check(b, err)
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}, bulk},
	}
	for _, run := range runs {
		b.Run(run.name, func(b *testing.B) {
			f := newFakeEngine(b)
			through := start(b, f, &fakeBackend{}, func(c *Config) { c.NoRewriteHosts = true })
			clients := [2]*http.Client{clientOf(b, f.socket), clientOf(b, through)}
			var took [2]time.Duration
			for _, c := range clients {
				run.do(b, c)
			}
			for b.Loop() {
				for i, c := range clients {
					begun := time.Now()
					run.do(b, c)
					took[i] += time.Since(begun)
				}
			}
			n := float64(b.N)
			b.ReportMetric(0, "ns/op")
			if run.size > 0 {
				b.ReportMetric(run.size*n*8/took[0].Seconds()/1e9, "Gbit/s-beside")
				b.ReportMetric(run.size*n*8/took[1].Seconds()/1e9, "Gbit/s-through")
				b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "x-throughput")
				return
			}
			b.ReportMetric(took[0].Seconds()*1e6/n, "µs-beside")
			b.ReportMetric(took[1].Seconds()*1e6/n, "µs-through")
			b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "x-latency")
		})
	}
}

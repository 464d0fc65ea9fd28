package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// dockerWay is one way to have a container in a network.
type dockerWay struct {
	name  string
	flags string     // of docker, and of docker run
	to    netip.Addr // on the other host; zero: nobody answers
	took  []time.Duration
}

func (w *dockerWay) median() time.Duration {
	return slices.Sorted(slices.Values(w.took))[len(w.took)/2]
}

// dockerWays are an engine's own bridge, and the two ways that weft offers.
func dockerWays() []*dockerWay {
	return []*dockerWay{
		{name: "bridge", flags: "docker run --network bridge"},
		{name: "plugin", flags: "docker run --network weft"},
		{name: "proxy", flags: "docker -H unix:///var/run/weft/docker.sock run"},
	}
}

// BenchmarkDockerFirstPacket takes the time from `docker run` to the arrival of
// the container's first packet on another host: of TCP, through the engine's own
// network address translation to that host, and through the switch to a container
// there. The ways take turns.
func BenchmarkDockerFirstPacket(b *testing.B) {
	const times = 9
	c := dockerised(b, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	server := h2.give("server")
	ways := dockerWays()
	arrived := make(chan time.Time, 1)
	listen := func(p *lab.Place, at netip.Addr) {
		l, err := p.Listen(b.Context(), netip.AddrPortFrom(at, 7777))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					arrived <- time.Now()
					_ = conn.Close()
				}
			}
		}()
	}
	listen(h2.Place, h2.Addr())
	listen(server.Place, server.addr)
	ways[0].to, ways[1].to, ways[2].to = h2.Addr(), server.addr, server.addr
	for round := range times + 1 {
		for _, w := range ways {
			begun := time.Now()
			h1.sh(fmt.Sprintf("/usr/bin/%s -d --name first %s nc -w 1 %s 7777 >/dev/null", w.flags, lab.DockerImage, w.to))
			select {
			case at := <-arrived:
				if round > 0 { // the first one warms caches
					w.took = append(w.took, at.Sub(begun))
				}
			case <-time.After(10 * time.Second):
				b.Fatalf("%s: nothing arrived: %s", w.name, h1.docker("logs", "first"))
			}
			h1.docker("rm", "-f", "first")
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, w := range ways {
		ratio := w.median().Seconds() / ways[0].median().Seconds()
		b.Logf("FIGURE docker run to the first packet on another host, %s: %s (%s to %s), %.2f of the bridge",
			w.name, w.median().Round(time.Millisecond), slices.Min(w.took).Round(time.Millisecond), slices.Max(w.took).Round(time.Millisecond), ratio)
		b.ReportMetric(float64(w.median().Milliseconds()), "ms-"+w.name)
	}
}

// BenchmarkDockerAttach counts containers that are started in a minute, one
// after the other and four at a time. The ways take turns.
func BenchmarkDockerAttach(b *testing.B) {
	const rounds, count = 2, 10
	c := dockerised(b, 1)
	h := c.nodes[0]
	b.ReportMetric(0, "ns/op")
	for _, atOnce := range []int{1, 4} {
		ways := dockerWays()
		for range rounds {
			for _, w := range ways {
				begun := time.Now()
				h.sh(fmt.Sprintf("seq %d | xargs -P %d -I N /usr/bin/%s -d --name many-N %s sleep 1000000 >/dev/null", count, atOnce, w.flags, lab.DockerImage))
				w.took = append(w.took, time.Since(begun))
				h.sh("/usr/bin/docker rm -f $(/usr/bin/docker ps -aq) >/dev/null")
			}
		}
		for _, w := range ways {
			best := slices.Min(w.took)
			b.Logf("FIGURE docker run, %d at a time, %s: %.0f containers a minute, %.2f of the bridge's time",
				atOnce, w.name, count/best.Minutes(), best.Seconds()/slices.Min(ways[0].took).Seconds())
			b.ReportMetric(count/best.Minutes(), fmt.Sprintf("per-min-%s-%d", w.name, atOnce))
		}
	}
}

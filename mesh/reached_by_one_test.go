package mesh

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// deaths counts the members that any host lost, by its log.
type deaths struct {
	slog.Handler
	lost *atomic.Int64
}

func (d deaths) Enabled(context.Context, slog.Level) bool { return true }

func (d deaths) WithAttrs(a []slog.Attr) slog.Handler {
	return deaths{d.Handler.WithAttrs(a), d.lost}
}

func (d deaths) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "peer lost" {
		d.lost.Add(1)
	}
	if d.Handler.Enabled(ctx, r.Level) {
		return d.Handler.Handle(ctx, r)
	}
	return nil
}

// A new host that only one other reaches kills nobody, and is not killed (the
// scenario of hashicorp/serf issue 185): neither before relays carry its packets
// to the others, nor when for minutes they do not, in an hour with 5 % loss.
//
// What protects it is the pulse (stepPulse): without it there are about 900
// deaths in the hour when it is cut off both ways. That it is nobody's member
// before a handshake is the rule of NotifyAlive.
func TestReachedByOneOnly(t *testing.T) {
	const hosts = 13
	for _, way := range []string{"both", "in"} {
		t.Run("cut "+way, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, hosts)
				var lost atomic.Int64
				c.log = slog.New(deaths{c.log.Handler(), &lost})
				for i, n := range c.nodes[:hosts-1] {
					if i == 0 {
						n.start()
					} else {
						n.start("192.0.2.1")
					}
				}
				old, fresh := c.nodes[:hosts-1], c.nodes[hosts-1]
				c.until(time.Minute, "one cluster", func() bool { return whole(old) })
				begun := time.Now()
				c.net.Loss(0.05)
				cut := func() {
					for _, n := range old[1:] {
						c.net.CutOneWay(n.overlay(), fresh.overlay())
						if way == "both" {
							c.net.CutOneWay(fresh.overlay(), n.overlay())
						}
					}
				}
				cut()
				fresh.start("192.0.2.1")
				time.Sleep(reachTime / 6)
				if got := len(fresh.members()); got != 1 || len(old[0].members()) != hosts-1 || len(old[1].members()) != hosts-2 {
					t.Errorf("members: %d of the new host, %v, %v", got, old[0].members(), old[1].members())
				}
				c.net.HealAll()
				t.Logf("members everywhere %v after relays carry", c.until(2*time.Minute, "one cluster", func() bool { return whole(c.nodes) }))
				for time.Since(begun) < reachTime {
					time.Sleep(3 * time.Minute)
					cut()
					time.Sleep(5 * time.Minute)
					c.net.HealAll()
				}
				if n := lost.Load(); n > 0 {
					t.Errorf("%d false deaths in %s", n, time.Since(begun))
				}
				if !whole(c.nodes) {
					t.Error("somebody is missing")
				}
			})
		})
	}
}

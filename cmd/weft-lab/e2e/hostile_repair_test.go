package e2e

import (
	"context"
	"testing"
	"time"
)

// Whoever changes the rules again and again, also while they are being
// repaired, gets them back in the end: what somebody left half gone is never
// taken for what was wanted.
func TestHostileRules(t *testing.T) {
	parallelAs(t, racing, 9*time.Second)
	s := newSiege(t)
	walls := wall{n: s.host, ipv6: true, rules: []string{
		"overlay-origin", "overlay-leak", "overlay-leak-late", "tunnel-only-us", "tunnel-input", "tunnel-forward", "switch-input", "switch-forward",
		"vxlan-origin", "vxlan-source-port", "vxlan-local-sender", "vxlan-untracked", "loose-port", "names-local", "names-origin",
	}}
	for _, storm := range []struct {
		name string
		do   func(ctx context.Context)
	}{
		{"every rule", func(ctx context.Context) { takeDown(ctx, walls) }},
		{"everything of everybody", func(ctx context.Context) { _ = s.host.Run(ctx, "nft", "flush", "ruleset") }},
		{"a table", func(ctx context.Context) { _ = s.host.Run(ctx, "nft", "delete", "table", "bridge", "weft") }},
		{"a chain", func(ctx context.Context) {
			_ = s.host.Run(ctx, "nft", "flush", "chain", "inet", "weft", "weft-input")
		}},
	} {
		t.Run(storm.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond*run.slow())
			defer cancel()
			times := 0
			for ; ctx.Err() == nil; times++ {
				storm.do(ctx)
			}
			s.standing(t, []wall{walls})
			s.hearFriend(t)
			t.Logf("taken away %d times", times)
		})
	}
}

package doctor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

// A ruleset that takes longer than slowRules to be listed is listed again after
// slowGap by a look that nobody asked for.
const (
	slowRules = time.Second
	slowGap   = 5 * time.Minute
)

// Rules reads the host's firewall.
func Rules() Step {
	return Step{Name: "firewall", Run: func(ctx context.Context) (func(*Facts), error) {
		f := readRules(ctx)
		return func(x *Facts) { x.Firewall = f }, nil
	}}
}

// listing is the host's firewall as it was listed last.
type listing struct {
	// Constant.
	generation func() (uint32, error)
	read       func(ctx context.Context) Firewall

	mu   sync.Mutex
	last Firewall
	good bool   // last is the whole, of generation at
	at   uint32 // its generation
	done time.Time
	took time.Duration
}

// ChangedRules reads the host's firewall when its generation number is another
// one than at the step before: hosts may have a hundred thousand rules. The step
// asked is for somebody who asks; own is content with what is up to 5 minutes
// old when listing takes long.
func ChangedRules(generation func() (uint32, error)) (own, asked Step) {
	return (&listing{generation: generation, read: readRules}).steps()
}

func (l *listing) steps() (own, asked Step) {
	own = Step{Name: "firewall", Run: func(ctx context.Context) (func(*Facts), error) { return l.step(ctx, true) }}
	asked = Step{Name: "firewall", Variant: "asked", Run: func(ctx context.Context) (func(*Facts), error) { return l.step(ctx, false) }}
	return own, asked
}

func (l *listing) step(ctx context.Context, content bool) (func(*Facts), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, err := l.generation()
	fresh := l.good && err == nil && now == l.at
	if !fresh && (!content || l.took <= slowRules || time.Since(l.done) >= slowGap) {
		begun := time.Now()
		l.last = l.read(ctx)
		l.done = time.Now()
		l.took = l.done.Sub(begun)
		l.good, l.at = err == nil && l.last.Err == "", now
	}
	f := l.last
	return func(x *Facts) { x.Firewall = f }, nil
}

// readRules reads nftables, and what the former interface of iptables has, if
// anything does.
func readRules(ctx context.Context) (f Firewall) {
	out, err := Output(ctx, "nft", "list", "ruleset")
	rules, whole := parseNFT(out)
	if !whole && err == nil {
		err = errTooLarge
	}
	f.Rules = rules
	if err == nil {
		f.Legacy, err = legacy(ctx)
	}
	if err != nil {
		f.Err, f.TooLarge = err.Error(), errors.Is(err, errTooLarge)
	}
	return f
}

func legacy(ctx context.Context) (Ruleset, error) {
	if names, _ := os.ReadFile("/proc/net/ip_tables_names"); len(bytes.TrimSpace(names)) == 0 {
		return nil, nil // without the module there is no file
	}
	out, err := Output(ctx, "iptables-legacy-save")
	rules, whole := parseIPTables(out)
	if !whole || errors.Is(err, errTooLarge) {
		return rules, errTooLarge
	}
	if err != nil {
		rules = nil // there may be no such program
	}
	return rules, nil
}

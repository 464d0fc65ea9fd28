package bridge

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	// countTime is how old a count may be: it takes a process, and statuses are asked
	// for in loops, and by monitoring.
	countTime = 5 * time.Second
	// countWait is how long somebody waits for a count: nft may wait for others who
	// write rules, and who wants a status must not.
	countWait = 200 * time.Millisecond
)

// fragments remembers what the firewall counted. All methods may be called from
// any goroutine.
type fragments struct {
	mu   sync.Mutex // guards what follows
	at   time.Time
	last map[netip.AddrPort]uint64 // not written to after that
	err  error                     // of the last count
	busy chan struct{}             // is closed when the count that runs has ended; nil: none does
}

// Fragmented returns, for each of [Config.Cuts], how many packets left in
// fragments because they were larger, as it was at most 5 s ago. It waits for nft
// for 0.2 s at most: then it returns what was counted before, which is also what
// it returns beside an error.
func (b *Bridge) Fragmented(ctx context.Context) (map[netip.AddrPort]uint64, error) {
	return b.fragments.counts(ctx, b.countFragmented)
}

// counts counts when what is known is too old, once for all who ask meanwhile.
// The count does not end with ctx.
func (f *fragments) counts(ctx context.Context, count func(context.Context) (map[netip.AddrPort]uint64, error)) (map[netip.AddrPort]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.last) > 0 && time.Since(f.at) < countTime {
		return f.last, nil
	}
	if f.busy == nil {
		f.busy = make(chan struct{})
		go f.count(context.WithoutCancel(ctx), f.busy, count)
	}
	busy := f.busy
	f.mu.Unlock()
	wait := time.NewTimer(countWait)
	select {
	case <-busy:
	case <-wait.C:
	case <-ctx.Done():
	}
	wait.Stop()
	f.mu.Lock()
	return f.last, f.err
}

func (f *fragments) count(ctx context.Context, done chan struct{}, count func(context.Context) (map[netip.AddrPort]uint64, error)) {
	n, err := count(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err = err; err == nil {
		f.last, f.at = n, time.Now()
	}
	f.busy = nil
	close(done)
}

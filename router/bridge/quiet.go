package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/router/bell"
)

const (
	maxWaiting = 1024        // addresses that wait to be written
	quietLimit = time.Second // for one run of nft
)

// quiets are the calls of [Bridge.Quiet] that are not written yet.
type quiets struct {
	// Constant after New.

	wake  bell.Bell     // there may be work
	limit time.Duration // for one run of nft

	mu      sync.Mutex // guards what follows
	waiting map[netip.AddrPort]time.Time
}

// quiet is what is to become of an address; left 0: it is heard again.
type quiet struct {
	from netip.AddrPort
	left time.Duration
}

// Quiet drops what comes to the WireGuard port from an address, for a while,
// except signals (router/signal). A second call for an address replaces the
// first; 0 ends it. A change of the walls ends all of them.
//
// It does not block: [Bridge.Run] writes what waits, within milliseconds as a
// rule, and logs what fails. What is over by then is not written. It is an error
// when too many addresses wait.
func (b *Bridge) Quiet(from netip.AddrPort, d time.Duration) error {
	from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	if !from.IsValid() {
		return fmt.Errorf("bridge: drop what comes from %s: %w", from, fs.ErrInvalid)
	}
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	q := &b.quiets
	q.mu.Lock()
	_, waits := q.waiting[from]
	full := !waits && len(q.waiting) >= maxWaiting
	if !full {
		q.waiting[from] = until
	}
	q.mu.Unlock()
	if full {
		return fmt.Errorf("bridge: drop what comes from %s: %d others wait for nft", from, maxWaiting)
	}
	q.wake.Ring()
	return nil
}

// Run does what [Bridge.Quiet] asks for, until ctx ends. It is called once.
func (b *Bridge) Run(ctx context.Context) {
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.quiets.wake:
		}
		err := b.writeQuiets(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !failed:
			b.log.Warn("old paths cannot be kept quiet", "err", err)
		case err == nil && failed:
			b.log.Info("old paths are kept quiet again")
		}
		failed = err != nil
	}
}

// writeQuiets writes all that waits at once. Bridge.mu is not needed: a
// set that is replaced meanwhile is empty then in any order.
func (b *Bridge) writeQuiets(ctx context.Context) error {
	q := &b.quiets
	q.mu.Lock()
	now := time.Now()
	list := make([]quiet, 0, len(q.waiting))
	for from, until := range q.waiting {
		switch left := until.Sub(now).Truncate(time.Millisecond); {
		case until.IsZero():
			list = append(list, quiet{from: from})
		case left > 0:
			list = append(list, quiet{from, left})
		}
	}
	clear(q.waiting)
	q.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, q.limit, errors.New("it took too long"))
	defer cancel()
	err := b.walls.quiet(ctx, list)
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return fmt.Errorf("drop what comes from %d addresses, %s one of them: %w", len(list), list[0].from, err)
}

// quiet puts addresses into their sets, or takes them out, in one transaction.
// knftables knows no timeouts of elements, and the time left of one that is
// there cannot be changed by all kernels: so it is taken out first.
func (t *tables) quiet(ctx context.Context, list []quiet) error {
	var script strings.Builder
	for _, q := range list {
		name := quietIPv4
		if q.from.Addr().Is6() {
			name = quietIPv6
		}
		element := fmt.Sprintf("element inet %s %s { %s . %d", tableName, name, q.from.Addr(), q.from.Port())
		fmt.Fprintf(&script, "add %s }\ndelete %s }\n", element, element)
		if q.left > 0 {
			fmt.Fprintf(&script, "add %s timeout %dms }\n", element, q.left.Milliseconds())
		}
	}
	return t.kernel.Do(func() error {
		return t.commits.write(func() error { return runQuiet(ctx, script.String()) })
	})
}

func runQuiet(ctx context.Context, script string) error {
	nft := exec.CommandContext(ctx, "nft", "-f", "-")
	nft.Stdin = strings.NewReader(script)
	nft.WaitDelay = quietLimit // who holds its output must not hold us
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

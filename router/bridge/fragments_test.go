package bridge

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestFragmentsAreCountedSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ep := netip.MustParseAddrPort("192.0.2.1:6784")
		var asked uint64
		var broken error
		nothing := true
		count := func(context.Context) (map[netip.AddrPort]uint64, error) {
			asked++
			if nothing || broken != nil {
				return nil, broken
			}
			return map[netip.AddrPort]uint64{ep: asked}, nil
		}
		var f fragments
		look := func(want, wantAsked uint64) {
			t.Helper()
			n, err := f.counts(t.Context(), count)
			if !errors.Is(err, broken) || n[ep] != want || asked != wantAsked {
				t.Errorf("%d counted, %v, asked %d times; want %d, asked %d times", n[ep], err, asked, want, wantAsked)
			}
		}
		look(0, 1) // nothing is cut: that costs nothing to find out
		look(0, 2)
		nothing = false
		look(3, 3)
		look(3, 3)
		time.Sleep(countTime - 1)
		look(3, 3)
		time.Sleep(time.Nanosecond)
		look(4, 4)
		time.Sleep(countTime)
		broken = errors.New("broken")
		look(4, 5) // what was known
		broken = nil
		look(6, 6)
	})
}

// TestFragmentsWaitForNobody: a status does not wait for a firewall that others
// hold, nor for longer than the one who asks wants; and nothing is counted twice
// at a time.
func TestFragmentsWaitForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ep := netip.MustParseAddrPort("192.0.2.1:6784")
		held := make(chan struct{})
		var asked atomic.Uint64
		count := func(ctx context.Context) (map[netip.AddrPort]uint64, error) {
			asked.Add(1)
			<-held
			return map[netip.AddrPort]uint64{ep: asked.Load()}, ctx.Err()
		}
		var f fragments
		look := func(patience, takes time.Duration, want uint64) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			begun := time.Now()
			n, err := f.counts(ctx, count)
			if took := time.Since(begun); took != takes || n[ep] != want || err != nil || asked.Load() != 1 {
				t.Errorf("after %s %d and %v, asked %d times; want %d after %s", took, n[ep], err, asked.Load(), want, takes)
			}
		}
		look(time.Minute, countWait, 0)
		look(time.Minute, countWait, 0)
		look(countWait/4, countWait/4, 0)
		close(held)
		synctest.Wait()
		look(time.Minute, 0, 1) // it was counted although those who asked are gone
	})
}

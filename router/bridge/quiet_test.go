package bridge

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/router/kerneltest"
)

// quieten is Quiet that waits until it is done, as long as nft takes.
func quieten(t *testing.T, b *Bridge, from netip.AddrPort, d time.Duration) error {
	t.Helper()
	b.quiets.limit = time.Minute
	if err := b.Quiet(from, d); err != nil {
		return err
	}
	return b.writeQuiets(t.Context())
}

// slow are walls that take their time and remember what they were told.
type slow struct {
	standing
	mu    sync.Mutex // guards what follows, and err
	takes time.Duration
	runs  [][]quiet
}

// become changes how they behave.
func (s *slow) become(takes time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes, s.err = takes, err
}

// told returns what they were told, in runs.
func (s *slow) told() [][]quiet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.runs)
}

func (s *slow) quiet(ctx context.Context, list []quiet) error {
	slices.SortFunc(list, func(a, b quiet) int {
		return cmp.Or(a.from.Addr().Compare(b.from.Addr()), cmp.Compare(a.from.Port(), b.from.Port()))
	})
	s.mu.Lock()
	s.runs = append(s.runs, list)
	takes, err := s.takes, s.err
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(takes):
		return err
	}
}

// running is a bridge with walls w, and what it logs; stop ends it.
func running(t *testing.T, w walls) (b *Bridge, log *bytes.Buffer, stop func()) {
	log = new(bytes.Buffer)
	b = New(Deps{Kernel: kerneltest.New("host"), Log: slog.New(slog.NewTextHandler(log, nil))})
	b.walls, b.accept = w, unneeded{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx)
	}()
	return b, log, func() { cancel(); <-done }
}

func quietFrom(i int) netip.AddrPort { return to(strangerIP, uint16(i)) }

// Whoever asks never waits, and what waits is written at once: the last word
// for each address, and nothing that is over.
func TestQuietWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slow{takes: 500 * time.Millisecond}
		b, _, stop := running(t, w)
		b.mu.Lock() // as Set does, for long
		began := time.Now()
		ok(t, b.Quiet(quietFrom(1), time.Second))
		synctest.Wait()
		for i := range 200 {
			ok(t, b.Quiet(quietFrom(2), time.Second))
			ok(t, b.Quiet(quietFrom(1000+i), 300*time.Millisecond)) // over before its turn
		}
		ok(t, b.Quiet(quietFrom(2), 2*time.Second))
		ok(t, b.Quiet(quietFrom(1), 0))
		ok(t, b.Quiet(quietFrom(1000), time.Second))
		ok(t, b.Quiet(to(netip.AddrFrom16(strangerIP.As16()), 3), time.Second)) // IPv4 in IPv6
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %s", took)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		b.mu.Unlock()
		want := [][]quiet{
			{{quietFrom(1), time.Second}},
			{
				{quietFrom(1), 0},
				{quietFrom(2), 1500 * time.Millisecond},
				{quietFrom(3), 500 * time.Millisecond},
				{quietFrom(1000), 500 * time.Millisecond},
			},
		}
		if got := fmt.Sprint(w.told()); got != fmt.Sprint(want) {
			t.Errorf("written:\n%v\nwant:\n%v", got, want)
		}
		// Only what is over: nothing to write.
		ok(t, b.Quiet(quietFrom(1), time.Second))
		synctest.Wait()
		ok(t, b.Quiet(quietFrom(2), time.Millisecond))
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(w.told()); n != 3 {
			t.Errorf("%d runs, want 3", n)
		}
		stop()
	})
}

// One that hangs is given up after a second, and ends with the bridge; what
// waits is bounded; a failure is told once.
func TestQuietHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slow{takes: time.Hour}
		b, log, stop := running(t, w)
		ok(t, b.Quiet(quietFrom(1), time.Hour))
		synctest.Wait()
		for i := range maxWaiting {
			ok(t, b.Quiet(quietFrom(2+i), time.Hour))
		}
		if err := b.Quiet(quietFrom(1), time.Hour); err == nil {
			t.Error("too many: no error")
		}
		ok(t, b.Quiet(quietFrom(2), 0)) // waits already
		time.Sleep(quietLimit + time.Millisecond)
		synctest.Wait()
		ok(t, b.Quiet(quietFrom(1), time.Hour)) // there is room again
		if runs := w.told(); len(runs) != 2 || len(runs[1]) != maxWaiting {
			t.Errorf("%d runs", len(runs))
		}
		time.Sleep(2 * quietLimit)
		synctest.Wait()
		w.become(0, errors.New("broken"))
		ok(t, b.Quiet(quietFrom(1), time.Hour))
		synctest.Wait()
		w.become(0, nil)
		ok(t, b.Quiet(quietFrom(1), time.Hour))
		synctest.Wait()
		for part, want := range map[string]int{"level=WARN": 1, "it took too long": 1, "quiet again": 1} {
			if n := strings.Count(log.String(), part); n != want {
				t.Errorf("%d times %q, want %d:\n%s", n, part, want, log)
			}
		}
		w.become(time.Hour, nil)
		ok(t, b.Quiet(quietFrom(1), time.Hour))
		synctest.Wait()
		began := time.Now()
		stop()
		if took := time.Since(began); took > 0 {
			t.Errorf("the end took %s", took)
		}
	})
}

func TestQuietFails(t *testing.T) {
	t.Parallel()
	b := New(Deps{Kernel: kerneltest.Fresh(t)})
	if err := b.Quiet(netip.AddrPort{}, time.Second); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("no address: %v", err)
	}
	if err := quieten(t, b, quietFrom(1), time.Second); err == nil {
		t.Error("before Set: no error")
	}
	ok(t, b.Set(t.Context(), testConfig(1)))
	ok(t, quieten(t, b, quietFrom(1), time.Second))
	ok(t, b.writeQuiets(t.Context())) // nothing waits
	ctx, stop := context.WithCancel(t.Context())
	stop()
	ok(t, b.Quiet(quietFrom(1), time.Second))
	if err := b.writeQuiets(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	ok(t, b.Remove(t.Context()))
	if err := quieten(t, b, quietFrom(1), time.Second); err == nil {
		t.Error("after Remove: no error")
	}
}

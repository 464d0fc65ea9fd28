package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

// garbage is a handshake message for nobody.
func garbage(kind uint32) []byte {
	nobody := &host{key: crypto.KeyFromSeed([32]byte{255, 1})}
	return forge(kind, nobody, random.Uint32(), random.Uint32())
}

// A stranger who writes a bound host's address on garbage and on copies does
// not keep the host's own handshakes from passing.
func TestSpoofedSource(t *testing.T) {
	const peers = 12
	var forged [20][]byte
	for i := range forged {
		forged[i] = garbage(uint32(1 + i%2))
	}
	for _, perSecond := range []int{12, 150} {
		for _, role := range []signal.Role{signal.WireGuardPort, signal.RelayPort} {
			w, r := star(t, peers)
			a, from := w.hosts[1], w.hosts[1].addr(role)
			copied := forge(initiation, w.hosts[2], 1)
			r.step(from, copied)
			for second := range 170 { // copies may pass later
				r.table.sweepSessions(w.now)
				for i := range perSecond {
					b := copied
					if i%4 > 0 {
						b = forged[i%len(forged)]
					}
					if v := r.step(from, b); v.why == none {
						t.Fatal("garbage passed")
					}
					w.now = w.now.Add(time.Second / time.Duration(perSecond))
				}
				// Each peer in turn: most are none of the last it spoke to.
				if v := r.step(from, forge(initiation, w.hosts[2+second%(peers-1)], random.Uint32())); v.why != none {
					t.Fatalf("%d a second: the host's own after %d s: %s", perSecond, second, reasonNames[v.why])
				}
			}
			if role == signal.WireGuardPort {
				if v := r.step(w.hosts[2].wg, forge(initiation, a, 9)); v.why != none {
					t.Errorf("another host: %s", reasonNames[v.why])
				}
			}
		}
	}
}

// When garbage comes so fast that not everybody can be tried, those that the
// host spoke to last, and the answers that are waited for, are found still; the
// work is bounded, and others are left alone.
func TestSearchBounded(t *testing.T) {
	w, r := star(t, 20)
	a := w.hosts[1]
	for _, h := range w.hosts[2 : 2+maxRecent] {
		if v := r.step(a.wg, forge(initiation, h, random.Uint32())); v.why != none {
			t.Fatal(reasonNames[v.why])
		}
	}
	tried, msg := 0, garbage(initiation)
	for range 10000 {
		switch v := r.step(a.wg, msg); v.why {
		case noTarget:
			tried++
		case limited:
		default:
			t.Fatal(reasonNames[v.why])
		}
	}
	if want := searchRate / len(r.table.peers); tried != want {
		t.Errorf("everybody was tried %d times, want %d", tried, want)
	}
	last := w.hosts[12]
	if v := r.step(a.wg, forge(initiation, last, 1)); v.why != limited {
		t.Errorf("a host that it did not speak to lately: %s", reasonNames[v.why])
	}
	for round := range 3 {
		for _, h := range w.hosts[2 : 2+maxRecent] {
			if v := r.step(a.wg, forge(initiation, h, random.Uint32())); v.why != none {
				t.Fatalf("round %d: a host that it spoke to lately: %s", round, reasonNames[v.why])
			}
		}
	}
	if v := r.step(last.wg, forge(initiation, a, 77)); v.why != none {
		t.Errorf("another host: %s", reasonNames[v.why])
	}
	if v := r.step(a.wg, forge(response, last, 78, 77)); v.why != none {
		t.Errorf("its answer to a host that it did not speak to lately: %s", reasonNames[v.why])
	}
	if v := r.step(a.wg, forge(initiation, last, 2)); v.why != none {
		t.Errorf("the host that it answered: %s", reasonNames[v.why])
	}
	w.now = w.now.Add(time.Second)
	if v := r.step(a.wg, forge(initiation, w.hosts[15], 3)); v.why != none {
		t.Errorf("a second later: %s", reasonNames[v.why])
	}
	// Who is no peer any more is forgotten.
	w.hosts = append(w.hosts[:15:15], w.hosts[16:]...)
	r.set()
	for _, p := range r.table.addresses[a.wg].recent {
		if p != nil && r.table.known(p.id) != p {
			t.Error("a host that is gone is tried")
		}
	}
	// Valid ones are bounded, however new.
	w.now = w.now.Add(time.Minute)
	sent := 0
	for range 1000 {
		if v := r.step(a.wg, forge(initiation, last, random.Uint32())); v.why == none {
			sent++
		}
	}
	if sent != handshakeBurst {
		t.Errorf("%d handshakes at once, want %d", sent, handshakeBurst)
	}
}

// Many sources together are bounded as well.
func TestSearchBoundedForAll(t *testing.T) {
	w, r := star(t, 30)
	tried, msg := 0, garbage(initiation)
	for range searchRate/len(r.table.peers) + 100 {
		for _, h := range w.hosts[1:] {
			if v := r.step(h.wg, msg); v.why == noTarget {
				tried++
			}
		}
	}
	if want := allSearchRate / len(r.table.peers); tried != want {
		t.Errorf("everybody was tried %d times, want %d", tried, want)
	}
}

// Garbage and handshakes of known sessions cost no memory.
func TestGarbageAllocates(t *testing.T) {
	w, r := star(t, 20)
	list := make([][]byte, 512)
	for i := range list {
		list[i] = garbage(initiation)
	}
	i := 0
	if n := testing.AllocsPerRun(400, func() {
		r.step(w.hosts[1].wg, list[i%len(list)])
		i++
	}); n > 0 {
		t.Errorf("%v allocations for each", n)
	}
}

func BenchmarkGarbage(b *testing.B) {
	for _, peers := range []int{20, 200} {
		for _, what := range []string{"searched", "refused"} {
			b.Run(fmt.Sprintf("%d/%s", peers, what), func(b *testing.B) {
				w, r := star(b, peers)
				for _, h := range w.hosts[2 : 2+maxRecent] {
					r.step(w.hosts[1].wg, forge(initiation, h, random.Uint32()))
				}
				msg := garbage(initiation)
				b.ReportAllocs()
				for b.Loop() {
					if what == "searched" {
						w.now = w.now.Add(time.Second)
					}
					r.step(w.hosts[1].wg, msg)
				}
			})
		}
	}
}

// scripted is a socket that does what a test says.
type scripted func() (packets int, err error)

func (s scripted) Receive(_ [][]byte, into []udp.Message) (int, error) {
	n, err := s()
	for i := range n {
		into[i] = udp.Message{Flow: udp.Flow{Remote: netip.MustParseAddrPort("198.51.100.1:1")}, Bytes: make([]byte, 40)}
	}
	return n, err
}

// Errors that pass do not end the relay, and fill no log; a closed socket does.
func TestReceiveFails(t *testing.T) {
	for _, closed := range []error{net.ErrClosed, os.ErrClosed} {
		synctest.Test(t, func(t *testing.T) {
			w, x := star(t, 1)
			_ = w
			var text bytes.Buffer
			r := &Relay{table: x.table, log: slog.New(slog.NewTextHandler(&text, nil))}
			passing := []error{unix.ENOBUFS, unix.ENOMEM, unix.ECONNREFUSED, unix.EINTR}
			calls := 0
			began := time.Now()
			err := r.loop(t.Context(), scripted(func() (int, error) {
				calls++
				switch {
				case calls <= 100:
					return 0, fmt.Errorf("recvmmsg: %w", passing[(calls-1)/25])
				case calls <= 200:
					return 3, nil // at once: this may go on failing
				case calls == 201:
					time.Sleep(forgive)
					return 3, nil
				}
				return 0, fmt.Errorf("read: %w", closed)
			}))
			if !errors.Is(err, closed) {
				t.Errorf("it ends with %v", err)
			}
			if n := r.table.counts.dropped[unbound]; n != 303 {
				t.Errorf("%d packets were looked at, want 303", n)
			}
			for part, want := range map[string]int{"cannot receive": 3, "receives again": 1, "level=WARN": 3} {
				if n := strings.Count(text.String(), part); n != want {
					t.Errorf("%d lines with %q, want %d:\n%s", n, part, want, text.String())
				}
			}
			if took := time.Since(began); took < 30*time.Second || took > 100*time.Second {
				t.Errorf("75 errors took %s", took)
			}
		})
	}
}

// It ends with its context also while it rests.
func TestReceiveFailsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, x := star(t, 1)
		ctx, end := context.WithTimeout(t.Context(), 5*time.Second)
		defer end()
		r := &Relay{table: x.table, log: slog.New(slog.DiscardHandler)}
		if err := r.loop(ctx, scripted(func() (int, error) { return 0, unix.ENOBUFS })); err != nil {
			t.Error(err)
		}
		if ctx.Err() == nil {
			t.Error("it ended by itself")
		}
	})
}

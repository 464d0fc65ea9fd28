package hello

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a Hello with its surroundings.
type host struct {
	*Hello
	addr netip.AddrPort
	logs *logBuffer

	mu      sync.Mutex
	results []Result
}

// hostConfig says how a host differs from the usual one.
type hostConfig struct {
	n       byte   // number: key, address, boot id
	secret  byte   // zero: 1
	cluster string // "": weft
	boot    uint64 // zero: n
	adverts func(own advert.Signed) []advert.Signed
	check   func(advert.Signed) error

	versions Versions // zero: 1
}

func key(n byte) *crypto.Key { return crypto.KeyFromSeed([32]byte{n}) }

func hostAddr(n byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 6783)
}

func newHost(t testing.TB, network *memNet, c hostConfig) *host {
	t.Helper()
	if c.secret == 0 {
		c.secret = 1
	}
	if c.cluster == "" {
		c.cluster = "weft"
	}
	if c.boot == 0 {
		c.boot = uint64(c.n)
	}
	h := &host{addr: hostAddr(c.n), logs: &logBuffer{}}
	own := signAdvert(t, key(c.n), c.boot, 1)
	h.Hello = New(Config{
		Key: key(c.n), Keys: crypto.Secret{c.secret}.Keys(c.cluster), Boot: c.boot,
		Log: slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		})),
		Adverts: func() []advert.Signed {
			if c.adverts != nil {
				return c.adverts(own)
			}
			return []advert.Signed{own}
		},
		Check: c.check, Versions: c.versions,
	})
	if network != nil {
		h.dialer = network.dialFrom(h.addr.Addr())
	}
	return h
}

func signAdvert(t testing.TB, k *crypto.Key, boot, seq uint64) advert.Signed {
	t.Helper()
	a, err := advert.Sign(k, advert.Advert{
		Boot: boot, Seq: seq, HelloPort: 6783, Datapath: advert.Userspace, Nickname: "host",
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serve starts h on ln and returns what ends it and waits.
func (h *host) serve(t testing.TB, ln net.Listener) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- h.Serve(ctx, ln, func(r Result) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.results = append(h.results, r)
		})
	}()
	var once sync.Once
	return func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

// got returns what the listener has completed so far.
func (h *host) got() []Result {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Result(nil), h.results...)
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

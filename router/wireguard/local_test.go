package wireguard

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weft/router/kerneltest"
)

// The rules of set_test, on wireguard-go instead of a model of the kernel.
func TestSetUserspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends, stop := openPair(t, newNetwork(oneWay), rand.New(rand.NewPCG(1, 1)))
		defer stop()
		a, b := ends[0], ends[1]
		calls := &counter{client: a.wg}
		a.wg = calls
		links := a.links.(*kerneltest.Fake)
		p := b.peer()
		p.Endpoint = b.addr
		must(t, a.Set(a.config(p)))
		must(t, b.Set(b.config(a.peer())))
		time.Sleep(time.Second)

		calls.n = 0
		links.TakeChanges()
		must(t, a.Set(a.config(p)))
		compare(t, "again", links.TakeChanges())
		if calls.n != 0 {
			t.Errorf("setting the same again configures %d times", calls.n)
		}
		is, err := a.wg.Device(name)
		must(t, err)
		want := &wgtypes.Device{
			PrivateKey: a.private, ListenPort: 6784, FirewallMark: 7,
			Peers: []wgtypes.Peer{{
				PublicKey: b.private.PublicKey(), PresharedKey: key(99), Endpoint: toUDP(b.addr),
				PersistentKeepaliveInterval: 25 * time.Second, AllowedIPs: p.full().AllowedIPs,
			}},
		}
		dynamic := cmpopts.IgnoreFields(wgtypes.Peer{}, "LastHandshakeTime", "ReceiveBytes", "TransmitBytes")
		if d := cmp.Diff(want, is, dynamic); d != "" {
			t.Errorf("the device (-want +got)\n%s", d)
		}

		// The end without an endpoint has learnt one.
		list, err := b.Peers()
		must(t, err)
		if len(list) != 1 || list[0].Endpoint != a.addr || list[0].RxBytes == 0 || list[0].LastHandshake.IsZero() {
			t.Errorf("the other end sees %+v", list)
		}
		held.add(a.wgo.LookupPeer(device.NoisePublicKey(p.PublicKey)))
		must(t, a.Set(a.config()))
		if list, err = a.Peers(); err != nil || len(list) != 0 {
			t.Errorf("removed, and still there: %+v, %v", list, err)
		}
	})
}

type counter struct {
	client
	n int
}

func (c *counter) ConfigureDevice(n string, cfg wgtypes.Config) error {
	c.n++
	return c.client.ConfigureDevice(n, cfg)
}

// A peer whose clock went back sends initiations older than the last one that
// we took. Only a re-add makes us take them.
func TestReaddForgetsTimestamps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(oneWay)
		var first []byte
		ends, stop := openPair(t, n, rand.New(rand.NewPCG(1, 1)))
		defer stop()
		a, b := ends[0], ends[1]
		n.mu.Lock()
		n.tap = func(p packet) {
			if p.b[0] == device.MessageInitiationType && p.from == a.addr && first == nil {
				first = p.b
			}
		}
		n.mu.Unlock()
		p := b.peer()
		p.Endpoint = b.addr
		must(t, b.Set(b.config(a.peer())))
		must(t, a.Set(a.config(p)))
		time.Sleep(time.Second)
		if first == nil || a.tun.got.Load() == 0 {
			t.Fatal("no tunnel")
		}
		answers := func(what string, want int) {
			t.Helper()
			n.mu.Lock()
			before := n.sent[device.MessageResponseType]
			n.mu.Unlock()
			n.deliver(b.addr, packet{a.addr, first})
			time.Sleep(time.Second)
			n.mu.Lock()
			defer n.mu.Unlock()
			if got := n.sent[device.MessageResponseType] - before; got != want {
				t.Errorf("%s: %d answers to an old initiation, want %d", what, got, want)
			}
		}
		answers("before", 0)
		must(t, b.Readd(a.peer()))
		answers("after a re-add", 1)
	})
}

// Each of these is one initiation, not two that void each other.
func TestInitiateUserspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(oneWay)
		ends, stop := openPair(t, n, rand.New(rand.NewPCG(1, 1)))
		defer stop()
		a, b := ends[0], ends[1]
		p := b.peer()
		must(t, b.Set(b.config(a.peer())))
		must(t, a.Set(a.config(p)))
		initiations := func(what string, want int, f func() error) {
			t.Helper()
			n.mu.Lock()
			before := n.sent[device.MessageInitiationType]
			n.mu.Unlock()
			must(t, f())
			time.Sleep(20 * time.Millisecond)
			n.mu.Lock()
			defer n.mu.Unlock()
			if got := n.sent[device.MessageInitiationType] - before; got != want {
				t.Errorf("%s: %d initiations, want %d", what, got, want)
			}
		}
		// Long after WireGuard's own last attempt, with traffic waiting: it
		// would initiate as soon as it is told an endpoint by the socket.
		time.Sleep(4900 * time.Millisecond)
		initiations("endpoint", 0, func() error { return a.SetEndpoint(p.PublicKey, b.addr) })
		initiations("initiate", 1, func() error { return a.Initiate(p.PublicKey) })
		initiations("too soon", 0, func() error { return a.Initiate(p.PublicKey) })
		time.Sleep(initiationGap)
		initiations("again", 1, func() error { return a.Initiate(p.PublicKey) })
		time.Sleep(initiationGap)
		p.Endpoint = b.addr
		held.add(a.wgo.LookupPeer(device.NoisePublicKey(p.PublicKey)))
		initiations("re-add", 1, func() error { return a.Readd(p) })
		time.Sleep(time.Second)
		if a.tun.got.Load() == 0 || b.tun.got.Load() == 0 {
			t.Error("no tunnel")
		}
		p.Endpoint = netip.AddrPort{}
		initiations("re-add without an endpoint", 0, func() error { return a.Readd(p) })
		if err := a.Initiate(public(9)); err == nil {
			t.Error("no error for a stranger")
		}
		if err := a.SetEndpoint(public(9), one); err == nil {
			t.Error("no error for a stranger's endpoint")
		}
	})
}

func TestLogHasNoKeys(t *testing.T) {
	var out bytes.Buffer
	k := wgtypes.Key(key(0xfe))
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		logf := logTo(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})))
		logf("failed to parse line %q", "private_key "+strings.Repeat("fe", 32))
		logf("failed to parse line %q", "private_key "+k.String())
		logf("%v - Sending keepalive packet", "peer(abcd…wxyz)")
		if level == slog.LevelInfo && out.Len() > 0 {
			t.Errorf("above debug: %s", &out)
		}
	}
	s := out.String()
	if strings.Contains(s, "fefefe") || strings.Contains(s, k.String()[:8]) || strings.Count(s, "(key)") != 2 || !strings.Contains(s, "peer(abcd…wxyz)") {
		t.Errorf("logged:\n%s", s)
	}
}

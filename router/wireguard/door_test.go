package wireguard

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// What a quiet endpoint sends does not arrive, so it moves nobody; and signals
// pass by WireGuard in both directions.
func TestDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends, stop := openPair(t, newNetwork(oneWay), rand.New(rand.NewPCG(1, 1)))
		defer stop()
		a, b := ends[0], ends[1]
		signals := make(chan heard, 10)
		b.door.receive = hear(signals)
		p := b.peer()
		p.Endpoint = b.addr
		must(t, b.Set(b.config(a.peer())))
		must(t, a.Set(a.config(p)))
		time.Sleep(time.Second)
		flows := func() (yes bool) {
			synctest.Wait() // what is under way has arrived
			before := b.tun.got.Load()
			time.Sleep(time.Second)
			return b.tun.got.Load() > before
		}
		if !flows() {
			t.Fatal("no tunnel")
		}

		must(t, b.Quiet(a.addr, 3*time.Second))
		if flows() {
			t.Error("heard from a quiet endpoint")
		}
		must(t, a.Send(b.addr, []byte("Why so quiet?"), SendOptions{}))
		if got := <-signals; got != (heard{a.addr, netip.Addr{}, "Why so quiet?"}) {
			t.Errorf("signal: %+v", got)
		}
		time.Sleep(2 * time.Second)
		if !flows() {
			t.Error("quiet for too long")
		}
		if synctest.Wait(); b.door.quiet.until.Load() != nil {
			t.Error("asking still costs a look")
		}

		must(t, b.Quiet(a.addr, time.Hour))
		must(t, b.Quiet(one, time.Hour)) // somebody else
		if flows() {
			t.Error("the second time it did not work")
		}
		must(t, b.Quiet(a.addr, 0))
		if !flows() {
			t.Error("not ended")
		}
		if err := b.Quiet(netip.AddrPort{}, time.Hour); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("no address: %v", err)
		}
		must(t, a.Send(b.addr, []byte("Without options there is no need of a raw socket"), SendOptions{TTL: 4}))
		<-signals
		must(t, b.Send(a.addr, []byte("Who wants it?"), SendOptions{}))
		if !flows() {
			t.Error("an unwanted signal did harm")
		}
	})
}

// Where raw sockets are not allowed, packets too large for their path leave as
// all others do; probes that need one say what is missing.
func TestDoorWithoutRawSockets(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with what it may do
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var rights [2]unix.CapUserData
		if err := unix.Capget(&header, &rights[0]); err != nil {
			t.Error(err)
			return
		}
		rights[0].Effective &^= 1 << unix.CAP_NET_RAW
		if err := unix.Capset(&header, &rights[0]); err != nil {
			t.Error(err)
			return
		}
		sent := &sentBind{}
		d := &door{Bind: sent, raw: &rawPort{port: 6784}}
		d.limit(map[netip.AddrPort]limit{one: {mtu: 700, routed: true}})
		if err := d.Send([][]byte{make([]byte, 1400)}, &endpoint{dst: one}); err != nil || len(sent.batches) != 1 {
			t.Errorf("%d batches sent, %v", len(sent.batches), err)
		}
		if err := d.signal(one, nil, SendOptions{DontFragment: true}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a probe: %v", err)
		}
	}()
	<-done
}

// In kernel mode it is somebody else who drops packets.
func TestQuietKernel(t *testing.T) {
	d, _, _ := openFake(t)
	if err := d.Quiet(one, time.Second); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("nobody to ask: %v", err)
	}
	var asked []any
	broken := errors.New("broken")
	d.quiet = func(from netip.AddrPort, t time.Duration) error {
		asked = append(asked, from, t)
		return broken
	}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(one.Addr().As16()), one.Port())
	if err := d.Quiet(mapped, time.Second); !errors.Is(err, broken) {
		t.Errorf("a failure: %v", err)
	}
	if len(asked) != 2 || asked[0] != one || asked[1] != time.Second {
		t.Errorf("asked for %v", asked)
	}
}

// The list against a plain one.
func TestQuietList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addresses := []netip.AddrPort{one, two, netip.AddrPortFrom(one.Addr(), 1)}
		for seed := range uint64(200) {
			r := rand.New(rand.NewPCG(seed, 1))
			var q quietList
			plain := map[netip.AddrPort]time.Time{}
			for range 30 {
				a := addresses[r.IntN(len(addresses))]
				switch r.IntN(3) {
				case 0:
					d := time.Duration(r.IntN(6)) * time.Second
					q.set(a, d)
					plain[a] = time.Now().Add(d)
				case 1:
					time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
				case 2:
					if got, want := q.has(memoryEndpoint(a)), time.Now().Before(plain[a]); got != want {
						t.Fatalf("seed %d: %s quiet: %t, want %t", seed, a, got, want)
					}
				}
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if q.until.Load() != nil {
				t.Fatalf("seed %d: something is left", seed)
			}
		}
	})
}

// Asking is on the way of every packet.
func BenchmarkDoorAdmit(b *testing.B) {
	for _, c := range []struct {
		name  string
		quiet []netip.AddrPort
	}{{"empty", nil}, {"one", []netip.AddrPort{two}}} {
		b.Run(c.name, func(b *testing.B) {
			var d door
			for _, a := range c.quiet {
				d.quiet.set(a, time.Hour)
			}
			packet, ep := make([]byte, 1452), &endpoint{dst: one}
			b.ReportAllocs()
			for b.Loop() {
				if !d.admit(packet, ep) {
					b.Fatal("refused")
				}
			}
		})
	}
}

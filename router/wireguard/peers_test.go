package wireguard

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReaddKernelPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, wg, links := openFake(t)
		p := peer(2)
		set(t, d, config(p))
		text(wg, links)

		must(t, d.Readd(p))
		compare(t, "without an endpoint", text(wg, links),
			"wg set peer oqKi remove peer oqKi preshared-key AgIC persistent-keepalive 25 allowed-ips fd77:6566:7400::200/128")
		p.Endpoint = one
		must(t, d.Readd(p))
		compare(t, "with an endpoint", text(wg, links),
			"wg set peer oqKi remove peer oqKi preshared-key AgIC endpoint 192.0.2.1:6784 persistent-keepalive 25 allowed-ips fd77:6566:7400::200/128")

		p.Endpoint = netip.AddrPort{}
		set(t, d, config(p))
		compare(t, "set again", text(wg, links))

		// Only a keepalive makes the kernel begin at once.
		p.Endpoint, p.Keepalive = one, 0
		before := time.Now()
		must(t, d.Readd(p))
		compare(t, "without a keepalive", text(wg, links),
			"wg set peer oqKi remove peer oqKi preshared-key AgIC endpoint 192.0.2.1:6784 persistent-keepalive 1 allowed-ips fd77:6566:7400::200/128",
			"wg set peer oqKi update-only persistent-keepalive 0")
		if took := time.Since(before); took != initiationGap {
			t.Errorf("the second initiation came %s after the first, want %s", took, initiationGap)
		}

		if err := d.Readd(peer(9)); !errors.Is(err, errNoPeer) {
			t.Errorf("a stranger: %v", err)
		}
		if err := d.Readd(Peer{}); err == nil {
			t.Error("no error for no peer")
		}
		compare(t, "and nothing done", text(wg, links))
	})
}

func TestInitiateKernelPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, wg, links := openFake(t)
		p := peer(2)
		set(t, d, config(p))
		text(wg, links)

		if err := d.Initiate(p.PublicKey); err == nil {
			t.Error("no error without an endpoint")
		}
		// A try of a path machine is one initiation: the kernel begins with
		// the endpoint, and Initiate leaves that alone.
		readd := "wg set peer oqKi remove peer oqKi preshared-key AgIC endpoint 192.0.2.1:6784 persistent-keepalive 25 allowed-ips fd77:6566:7400::200/128"
		must(t, d.SetEndpoint(p.PublicKey, one))
		must(t, d.Initiate(p.PublicKey))
		compare(t, "a try", text(wg, links), readd)
		must(t, d.Initiate(p.PublicKey))
		compare(t, "too soon", text(wg, links))
		time.Sleep(initiationGap)
		must(t, d.Initiate(p.PublicKey))
		compare(t, "later", text(wg, links), readd)

		// A tunnel that stands gets another endpoint without losing it.
		time.Sleep(time.Second)
		wg.peer(p.PublicKey).LastHandshakeTime = time.Now()
		must(t, d.SetEndpoint(p.PublicKey, two))
		compare(t, "a path", text(wg, links), "wg set peer oqKi update-only endpoint [2001:db8::2]:6784")

		// Initiate goes where the peer is, not where it was thought to be.
		time.Sleep(time.Second)
		wg.roam(p.PublicKey, netip.MustParseAddrPort("198.51.100.9:40000"))
		must(t, d.Initiate(p.PublicKey))
		compare(t, "roamed", text(wg, links),
			"wg set peer oqKi remove peer oqKi preshared-key AgIC endpoint 198.51.100.9:40000 persistent-keepalive 25 allowed-ips fd77:6566:7400::200/128")

		if err := d.Initiate(public(9)); !errors.Is(err, errNoPeer) {
			t.Errorf("a stranger: %v", err)
		}
		if err := d.SetEndpoint(public(9), one); !errors.Is(err, errNoPeer) {
			t.Errorf("a stranger's endpoint: %v", err)
		}
		if err := d.SetEndpoint(p.PublicKey, netip.AddrPort{}); err == nil {
			t.Error("no error for no endpoint")
		}
	})
}

func TestCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, wg, _ := openFake(t)
		p := peer(2)
		p.Endpoint = one
		set(t, d, config(p, peer(3)))
		check := func(what string, want PeerStatus) {
			t.Helper()
			list, err := d.Peers()
			must(t, err)
			want.PublicKey = p.PublicKey
			for _, s := range list {
				if s.PublicKey == p.PublicKey {
					if d := cmp.Diff(want, s, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
						t.Errorf("%s (-want +got)\n%s", what, d)
					}
				}
			}
			if len(list) != 2 {
				t.Errorf("%d peers", len(list))
			}
		}
		check("new", PeerStatus{Endpoint: one})
		at := time.Now()
		is := wg.peer(p.PublicKey)
		is.ReceiveBytes, is.TransmitBytes, is.LastHandshakeTime = 100, 200, at
		check("read", PeerStatus{Endpoint: one, RxBytes: 100, TxBytes: 200, LastHandshake: at})

		time.Sleep(time.Second)
		is.ReceiveBytes = 150 // not read by anybody before the re-add
		must(t, d.Readd(p))
		check("re-added", PeerStatus{Endpoint: one, RxBytes: 150, TxBytes: 200})
		is = wg.peer(p.PublicKey)
		is.ReceiveBytes, is.TransmitBytes = 10, 20
		check("counting on", PeerStatus{Endpoint: one, RxBytes: 160, TxBytes: 220})
		must(t, d.Readd(p))
		must(t, d.Readd(p))
		check("and on", PeerStatus{Endpoint: one, RxBytes: 160, TxBytes: 220})

		// Somebody else did it, with `wg set`.
		wg.peer(p.PublicKey).ReceiveBytes = 5
		check("before", PeerStatus{Endpoint: one, RxBytes: 165, TxBytes: 220})
		wg.peer(p.PublicKey).ReceiveBytes = 1
		check("after", PeerStatus{Endpoint: one, RxBytes: 166, TxBytes: 220})

		// A peer that left and came back is a new one.
		set(t, d, config(peer(3), peer(4)))
		set(t, d, config(p, peer(3)))
		check("back", PeerStatus{Endpoint: one})
	})
}

// A start re-adds a thousand peers: the device is not read for each.
func TestReaddReadsSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, wg, _ := openFake(t)
		var peers []Peer
		for i := range 90 {
			peers = append(peers, peer(byte(i)))
		}
		set(t, d, config(peers...))
		time.Sleep(time.Second)
		wg.reads = 0
		for _, p := range peers {
			must(t, d.Readd(p))
			time.Sleep(10 * time.Millisecond)
		}
		if wg.reads < 4 || wg.reads > 6 {
			t.Errorf("the device was read %d times within 0.9 s, want about 5", wg.reads)
		}
	})
}

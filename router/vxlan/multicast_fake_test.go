package vxlan_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
	"github.com/weftnet/weft/router/vxlan"
)

// A kernel that cannot, or whose administrator does not let us, floods; that is
// said once, and is no error.
func TestMulticastNotAllowed(t *testing.T) {
	for _, tt := range []struct {
		err  error
		word string
		once bool
	}{
		{syscall.EPERM, "operation not permitted", true},
		{syscall.EOPNOTSUPP, "not supported", true},
		{syscall.EINVAL, "invalid argument", true},
		{syscall.ENOMEM, "cannot allocate memory", false},
	} {
		h := kerneltest.New("host")
		ok(t, h.AddBridge("weft", bridgeMAC, 1370))
		ok(t, h.AddWireGuard("weft-wg", 1444))
		f := &forbidding{Fake: h, err: tt.err}
		c := newClock()
		var log bytes.Buffer
		p := vxlan.NewPruning(f, "weft-wg", slog.New(slog.NewTextHandler(&log, nil)))
		p.Clock(c.now, time.Hour)
		ok(t, p.Set(config(2, 3)))
		if !strings.Contains(log.String(), tt.word) || strings.Count(log.String(), "multicast groups") != 1 {
			t.Errorf("log %s", log.String())
		}
		if l, err := h.Link("weft-mc"); err == nil {
			t.Errorf("it left %+v", l)
		}
		for range 30 {
			repaired, err := p.Check()
			if ok(t, err); len(repaired) > 0 {
				t.Errorf("repaired %q", repaired)
			}
		}
		// What may pass is tried again, a few times and then once a minute.
		for minutes, want := range []int{10, 11, 12} {
			if tt.once {
				want = 1
			}
			if f.tries != want {
				t.Errorf("%v: tried %d times after %d minutes, want %d", tt.err, f.tries, minutes, want)
			}
			c.seconds(61)
			for range 3 {
				_, err := p.Check()
				ok(t, err)
			}
		}
		ok(t, p.Remove())
	}
}

// forbidding does not let multicast be diverted.
type forbidding struct {
	*kerneltest.Fake
	err   error
	tries int
}

func (f *forbidding) Divert(string, string, []netip.Addr) (kernel.Diversion, error) {
	f.tries++
	return nil, fmt.Errorf("divert: %w", f.err)
}

// What is done, as commands; and what is asked, of containers alone.
func TestMulticastCommands(t *testing.T) {
	h := kerneltest.New("host")
	ok(t, h.AddBridge("weft", bridgeMAC, 1370))
	ok(t, h.AddWireGuard("weft-wg", 1444))
	ok(t, h.AddVeth("wv1", 1370, h.Namespace("box"), "weft0", kernel.MAC{}))
	ok(t, h.SetMaster("wv1", "weft"))
	ok(t, h.SetUp("wv1", true))
	c := newClock()
	p := vxlan.NewPruning(h, "weft-wg", slog.New(slog.NewTextHandler(t.Output(), nil)))
	p.Clock(c.now, time.Hour)
	t.Cleanup(func() { ok(t, p.Remove()) })
	ok(t, p.Set(config(2, 3)))
	hear := func(n int, frame []byte) {
		t.Helper()
		before := p.Changes()
		ok(t, h.Hear("weft-wg", carried(n, frame)))
		for deadline := time.Now().Add(10 * time.Second); p.Changes() == before; {
			if time.Now().After(deadline) {
				t.Fatal("not heard")
			}
			<-time.After(time.Millisecond)
		}
	}
	c.seconds(unheard)
	p.Sweep()
	hear(2, report(2, recordExclude, group4))
	hear(3, report(3, recordExclude, other4))
	c.seconds(settled)
	p.Sweep()
	const mc = "ip link add weft-mc address 02:00:00:00:00:03 mtu 1370 type vxlan id 8388615 dstport 6785 srcport 512 1023 local fd77:6566:7400::1 nolearning udp6zerocsumtx udp6zerocsumrx"
	var got []string
	ok(t, h.SetMAC("weft-mc", kernel.MAC{2, 0, 0, 0, 0, 3}))
	all, err := kerneltest.Print(h)
	ok(t, err)
	for line := range strings.Lines(all) {
		if strings.Contains(line, "weft-mc") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		mc, "ip link set weft-mc xdpgeneric object drop.o", "ip link set weft-mc up",
		"bridge mdb replace dev weft-mc port weft-mc grp 239.1.2.3 permanent dst fd77:6566:7400::2 vni 7",
		"bridge mdb replace dev weft-mc port weft-mc grp 239.1.2.4 permanent dst fd77:6566:7400::3 vni 7",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if v, err := h.Sysctl("net/ipv6/conf/weft-mc/disable_ipv6"); v != "1" || err != nil {
		t.Errorf("disable_ipv6 = %s, %v", v, err)
	}
	sent := h.Sent()
	if len(sent) != 2 || !strings.HasSuffix(sent[0], "dev wv1") || !strings.HasSuffix(sent[1], "dev wv1") {
		t.Errorf("asked %q", sent)
	}
	// When a report was lost, nothing is believed: all is flooded.
	h.TakeChanges()
	ok(t, h.Hear("weft-wg", nil))
	p.Sweep()
	if changes := h.TakeChanges(); len(changes) != 1 || changes[0] != "divert no multicast from weft-vx" {
		t.Errorf("after a loss: %q", changes)
	}
}

// carried is a frame as it comes out of the tunnel from a host.
func carried(n int, frame []byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, byte(16 + len(frame)), 17, 64}
	from, to := remote(byte(n)).As16(), remote(1).As16()
	b = append(append(b, from[:]...), to[:]...)
	b = append(b, 2, 0, 6785>>8, 6785&0xff, 0, byte(16+len(frame)), 0, 0, 8, 0, 0, 0, 0, 0, 7, 0)
	return append(b, frame...)
}

package meshtest

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		n.Delay(time.Millisecond)
		pa, pb := netip.MustParseAddrPort("[fd77::1]:6786"), netip.MustParseAddrPort("[fd77::2]:6786")
		a, b := n.Transport(pa), n.Transport(pb)
		x, y := pa.Addr(), pb.Addr()
		passes := func(from, to *Transport) bool {
			t.Helper()
			if _, err := from.WriteTo([]byte("x"), to.addr.String()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			select {
			case p := <-to.packets:
				return p.From.String() == from.addr.String()
			default:
				return false
			}
		}
		connects := func(from, to *Transport) (time.Duration, bool) {
			t.Helper()
			start := time.Now()
			c, err := from.DialTimeout(to.addr.String(), time.Second)
			if err != nil {
				return time.Since(start), false
			}
			defer c.Close()
			defer (<-to.conns).Close()
			return time.Since(start), c.RemoteAddr().String() == to.addr.String()
		}
		check := func(step string, ab, ba, stream bool, took time.Duration) {
			t.Helper()
			if got := passes(a, b); got != ab {
				t.Errorf("%s: a to b: %v", step, got)
			}
			if got := passes(b, a); got != ba {
				t.Errorf("%s: b to a: %v", step, got)
			}
			if d, got := connects(a, b); got != stream || d != took {
				t.Errorf("%s: stream: %v after %v", step, got, d)
			}
		}
		check("open", true, true, true, 2*time.Millisecond)
		n.CutOneWay(x, y)
		check("cut one way", false, true, false, time.Second)
		n.Cut(x, y)
		check("cut", false, false, false, time.Second)
		n.Heal(y, x)
		check("healed", true, true, true, 2*time.Millisecond)
		n.Split([]netip.Addr{x}, []netip.Addr{y})
		n.HealAll()
		check("split and healed", true, true, true, 2*time.Millisecond)
		n.Filter(func(from, _ netip.Addr) bool { return from != x })
		check("filtered", false, true, false, time.Second)
		n.Filter(nil)
		n.Loss(1)
		check("all lost", false, false, true, 2*time.Millisecond)
		n.Loss(0)

		// A cut breaks what stands.
		c, err := a.DialTimeout(pb.String(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		n.CutOneWay(y, x)
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("a stream survives a cut")
		}
		n.HealAll()

		// Nobody waits for a receiver that does not read, or is gone.
		for range 2000 {
			_, _ = a.WriteTo(make([]byte, 10), pb.String())
		}
		for range 200 {
			_, _ = a.DialTimeout(pb.String(), time.Second)
		}
		time.Sleep(time.Second)
		if err := b.Shutdown(); err != nil {
			t.Error(err)
		}
		for range 2000 {
			_, _ = a.WriteTo(make([]byte, 10), pb.String())
		}
		if d, ok := connects(a, b); ok || d != 2*time.Millisecond {
			t.Errorf("after the end: %v after %v", ok, d)
		}
		if packets, bytes := n.Traffic(); packets < 4000 || bytes < 40000 {
			t.Errorf("%d packets, %d bytes", packets, bytes)
		}
		time.Sleep(time.Second)
	})
}

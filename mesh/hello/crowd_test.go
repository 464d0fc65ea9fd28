package hello

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// silent opens connections that say nothing, one after the other from so many
// sources in turn, and returns how many of them stand at the end.
func silent(t *testing.T, network *memNet, l *host, conns, sources int) (held []net.Conn, standing func() int) {
	for i := range conns {
		from := netip.AddrFrom4([4]byte{198, 51, 100, byte(i % sources)})
		c, err := network.dial(from, l.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		synctest.Wait()
	}
	return held, func() (n int) {
		for _, c := range held {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				n++
			}
		}
		return n
	}
}

// crowd opens silent connections and is through when the listener holds all.
func crowd(conns, perSource int) func(t *testing.T, rule func(*Hello)) bool {
	return func(t *testing.T, rule func(*Hello)) (through bool) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			l := newHost(t, network, hostConfig{n: victimL})
			rule(l.Hello)
			stop := l.serve(t, network.listen(l.addr))
			held, standing := silent(t, network, l, conns, conns/perSource)
			n := standing()
			if through = n == conns; !through && n != min(64, conns-1) {
				t.Errorf("%d stand", n)
			}
			for _, c := range held {
				_ = c.Close()
			}
			stop()
		})
		return through
	}
}

// keepOut takes all places before the proof, from so many sources and again
// as soon as one is lost, and is through when a host cannot introduce itself.
func keepOut(sources int) func(t *testing.T, rule func(*Hello)) bool {
	return func(t *testing.T, rule func(*Hello)) (through bool) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			network.delay = func() time.Duration { return 20 * time.Millisecond }
			l := newHost(t, network, hostConfig{n: victimL})
			rule(l.Hello)
			stop := l.serve(t, network.listen(l.addr))
			held, _ := silent(t, network, l, 64, sources)
			if l.gate.total != 64 {
				t.Fatalf("%d places are taken", l.gate.total)
			}
			more := time.AfterFunc(30*time.Millisecond, func() {
				for i := range sources { // while the host is in the middle of it
					c, err := network.dial(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), l.addr)
					if err == nil {
						defer c.Close()
					}
				}
			})
			defer more.Stop()
			d := newHost(t, network, hostConfig{n: victimD})
			_, err := d.Dial(t.Context(), l.addr, nil)
			through = err != nil
			if through && !errors.Is(err, ErrRefused) {
				t.Errorf("got %v, want a refusal", err)
			}
			for _, c := range held {
				_ = c.Close()
			}
			time.Sleep(time.Second)
			// Room again.
			if _, err := d.Dial(t.Context(), l.addr, nil); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			stop()
			if l.gate.total != 0 || l.gate.proven != 0 || len(l.gate.pending) != 0 {
				t.Errorf("left: %d, %d, %d", l.gate.total, l.gate.proven, len(l.gate.pending))
			}
		})
		return through
	}
}

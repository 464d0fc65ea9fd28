package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// dayTime is how long TestDay flaps links; the soak run asks for more. Most
// changes of a path are a handshake: in two hours the pair has as many as in a
// day of quiet traffic, 720, one every two minutes.
func dayTime(t *testing.T) time.Duration {
	if os.Getenv("WEFT_SOAK") == "" {
		return 20 * time.Second
	}
	return streamTime(t)
}

// A day of traffic in short: frames of all sizes between all containers while
// the link between two hosts comes and goes. Nothing arrives that was not sent,
// nothing stalls, daemons do not grow, and what they count adds up.
func TestDay(t *testing.T) {
	parallelAs(t, calm, 40*time.Second)
	c, boxes := meshed(t, 3)
	parcels := startParcels(t, boxes)
	words := startTalk(t, boxes[0], boxes[1])
	begun, rekeys := time.Now(), 0
	// One of two links is always cut, so that every change is at once: a link
	// that alone comes and goes is soon left to rest.
	flap := func() {
		t.Helper()
		for _, cut := range []struct{ from, path, what string }{
			{"host2", "host3", "the pair is relayed"}, {"host3", "direct", "the pair is direct again"},
		} {
			since := time.Now()
			c.cutOnly("host1", cut.from)
			took := c.within(cut.what, 10*breakTime*run.slow(), func() error { return usesPath(c.nodes[0], c.nodes[1], cut.path) })
			// TCP waits as long again as it was interrupted, and longer each
			// time that it finds no path.
			c.within("TCP goes on", took+breakTime*run.slow(), words.after(time.Now()))
			if c.keyAge(t, c.nodes[0], c.nodes[1]) < time.Since(since) {
				rekeys++
			}
			rest(t.Context(), time.Second)
		}
	}
	flap()
	before := c.holdAll(t)
	flaps := 1
	for ; flaps < 2 || time.Since(begun) < dayTime(t); flaps++ {
		flap()
		if flaps%10 == 9 {
			for i, h := range c.holdAll(t) {
				t.Logf("FIGURE after %s %s holds %.0f MB", time.Since(begun).Round(time.Second), c.nodes[i].Name(), h.memory/1e6)
			}
		}
	}
	// WireGuard makes no second one within five seconds.
	if 2*rekeys < flaps {
		t.Errorf("%d new keys in %d changes of the path and back", rekeys, flaps)
	}
	if err := c.HealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	gap := words.gap(begun, now)
	if gap > 10*breakTime*run.slow() {
		t.Errorf("TCP stood still for %s", gap)
	}
	if err := words.end(); err != nil {
		t.Errorf("the connection broke: %v", err)
	}
	parcels.stop()
	t.Logf("FIGURE a day in %s: %d changes of the path and back, %d new keys of the pair, %d parcels of %d came, TCP stood still for %s at most",
		now.Sub(begun).Round(time.Second), flaps, rekeys, parcels.good.Load(), parcels.sent.Load(), gap.Round(10*time.Millisecond))
	if bad := parcels.bad.Load(); bad > 0 {
		t.Errorf("%d parcels arrived that nobody had sent", bad)
	}
	if good, sent := parcels.good.Load(), parcels.sent.Load(); good < sent/2 {
		t.Errorf("%d of %d parcels came", good, sent)
	}
	// Buffers of a burst are given back after some minutes.
	var last []held
	c.within("the daemons hold no more than in the beginning", 10*time.Minute, func() error {
		last = c.holdAll(t)
		for i, is := range last {
			was := before[i]
			if is.Goroutines > was.Goroutines+30 || is.Descriptors > was.Descriptors+10 || is.memory > 1.5*was.memory+32e6 {
				rest(t.Context(), time.Second)
				return fmt.Errorf("the daemon of %s has grown: it holds %+v, after the first change %+v", c.nodes[i].Name(), is, was)
			}
		}
		return nil
	})
	for i, is := range last {
		t.Logf("FIGURE %s holds %+v, after the first change %+v", c.nodes[i].Name(), is, before[i])
	}
	if c.nodes[0].datapath() == "userspace" {
		c.addUp(t, boxes)
	}
}

// cutOnly leaves one pair of hosts without a network, and no other.
func (c *cluster) cutOnly(a, b string) {
	c.t.Helper()
	if err := c.SetFaults(c.t.Context(), lab.Fault{From: a, To: b, Percent: 100}, lab.Fault{From: b, To: a, Percent: 100}); err != nil {
		c.t.Fatal(err)
	}
}

// keyAge is how long ago a and b last agreed on keys, as a says.
func (c *cluster) keyAge(t testing.TB, a, b *node) time.Duration {
	t.Helper()
	m, err := a.metrics()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("weft_peer_handshake_age_seconds{peer=%q}", b.identity().Name)
	age, ok := m[name]
	if !ok {
		t.Fatalf("%s has no metric %s", a.Name(), name)
	}
	return time.Duration(age * float64(time.Second))
}

// holdAll is what each daemon holds.
func (c *cluster) holdAll(t testing.TB) (list []held) {
	t.Helper()
	for _, n := range c.nodes {
		h, err := n.holds()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, h)
	}
	return list
}

// counts is what the switch ports of all hosts count, and how often paths changed.
// Told is the part of what was dropped of which the sender was told that it is
// too big for the path.
type counts struct{ sent, received, dropped, told, changes float64 }

func (c *cluster) counts() (sum counts, err error) {
	for _, n := range c.nodes {
		m, err := n.metrics()
		if err != nil {
			return counts{}, err
		}
		sum.sent += m["weft_switch_transmit_frames_total"]
		sum.received += m["weft_switch_receive_frames_total"]
		for name, v := range m {
			switch {
			case strings.HasPrefix(name, "weft_switch_dropped_frames_total"):
				sum.dropped += v
				if strings.Contains(name, `reason="too-big"`) {
					sum.told += v
				}
			case strings.HasPrefix(name, "weft_path_changes_total"):
				sum.changes += v
			}
		}
	}
	return sum, nil
}

// addUp sends a burst on networks that lose nothing: what the switch ports of
// all hosts count as sent, they count as received. A path that goes back to
// direct meanwhile may lose what is under way, and where it is narrower now the
// first large packet is lost that tells its sender; then it is done again.
func (c *cluster) addUp(t testing.TB, boxes []*box) {
	t.Helper()
	var last counts
	changing := 0
	still := func() error { // two looks that agree: nothing is under way
		now, err := c.counts()
		if err == nil && now != last {
			last, err = now, fmt.Errorf("%+v", now)
		}
		return err
	}
	for uneven := 0; uneven < 4; {
		c.within("the switch is still", 10*time.Second, still)
		was := last
		p := startParcels(t, boxes)
		rest(t.Context(), 2*time.Second)
		p.stop()
		c.within("the switch is still again", 10*time.Second, still)
		sent, received, dropped := last.sent-was.sent, last.received-was.received, last.dropped-was.dropped
		t.Logf("FIGURE %.0f frames sent, %.0f received, %.0f dropped; %d of %d parcels came", sent, received, dropped, p.good.Load(), p.sent.Load())
		if last.changes != was.changes || last.told != was.told {
			t.Log("a path changed meanwhile, or containers learnt how much one carries; once more")
			if changing++; changing == 10 {
				t.Fatal("paths never stopped changing")
			}
			continue
		}
		if bad := p.bad.Load(); bad > 0 {
			t.Fatalf("%d parcels came and were not what was sent", bad)
		}
		if good, given := p.good.Load(), p.sent.Load(); sent == received+dropped && good == given && given > 0 {
			return
		}
		uneven++ // a socket overflows when its daemon has to wait for the processor
	}
	t.Error("what was sent is not what came, though the networks lose nothing")
}

// parcels is datagrams of all sizes between all containers, each way. What
// comes is compared with what its first bytes say was sent.
type parcels struct {
	sent, good, bad atomic.Int64
	stop            func()
}

const (
	parcelPort = 7007
	parcelHead = 8 // seed
)

// parcel is made of its seed alone.
func parcel(seed uint64) []byte {
	key := sha256.Sum256(binary.BigEndian.AppendUint64(nil, seed))
	r := rand.New(rand.NewChaCha8(key))
	n := parcelHead + r.IntN(1600)
	if r.IntN(10) == 0 {
		n = parcelHead + r.IntN(20000) // in fragments
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	binary.BigEndian.PutUint64(b, seed)
	return b
}

// startParcels sends a hundred parcels a second from every container, to the others in
// turn, until the test ends or stop, which waits for the last ones.
func startParcels(t testing.TB, boxes []*box) *parcels {
	t.Helper()
	p := &parcels{}
	ctx, cancel := context.WithCancel(context.Background())
	var senders, receivers sync.WaitGroup
	var conns []*net.UDPConn
	for _, b := range boxes {
		conn, err := b.ListenUDP(t.Context(), netip.AddrPortFrom(b.addr, parcelPort))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadBuffer(4 << 20)
		conns = append(conns, conn)
	}
	for i, conn := range conns {
		receivers.Go(func() {
			buf := make([]byte, 1<<16)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if n >= parcelHead && bytes.Equal(buf[:n], parcel(binary.BigEndian.Uint64(buf))) {
					p.good.Add(1)
				} else {
					p.bad.Add(1)
				}
			}
		})
		senders.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for n := uint64(0); ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				to := boxes[(i+1+int(n)%(len(boxes)-1))%len(boxes)]
				if _, err := conn.WriteToUDPAddrPort(parcel(uint64(i)<<32|n), netip.AddrPortFrom(to.addr, parcelPort)); err == nil {
					p.sent.Add(1)
				}
			}
		})
	}
	p.stop = sync.OnceFunc(func() {
		cancel()
		senders.Wait()
		time.Sleep(time.Second * run.slow())
		for _, conn := range conns {
			_ = conn.Close()
		}
		receivers.Wait()
	})
	t.Cleanup(p.stop)
	return p
}

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// arrivals remembers when things arrived. It is safe for concurrent use.
type arrivals struct {
	mu    sync.Mutex
	times []time.Time
}

func (a *arrivals) add(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = append(a.times, now)
}

// gap returns the longest time without an arrival between from and to.
func (a *arrivals) gap(from, to time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	longest, last := time.Duration(0), from
	for _, at := range append(a.times, to) {
		if at.Before(from) || at.After(to) {
			continue
		}
		longest, last = max(longest, at.Sub(last)), at
	}
	return max(longest, to.Sub(last))
}

// pulse is a stream of pings between two containers, 25 a second.
type pulse struct {
	answers arrivals
	stop    func()

	mu   sync.Mutex
	asks []ask // by number
}

// ask is one ping.
type ask struct {
	at       time.Time
	answered bool
}

// answer notes that the last ping with these 16 bits of its number was answered.
func (p *pulse) answer(n uint16) {
	p.answers.add(time.Now())
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.asks) - 1
	if i := last - int(uint16(last)-n); i >= 0 {
		p.asks[i].answered = true
	}
}

// lost is for how long all that was sent between from and to was never answered.
// Other than a gap that is no longer where who sends has to wait for the processor.
func (p *pulse) lost(from, to time.Time) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var first time.Time
	for _, a := range p.asks {
		switch {
		case a.at.Before(from) || a.at.After(to) || a.answered:
			first = time.Time{}
			continue
		case first.IsZero():
			first = a.at
		}
		longest = max(longest, a.at.Sub(first))
	}
	return longest
}

// startPulse begins a stream that ends with the test or with stop.
func startPulse(t testing.TB, a, b *box) *pulse {
	t.Helper()
	var c net.PacketConn
	err := a.Do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "ip4:icmp", "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &pulse{}
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	const id = 0x5757
	g.Go(func() {
		tick := time.NewTicker(40 * time.Millisecond)
		defer tick.Stop()
		for n := uint16(0); ; n++ {
			p.mu.Lock()
			p.asks = append(p.asks, ask{at: time.Now()})
			p.mu.Unlock()
			msg := []byte{8, 0, 0, 0, id >> 8, id & 0xff, byte(n >> 8), byte(n), 'p', 'u', 'l', 's', 'e', 0}
			binary.BigEndian.PutUint16(msg[2:], internetChecksum(msg))
			_, _ = c.WriteTo(msg, &net.IPAddr{IP: b.addr.AsSlice()}) // a broken path may refuse
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	g.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n >= 14 && buf[0] == 0 && binary.BigEndian.Uint16(buf[4:]) == id && from.String() == b.addr.String() {
				p.answer(binary.BigEndian.Uint16(buf[6:]))
			}
		}
	})
	p.stop = sync.OnceFunc(func() { cancel(); _ = c.Close(); g.Wait() })
	t.Cleanup(p.stop)
	return p
}

// steady waits until the pulse beats: answers have come for the last second
// without a gap worth the name. Where everything is slow, that is longer.
func (p *pulse) steady(t testing.TB) {
	t.Helper()
	lately, worth := time.Second*run.slow(), 300*time.Millisecond*run.slow()
	wait(t, "pings flow", 3*time.Second, func() error {
		now := time.Now()
		if gap := p.answers.gap(now.Add(-lately), now); gap > worth {
			return fmt.Errorf("a gap of %s in the last %s", gap, lately)
		}
		return nil
	})
}

// talk is a TCP connection between two containers on which both ends speak all
// the time, and hear whether what comes is what was said.
type talk struct {
	there, back arrivals // at b, at a
	end         func() error
}

// startTalk opens the connection; end closes it and says whether it had broken.
func startTalk(t testing.TB, a, b *box) *talk {
	t.Helper()
	l, err := b.Listen(t.Context(), netip.AddrPortFrom(b.addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	ctx, cancel := tries(t, 10*time.Second)
	defer cancel()
	near, err := a.Dial(ctx, "tcp", netip.AddrPortFrom(b.addr, uint16(l.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	far := <-accepted
	if far == nil {
		t.Fatal("nobody accepts the connection")
	}
	tk, ending := &talk{}, make(chan struct{})
	errs := make(chan error, 4)
	say := func(c net.Conn) {
		for n := uint64(0); ; n++ {
			if _, err := c.Write(sentence(n)); err != nil {
				errs <- err
				return
			}
			select {
			case <-ending:
				errs <- nil
				return
			case <-time.After(25 * time.Millisecond):
			}
		}
	}
	hear := func(c net.Conn, heard *arrivals) {
		buf := make([]byte, len(sentence(0)))
		for n := uint64(0); ; n++ {
			if _, err := io.ReadFull(c, buf); err != nil {
				errs <- err
				return
			}
			if !bytes.Equal(buf, sentence(n)) {
				errs <- fmt.Errorf("sentence %d is another one", n)
				return
			}
			heard.add(time.Now())
		}
	}
	for _, c := range []net.Conn{near, far} {
		go say(c)
	}
	go hear(far, &tk.there)
	go hear(near, &tk.back)
	tk.end = sync.OnceValue(func() error {
		close(ending)
		time.Sleep(50 * time.Millisecond)
		var broken []error
		for range len(errs) {
			broken = append(broken, <-errs)
		}
		return errors.Join(append(broken, near.Close(), far.Close())...)
	})
	t.Cleanup(func() { _ = tk.end() })
	return tk
}

// sentence is what both ends say as number n, 200 bytes.
func sentence(n uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, n*0x9e3779b97f4a7c15), 25)
}

// gap returns the longest silence of either end.
func (tk *talk) gap(from, to time.Time) time.Duration {
	return max(tk.there.gap(from, to), tk.back.gap(from, to))
}

// after says that something was heard at both ends since then.
func (tk *talk) after(then time.Time) func() error {
	return func() error {
		now := time.Now()
		if there, back := tk.there.gap(then, now), tk.back.gap(then, now); max(there, back) >= now.Sub(then) {
			return fmt.Errorf("nothing was heard for %s at one end, %s at the other", there, back)
		}
		return nil
	}
}

// load is an iperf3 that sends both ways between two containers.
type load struct {
	client *lab.Process
	log    string
	begun  time.Time
}

// startLoad begins to send that many Mbit/s each way, until finish; less where
// everything is slow, or nothing else would get the processor.
func startLoad(t testing.TB, a, b *box, mbit int) *load {
	t.Helper()
	dir := t.TempDir()
	server := filepath.Join(dir, "server")
	if _, err := b.Start(t.Context(), server, "iperf3", "--server", "--bind", b.addr.String()); err != nil {
		t.Fatal(err)
	}
	wait(t, "iperf3 listens", time.Second, func() error {
		r := b.Run(t.Context(), "sh", "-c", "ss -ltn 2>/dev/null || cat /proc/net/tcp")
		if !strings.Contains(r.Stdout, ":5201") && !strings.Contains(r.Stdout, ":1451") {
			return errors.New("nobody listens at port 5201")
		}
		return nil
	})
	l := &load{log: filepath.Join(dir, "client"), begun: time.Now()}
	var err error
	l.client, err = a.Start(t.Context(), l.log, "iperf3", "--json", "--client", b.addr.String(), "--bidir",
		"--bitrate", fmt.Sprintf("%dM", max(1, mbit/int(run.slow()))), "--time", "600", "--connect-timeout", "5000")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// finish ends it, and fails the test unless the connection has lived so long and
// has carried something in both directions until the end.
func (l *load) finish(t testing.TB) {
	t.Helper()
	rest(t.Context(), time.Until(l.begun.Add(8*time.Second))) // it reports once a second
	select {
	case <-l.client.Done():
		t.Errorf("iperf3 --bidir has ended by itself: %v", l.client.Wait())
	default:
	}
	if err := l.client.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := l.client.Wait() // that it was interrupted
	text, e := os.ReadFile(l.log)
	if e != nil {
		t.Fatal(e)
	}
	var out struct {
		Error     string
		Intervals []struct {
			Sum  struct{ Bytes float64 }
			Back struct{ Bytes float64 } `json:"sum_bidir_reverse"`
		}
	}
	if e := json.Unmarshal(text, &out); e != nil {
		t.Fatalf("iperf3: %v, %v: %s", err, e, text[:min(len(text), 2000)])
	}
	if out.Error != "" && !strings.HasPrefix(out.Error, "interrupt") {
		t.Fatalf("iperf3 --bidir did not keep its connection: %v: %s", err, out.Error)
	}
	if n := len(out.Intervals); n < 5 {
		t.Fatalf("iperf3 reports %d intervals", n)
	}
	sent, got := 0.0, 0.0
	for _, i := range out.Intervals[len(out.Intervals)-4:] {
		sent += i.Sum.Bytes
		got += i.Back.Bytes
	}
	if sent == 0 || got == 0 {
		t.Errorf("iperf3 sent %.0f and got %.0f bytes in the last seconds: the connection is dead", sent, got)
	}
}

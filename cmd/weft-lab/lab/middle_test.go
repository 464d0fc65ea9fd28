package lab

import (
	"bytes"
	"context"
	"testing"
	"time"
)

// Who is between a network and a host may lose, change, repeat and delay what
// the host gets, and nothing of it once he has gone.
func TestIntercept(t *testing.T) {
	t.Parallel()
	l := up(t, Flat("", 2))
	out, in := openUDP(t, l.Host("host1"), 0), openUDP(t, l.Host("host2"), 0)
	stop, err := l.Intercept("host2", "lan", func(frame []byte, send func([]byte)) {
		switch {
		case bytes.Contains(frame, []byte("lost")):
		case bytes.Contains(frame, []byte("twice")):
			send(frame)
			send(frame)
		case bytes.Contains(frame, []byte("right")):
			send(bytes.Replace(frame, []byte("right"), []byte("wrong"), 1))
		case bytes.Contains(frame, []byte("late")):
			time.AfterFunc(300*time.Millisecond, func() { send(frame) })
		default:
			send(frame)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Intercept("host2", "lan", func([]byte, func([]byte)) {}); err == nil {
		t.Error("two are in the middle")
	}
	for text, want := range map[string][]string{
		"lost": {}, "twice": {"twice", "twice"}, "right": {"wrong"}, "else": {"else"},
	} {
		out.send(in.at(), text)
		for _, w := range want {
			if !in.hears(w, soon).IsValid() {
				t.Errorf("%s: %s does not arrive", text, w)
			}
		}
		if in.hears(text, never/4).IsValid() {
			t.Errorf("%s arrives once too often", text)
		}
	}
	begun := time.Now()
	out.send(in.at(), "late")
	if !in.hears("late", soon).IsValid() || time.Since(begun) < 300*time.Millisecond {
		t.Errorf("late: after %s", time.Since(begun))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := TransferTCP(ctx, l.Host("host1").Place, l.Host("host2").Place, l.Host("host2").Addr(), Payload(4<<20, "")); err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	out.send(in.at(), "right")
	if !in.hears("right", soon).IsValid() {
		t.Error("nobody is in the middle, and yet")
	}
	if err := stop(); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
	for _, network := range []string{"wan", "lan"} {
		host := map[string]string{"wan": "host1", "lan": "host9"}[network]
		if _, err := l.Intercept(host, network, nil); err == nil {
			t.Errorf("%s on %s was intercepted", host, network)
		}
	}
}

// A delay holds with the kernel's help and without, together with a rate, in
// both directions, survives a reboot and ends with the shape.
func TestDelay(t *testing.T) {
	t.Parallel()
	l := up(t, Flat("", 2))
	h1, h2 := l.Host("host1"), l.Host("host2")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	// The quickest of some round trips counts, of as many as it takes where the
	// processors have other things to do.
	trip := func(least, most time.Duration) {
		t.Helper()
		best := time.Hour
		for deadline, n := time.Now().Add(soon), 0; n < 5 || best > most && time.Now().Before(deadline); n++ {
			d, err := h1.Ping(ctx, h2.Addr(), 10, nil)
			if err != nil {
				t.Fatal(err)
			}
			best = min(best, d)
		}
		if best < least || best > most {
			t.Errorf("a round trip takes %s, want %s to %s", best, least, most)
		}
	}
	set := func(s Shape) {
		t.Helper()
		for _, h := range []string{"host1", "host2"} {
			if err := l.SetShape(h, "lan", s); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(Shape{Delay: 50 * time.Millisecond, RateKbit: 100_000})
	trip(100*time.Millisecond, time.Second)
	begun := time.Now()
	if err := TransferTCP(ctx, h1.Place, h2.Place, h2.Addr(), Payload(4<<20, "")); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("4 MiB at 100 Mbit/s took only %s", took)
	}
	if err := h2.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	// It has another hardware address: its own packets tell host1.
	eventually(t, "host2 is back", func() error { return pingWithin(t, h2, h1.Addr(), time.Second) })
	trip(100*time.Millisecond, time.Second)
	set(Shape{})
	trip(0, 40*time.Millisecond)
}

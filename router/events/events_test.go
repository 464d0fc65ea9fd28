package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

func seqs(t *testing.T, r *Ring, q api.EventRequest) (list []uint64) {
	t.Helper()
	for e, err := range r.Events(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e.Seq)
	}
	return list
}

func from(a, b uint64) (list []uint64) {
	for ; a <= b; a++ {
		list = append(list, a)
	}
	return list
}

func TestRequests(t *testing.T) {
	r := New()
	if got := seqs(t, r, api.EventRequest{}); got != nil {
		t.Errorf("an empty ring gave %v", got)
	}
	for range keep + 500 {
		r.add(api.Event{Message: "x"})
	}
	for _, tt := range []struct {
		q    api.EventRequest
		want []uint64
	}{
		{api.EventRequest{}, from(501, 1500)},
		{api.EventRequest{After: 1498}, from(1499, 1500)},
		{api.EventRequest{After: 1500}, nil},
		{api.EventRequest{After: 1501}, from(501, 1500)}, // of another run
		{api.EventRequest{After: 7}, from(501, 1500)},
		{api.EventRequest{Last: 3}, from(1498, 1500)},
		{api.EventRequest{Last: 5000}, from(501, 1500)},
		{api.EventRequest{Last: -1}, nil},
		{api.EventRequest{After: 1490, Last: 3}, from(1498, 1500)},
		{api.EventRequest{After: 1499, Last: 3}, from(1500, 1500)},
	} {
		if diff := cmp.Diff(tt.want, seqs(t, r, tt.q)); diff != "" {
			t.Errorf("%+v:\n%s", tt.q, diff)
		}
	}
	for e, err := range r.Events(t.Context(), api.EventRequest{After: 7}) {
		if err != nil || e.Missed != 493 {
			t.Errorf("after 7 comes %d, %d missed, %v; want 493", e.Seq, e.Missed, err)
		}
		break
	}
}

// TestTwin compares the ring with a list that forgets by counting from its end.
func TestTwin(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	r, naive := New(), []api.Event(nil)
	for i := range 3000 {
		e := api.Event{Message: strings.Repeat("m", rnd.IntN(40))}
		if rnd.IntN(40) == 0 { // a large one
			e.Message = strings.Repeat("m", maxText)
			for f := range rnd.IntN(8) {
				if e.Fields == nil {
					e.Fields = make(map[string]string)
				}
				e.Fields[fmt.Sprint(f)] = e.Message
			}
		}
		r.add(e)
		e.Seq = uint64(i + 1)
		naive = append(naive, e)
		if rnd.IntN(100) != 0 {
			continue
		}
		got, missed, _ := r.after(0, false)
		if len(got) == 0 || len(got) > keep || int(missed)+len(got) != len(naive) {
			t.Fatalf("seed %d: %d kept, %d gone, %d added", seed, len(got), missed, len(naive))
		}
		if want := naive[len(naive)-len(got):]; !reflect.DeepEqual(want, got) {
			t.Fatalf("seed %d: %s", seed, cmp.Diff(want, got))
		}
		bytes := 0
		for _, e := range got {
			bytes += size(e)
		}
		if bytes > keepBytes || bytes != r.size {
			t.Fatalf("seed %d: %d bytes of text, counted as %d", seed, bytes, r.size)
		}
		after := rnd.Uint64N(uint64(len(naive)) + 1)
		got, missed, _ = r.after(after, false)
		if int(after)+int(missed)+len(got) != len(naive) || len(got) > 0 && got[0].Seq != after+missed+1 {
			t.Fatalf("seed %d: after %d: %d missed, %d given of %d", seed, after, missed, len(got), len(naive))
		}
	}
}

// TestFollow: what comes is given at once and in order, to everybody; a reader
// that is too slow is told how many it missed; the end of its context ends it.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		r.add(api.Event{})
		type heard struct{ seq, missed uint64 }
		follow := func(q api.EventRequest, pause time.Duration) (*[]heard, context.CancelFunc, chan struct{}) {
			list, done := &[]heard{}, make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			q.Follow = true
			go func() {
				defer close(done)
				for e, err := range r.Events(ctx, q) {
					if err != nil {
						t.Error(err)
					}
					*list = append(*list, heard{e.Seq, e.Missed})
					time.Sleep(pause)
				}
			}()
			return list, cancel, done
		}
		all, stopAll, allDone := follow(api.EventRequest{}, 0)
		next, stopNext, nextDone := follow(api.EventRequest{Last: -1}, 0)
		slow, stopSlow, slowDone := follow(api.EventRequest{}, time.Minute)
		synctest.Wait()
		for range 3 {
			r.add(api.Event{})
			synctest.Wait()
		}
		if diff := cmp.Diff([]heard{{1, 0}, {2, 0}, {3, 0}, {4, 0}}, *all, cmp.AllowUnexported(heard{})); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]heard{{2, 0}, {3, 0}, {4, 0}}, *next, cmp.AllowUnexported(heard{})); diff != "" {
			t.Error(diff)
		}
		for range 2 * keep {
			r.add(api.Event{})
		}
		time.Sleep(90 * time.Second)
		synctest.Wait()
		if len(*slow) != 2 || (*slow)[1] != (heard{1005, 1003}) {
			t.Errorf("a slow reader heard %v, want 1 and, with 1003 missed, 1005", *slow)
		}
		stopAll()
		stopNext()
		<-allDone
		<-nextDone
		stopSlow()
		<-slowDone
	})
}

// name is a value with a text form.
type name struct{ s string }

func (n name) MarshalText() ([]byte, error) { return []byte("name " + n.s), nil }

func TestHandler(t *testing.T) {
	r := New()
	var behind strings.Builder
	log := slog.New(r.Handler(slog.NewTextHandler(&behind, &slog.HandlerOptions{Level: slog.LevelError})))
	part := log.With("part", "router", "peer", "one")
	part.Debug("not kept")
	part.Info("path changed", "peer", name{"f6"}, "nickname", "host2", "took", 1500*time.Millisecond, "ep", netip.MustParseAddrPort("192.0.2.1:1"),
		"list", []int{1, 2}, "nil", nil, "err", errors.New("no\nroute"), slog.Group("g", "a", 1, slog.Group("", "b", true)))
	log.WithGroup("outer").With("x", 1).Warn("grouped", "y", 2)
	log.Error("bad", "text", "\xff", "at", time.Unix(0, 0).UTC())
	var got []api.Event
	for e, err := range r.Events(t.Context(), api.EventRequest{}) {
		if err != nil || e.Time.IsZero() {
			t.Errorf("%+v: %v", e, err)
		}
		e.Time = time.Time{}
		got = append(got, e)
	}
	want := []api.Event{
		{Seq: 1, Level: "info", Part: "router", Message: "path changed", Peer: "name f6", Nickname: "host2", Fields: map[string]string{
			"took": "1.5s", "ep": "192.0.2.1:1", "list": "[1 2]", "nil": "", "err": "no\nroute", "g.a": "1", "g.b": "true",
		}},
		{Seq: 2, Level: "warning", Message: "grouped", Fields: map[string]string{"outer.x": "1", "outer.y": "2"}},
		{Seq: 3, Level: "error", Message: "bad", Fields: map[string]string{"text": "\uFFFD", "at": "1970-01-01T00:00:00Z"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s := behind.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "level=ERROR msg=bad") {
		t.Errorf("the log behind, which wants errors only, got:\n%s", s)
	}
}

// TestBounds: no record makes an event large, whatever is in it.
func TestBounds(t *testing.T) {
	r := New()
	log := slog.New(r.Handler(slog.DiscardHandler))
	args := make([]any, 0, 400)
	for i := range 200 {
		args = append(args, fmt.Sprint(strings.Repeat("k", 2*maxText), i), strings.Repeat("ü", maxText))
	}
	for range 100 {
		log.Info(strings.Repeat("ü", maxText), args...) //nolint:sloglint // long messages are what is tested
	}
	list, missed, _ := r.after(0, false)
	if len(list) == 0 || missed == 0 || r.size > keepBytes {
		t.Fatalf("%d kept, %d gone, %d bytes", len(list), missed, r.size)
	}
	for _, e := range list {
		if len(e.Message) > maxText || len(e.Fields) > maxFields || !strings.HasSuffix(e.Message, "ü…") {
			t.Fatalf("%d bytes of message, %d fields", len(e.Message), len(e.Fields))
		}
	}
}

// TestHandlersShareNothing: what one logger adds, its brother does not say.
func TestHandlersShareNothing(t *testing.T) {
	r := New()
	base := slog.New(r.Handler(slog.DiscardHandler)).With("a", 1)
	one, two := base.With("b", 1), base.With("c", 1)
	one.Info("one", "x", 1)
	two.Info("two", "y", 1)
	var got []string
	for e, err := range r.Events(t.Context(), api.EventRequest{}) {
		if err != nil {
			t.Error(err)
		}
		keys := []string{}
		for k := range e.Fields {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		got = append(got, strings.Join(keys, ""))
	}
	if diff := cmp.Diff([]string{"abx", "acy"}, got); diff != "" {
		t.Error(diff)
	}
}

// careless has methods that a nil pointer does not survive.
type careless struct{ text string }

func (c *careless) Error() string { return c.text }

type carelessText struct{ text string }

func (c *carelessText) MarshalText() ([]byte, error) { return []byte(c.text), nil }

type alarmed struct{}

func (alarmed) Error() string { panic("no error") }

// A record whose value panics ends nobody.
func TestPanickingValue(t *testing.T) {
	for want, v := range map[string]any{"<nil>": (*careless)(nil), "<nil> ": (*carelessText)(nil), "!PANIC: no error": alarmed{}} {
		if got := text(slog.AnyValue(v)); got != strings.TrimSpace(want) {
			t.Errorf("%T is shown as %q, want %q", v, got, want)
		}
	}
}

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func someEvents() []Event {
	at := time.Unix(1763600000, 123456789).UTC()
	return []Event{
		{Seq: 1, Time: at, Level: LevelInfo, Message: "ready"},
		{
			Seq: 1<<64 - 1, Time: at, Level: LevelWarning, Part: "router", Message: "line\nbreak <&> \u2028", Peer: "f6:42:1d:0a:5e:01", Nickname: "hö\"st",
			Fields: map[string]string{"a": "", "": "\x00"}, Missed: 7,
		},
	}
}

func fullDiagnosis() Diagnosis {
	return Diagnosis{
		Host: "host1", Version: "0.1.0", Time: time.Unix(1763600000, 123456789), Took: time.Second, Daemon: true, Peer: "host2",
		Findings: []Finding{{ID: "clock", Severity: Problem, Subject: "host2", What: "<ü> & \"quotes\"", Remedy: "'date'"}, {ID: "disk", Severity: OK}},
	}
}

// TestEventsBothSides: what a backend tells is what the client of its socket
// hears, errors included.
func TestEventsBothSides(t *testing.T) {
	hear := func(ctx context.Context, b Backend, r EventRequest, most int) any {
		type heard struct {
			Events []Event
			Err    string
			Class  error
		}
		var h heard
		for e, err := range b.Events(ctx, r) {
			if err != nil {
				h.Err, h.Class = err.Error(), firstClass(err)
				continue // nothing comes after it
			}
			h.Events = append(h.Events, e)
			if len(h.Events) == most {
				break
			}
		}
		return fmt.Sprintf("%+v", h)
	}
	for _, tt := range []struct {
		name string
		with func() *fake
		r    EventRequest
		most int
	}{
		{"all", func() *fake { return &fake{events: someEvents()} }, EventRequest{}, -1},
		{"none", func() *fake { return &fake{} }, EventRequest{After: 1<<64 - 1, Last: -1}, -1},
		{"refused", func() *fake { return &fake{err: fmt.Errorf("no: %w", ErrConflict)} }, EventRequest{Last: 7}, -1},
		{"breaks", func() *fake { return &fake{events: someEvents(), err: errors.New("disk\non fire")} }, EventRequest{}, -1},
		{"follow breaks", func() *fake { return &fake{events: someEvents(), err: errors.New("disk\non fire")} }, EventRequest{Follow: true}, -1},
		{"enough", func() *fake { return &fake{events: someEvents()[:1]} }, EventRequest{Follow: true}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			direct, behind := tt.with(), tt.with()
			client := serve(t, behind)
			want, got := hear(t.Context(), direct, tt.r, tt.most), hear(t.Context(), client, tt.r, tt.most)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("heard, direct and through the socket:\n%s", diff)
			}
			if diff := cmp.Diff(direct.asked()[:1], behind.asked()[:1]); diff != "" {
				t.Errorf("asked, direct and through the socket:\n%s", diff)
			}
		})
	}
}

// TestFollowEvents: events come at once; the end of the follower's context is
// no error, the end of the daemon is one.
func TestFollowEvents(t *testing.T) {
	noLeaks(t)
	ln, err := Listen(t.TempDir() + "/weft.sock")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- NewServer(&fake{events: someEvents()}, nil).Serve(serving, ln) }()
	client := NewClient(ln.Addr().String())
	follow := func(ctx context.Context) (heard chan Event, end chan error) {
		heard, end = make(chan Event), make(chan error, 1)
		go func() {
			defer close(end)
			for e, err := range client.Events(ctx, EventRequest{Follow: true}) {
				if err != nil {
					end <- err
				} else {
					heard <- e
				}
			}
		}()
		return heard, end
	}
	mine, cancel := context.WithCancel(t.Context())
	one, oneEnd := follow(mine)
	two, twoEnd := follow(t.Context())
	for range 2 {
		<-one
		<-two
	}
	cancel()
	if err := <-oneEnd; err != nil {
		t.Errorf("events after their context ended: %v", err)
	}
	stop()
	if err := <-twoEnd; !errors.Is(err, ErrUnreachable) {
		t.Errorf("events of a daemon that ended: %v, want ErrUnreachable", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestEventRequests(t *testing.T) {
	for query, want := range map[string]string{
		"": "{After:0 Last:0 Follow:false} <nil>", "after=7&last=-1&follow=true": "{After:7 Last:-1 Follow:true} <nil>",
		"after=-1": "after=-1: want the number of an event", "last=x": "last=x: want a number", "follow=maybe": "follow=maybe: want true or false",
	} {
		f := &fake{}
		w := newRecorder(t, f, http.MethodGet, "/v1/events?"+query)
		if got := strings.Join(f.asked(), ""); w.Code == http.StatusOK {
			if got != strings.TrimSuffix("events "+want, " <nil>") {
				t.Errorf("%q: asked %q, want %q", query, got, want)
			}
		} else if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) || got != "" {
			t.Errorf("%q: %d %s, asked %q; want %q", query, w.Code, w.Body, got, want)
		}
	}
}

// TestBrokenEvents: what a client makes of a server that is not as it should be.
func TestBrokenEvents(t *testing.T) {
	client, bodies := answering(t, "")
	for _, tt := range []struct{ body, want string }{
		{"", ""},
		{"\n" + `{"seq":1,"later":2}` + "\n", ""},
		{`{"seq":1}` + "\n…", "weftd ended before it answered: unexpected EOF"},
		{`{"seq":1`, "read the answer of weftd: parse event: unexpected end of JSON input"},
		{`{}`, "read the answer of weftd: parse event: it has no number"},
		{`{"seq":1,"message":"` + strings.Repeat("x", maxBody) + `"}`, "read the answer of weftd: bufio.Scanner: token too long"},
	} {
		bodies <- tt.body
		got := ""
		for _, err := range client.Events(t.Context(), EventRequest{}) {
			if err != nil {
				got += err.Error()
			}
		}
		if got != tt.want {
			t.Errorf("%.60s: error %.200s, want %s", tt.body, got, tt.want)
		}
	}
}

// FuzzEvent: what is understood, written again, is understood as the same.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-11-20T18:55:38Z","level":"info","fields":{"a":"b"},"missed":3}`))
	f.Add([]byte(`{"seq":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseEvent(b); err == nil {
			answered[Event](t, b)
		}
	})
}

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestStreamWire shows what a client that takes a stream gets, as curl shows it.
func TestStreamWire(t *testing.T) {
	waits := []string{"asking host2 for addresses", "nobody has any"}
	const said = `{"progress":"asking host2 for addresses"}` + "\n" + `{"progress":"nobody has any"}` + "\n"
	tests := []struct {
		name, accept, path, body string
		fake                     *fake
		want                     string
	}{
		{"at once", streamType, "attach", `{"Container":"web"}`, &fake{addresses: prefixes("10.32.0.1/12")}, "200 application/json [\"10.32.0.1/12\"]\n"},
		{"refused at once", streamType, "attach", `{"Container":"web"}`, &fake{err: ErrConflict}, "409 application/problem+json " +
			`{"type":"urn:weft:problem:conflict","title":"Somebody else holds what was asked for","status":409,"detail":"conflict"}` + "\n"},
		{"wrong", streamType, "attach", `{"Magic":1}`, &fake{reasons: waits}, usageProblem(`request is not understood: json: unknown field \"Magic\"`)},
		{"later", streamType, "attach", `{"Container":"web"}`, &fake{reasons: waits, addresses: prefixes("10.32.0.1/12")}, "200 application/x-ndjson " + said + `{"result":["10.32.0.1/12"]}` + "\n"},
		{"nothing later", streamType, "ipam/prime", `{}`, &fake{reasons: waits}, "200 application/x-ndjson " + said + `{"result":{}}` + "\n"},
		{"no list later", streamType, "expose", `{}`, &fake{reasons: waits}, "200 application/x-ndjson " + said + `{"result":null}` + "\n"},
		{"refused later", streamType, "ipam/remove", `{"Peers":["host2"]}`, &fake{reasons: waits, err: ErrUsage}, "200 application/x-ndjson " + said +
			`{"problem":{"type":"urn:weft:problem:usage","title":"The request is wrong","status":400,"detail":"usage"}}` + "\n"},
		{
			"among others", "application/json;q=0.5, " + streamType + ";q=1", "ipam/handover", `{}`, &fake{reasons: waits, handOver: HandOver{Name: "a", IPs: 7}},
			"200 application/x-ndjson " + said + `{"result":{"Name":"a","Nickname":"","IPs":7}}` + "\n",
		},
		{"not asked for", "application/json", "attach", `{"Container":"web"}`, &fake{reasons: waits, addresses: prefixes("10.32.0.1/12")}, "200 application/json [\"10.32.0.1/12\"]\n"},
		{"of others", streamType, "detach", `{"Container":"web"}`, &fake{reasons: waits}, "200 application/json null\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodPost, "http://weft/v1/"+tt.path, strings.NewReader(tt.body))
			r.Header.Set("Accept", tt.accept)
			NewServer(tt.fake, nil).ServeHTTP(w, r)
			got := strings.Join([]string{w.Result().Status[:3], w.Header().Get("Content-Type"), w.Body.String()}, " ")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// waiter is a backend whose Prime says what it is told until its context ends
// or say is closed.
type waiter struct {
	fake
	say    chan string
	undone chan struct{}
}

func (w *waiter) Prime(ctx context.Context) error {
	for {
		select {
		case reason, more := <-w.say:
			if !more {
				return nil
			}
			Progress(ctx, reason)
		case <-ctx.Done():
			close(w.undone)
			return ctx.Err()
		}
	}
}

// TestProgressComesAtOnce: each reason is heard before the next is said, and a
// caller that leaves in the middle ends the request.
func TestProgressComesAtOnce(t *testing.T) {
	noLeaks(t)
	b := &waiter{say: make(chan string), undone: make(chan struct{})}
	client := serve(t, b)
	heard := make(chan string)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- client.Prime(WithProgress(ctx, func(reason string) { heard <- reason })) }()
	for _, reason := range []string{"first", "second", "first"} {
		b.say <- reason
		if got := <-heard; got != reason {
			t.Errorf("heard %q, want %q", got, reason)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Prime of a caller that left: %v", err)
	}
	select {
	case <-b.undone:
	case <-time.After(10 * time.Second):
		t.Error("the request goes on although its caller is gone")
	}
}

// TestStopEndsWhatWaits: a daemon that stops says so to whoever waits.
func TestStopEndsWhatWaits(t *testing.T) {
	noLeaks(t)
	b := &waiter{say: make(chan string), undone: make(chan struct{})}
	ln, err := Listen(t.TempDir() + "/weft.sock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- NewServer(b, nil).Serve(ctx, ln) }()
	heard, done := make(chan string, 1), make(chan error, 1)
	client := NewClient(ln.Addr().String())
	go func() {
		done <- client.Prime(WithProgress(context.Background(), func(reason string) { heard <- reason }))
	}()
	b.say <- "waiting"
	<-heard
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := <-done; err == nil || err.Error() != "weftd was stopped before it was done" {
		t.Errorf("Prime while the daemon stops: %v", err)
	}
}

// stuck is a client that never reads.
type stuck struct {
	http.ResponseWriter
	free chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	<-s.free
	return s.ResponseWriter.Write(b)
}

// TestSlowReader: who reports never waits for who reads; what did not fit is
// lost from the oldest on, and the answer is not.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const said = 10 * maxReasons
		w := stuck{httptest.NewRecorder(), make(chan struct{})}
		handler := waiting(func(ctx context.Context, _ struct{}) (string, error) {
			for i := range said {
				Progress(ctx, fmt.Sprint("reason ", i))
				if i == 0 {
					synctest.Wait() // the first is being written
				}
			}
			close(w.free)
			return "done", nil
		})
		r := httptest.NewRequest(http.MethodPost, "http://weft/", strings.NewReader("{}"))
		r.Header.Set("Accept", streamType)
		handler(w, r)
		body := w.ResponseWriter.(*httptest.ResponseRecorder).Body.String()
		lines := strings.Split(strings.TrimSpace(body), "\n")
		if want := maxReasons + 2; len(lines) != want || lines[0] != `{"progress":"reason 0"}` ||
			lines[1] != fmt.Sprintf(`{"progress":"reason %d"}`, said-maxReasons) || lines[len(lines)-1] != `{"result":"done"}` {
			t.Errorf("%d lines, want %d:\n%s", len(lines), want, body)
		}
	})
}

// TestLateProgress: a backend that reports after it answered, or panics, hurts
// nobody.
func TestLateProgress(t *testing.T) {
	noLeaks(t)
	var late context.Context
	handler := waiting(func(ctx context.Context, _ struct{}) (string, error) {
		late = ctx //nolint:fatcontext // a context that outlives its request is what is tested
		return "done", nil
	})
	ask := func(h http.HandlerFunc) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "http://weft/", strings.NewReader("{}"))
		r.Header.Set("Accept", streamType)
		h(w, r)
		return w
	}
	w := ask(handler)
	Progress(late, "too late")
	if got := w.Body.String(); got != "\"done\"\n" {
		t.Errorf("answer %q", got)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic was lost")
			}
		}()
		ask(waiting(func(ctx context.Context, _ struct{}) (string, error) {
			Progress(ctx, "about to panic")
			panic("broken")
		}))
	}()
}

func TestProgress(t *testing.T) {
	Progress(t.Context(), "nobody listens")
	var heard []string
	ctx, cancel := context.WithCancel(t.Context())
	ctx = WithProgress(ctx, func(reason string) { heard = append(heard, reason) })
	for _, reason := range []string{"a", "a", "", "b", "a"} {
		Progress(ctx, reason)
	}
	cancel()
	Progress(ctx, "nobody waits any more")
	if diff := cmp.Diff([]string{"a", "b", "a"}, heard); diff != "" {
		t.Error(diff)
	}
}

// answering is a client of a server that answers each request with the next body,
// and breaks the connection off after one that ends with "…". An empty kind is
// what net/http makes of it.
func answering(t *testing.T, kind string) (client *Client, bodies chan string) {
	t.Helper()
	bodies = make(chan string, 1)
	socket := t.TempDir() + "/weft.sock"
	ln, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if kind != "" {
			w.Header().Set("Content-Type", kind)
		}
		body := <-bodies
		_, _ = io.WriteString(w, body)
		_ = http.NewResponseController(w).Flush()
		if strings.HasSuffix(body, "…") {
			panic(http.ErrAbortHandler)
		}
	})}
	go func() { _ = h.Serve(ln) }()
	t.Cleanup(func() { _ = h.Close() })
	return NewClient(socket), bodies
}

// TestBrokenStreams: what a client makes of a server that is not as it should be.
func TestBrokenStreams(t *testing.T) {
	client, bodies := answering(t, streamType+"; charset=utf-8")
	for _, tt := range []struct{ body, want string }{
		{"", "weftd ended before it answered: unexpected EOF"},
		{`{"progress":"a"}` + "\n", "weftd ended before it answered: unexpected EOF"},
		{`{"progress":"a"}` + "\n…", "weftd ended before it answered: unexpected EOF"},
		{`{"result":["10.32.0.1/12"]`, "read the answer of weftd: parse line of a stream: unexpected end of JSON input"},
		{`{}`, "read the answer of weftd: parse line of a stream: 0 of progress, result and problem in it, want one"},
		{`{"result":["10.32.0.1"]}`, `read the answer of weftd: netip.ParsePrefix("10.32.0.1"): no '/'`},
		{`{"progress":"` + strings.Repeat("x", maxBody) + `"}`, "read the answer of weftd: bufio.Scanner: token too long"},
		{`{"problem":{}}`, "weftd gave no reason (, )"},
		{"\n" + `{"later":1,"result":[]}` + "\n", ""},
	} {
		bodies <- tt.body
		_, err := client.Attach(WithProgress(t.Context(), func(string) {}), AttachRequest{Container: "web"})
		if got := fmt.Sprint(err); got != tt.want && (err != nil || tt.want != "") {
			t.Errorf("%.60s: error %.200s, want %s", tt.body, got, tt.want)
		}
	}
}

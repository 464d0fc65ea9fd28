package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestWire shows every request as curl would send it, and its answer.
func TestWire(t *testing.T) {
	const ok = "200 application/json {}\n"
	tests := []struct {
		name, request, body string
		fake                *fake
		want                string
	}{
		{"status", "GET /v1/status", "", &fake{err: errors.New("no")}, "500 application/problem+json " +
			`{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"no"}` + "\n"},
		{"connect", "POST /v1/connect", `{"Targets":["host2"],"Replace":true}`, &fake{}, ok},
		{"forget", "POST /v1/forget", `["host2"]`, &fake{}, ok},
		{"attach", "POST /v1/attach", `{"Container":"web","Addresses":["10.32.0.1/12"]}`, &fake{addresses: prefixes("10.32.0.1/12")}, "200 application/json [\"10.32.0.1/12\"]\n"},
		{"attach held", "POST /v1/attach", `{"Container":"web"}`, &fake{err: ErrConflict}, "409 application/problem+json " +
			`{"type":"urn:weft:problem:conflict","title":"Somebody else holds what was asked for","status":409,"detail":"conflict"}` + "\n"},
		{"detach nothing", "POST /v1/detach", `{"Container":"web"}`, &fake{err: ErrNotFound}, "404 application/problem+json " +
			`{"type":"urn:weft:problem:not-found","title":"What was named does not exist","status":404,"detail":"not found"}` + "\n"},
		{"expose", "POST /v1/expose", `{"Addresses":["10.32.0.9/12"],"FQDN":"gw.weft.internal."}`, &fake{addresses: Addresses{}}, "200 application/json []\n"},
		{"hide", "POST /v1/hide", `{}`, &fake{}, "200 application/json null\n"},
		{"dns-add", "POST /v1/dns/add", `{"Container":"web","Addresses":["10.32.0.1"]}`, &fake{}, ok},
		{"dns-remove", "POST /v1/dns/remove", `{"FQDN":"shop.weft.internal."}`, &fake{}, ok},
		{"dns-lookup", "GET /v1/dns/lookup?name=web", "", &fake{addresses: prefixes("10.32.0.1/32")}, "200 application/json [\"10.32.0.1/32\"]\n"},
		{"ps", "GET /v1/ps?container=web&container=db", "", &fake{attachments: []Attachment{}}, "200 application/json []\n"},
		{"token", "GET /v1/token", "", &fake{token: Token{Token: "x"}}, `200 application/json {"Token":"x","Join":""}` + "\n"},
		{"logs", "GET /v1/logs?follow=false", "", &fake{log: func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "line\n")
			return err
		}}, "200 text/plain; charset=utf-8 line\n"},
		{"stop", "POST /v1/stop", `{}`, &fake{}, ok},

		{"logs without a wish", "GET /v1/logs", "", &fake{}, usageProblem("follow: want true or false")},
		{"unknown field", "POST /v1/attach", `{"Container":"web","Magic":true}`, &fake{}, usageProblem(`request is not understood: json: unknown field \"Magic\"`)},
		{"wrong type", "POST /v1/forget", `"host2"`, &fake{}, usageProblem("request is not understood: json: cannot unmarshal string into Go value of type []string")},
		{"nothing", "POST /v1/attach", ``, &fake{}, usageProblem("request is not understood: EOF")},
		{"half", "POST /v1/attach", `{"Container":"we`, &fake{}, usageProblem("request is not understood: unexpected EOF")},
		{"two", "POST /v1/attach", `{"Container":"web"} {}`, &fake{}, usageProblem("request goes on after its end")},
		{"bad address", "POST /v1/dns/add", `{"Addresses":["10.0.0.0.1"]}`, &fake{}, usageProblem(`request is not understood: ParseAddr(\"10.0.0.0.1\"): IPv4 address too long`)},
		{"too large", "POST /v1/forget", `["` + strings.Repeat("x", maxBody) + `"]`, &fake{}, usageProblem("request is larger than 1048576 bytes")},
		{"unknown", "GET /v2/status", "", &fake{}, "404 application/problem+json " +
			`{"type":"about:blank","title":"Not Found","status":404,"detail":"weftd does not know GET /v2/status; are weft and weftd of one version?"}` + "\n"},
		{"wrong method", "GET /v1/stop", "", &fake{}, "404 application/problem+json " +
			`{"type":"about:blank","title":"Not Found","status":404,"detail":"weftd does not know GET /v1/stop; are weft and weftd of one version?"}` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			method, path, _ := strings.Cut(tt.request, " ")
			w := httptest.NewRecorder()
			NewServer(tt.fake, nil).ServeHTTP(w, httptest.NewRequest(method, "http://weft"+path, strings.NewReader(tt.body)))
			got := strings.Join([]string{w.Result().Status[:3], w.Header().Get("Content-Type"), w.Body.String()}, " ")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if strings.HasPrefix(tt.want, "400") && len(tt.fake.asked()) != 0 {
				t.Errorf("a wrong request reached the backend: %q", tt.fake.asked())
			}
		})
	}
}

// newRecorder is the answer of a server in front of f to a caller who has left.
func newRecorder(t *testing.T, f *fake, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	NewServer(f, nil).ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, "http://weft"+path, nil))
	return w
}

func usageProblem(detail string) string {
	return `400 application/problem+json {"type":"urn:weft:problem:usage","title":"The request is wrong","status":400,"detail":"` + detail + `"}` + "\n"
}

func TestCallerThatLeavesCancels(t *testing.T) {
	noLeaks(t)
	f := &fake{block: true, notice: make(chan struct{}, 16)}
	client := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := client.Attach(ctx, AttachRequest{Container: "web"})
		done <- err
	}()
	waitFor(t, f, 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Attach of a caller that left: %v", err)
	}
	waitFor(t, f, 2)
}

func TestStopCancelsWhatRuns(t *testing.T) {
	noLeaks(t)
	f := &fake{block: true, notice: make(chan struct{}, 16)}
	ln, err := Listen(t.TempDir() + "/weft.sock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- NewServer(f, nil).Serve(ctx, ln) }()
	client := NewClient(ln.Addr().String())
	done := make(chan error, 1)
	go func() {
		_, err := client.Attach(context.Background(), AttachRequest{Container: "web"})
		done <- err
	}()
	waitFor(t, f, 1)
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := <-done; err == nil || err.Error() != "weftd was stopped before it was done" {
		t.Errorf("Attach while the daemon stops: %v", err)
	}
	if _, err := client.Status(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Status after the daemon stopped: %v", err)
	}
}

// waitFor waits until the backend was called n times in all.
func waitFor(t *testing.T, f *fake, n int) {
	t.Helper()
	for len(f.asked()) < n {
		select {
		case <-f.notice:
		case <-time.After(10 * time.Second):
			t.Fatalf("asked %q, want %d calls", f.asked(), n)
		}
	}
}

func TestServeReportsADeadListener(t *testing.T) {
	noLeaks(t)
	ln, err := Listen(t.TempDir() + "/weft.sock")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := NewServer(&fake{}, nil).Serve(t.Context(), ln); err == nil {
		t.Error("Serve on a closed listener returned nil although its context goes on")
	}
}

func TestLogsStream(t *testing.T) {
	noLeaks(t)
	more := make(chan string)
	client := serve(t, &fake{log: func(ctx context.Context, w io.Writer) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case line := <-more:
				if _, err := io.WriteString(w, line); err != nil {
					return err
				}
			}
		}
	}})
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- client.Logs(ctx, true, w) }()
	for _, line := range []string{"first\n", "second\n"} {
		more <- line
		b := make([]byte, len(line))
		if _, err := io.ReadFull(r, b); err != nil || string(b) != line {
			t.Fatalf("read %q, %v; want %q before the next is written", b, err, line)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Logs after its context ended: %v", err)
	}
}

func TestClientOfSomethingElse(t *testing.T) {
	socket := t.TempDir() + "/weft.sock"
	ln, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/status":
			http.Error(w, "<html>", http.StatusTeapot)
		case "/v1/token":
			_, _ = io.WriteString(w, "not JSON")
		case "/v1/ps":
			w.Header().Set("Content-Type", problemType)
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"type":"urn:weft:problem:usage"}`)
		default:
			panic(http.ErrAbortHandler)
		}
	})}
	go func() { _ = h.Serve(ln) }()
	defer h.Close()
	c := NewClient(socket)
	_, err = c.Status(t.Context())
	check(t, "strange status", err, "weftd answered 418 I'm a teapot to GET /v1/status; are weft and weftd of one version?")
	_, err = c.Token(t.Context())
	check(t, "no JSON", err, "read the answer of weftd: invalid character 'o' in literal null (expecting 'u')")
	_, err = c.PS(t.Context(), nil)
	check(t, "no reason", err, "weftd gave no reason (, urn:weft:problem:usage)")
	err = c.Stop(t.Context())
	check(t, "no answer", err, "weftd ended before it answered: EOF")
}

// The death of the daemon shows in several ways.
func TestHungUp(t *testing.T) {
	read := func(err error) error {
		return &net.OpError{Op: "read", Net: "unix", Err: os.NewSyscallError("read", err)}
	}
	for _, err := range []error{
		io.EOF, io.ErrUnexpectedEOF, read(unix.ECONNRESET), read(unix.EPIPE), errors.New("http: server closed idle connection"),
	} {
		check(t, "asked", requestError(&url.Error{Op: "Post", URL: "/v1/attach", Err: err}), "weftd ended before it answered: "+err.Error())
		check(t, "answering", answerError(err), "weftd ended before it answered: "+err.Error())
	}
	other := errors.New("no")
	check(t, "asked", requestError(other), "ask weftd: no")
	check(t, "answering", answerError(other), "read the answer of weftd: no")
}

func check(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("%s: error %q, want %q", what, err, want)
	}
}

package ui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/router/api"
)

// fake answers what the test put into it.
type fake struct {
	status api.Status
	err    error
	asked  atomic.Int32 // for the status
	follow atomic.Int32 // followers of events
}

func (f *fake) Status(context.Context) (api.Status, error) {
	f.asked.Add(1)
	return f.status, f.err
}

func (f *fake) Why(_ context.Context, peer string) (api.Why, error) {
	if peer != "host2" {
		return api.Why{}, fmt.Errorf("no peer is called %s: %w", peer, api.ErrNotFound)
	}
	return api.Why{Nickname: "host2", Reason: "because"}, f.err
}

func (f *fake) PS(context.Context, []string) ([]api.Attachment, error) {
	return []api.Attachment{
		{Container: api.ExposeName, MAC: "02:00:00:00:00:01"},
		{Container: "web", MAC: "02:00:00:00:01:01", Addresses: api.Addresses{netip.MustParsePrefix("10.32.0.1/12")}, Names: []string{"web.weft.internal."}},
	}, f.err
}

func (f *fake) Events(ctx context.Context, r api.EventRequest) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		f.follow.Add(1)
		defer f.follow.Add(-1)
		if !yield(api.Event{Seq: r.After + 1, Message: "it happened\n\nid: 9"}, nil) {
			return
		}
		<-ctx.Done()
	}
}

// request is one as a browser of this host makes it, changed by the test.
func request(path string, change ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:6782"+path, nil)
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6782}
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, at))
	for _, f := range change {
		f(r)
	}
	return r
}

func header(key, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(key, value) }
}

func host(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }

// enter lets a browser in, and returns its cookie.
func enter(t *testing.T, u *UI) *http.Cookie {
	t.Helper()
	path, _ := u.Invite()
	w := serve(u, request(path))
	if w.Code != http.StatusOK || len(w.Result().Cookies()) != 1 {
		t.Fatalf("the way in answers %d with the cookies %v", w.Code, w.Result().Cookies())
	}
	return w.Result().Cookies()[0]
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestGuard holds what is refused, each with a way in that would else work.
func TestGuard(t *testing.T) {
	u := New(Config{Backend: &fake{}})
	if w := serve(u, request("/ui/")); w.Code != http.StatusNotFound {
		t.Errorf("the page is off and answers %d", w.Code)
	}
	cookie := enter(t, u)
	with := func(r *http.Request) { r.AddCookie(cookie) }
	on := func(addr net.Addr) func(*http.Request) {
		return func(r *http.Request) {
			*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, addr))
		}
	}
	for _, tt := range []struct {
		name   string
		change []func(*http.Request)
		want   int
	}{
		{"as it should be", nil, 200},
		{"localhost", []func(*http.Request){host("localhost:6782")}, 200},
		{"another port of a forwarder", []func(*http.Request){host("127.0.0.1:9000")}, 200},
		{"IPv6", []func(*http.Request){host("[::1]:6782")}, 200},
		{"its own origin", []func(*http.Request){header("Origin", "http://127.0.0.1:6782")}, 200},
		{"a foreign name for our address", []func(*http.Request){host("weft.example:6782")}, 403},
		{"a name that begins like ours", []func(*http.Request){host("127.0.0.1.weft.example:6782")}, 403},
		{"no name", []func(*http.Request){host("")}, 403},
		{"an address that is not this host's own", []func(*http.Request){host("192.0.2.1:6782")}, 403},
		{"a foreign origin", []func(*http.Request){header("Origin", "http://weft.example")}, 403},
		{"no origin, as from a sandbox", []func(*http.Request){header("Origin", "null")}, 403},
		{"the origin of another port", []func(*http.Request){header("Origin", "http://127.0.0.1:9999")}, 403},
		{"another scheme", []func(*http.Request){header("Origin", "https://127.0.0.1:6782")}, 403},
		{"asked for by another site", []func(*http.Request){header("Sec-Fetch-Site", "cross-site"), header("Sec-Fetch-Mode", "no-cors")}, 403},
		{"asked for by another port", []func(*http.Request){header("Sec-Fetch-Site", "same-site"), header("Sec-Fetch-Mode", "cors")}, 403},
		{"from the network", []func(*http.Request){on(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 6782})}, 403},
		{"without a known address", []func(*http.Request){on(nil)}, 403},
		{"a command", []func(*http.Request){func(r *http.Request) { r.Method = http.MethodPost }}, 405},
		{"without the cookie", []func(*http.Request){func(r *http.Request) { r.Header.Del("Cookie") }}, 401},
		{"another value", []func(*http.Request){func(r *http.Request) { r.Header.Set("Cookie", cookie.Name+"=x") }}, 401},
		{"another name", []func(*http.Request){func(r *http.Request) { r.Header.Set("Cookie", "x="+cookie.Value) }}, 401},
	} {
		for _, path := range []string{"/ui/", "/ui/style.css", "/ui/table", "/ui/data/picture", "/ui/data/names", "/ui/data/why?peer=host2"} {
			if w := serve(u, request(path, append([]func(*http.Request){with}, tt.change...)...)); w.Code != tt.want {
				t.Errorf("%s: %s answers %d, want %d", tt.name, path, w.Code, tt.want)
			}
		}
		if tt.want != 403 {
			continue
		}
		path, _ := u.Invite()
		if w := serve(u, request(path, tt.change...)); w.Code != tt.want || len(w.Result().Cookies()) > 0 {
			t.Errorf("%s: the way in answers %d with the cookies %v", tt.name, w.Code, w.Result().Cookies())
		}
	}
}

// TestInvite holds what a code is good for.
func TestInvite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := New(Config{Backend: &fake{}})
		cookie := enter(t, u)
		if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/ui/" || len(cookie.Value) < 40 {
			t.Errorf("cookie %+v", cookie)
		}
		if other := enter(t, New(Config{Backend: &fake{}})); other.Name == cookie.Name || other.Value == cookie.Value {
			t.Error("two daemons have one cookie")
		}
		path, _ := u.Invite()
		if strings.Contains(path, cookie.Value) {
			t.Error("the way in is the cookie")
		}
		w := serve(u, request(path))
		if code := strings.TrimPrefix(path, "/ui/?code="); strings.Contains(w.Body.String(), code) || w.Header().Get("Location") != "" {
			t.Error("the code is told on")
		}
		if w := serve(u, request(path)); w.Code != http.StatusUnauthorized {
			t.Errorf("a code that was used answers %d", w.Code)
		}
		// Who is in may follow it again.
		if w := serve(u, request(path, func(r *http.Request) { r.AddCookie(cookie) })); w.Code != http.StatusOK {
			t.Errorf("a code that was used by this browser answers %d", w.Code)
		}
		for _, code := range []string{"", "x", path[len("/ui/?code="):] + "x", path[len("/ui/?code=") : len(path)-1]} {
			if w := serve(u, request("/ui/?code="+code)); w.Code != http.StatusUnauthorized {
				t.Errorf("the code %q answers %d", code, w.Code)
			}
		}
		path, expires := u.Invite()
		time.Sleep(time.Until(expires))
		if w := serve(u, request(path)); w.Code != http.StatusUnauthorized {
			t.Errorf("a code that is too old answers %d", w.Code)
		}
		first, _ := u.Invite()
		for range maxInvites {
			path, _ = u.Invite()
		}
		if w := serve(u, request(first)); w.Code != http.StatusUnauthorized {
			t.Errorf("there are more than %d codes", maxInvites)
		}
		if w := serve(u, request(path)); w.Code != http.StatusOK {
			t.Errorf("the last code answers %d", w.Code)
		}
	})
}

// TestSessions holds how long a browser is good that was let in.
func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := New(Config{Backend: &fake{}})
		see := func(c *http.Cookie) int {
			return serve(u, request("/ui/data/picture", func(r *http.Request) { r.AddCookie(c) })).Code
		}
		first, second := enter(t, u), enter(t, u)
		if first.Value == second.Value || first.MaxAge != int(sessionTime.Seconds()) {
			t.Errorf("two browsers have %+v and %+v", first, second)
		}
		time.Sleep(sessionTime - time.Second)
		if see(first) != http.StatusOK {
			t.Error("a session ends early")
		}
		later := enter(t, u)
		time.Sleep(time.Second)
		if a, b := see(first), see(later); a != http.StatusUnauthorized || b != http.StatusOK {
			t.Errorf("after %s a session answers %d, a later one %d", sessionTime, a, b)
		}
		for range maxSessions {
			first = enter(t, u)
		}
		if a, b := see(later), see(first); a != http.StatusUnauthorized || b != http.StatusOK {
			t.Errorf("one of more than %d sessions answers %d, the last one %d", maxSessions, a, b)
		}
		path, _ := u.Invite()
		u.TurnOff()
		if see(first) != http.StatusNotFound {
			t.Error("it is off and answers")
		}
		u.TurnOn()
		if a, b := see(first), serve(u, request(path)).Code; a != http.StatusUnauthorized || b != http.StatusUnauthorized {
			t.Errorf("after it was off a session answers %d, an unused code %d", a, b)
		}
	})
}

// TestPage holds the headers of every answer, and that the page has nothing
// that they forbid.
func TestPage(t *testing.T) {
	u := New(Config{Backend: &fake{}})
	cookie := enter(t, u)
	with := func(r *http.Request) { r.AddCookie(cookie) }
	files, err := fs.ReadDir(page, "page")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
	inline := regexp.MustCompile(`(?i)<script[^>]*>[^<]|<style|\son[a-z]+=|\sstyle=|javascript:|<base|<form|<iframe`)
	outside := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+`)
	for _, f := range files {
		b, _ := fs.ReadFile(page, "page/"+f.Name())
		text := strings.ReplaceAll(string(b), "http://www.w3.org/2000/svg", "")
		_, ext, _ := strings.Cut(f.Name(), ".")
		if ext == "html" || ext == "tmpl" {
			if bad := inline.FindString(text); bad != "" {
				t.Errorf("%s has %q inside", f.Name(), bad)
			}
		}
		if bad := outside.FindString(text); bad != "" {
			t.Errorf("%s leads to %s", f.Name(), bad)
		}
		if strings.Contains(text, "innerHTML") || strings.Contains(text, "eval(") {
			t.Errorf("%s makes markup or code of text", f.Name())
		}
		w := serve(u, request("/ui/"+f.Name(), with))
		if want := kinds[ext]; w.Code != http.StatusOK || want != "" && w.Header().Get("Content-Type") != want {
			t.Errorf("%s: %d %s, want %s", f.Name(), w.Code, w.Header().Get("Content-Type"), want)
		}
	}
	for _, path := range []string{"/ui/", "/ui/nothing", "/ui/../ui/data/picture", "/ui/data/picture", "/ui/data/nothing", "/ui/table"} {
		h := serve(u, request(path, with)).Header()
		for key, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if h.Get(key) != want {
				t.Errorf("%s: %s is %q, want %q", path, key, h.Get(key), want)
			}
		}
		if h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s lets others read", path)
		}
	}
	for _, not := range []string{"unsafe", "http:", "https:", "*", "data:"} {
		if strings.Contains(policy, not) {
			t.Errorf("the policy allows %s", not)
		}
	}
	if w := serve(u, request("/ui/../ui.go", with)); w.Code == http.StatusOK {
		t.Error("files beside the page are served")
	}
}

// TestData asks for everything that the page asks for.
func TestData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{status: cluster()}
		u := New(Config{Backend: f})
		cookie := enter(t, u)
		ask := func(path string, want int) string {
			t.Helper()
			w := serve(u, request("/ui/data/"+path, func(r *http.Request) { r.AddCookie(cookie) }))
			if w.Code != want || w.Header().Get("Content-Type") != "application/json" || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: %d %s, want %d and JSON:\n%s", path, w.Code, w.Header().Get("Content-Type"), want, w.Body)
			}
			return w.Body.String()
		}
		for path, has := range map[string]string{
			"picture":                       `"All is well: 3 hosts.`,
			"why?peer=host2":                `"Reason":"because"`,
			"names":                         `{"name":"web.weft.internal.","host":"host1","container":"0123456789ab","addresses":["10.32.0.1","10.32.0.9"]}`,
			"host?peer=02:00:00:00:00:01":   `"attached":[{"container":"web"`,
			"host?peer=02:00:00:00:00:02":   `"attached":[{"container":"fedcba987654","mac":"02:00:00:00:02:01","addresses":["10.32.0.2"],"names":["db.weft.internal."]}]`,
			"host?peer=02:00:00:00:00:03&x": `"links":[{"peer":"host1","id":"02:00:00:00:00:01","state":"relayed"`,
		} {
			if got := ask(path, 200); !strings.Contains(got, has) {
				t.Errorf("%s has no %s:\n%s", path, has, got)
			}
		}
		ask("host?peer=nobody", 404)
		ask("why?peer=nobody", 404)
		if n := f.asked.Load(); n != 1 {
			t.Errorf("%d looks within a second cost %d looks at the daemon, want 1", 7, n)
		}
		time.Sleep(time.Second)
		ask("picture", 200)
		if n := f.asked.Load(); n != 2 {
			t.Errorf("after a second the daemon was asked %d times, want 2", n)
		}
		time.Sleep(time.Second)
		f.err = errors.New("no <b>way</b>")
		if got := ask("picture", 500); strings.Contains(got, "<") {
			t.Errorf("an error is markup: %s", got)
		}
	})
}

// TestEvents holds the form of the stream and its bounds.
func TestEvents(t *testing.T) {
	defer goleak.VerifyNone(t)
	f := &fake{}
	u := New(Config{Backend: f})
	srv := httptest.NewServer(u)
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	cookie := enter(t, u)
	follow := func(last string) (*http.Response, context.CancelFunc) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/ui/data/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.AddCookie(cookie)
		if last != "" {
			r.Header.Set("Last-Event-ID", last)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return res, cancel
	}
	res, cancel := follow("41")
	want := "retry: 2000\n\nid: 42\ndata: {\"seq\":42,"
	b := make([]byte, len(want))
	if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != want {
		t.Errorf("the stream begins with %q, %v, want %q", b, err, want)
	}
	rest := make([]byte, 200)
	n, _ := res.Body.Read(rest)
	if text := string(rest[:n]); strings.Count(text, "\n") != 2 || !strings.HasSuffix(text, "\n\n") {
		t.Errorf("an event is more than one line: %q", text)
	}
	if kind := res.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("it is %s", kind)
	}
	all := []context.CancelFunc{cancel}
	bodies := []io.Closer{res.Body}
	for range maxStreams - 1 {
		res, cancel := follow("")
		all, bodies = append(all, cancel), append(bodies, res.Body)
		if res.StatusCode != http.StatusOK {
			t.Fatalf("a stream answers %d", res.StatusCode)
		}
	}
	one, cancel := follow("")
	if one.StatusCode != http.StatusServiceUnavailable || one.Header.Get("Retry-After") == "" {
		t.Errorf("one stream too many answers %d", one.StatusCode)
	}
	cancel()
	_ = one.Body.Close()
	for i, cancel := range all[1:] {
		cancel()
		_ = bodies[i+1].Close()
	}
	u.TurnOff() // the first one has not ended by itself
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Errorf("a stream ends with %v when the picture is turned off", err)
	}
	all[0]()
	_ = res.Body.Close()
	srv.Close() // waits for all requests
	if n := f.follow.Load(); n != 0 || u.streams.Load() != 0 {
		t.Errorf("%d followers and %d streams are left", n, u.streams.Load())
	}
}

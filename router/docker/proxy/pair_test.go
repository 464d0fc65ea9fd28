package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// converse sends bytes to a socket, says that it is done, and returns
// everything that comes back.
func converse(t testing.TB, socket, text string) string {
	t.Helper()
	c, err := net.Dial("unix", socket)
	check(t, err)
	defer c.Close()
	check(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	go func() {
		_, _ = io.WriteString(c, text)
		if !strings.Contains(text, "GET") { // else the server takes our end for our departure
			_ = c.(*net.UnixConn).CloseWrite()
		}
	}()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("%q: %v", text, err)
	}
	return string(b)
}

// TestByteForByte compares what the engine answers with what comes through the
// proxy.
func TestByteForByte(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	through := start(t, f, &fakeBackend{}, nil)
	const end = "Connection: close\r\n\r\n"
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: docker\r\n" }
	tests := map[string]string{
		"plain":               get("/_ping") + end,
		"head":                "HEAD /_ping HTTP/1.1\r\nHost: docker\r\n" + end,
		"old version":         get("/v1.12/version") + end,
		"new version":         get("/v1.99/version") + end,
		"no version":          get("/version") + end,
		"chunked with sum":    get("/chunked") + "TE: trailers\r\n" + end,
		"HTTP/1.0":            "GET /chunked HTTP/1.0\r\n\r\n",
		"204":                 get("/nothing") + end,
		"304":                 get("/unchanged") + end,
		"103":                 get("/early") + end,
		"unknown":             get("/none") + end,
		"pipelined":           get("/_ping") + "\r\n" + get("/chunked") + "\r\n" + get("/nothing") + "\r\n" + get("/version") + end,
		"body":                "POST /echo HTTP/1.1\r\nHost: docker\r\nContent-Length: 5\r\n" + end + "hello",
		"no body":             "POST /echo HTTP/1.1\r\nHost: docker\r\n" + end,
		"chunks":              "POST /echo HTTP/1.1\r\nHost: docker\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n" + end + "5\r\nhello\r\n00A;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
		"expect":              "POST /echo HTTP/1.1\r\nHost: docker\r\nExpect: 100-continue\r\nContent-Length: 5\r\n" + end + "hello",
		"two with bodies":     "POST /echo HTTP/1.1\r\nHost: docker\r\nContent-Length: 2\r\n\r\nab" + "POST /echo HTTP/1.1\r\nHost: docker\r\nContent-Length: 2\r\n" + end + "cd",
		"upgraded":            "POST /attach HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nls -l\nGet /x HTTP/1.1\r\n\r\n",
		"upgraded with body":  "POST /attach HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}exec\n",
		"raw without upgrade": "POST /attach HTTP/1.1\r\nHost: docker\r\n\r\nls\n",
		"after another":       "POST /echo HTTP/1.1\r\nHost: docker\r\nContent-Length: 2\r\n\r\nab" + "POST /attach HTTP/1.1\r\nHost: docker\r\n\r\nls\n",
		"malformed":           "GARBAGE\r\n\r\n",
		"malformed length":    "POST /echo HTTP/1.1\r\nHost: docker\r\nContent-Length: x\r\n" + end,
		"malformed chunks":    "POST /echo HTTP/1.1\r\nHost: docker\r\nTransfer-Encoding: chunked\r\n" + end + "zz\r\nhello\r\n",
		"empty line first":    "\r\n" + get("/_ping") + end,
		"long head":           get("/_ping") + "X: " + strings.Repeat("x", 2<<20) + "\r\n" + end,
		"nothing":             "",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			beside, got := converse(t, f.socket, text), converse(t, through, text)
			if diff := cmp.Diff(beside, got); diff != "" {
				t.Errorf("(-beside +through):\n%s", diff)
			}
			if beside == "" && text != "" {
				t.Error("the engine said nothing: this shows nothing")
			}
		})
	}
}

// TestHalfClose: what a client has to say may end before what it is told, and
// the other way round.
func TestHalfClose(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	through := start(t, f, &fakeBackend{}, nil)
	c, err := net.Dial("unix", through)
	check(t, err)
	defer c.Close()
	check(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	read := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
			t.Fatalf("got %q, %v; want %q", b, err, want)
		}
	}
	_, err = io.WriteString(c, "POST /attach HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	check(t, err)
	read("HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nprompt> ")
	for _, line := range []string{"a", "POST /containers/create HTTP/1.1\r\n\r\n", strings.Repeat("z", 1<<20)} {
		go func() { _, _ = io.WriteString(c, line) }()
		read(strings.ToUpper(line))
	}
	check(t, c.(*net.UnixConn).CloseWrite())
	read("bye\n")
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v; want EOF", n, err)
	}
}

// TestBulk moves 1 GB each way, counted and not stored.
func TestBulk(t *testing.T) {
	noLeaks(t)
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	f := newFakeEngine(t)
	client := clientOf(t, start(t, f, &fakeBackend{}, nil))
	for _, form := range []string{"", "&chunked=1"} {
		r, err := client.Get(fmt.Sprintf("http://docker/bulk?n=%d%s", size, form))
		check(t, err)
		n, err := io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if n != size || err != nil {
			t.Errorf("bulk%s: %d bytes, %v", form, n, err)
		}
	}
	// A body of unknown length is sent in chunks.
	sum := sha256.New()
	body := io.TeeReader(io.LimitReader(zeros{}, size), sum)
	r, err := client.Post("http://docker/echo", "application/x-tar", struct{ io.Reader }{body})
	check(t, err)
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	check(t, err)
	if want := fmt.Sprintf("%d %x [\"chunked\"]", size, sum.Sum(nil)); !strings.HasPrefix(string(got), want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestParallel has 100 clients, each with several requests on one connection.
func TestParallel(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	b := &fakeBackend{}
	through := start(t, f, b, nil)
	want := converse(t, f.socket, "GET /chunked HTTP/1.0\r\n\r\n")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			client := clientOf(t, through)
			for range 3 {
				r, err := client.Post("http://docker/containers/create?name="+fmt.Sprintf("c%d", i), "application/json", strings.NewReader(`{"Image":"x"}`))
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusCreated {
					t.Errorf("%s %s %v", r.Status, b, err)
				}
				r.Body.Close()
				if got := converse(t, through, "GET /chunked HTTP/1.0\r\n\r\n"); got != want {
					t.Errorf("%d bytes, want %d", len(got), len(want))
				}
			}
		})
	}
	wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	addresses := map[string]bool{}
	for _, c := range f.containers {
		if at, ok := c.Networks["weft"]; ok && at.DriverOpts[optContainer] == c.ID {
			addresses[at.IPAMConfig.IPv4Address] = true
		}
	}
	if len(addresses) != 300 {
		t.Errorf("%d addresses for %d containers", len(addresses), len(f.containers))
	}
	if held := b.holds(); len(held) > 0 {
		t.Errorf("still reserved: %v", held)
	}
}

// TestClientLeaves: the engine hears when nobody listens to a stream any more.
func TestClientLeaves(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	client := clientOf(t, start(t, f, &fakeBackend{}, nil))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/follow?name=web", nil)
	check(t, err)
	r, err := client.Do(req)
	check(t, err)
	defer r.Body.Close()
	line := make([]byte, 6)
	if _, err := io.ReadFull(r.Body, line); err != nil || string(line) != "first\n" {
		t.Fatalf("%q, %v", line, err)
	}
	cancel()
	select {
	case <-f.gone:
	case <-time.After(20 * time.Second):
		t.Error("the engine goes on")
	}
}

// TestEngineEnds: what the engine breaks off breaks off here, and an engine
// that is gone is named.
func TestEngineEnds(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	through := start(t, f, &fakeBackend{}, nil)
	client := clientOf(t, through)
	r, err := client.Get("http://docker/dies")
	check(t, err)
	b, err := io.ReadAll(r.Body)
	r.Body.Close()
	if string(b) != "half of " || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v; want half and an unexpected EOF", b, err)
	}
	// An idle connection ends with the engine's.
	c, err := net.Dial("unix", through)
	check(t, err)
	defer c.Close()
	check(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(c, "GET /nothing HTTP/1.1\r\nHost: docker\r\n\r\n")
	check(t, err)
	if _, err := c.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	check(t, f.server.Close())
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v; want EOF", n, err)
	}
	_ = os.Remove(f.socket)
	got := converse(t, through, "POST /echo HTTP/1.1\r\nHost: docker\r\nContent-Length: 2\r\n\r\nab")
	want := `{"message":"weft: the Docker engine does not answer: dial unix ` + f.socket + `: connect: no such file or directory"}`
	if !strings.HasPrefix(got, "HTTP/1.1 503 Service Unavailable\r\n") || !strings.HasSuffix(got, "\r\n\r\n"+want) {
		t.Errorf("got %s", got)
	}
}

// TestEarlyAnswer: who sends 100 MB to somebody who does not want them still
// hears why.
func TestEarlyAnswer(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	through := start(t, f, &fakeBackend{}, nil)
	for _, socket := range []string{f.socket, through} {
		c, err := net.Dial("unix", socket)
		check(t, err)
		check(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		const size = 100 << 20
		_, err = fmt.Fprintf(c, "POST /early-refusal HTTP/1.1\r\nHost: docker\r\nContent-Length: %d\r\n\r\n", size)
		check(t, err)
		n, err := io.Copy(c, io.LimitReader(zeros{}, size))
		if err == nil {
			t.Errorf("all %d bytes went", n)
		}
		b, _ := io.ReadAll(c)
		c.Close()
		if !bytes.HasPrefix(b, []byte("HTTP/1.1 403 Forbidden\r\n")) || !bytes.HasSuffix(b, []byte("no\n")) {
			t.Errorf("after %d bytes: %q", n, b)
		}
	}
}

package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/router/api"
)

// fakeEngine plays an engine on a unix socket: what passes in every form that
// the engine's API has, and containers and networks as far as we use them.
type fakeEngine struct {
	// Constant after newFakeEngine.
	socket string
	root   string
	server *http.Server

	mu         sync.Mutex // guards what follows
	containers map[string]*fakeContainer
	networks   map[string]string // name to subnet
	calls      []string          // of changes, and of inspections of containers
	fail       map[string]string // a call and what it is answered
	created    []byte            // body of the last creation
	version    string            // prefix of its path
	gone       chan string       // clients that left a stream
}

type fakeContainer struct {
	ID, Name, Status, Env string
	Running               bool
	Networks              map[string]place
}

func newFakeEngine(t testing.TB) *fakeEngine {
	t.Helper()
	dir := t.TempDir()
	f := &fakeEngine{
		socket: filepath.Join(dir, "docker.sock"), root: filepath.Join(dir, "root"),
		containers: map[string]*fakeContainer{}, networks: map[string]string{"weft": "10.32.0.0/12"}, fail: map[string]string{},
		gone: make(chan string, 16),
	}
	ln, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.server = &http.Server{Handler: f.mux(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.server.Serve(ln) // until it is closed
	}()
	t.Cleanup(func() {
		_ = f.server.Close()
		<-done
	})
	return f
}

func (f *fakeEngine) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", f.socket)
}

func (f *fakeEngine) mux() http.Handler {
	mux := http.NewServeMux()
	f.streams(mux)
	f.state(mux)
	version := regexp.MustCompile(`^/v[0-9.]+`)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil // answers are compared
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Ostype", "linux")
		prefix := version.FindString(r.URL.Path)
		r.URL.Path = strings.TrimPrefix(r.URL.Path, prefix)
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), versionKey{}, prefix)))
	})
}

type versionKey struct{}

// streams are the forms of answers.
func (f *fakeEngine) streams(mux *http.ServeMux) {
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "OK") })
	mux.HandleFunc("/version", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"ApiVersion":"1.41","Asked":%q}`, r.Context().Value(versionKey{}))
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		_, _ = fmt.Fprintf(w, "%d %x %q %v\n", n, h.Sum(nil), r.TransferEncoding, r.Trailer)
	})
	mux.HandleFunc("POST /sink", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	mux.HandleFunc("GET /chunked", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		for i := range 50 {
			_, _ = fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("x", i*i))
			w.(http.Flusher).Flush()
		}
		w.Header().Set("Sum", "1225")
	})
	mux.HandleFunc("GET /nothing", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /unchanged", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) })
	mux.HandleFunc("GET /early", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "late")
	})
	mux.HandleFunc("GET /bulk", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		if r.URL.Query().Get("chunked") == "" {
			w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		}
		block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for ; n > 0; n -= int64(len(block)) {
			if _, err := w.Write(block[:min(n, int64(len(block)))]); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("GET /follow", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		f.gone <- r.URL.Query().Get("name")
	})
	mux.HandleFunc("GET /dies", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "half of ")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("POST /early-refusal", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, "no", http.StatusForbidden)
	})
	// Hijacked, upgraded and raw: what comes goes back in capitals, and after
	// the client's end one line more.
	mux.HandleFunc("POST /attach", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		if r.Header.Get("Upgrade") != "" {
			_, _ = io.WriteString(c, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		} else {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n")
		}
		_, _ = io.WriteString(c, "prompt> ")
		buf := make([]byte, 4096)
		for {
			n, err := rw.Read(buf)
			_, _ = c.Write(bytes.ToUpper(buf[:n]))
			if err != nil {
				break
			}
		}
		_, _ = io.WriteString(c, "bye\n")
	})
}

func (f *fakeEngine) note(call string) (fails string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	return f.fail[call]
}

// did returns what the engine was asked to change since the last time.
func (f *fakeEngine) did() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func problem(w http.ResponseWriter, status int, text string) {
	answerJSON(w, status, map[string]string{"message": text})
}

// state is containers and networks.
func (f *fakeEngine) state(mux *http.ServeMux) {
	mux.HandleFunc("POST /containers/create", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if text := f.note("create"); text != "" {
			problem(w, http.StatusBadRequest, text)
			return
		}
		if !json.Valid(body) {
			problem(w, http.StatusBadRequest, "invalid character")
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		id := fmt.Sprintf("%064x", len(f.containers)+1)
		f.containers[id] = &fakeContainer{ID: id, Name: r.URL.Query().Get("name"), Networks: map[string]place{"bridge": {}}}
		f.created = body
		f.version, _ = r.Context().Value(versionKey{}).(string)
		answerJSON(w, http.StatusCreated, map[string]any{"Id": id, "Warnings": []string{}})
	})
	mux.HandleFunc("POST /networks/create", func(w http.ResponseWriter, r *http.Request) {
		var n struct {
			Name, Driver string
			IPAM         struct {
				Driver string
				Config []struct{ Subnet, Gateway string }
			}
			Labels map[string]string
		}
		_ = json.NewDecoder(r.Body).Decode(&n)
		f.note(fmt.Sprintf("network %s %s %s %s %v", n.Name, n.Driver, n.IPAM.Driver, n.IPAM.Config, n.Labels))
		f.mu.Lock()
		defer f.mu.Unlock()
		f.networks[n.Name] = n.IPAM.Config[0].Subnet
		answerJSON(w, http.StatusCreated, map[string]string{"Id": "n"})
	})
	mux.HandleFunc("GET /networks", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		list := []map[string]string{}
		for name := range f.networks {
			if name != "weft" {
				list = append(list, map[string]string{"Name": name})
			}
		}
		answerJSON(w, http.StatusOK, list)
	})
	mux.HandleFunc("GET /networks/{name}", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		subnet, ok := f.networks[r.PathValue("name")]
		if !ok {
			problem(w, http.StatusNotFound, "network not found")
			return
		}
		answerJSON(w, http.StatusOK, map[string]any{"Driver": "weft", "IPAM": map[string]any{"Config": []map[string]string{{"Subnet": subnet}}}})
	})
	mux.HandleFunc("DELETE /networks/{name}", func(w http.ResponseWriter, r *http.Request) {
		f.note("remove network " + r.PathValue("name"))
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.networks, r.PathValue("name"))
	})
	mux.HandleFunc("POST /networks/{name}/{what}", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Container      string
			EndpointConfig place
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		name, what := r.PathValue("name"), r.PathValue("what")
		if text := f.note(what + " " + name); text != "" {
			problem(w, http.StatusInternalServerError, text)
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if what == "connect" {
			f.containers[q.Container].Networks[name] = q.EndpointConfig
		} else {
			delete(f.containers[q.Container].Networks, name)
		}
	})
	mux.HandleFunc("GET /containers/json", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		list := []map[string]any{}
		for _, c := range f.containers {
			list = append(list, map[string]any{"Id": c.ID, "State": "exited", "NetworkSettings": map[string]any{"Networks": c.Networks}})
		}
		answerJSON(w, http.StatusOK, list)
	})
	mux.HandleFunc("GET /containers/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, c := range f.containers {
			if c.ID == r.PathValue("id") || c.Name == r.PathValue("id") {
				answerJSON(w, http.StatusOK, map[string]any{
					"Id": c.ID, "Name": "/" + c.Name, "State": map[string]any{"Running": c.Running, "Status": c.Status},
					"Config": map[string]any{"Env": []string{c.Env}}, "Odd": json.RawMessage(`{"b":1,"a":2.0}`),
					"NetworkSettings": map[string]any{"IPAddress": "172.17.0.2", "IPPrefixLen": 16, "MacAddress": "02:42:ac:11:00:02", "Networks": c.Networks},
				})
				return
			}
		}
		problem(w, http.StatusNotFound, "No such container: "+r.PathValue("id"))
	})
	mux.HandleFunc("POST /containers/{id}/start", func(w http.ResponseWriter, r *http.Request) {
		f.note("start")
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /containers/{id}", func(w http.ResponseWriter, r *http.Request) {
		f.note("remove container")
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.containers, r.PathValue("id"))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusOK, map[string]string{"DockerRootDir": f.root})
	})
}

// fakeBackend gives addresses from the subnets that it is asked for.
type fakeBackend struct {
	mu       sync.Mutex
	notReady int // so many questions long
	held     []netip.Addr
	last     netip.Addr // that was given by itself
	full     bool
	attached []api.Attachment
}

func (b *fakeBackend) Status(context.Context) (api.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notReady--
	return api.Status{Ready: b.notReady < 0, Waiting: "the address space"}, nil
}

func (b *fakeBackend) Reserve(_ context.Context, r api.ReserveRequest) (netip.Prefix, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := r.Address
	if !a.IsValid() {
		if b.full {
			return netip.Prefix{}, errors.New("no address is free in " + r.Subnet.String())
		}
		if a = b.last; !r.Subnet.Contains(a) {
			a = r.Subnet.Addr()
		}
		for a = a.Next(); slices.Contains(b.held, a); a = a.Next() {
		}
		b.last = a
	}
	if slices.Contains(b.held, a) {
		return netip.Prefix{}, fmt.Errorf("address %s belongs to db: %w", a, api.ErrConflict)
	}
	b.held = append(b.held, a)
	return netip.PrefixFrom(a, r.Subnet.Bits()), nil
}

func (b *fakeBackend) Unreserve(_ context.Context, a netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = slices.DeleteFunc(b.held, func(o netip.Addr) bool { return o == a })
	return nil
}

func (b *fakeBackend) PS(context.Context, []string) ([]api.Attachment, error) { return b.attached, nil }

func (b *fakeBackend) holds() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.held)
}

// start runs a proxy in front of the engine and returns its socket.
func start(t testing.TB, f *fakeEngine, b *fakeBackend, change func(*Config)) string {
	t.Helper()
	c := Config{
		Dial: f.dial, Socket: f.socket, Backend: b, Range: netip.MustParsePrefix("10.32.0.0/11"), Subnet: netip.MustParsePrefix("10.32.0.0/12"),
		Domain: "weft.internal.", DNS: netip.MustParseAddr("169.254.67.83"),
		Match: regexp.MustCompile("(.*)"), Replacement: "$1",
	}
	if change != nil {
		change(&c)
	}
	p := New(c)
	socket := filepath.Join(filepath.Dir(f.socket), "weft.sock")
	d, err := p.Open(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, p, d)
	return socket
}

func serve(t testing.TB, p *Proxy, doors ...*Door) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, doors) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the proxy does not end")
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.pairs) > 0 || len(p.inUse) > 0 {
			t.Errorf("left: %d connections, networks in use %v", len(p.pairs), p.inUse)
		}
	})
}

func noLeaks(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait")) })
}

// clientOf talks HTTP to a socket.
func clientOf(t testing.TB, socket string) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package plugin

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker", "plugins", "weft.sock")
	ln, err := Listen(path)
	check(t, err)
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o755, filepath.Dir(filepath.Dir(path)): 0o700} {
		info, err := os.Stat(name)
		check(t, err)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another program answers there") {
		t.Errorf("a second listener: %v", err)
	}
	// What a daemon leaves that is killed.
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	check(t, ln.Close())
	ln, err = Listen(path)
	check(t, err)
	check(t, ln.Close())
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket stays after an orderly end")
	}
	ln, err = Listen(path)
	check(t, err)
	Remove(path)
	if _, err := os.Lstat(path); err != nil {
		t.Error("a socket that answers is removed")
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	check(t, ln.Close())
	Remove(path)
	if _, err := os.Lstat(filepath.Dir(filepath.Dir(path))); err == nil {
		t.Error("a dead socket and its directories stay")
	}
	Remove(path)
	check(t, os.MkdirAll(filepath.Dir(path), 0o700))
	check(t, os.WriteFile(path, nil, 0o600))
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file is in the way: %v", err)
	}
}

// TestServe asks over a real socket, and ends while a request is under way.
func TestServe(t *testing.T) {
	t.Run("by itself", func(t *testing.T) { serveAndEnd(t, false, "weftd is not ready yet") })
	t.Run("behind a keeper", func(t *testing.T) { serveAndEnd(t, true, "EOF") })
}

func serveAndEnd(t *testing.T, kept bool, words string) {
	t.Helper()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	path := filepath.Join(t.TempDir(), "plugins", "weft.sock")
	ln, err := Listen(path)
	check(t, err)
	waiting := make(chan struct{})
	r := newRig(t, func(c *Config) {
		c.Kept = kept
		c.Backend = func(ctx context.Context) (Backend, error) {
			close(waiting)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, ln) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 20 * time.Second}
	post := func(method, body string) string {
		res, err := client.Post("http://plugin/"+method, "", strings.NewReader(body))
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return string(b)
	}
	if got := post("Plugin.Activate", ""); !strings.Contains(got, "IpamDriver") {
		t.Errorf("Activate: %s", got)
	}
	answer := make(chan string, 1)
	go func() { answer <- post("NetworkDriver.Leave", `{"EndpointID":"e"}`) }()
	<-waiting
	cancel()
	if got := <-answer; !strings.Contains(got, words) {
		t.Errorf("under way when the daemon ends: %s", got)
	}
	check(t, <-done)
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket stays")
	}
}

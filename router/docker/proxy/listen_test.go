package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/router/api"
)

func group(t *testing.T, path string) (int, fs.FileMode) {
	t.Helper()
	st, err := os.Stat(path)
	check(t, err)
	return int(st.Sys().(*syscall.Stat_t).Gid), st.Mode().Perm()
}

// TestOwner: who may use Docker's socket may use ours, also when that changes.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("SKIPPED: needs root, to give files away")
	}
	f := newFakeEngine(t)
	check(t, os.Chown(f.socket, -1, 4242))
	check(t, os.Chmod(f.socket, 0o660))
	through := start(t, f, &fakeBackend{}, nil)
	if gid, mode := group(t, through); gid != 4242 || mode != 0o660 {
		t.Errorf("group %d, mode %o", gid, mode)
	}
	check(t, os.Chown(f.socket, -1, 4343))
	check(t, os.Chmod(f.socket, 0o600))
	converse(t, through, "GET /_ping HTTP/1.0\r\n\r\n")
	if gid, mode := group(t, through); gid != 4343 || mode != 0o600 {
		t.Errorf("after a change: group %d, mode %o", gid, mode)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d.sock")
	p := New(Config{NoRewriteHosts: true})
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	old.SetUnlinkOnClose(false)
	if _, err := p.Open(t.Context(), path); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a live socket: %v", err)
	}
	check(t, old.Close())
	d, err := p.Open(t.Context(), path)
	check(t, err)
	check(t, d.Close())
	check(t, os.WriteFile(path, nil, 0o600))
	if _, err := p.Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a file: %v", err)
	}
	for _, endpoint := range []string{"tcp://nowhere", "ssh://x", "unix://rel", "tcp://256.0.0.1:1"} {
		if d, err := p.OpenEndpoint(t.Context(), endpoint, TLS{}); err == nil {
			t.Errorf("%s: opened", endpoint)
			_ = d.Close()
		}
	}
	d, err = p.OpenEndpoint(t.Context(), "unix://"+filepath.Join(dir, "more.sock"), TLS{})
	check(t, err)
	check(t, d.Close())
}

// certificates writes an authority, and a certificate for 127.0.0.1 that it
// signed.
func certificates(t *testing.T) (TLS, *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600))
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	check(t, err)
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	cert := write("cert.pem", "CERTIFICATE", der)
	lock := TLS{Cert: cert, CA: cert, Key: write("key.pem", "PRIVATE KEY", pkcs)}
	pair, err := tls.LoadX509KeyPair(lock.Cert, lock.Key)
	check(t, err)
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	check(t, err)
	pool.AddCert(parsed)
	return lock, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

func TestTLS(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	lock, own := certificates(t)
	p := New(Config{Dial: f.dial, Socket: f.socket, Backend: &fakeBackend{}, NoRewriteHosts: true})
	d, err := p.OpenEndpoint(t.Context(), "tcp://127.0.0.1:0", lock)
	check(t, err)
	serve(t, p, d)
	dial := func(c *tls.Config, text string) (string, error) {
		conn, err := tls.Dial("tcp", d.listener.Addr().String(), c)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(conn, text); err != nil {
			return "", err
		}
		if strings.Contains(text, "attach") {
			check(t, conn.CloseWrite())
		}
		b, err := io.ReadAll(conn)
		return string(b), err
	}
	if got, err := dial(own, "GET /_ping HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n"); err != nil || !strings.HasSuffix(got, "\r\n\r\nOK") {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := dial(own, "POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nabc"); err != nil || !strings.HasSuffix(got, "prompt> ABCbye\n") {
		t.Errorf("half closed: %q, %v", got, err)
	}
	if got, err := dial(&tls.Config{RootCAs: own.RootCAs}, "GET /_ping HTTP/1.0\r\n\r\n"); err == nil {
		t.Errorf("without a certificate: %q", got)
	}
	lock.Key = lock.Cert
	if _, err := p.OpenEndpoint(context.Background(), "tcp://127.0.0.1:0", lock); err == nil {
		t.Error("a certificate is taken for a key")
	}
}

// TestForeignPages: what a browser can be made to send to a port of its own
// host is refused; on a unix socket nothing is.
func TestForeignPages(t *testing.T) {
	own, err := os.Hostname()
	check(t, err)
	tests := []struct {
		host, origin string
		verified     bool
		ok           bool
	}{
		{"127.0.0.1:2375", "", false, true},
		{"[::1]:2375", "", false, true},
		{"localhost:2375", "", false, true},
		{"Docker.Example:2375", "", false, true},
		{own, "", false, true},
		{"evil.example:2375", "", false, false},
		{"evil.example:2375", "", true, true},
		{"127.0.0.1:2375", "http://127.0.0.1:2375", false, false},
		{"127.0.0.1:2375", "null", true, false},
	}
	for _, tt := range tests {
		r := &http.Request{Host: tt.host, Header: http.Header{}}
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		d := &Door{tcp: true, host: "docker.example", verified: tt.verified}
		if err := d.admit(r); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, err)
		}
		if err := (&Door{}).admit(r); err != nil {
			t.Errorf("%+v on a unix socket: %v", tt, err)
		}
	}
	noLeaks(t)
	f := newFakeEngine(t)
	p := New(Config{Dial: f.dial, Backend: &fakeBackend{}, NoRewriteHosts: true})
	d, err := p.OpenEndpoint(t.Context(), "tcp://127.0.0.1:0", TLS{})
	check(t, err)
	serve(t, p, d)
	c, err := net.Dial("tcp", d.listener.Addr().String())
	check(t, err)
	defer c.Close()
	check(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(c, "POST /containers/create HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}")
	check(t, err)
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 403 Forbidden\r\n") {
		t.Errorf("got %q, %v", b, err)
	}
	if calls := f.did(); len(calls) > 0 {
		t.Errorf("the engine saw %v", calls)
	}
}

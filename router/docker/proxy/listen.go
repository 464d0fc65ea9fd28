package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/socket"
)

// Door is one place where the proxy listens.
type Door struct {
	listener net.Listener
	tcp      bool   // browsers can reach it
	verified bool   // but only with a certificate
	host     string // that the door was given, in lower case
}

// TLS says how a [Door] on TCP is locked; its zero value is: not at all.
type TLS struct {
	Cert, Key string // paths
	CA        string // path; clients need a certificate that is signed by it
}

// socketOwner is who may open a socket.
type socketOwner struct {
	gid  int
	mode fs.FileMode
}

// Open opens the proxy's own unix socket. It is root's and Docker's group's, as
// Docker's own is, also when that changes. A socket that nobody answers at is
// replaced.
func (p *Proxy) Open(ctx context.Context, path string) (*Door, error) {
	if err := api.RuntimeDir(path); err != nil {
		return nil, err
	}
	owner := engineOwner(p.cfg.Socket)
	d, err := openUnix(ctx, path, owner)
	if err != nil {
		return nil, err
	}
	// Docker's group must get to the socket; what else is there has a mode of
	// its own, and the directory cannot be listed.
	if dir := filepath.Dir(path); dir == filepath.Dir(api.DefaultSocket) {
		if err := os.Chmod(dir, 0o751); err != nil {
			_ = d.listener.Close()
			return nil, fmt.Errorf("let Docker's group reach %s: %w", path, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own, p.owner = path, owner
	return d, nil
}

// OpenEndpoint opens a further door: tcp://ADDRESS:PORT or unix:///PATH.
func (p *Proxy) OpenEndpoint(ctx context.Context, endpoint string, lock TLS) (*Door, error) {
	kind, rest, _ := strings.Cut(endpoint, "://")
	if kind == "unix" {
		if err := api.CheckSocketPath(rest); err != nil {
			return nil, err
		}
		return openUnix(ctx, rest, engineOwner(p.cfg.Socket))
	}
	host, _, err := net.SplitHostPort(rest)
	if kind != "tcp" || err != nil {
		return nil, fmt.Errorf("cannot listen on %q: want tcp://ADDRESS:PORT or unix:///PATH", endpoint)
	}
	d := &Door{tcp: true, host: strings.ToLower(host), verified: lock.CA != ""}
	c, err := lock.config()
	if err != nil {
		return nil, err
	}
	if d.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", rest); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", endpoint, err)
	}
	if c != nil {
		d.listener = tls.NewListener(d.listener, c)
	}
	return d, nil
}

// Close closes a door at which nobody serves.
func (d *Door) Close() error { return d.listener.Close() }

func openUnix(ctx context.Context, path string, owner socketOwner) (*Door, error) {
	ln, err := socket.Listen(ctx, path, 0o600)
	if errors.Is(err, socket.ErrInUse) {
		err = fmt.Errorf("somebody answers there already: %w", api.ErrConflict)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := owner.give(path); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &Door{listener: ln}, nil
}

// engineOwner returns who may open the engine's socket. While there is none it
// is root and the group docker, as the engine itself does it.
func engineOwner(path string) socketOwner {
	if st, err := os.Stat(path); err == nil && st.Mode().Type() == fs.ModeSocket {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			return socketOwner{int(sys.Gid), st.Mode().Perm()}
		}
	}
	owner := socketOwner{0, 0o660}
	if g, err := user.LookupGroup("docker"); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			owner.gid = gid
		}
	}
	return owner
}

// give hands a socket over; the mode is never wider than the owner allows.
func (o socketOwner) give(path string) error {
	if err := os.Chown(path, -1, o.gid); err != nil {
		return err
	}
	return os.Chmod(path, o.mode)
}

// followOwner gives our socket to whom the engine's is given now.
func (p *Proxy) followOwner() {
	if p.cfg.Socket == "" {
		return
	}
	now := engineOwner(p.cfg.Socket)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own == "" || now == p.owner {
		return
	}
	if err := now.give(p.own); err != nil {
		p.log.Warn("cannot give the proxy's socket to whom Docker's belongs", "socket", p.own, "err", err)
		return
	}
	p.log.Info("the proxy's socket belongs to whom Docker's belongs", "gid", now.gid, "mode", now.mode)
	p.owner = now
}

// config reads the files. It returns nil when there is nothing to lock.
func (t TLS) config() (*tls.Config, error) {
	if t.Cert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("read --tlscert and --tlskey: %w", err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if t.CA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("read --tlscacert: %w", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read --tlscacert: %s holds no certificate", t.CA)
	}
	return c, nil
}

// greetLimit is how long a client may take to prove who it is.
const greetLimit = 10 * time.Second

// greet lets a client in that has what the door asks for.
func (d *Door) greet(ctx context.Context, c net.Conn) bool {
	t, ok := c.(*tls.Conn)
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, greetLimit)
	defer cancel()
	return t.HandshakeContext(ctx) == nil
}

// admit refuses what a page of another site can make a browser send: it comes
// with an Origin, or under a name of that site's own for our address.
func (d *Door) admit(r *http.Request) error {
	if !d.tcp {
		return nil
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	own, _ := os.Hostname()
	known := net.ParseIP(host) != nil || host == "localhost" || host == d.host || host == strings.ToLower(own)
	if r.Header.Get("Origin") != "" || !known && !d.verified {
		return refuse(http.StatusForbidden, "the request comes from a page of another site, or names this host %q, which nobody here does", r.Host)
	}
	return nil
}

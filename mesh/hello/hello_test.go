package hello

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
)

// Two hosts over real sockets.
func TestIntroduce(t *testing.T) {
	third := signAdvert(t, key(3), 33, 7)
	d := newHost(t, nil, hostConfig{n: 1, adverts: func(own advert.Signed) []advert.Signed {
		return []advert.Signed{own, third}
	}})
	l := newHost(t, nil, hostConfig{n: 2})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := l.serve(t, ln)
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	pin := l.self
	r, err := d.Dial(context.Background(), addr, &pin)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	got := l.got()
	if len(got) != 1 {
		t.Fatalf("the listener has %d results", len(got))
	}
	local := netip.MustParseAddr("127.0.0.1")
	if d := cmp.Diff(fmt.Sprintf("%s boot 2 dialled true initiator true observed %s remote %s adverts [%s]",
		l.self.Fingerprint(), local, addr, l.self.Fingerprint()), describe(r)); d != "" {
		t.Errorf("dialler (-want +got):\n%s", d)
	}
	from := got[0].Remote
	if from.Addr() != local || from.Port() == 0 {
		t.Errorf("the listener saw %s", from)
	}
	if diff := cmp.Diff(fmt.Sprintf("%s boot 1 dialled false initiator false observed %s remote %s adverts [%s %s]",
		d.self.Fingerprint(), local, from, d.self.Fingerprint(), third.Identity.Fingerprint()), describe(got[0])); diff != "" {
		t.Errorf("listener (-want +got):\n%s", diff)
	}
	if d.logs.String()+l.logs.String() != "" {
		t.Errorf("logged: %s%s", d.logs, l.logs)
	}
}

func describe(r Result) string {
	var ids []string
	for _, a := range r.Adverts {
		ids = append(ids, a.Identity.Fingerprint())
	}
	return fmt.Sprintf("%s boot %d dialled %v initiator %v observed %s remote %s adverts %v",
		r.Peer.Fingerprint(), r.Boot, r.Dialled, r.Initiator, r.Observed, r.Remote, ids)
}

// Every mistake has its own message, on both ends.
func TestMistakes(t *testing.T) {
	other := crypto.Identity{9}
	named := errors.New("name 7a:00:00:00:00:01 belongs to 0011223344556677, not to 8899aabbccddeeff")
	for _, tt := range []struct {
		name     string
		d, l     hostConfig
		pin      *crypto.Identity
		sentinel error
		dialler  string // exactly
		listener string // exactly
	}{
		{
			name: "secret", d: hostConfig{n: 1, secret: 1}, l: hostConfig{n: 2, secret: 2},
			sentinel: ErrSecret,
			dialler:  "wrong password",
			listener: "wrong password",
		},
		{
			name: "cluster", d: hostConfig{n: 1}, l: hostConfig{n: 2, cluster: "other"},
			sentinel: ErrCluster,
			dialler:  "it belongs to a cluster of another name (see --cluster)",
			listener: "it belongs to a cluster of another name (see --cluster)",
		},
		{
			name: "version", d: hostConfig{n: 1}, l: hostConfig{n: 2, versions: Versions{2, 2}},
			sentinel: ErrVersion,
			dialler:  "other protocol version: 2 there, 1 here; run the same version of weft on both",
			listener: "other protocol version: 1 there, 2 here; run the same version of weft on both",
		},
		{
			name: "ourselves", d: hostConfig{n: 1}, l: hostConfig{n: 1},
			sentinel: ErrSelf,
			dialler:  "cannot connect to ourself",
			listener: "cannot connect to ourself",
		},
		{
			name: "ourselves, with another secret meanwhile", d: hostConfig{n: 1}, l: hostConfig{n: 1, secret: 2, cluster: "other"},
			sentinel: ErrSelf,
			dialler:  "cannot connect to ourself",
			listener: "cannot connect to ourself",
		},
		{
			name: "clone", d: hostConfig{n: 1}, l: hostConfig{n: 1, boot: 99},
			sentinel: ErrClone,
			dialler:  "another host has our identity (a copied state directory?); run 'weft reset' on one of the two",
			listener: "another host has our identity (a copied state directory?); run 'weft reset' on one of the two",
		},
		{
			name: "pin", d: hostConfig{n: 1}, l: hostConfig{n: 2}, pin: &other,
			sentinel: ErrIdentity,
			dialler:  "identity is not the expected one: it is " + key(2).Identity().Fingerprint() + ", expected 0900000000000000",
			listener: "identity is not the expected one: the dialler expected another host here",
		},
		{
			name: "refused by the listener", d: hostConfig{n: 1},
			l:        hostConfig{n: 2, check: func(advert.Signed) error { return named }},
			sentinel: ErrRefused,
			dialler:  "introduction refused by the peer: " + named.Error(),
			listener: "introduction refused: " + named.Error(),
		},
		{
			name: "refused by the dialler", d: hostConfig{n: 1, check: func(advert.Signed) error { return named }},
			l:        hostConfig{n: 2},
			sentinel: ErrRefused,
			dialler:  "introduction refused: " + named.Error(),
			listener: "introduction refused by the peer: " + named.Error(),
		},
		{
			name: "refused in many lines", d: hostConfig{n: 1},
			l:        hostConfig{n: 2, check: func(advert.Signed) error { return errors.New("a\nb\x1b[31m" + strings.Repeat("ö", 400)) }},
			sentinel: ErrRefused,
			dialler:  "introduction refused by the peer: a?b?[31m" + strings.Repeat("ö", 252),
			listener: `introduction refused: a\nb\x1b[31m` + strings.Repeat("ö", 400),
		},
		{
			name: "no advert yet", d: hostConfig{n: 1},
			l:        hostConfig{n: 2, adverts: func(advert.Signed) []advert.Signed { return nil }},
			dialler:  "introduction: the other end closed the connection",
			listener: "introduction: our own advert is not ready",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				d, l := newHost(t, network, tt.d), newHost(t, network, tt.l)
				addr := netip.MustParseAddrPort("192.0.2.200:6783")
				stop := l.serve(t, network.listen(addr))
				r, err := d.Dial(t.Context(), addr, tt.pin)
				if err == nil {
					t.Fatalf("introduced: %s", describe(r))
				}
				synctest.Wait()
				stop()
				if diff := cmp.Diff(tt.dialler, err.Error()); diff != "" {
					t.Errorf("dialler (-want +got):\n%s", diff)
				}
				if tt.sentinel != nil && !errors.Is(err, tt.sentinel) {
					t.Errorf("%v is not %v", err, tt.sentinel)
				}
				want := fmt.Sprintf("level=WARN msg=\"introduction failed\" remote=%s err=\"%s\"\n", d.addr.Addr(), tt.listener)
				if diff := cmp.Diff(want, l.logs.String()); diff != "" {
					t.Errorf("listener (-want +got):\n%s", diff)
				}
				if len(l.got()) != 0 {
					t.Error("the listener thinks that they are introduced")
				}
			})
		})
	}
}

// What else may listen on the port.
func TestNotWeft(t *testing.T) {
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, text)
			_, _ = io.Copy(io.Discard, c)
		}
	}
	const stranger = "something else than weft is listening there: "
	for _, tt := range []struct {
		name  string
		serve func(net.Conn)
		want  string
	}{
		{"closes", func(net.Conn) {}, stranger + "it closed the connection"},
		{"closes later", func(c net.Conn) { _, _ = c.Read(make([]byte, 100)) }, stranger + "it closed the connection"},
		{"says nothing", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, stranger + "no answer within 10s"},
		{"SSH", answer("SSH-2.0-OpenSSH_9.2p1\r\n"), stranger + "it speaks SSH"},
		{"HTTP", answer("HTTP/1.1 400 Bad Request\r\n\r\n"), stranger + "it speaks HTTP"},
		{"SMTP", answer("220 mail ESMTP\r\n"), stranger + "it does not speak TLS"},
		{"few bytes", answer("\x00"), stranger + "it does not speak TLS"},
		{"echo", func(c net.Conn) { _, _ = io.Copy(c, c) }, stranger + "it speaks TLS, but not weft's"},
		{"endless garbage", func(c net.Conn) { _, _ = io.Copy(c, bufio.NewReader(rand.Reader)) }, stranger + "it does not speak TLS"},
		{"HTTPS", func(c net.Conn) { _ = tls.Server(c, httpsConfig(t, 0)).Handshake() }, stranger + "it speaks TLS, but not weft's"},
		{"HTTPS with h2", func(c net.Conn) {
			cfg := httpsConfig(t, 0)
			cfg.NextProtos = []string{"h2"}
			_ = tls.Server(c, cfg).Handshake()
		}, stranger + "it speaks TLS, but not weft's"},
		{"HTTPS with much certificate", func(c net.Conn) { _ = tls.Server(c, httpsConfig(t, 20000)).Handshake() }, stranger + "it speaks TLS, but not weft's"},
		{"TLS 1.2", func(c net.Conn) {
			cfg := httpsConfig(t, 0)
			cfg.MaxVersion = tls.VersionTLS12
			_ = tls.Server(c, cfg).Handshake()
		}, stranger + "it speaks TLS, but not weft's"},
		{"a busy weft", answer(busyAlert), "introduction refused by the peer: it is busy, or saw too many failures from our address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				ln := network.listen(hostAddr(2))
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					c, err := ln.Accept()
					if err == nil {
						tt.serve(c)
						_ = c.Close()
					}
				}()
				h := newHost(t, network, hostConfig{n: 1})
				start := time.Now()
				_, err := h.Dial(t.Context(), hostAddr(2), nil)
				if err == nil || err.Error() != tt.want {
					t.Errorf("got  %v\nwant %s", err, tt.want)
				}
				if !errors.Is(err, ErrNotWeft) && !errors.Is(err, ErrRefused) {
					t.Error("not a sentinel")
				}
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("Dial took %s", took)
				}
				<-ended
			})
		})
	}
}

// httpsConfig is that of an ordinary server, with a certificate of at least
// that size.
func httpsConfig(t testing.TB, size int) *tls.Config {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{strings.Repeat("x", size)},
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}}
}

// What the network says comes through as it is.
func TestNetworkErrors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	_ = ln.Close()
	h := newHost(t, nil, hostConfig{n: 1})
	_, err = h.Dial(context.Background(), addr, nil)
	if !errors.Is(err, syscall.ECONNREFUSED) || err.Error() != fmt.Sprintf("dial tcp %s: connect: connection refused", addr) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err = h.Dial(ctx, addr, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A dial ends when its context does, at any stage.
func TestDialCancelled(t *testing.T) {
	for stage, serve := range map[string]func(l *host, c net.Conn){
		"before TLS": func(_ *host, c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"after TLS": func(l *host, c net.Conn) {
			conn := tls.Server(c, l.server)
			_ = conn.Handshake()
			_, _ = io.Copy(io.Discard, c)
		},
	} {
		t.Run(stage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				ln := network.listen(hostAddr(2))
				h, l := newHost(t, network, hostConfig{n: 1}), newHost(t, network, hostConfig{n: 2})
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					c, _ := ln.Accept()
					serve(l, c)
				}()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := h.Dial(ctx, hostAddr(2), nil)
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
					t.Errorf("got %v after %s", err, time.Since(start))
				}
				<-ended
			})
		})
	}
}

// A weft that stops in the middle is not called something else.
func TestDialBroken(t *testing.T) {
	for name, tt := range map[string]struct {
		serve func(c *tls.Conn)
		want  string
		took  time.Duration
	}{
		"closed":  {func(*tls.Conn) {}, "introduction: the other end closed the connection", 0},
		"silence": {func(c *tls.Conn) { _, _ = io.Copy(io.Discard, c) }, "introduction: the other end stopped answering", 10 * time.Second},
		"garbage": {func(c *tls.Conn) {
			_, _ = readPreamble(c, Versions{})
			_, _ = c.Write(make([]byte, 100))
		}, "introduction: it does not begin like weft's", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				ln := network.listen(hostAddr(2))
				h, l := newHost(t, network, hostConfig{n: 1}), newHost(t, network, hostConfig{n: 2})
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					c, _ := ln.Accept()
					conn := tls.Server(c, l.server)
					_ = conn.Handshake()
					tt.serve(conn)
					_ = conn.Close()
				}()
				start := time.Now()
				_, err := h.Dial(t.Context(), hostAddr(2), nil)
				if err == nil || err.Error() != tt.want || time.Since(start) != tt.took {
					t.Errorf("got %v after %s", err, time.Since(start))
				}
				<-ended
			})
		})
	}
}

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

func unmarshal(t testing.TB, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// The ports of the strangers; nobody listens at the one after the last.
const (
	sshPort = 7001 + iota
	httpPort
	httpsPort
	hangUpPort
	futurePort
	silentPort
)

// stranger listens where somebody looks for weft.
type stranger struct {
	name    string
	addr    netip.AddrPort
	why     string
	reached bool   // and what it says is not weft's
	state   string // empty: failed
}

// inviteStrangers starts everything on the host that is not weft, or not yet.
func inviteStrangers(t *testing.T, n *node) []stranger {
	t.Helper()
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(n.Addr(), port) }
	for port, serve := range map[uint16]func(net.Conn){
		sshPort:    speakSSH,
		hangUpPort: func(net.Conn) {},
		silentPort: drain,
		futurePort: func(c net.Conn) { fromTheFuture(tls.Server(c, weftTLS(t))) },
	} {
		go serveEach(listener(t, n, at(port)), serve)
	}
	for port, config := range map[uint16]*tls.Config{httpPort: nil, httpsPort: webTLS(t)} {
		l := listener(t, n, at(port))
		s := &http.Server{Handler: http.NotFoundHandler(), TLSConfig: config, ReadHeaderTimeout: time.Minute, ErrorLog: quiet()}
		go func() {
			if config == nil {
				_ = s.Serve(l)
			} else {
				_ = s.ServeTLS(l, "", "")
			}
		}()
		t.Cleanup(func() { _ = s.Close() })
	}
	refused := at(silentPort + 1)
	return []stranger{
		{"SSH", at(sshPort), "it speaks SSH", true, ""},
		{"HTTP", at(httpPort), "it speaks HTTP", true, ""},
		{"HTTPS", at(httpsPort), "it speaks TLS, but not weft's", true, ""},
		{"hangs up", at(hangUpPort), "it closed the connection", true, ""},
		{"says nothing", at(silentPort), "no answer within 10s", true, ""},
		{"other version", at(futurePort), "other protocol version: 2 there, 1 here; run the same version of weft on both", false, ""},
		{"nobody", refused, fmt.Sprintf("dial tcp %s: connect: connection refused", refused), false, "retrying"},
	}
}

func listener(t *testing.T, n *node, at netip.AddrPort) net.Listener {
	t.Helper()
	l, err := n.Listen(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serveEach serves every connection until the listener is closed.
func serveEach(l net.Listener, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			serve(conn)
			_ = conn.Close()
		}()
	}
}

func speakSSH(c net.Conn) {
	_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
	drain(c)
}

func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// future is how a peer of the next version begins: what follows the version is
// not for us to understand.
const future = "weft\x00\x02and something that nobody has thought of yet"

func fromTheFuture(c *tls.Conn) {
	if _, err := io.ReadFull(c, make([]byte, 6)); err == nil {
		_, _ = io.WriteString(c, future)
		drain(c)
	}
	_ = c.Close()
}

// weftTLS is what a host of any version needs to be listened to: an ed25519
// key of its own and the name of the protocol.
func weftTLS(t *testing.T) *tls.Config {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"weft"}, InsecureSkipVerify: true, ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{ownCertificate(t, key.Public(), key)},
	}
}

// webTLS is that of a web server.
func webTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ownCertificate(t, key.Public(), key)}}
}

func ownCertificate(t *testing.T, public, private any) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// strangersCall dials a daemon with what is not weft. The log names each kind
// once, however often it calls.
func strangersCall(t *testing.T, host, from *node) {
	to := netip.AddrPortFrom(host.Addr(), 6783)
	dial := func() net.Conn {
		t.Helper()
		c, err := from.Dial(t.Context(), "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	// Of the next version: it learns which version is here.
	c := tls.Client(dial(), weftTLS(t))
	_, err := io.WriteString(c, future)
	got := make([]byte, 6)
	if err == nil {
		_, err = io.ReadFull(c, got)
	}
	if err != nil || string(got) != "weft\x00\x01" {
		t.Errorf("a host of the next version is told %q, %v", got, err)
	}
	_ = c.Close()
	wantLog(t, host, fmt.Sprintf("level=WARN msg=%q part=hello remote=%s err=%q", "introduction failed", from.Addr(),
		"other protocol version: 2 there, 1 here; run the same version of weft on both"))
	for range 2 {
		raw := dial()
		_, _ = io.WriteString(raw, "GET / HTTP/1.0\r\n\r\n")
		drain(raw)
		_ = raw.Close()
	}
	wantLog(t, host, fmt.Sprintf("level=WARN msg=%q part=hello remote=%s err=%q", "introduction failed", from.Addr(),
		"what connected does not speak weft"))
}

// answerNobody runs a name server on the host that knows no name.
func answerNobody(t *testing.T, n *node) *nameServer {
	t.Helper()
	s := newNameServer(t, n, netip.MustParseAddr("127.0.0.1"))
	if err := n.WriteFile("etc/resolv.conf", "nameserver 127.0.0.1\n"); err != nil {
		t.Fatal(err)
	}
	return s
}

// attempts lists when a host began connections to an address.
func attempts(frames []lab.Frame, from netip.Addr, to netip.AddrPort) []time.Time {
	var out []time.Time
	for _, f := range frames {
		p := parse(f.Data)
		if p.kind != "tcp" || p.src != from || p.dst != to.Addr() || p.dstPort != to.Port() {
			continue
		}
		const syn, ack = 2, 16
		if flags := f.Data[14+20+13]; flags&(syn|ack) == syn {
			out = append(out, f.Time)
		}
	}
	return out
}

// backsOff says whether n attempts were made, each about twice as long after
// the last as that after the one before: 1 s, 2 s, 4 s, less a quarter or more
// another one, and later where a daemon has to wait for the processor.
func backsOff(at []time.Time, n int) error {
	if len(at) < n {
		return fmt.Errorf("%d attempts", len(at))
	}
	want, late := time.Second, 2*time.Second*(run.slow()-1)
	for i := range n - 1 {
		if gap := at[i+1].Sub(at[i]); gap < want*7/10 || gap > want*14/10+late {
			return fmt.Errorf("attempt %d came %s after the last, want %s", i+2, gap, want)
		}
		want *= 2
	}
	return nil
}

// nameServer answers what the test tells it to.
type nameServer struct {
	server *dns.Server
	names  chan map[string][]netip.Addr // holds the current ones
	asked  chan int                     // holds how often a name was asked for

	mu    sync.Mutex
	about map[string]int // the same, by name in lower case
}

// askedFor is how often a name was asked for, in lower case and with a final dot.
func (s *nameServer) askedFor(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.about[name]
}

// newNameServer starts one on port 53 of an address of the host.
func newNameServer(t *testing.T, n *node, at netip.Addr) *nameServer {
	t.Helper()
	u, err := n.ListenUDP(t.Context(), netip.AddrPortFrom(at, 53))
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{names: make(chan map[string][]netip.Addr, 1), asked: make(chan int, 1), about: map[string]int{}}
	s.names <- map[string][]netip.Addr{}
	s.asked <- 0
	started := make(chan struct{})
	s.server = &dns.Server{PacketConn: u, Handler: s, NotifyStartedFunc: func() { close(started) }}
	go func() { _ = s.server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
		defer stop()
		if err := s.server.ShutdownContext(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	return s
}

// set makes a name, in lower case and with a final dot, stand for these
// addresses; none removes it.
func (s *nameServer) set(name string, addrs ...netip.Addr) {
	names := <-s.names
	if len(addrs) == 0 {
		delete(names, name)
	} else {
		names[name] = addrs
	}
	s.names <- names
}

// ServeDNS implements dns.Handler.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	n := <-s.asked
	s.asked <- n + 1
	q := req.Question[0]
	s.mu.Lock()
	s.about[dns.CanonicalName(q.Name)]++
	s.mu.Unlock()
	names := <-s.names
	addrs, known := names[dns.CanonicalName(q.Name)]
	s.names <- names
	m := new(dns.Msg).SetReply(req)
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	for _, a := range addrs {
		h := dns.RR_Header{Name: q.Name, Class: dns.ClassINET, Rrtype: q.Qtype}
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	_ = w.WriteMsg(m)
}

// quiet is a log that nobody reads.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

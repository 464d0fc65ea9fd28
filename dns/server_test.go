package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// askTime is how long an answer may take that is there in milliseconds.
const askTime = 30 * time.Second

// run serves on loopback until the test ends, and checks that Run then returns;
// before it starts, prepare may change the server.
func run(t testing.TB, c Config, prepare ...func(*Server)) *Server {
	t.Helper()
	if c.Listen == nil {
		c.Listen = []netip.AddrPort{loopback}
	}
	s, err := New(c)
	// A port that is free for TCP, which the kernel chooses, may be somebody's for UDP.
	for chosen := c.Listen[0].Port() == 0; chosen && errors.Is(err, syscall.EADDRINUSE); {
		s, err = New(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(askTime):
			t.Error("Run did not return")
		}
	})
	return s
}

func ask(t testing.TB, s *Server, proto string, req *dns.Msg) *dns.Msg {
	t.Helper()
	client := dns.Client{Net: proto, UDPSize: dns.MaxMsgSize, Timeout: askTime}
	m, _, err := client.Exchange(req, s.Addrs()[0].String())
	if err != nil {
		t.Fatalf("%s %v: %v", proto, req.Question, err)
	}
	return m
}

// TestServer runs the table of the switch's names against real sockets, with a
// second server of the same kind as the upstream.
func TestServer(t *testing.T) {
	first := func() []netip.AddrPort { return []netip.AddrPort{upstream1} }
	up := run(t, Config{Zone: testZone(), Upstreams: first}, func(s *Server) { s.forward.exchange = oracle })
	s := run(t, Config{Zone: testZone(), Upstreams: up.Addrs})
	cases := switchCases()
	for _, proto := range []string{"udp", "tcp"} {
		for _, c := range cases {
			req := c.question(t)
			c.check(t, req, ask(t, s, proto, req))
		}
	}
	stats := s.Stats()
	var sum uint64
	for _, n := range stats.Outcomes() {
		sum += n
	}
	if want := uint64(2 * len(cases)); sum != want || stats.TCP != want/2 {
		t.Errorf("%d questions were counted, %d by TCP; want %d, %d: %+v", sum, stats.TCP, want, want/2, stats)
	}
}

func TestServerIPv6(t *testing.T) {
	s := run(t, Config{Zone: testZone(), Listen: []netip.AddrPort{netip.MustParseAddrPort("[::1]:0")}})
	c := testCase{"six. AAAA", "NOERROR aa rd ra\nsix. 1 AAAA fd00::6"}
	for _, proto := range []string{"udp", "tcp"} {
		req := c.question(t)
		c.check(t, req, ask(t, s, proto, req))
	}
}

// TestTruncation: what does not fit is cut to what the client takes, marked,
// and complete by TCP.
func TestTruncation(t *testing.T) {
	var records []string
	for i := range 300 {
		records = append(records, fmt.Sprintf("many.d. 10.32.%d.%d", i/250, 1+i%250))
	}
	s := run(t, Config{Zone: zone("d", append(records, "few.d. 10.32.9.9")...)})
	for _, tt := range []struct {
		ask       string
		size      int // largest message
		truncated bool
	}{
		{"many.d. A", 512, true},
		{"many.d. A edns=100", 512, true},
		{"many.d. A edns=1232", 1232, true},
		{"many.d. A edns=4096", 4096, true},
		{"many.d. A edns=65000", 4096, true},
		{"few.d. A", 512, false},
		{"few.d. A edns=1232", 512, false},
	} {
		req := testCase{ask: tt.ask}.question(t)
		m := ask(t, s, "udp", req)
		m.Compress = true // Len counts as it was sent
		if m.Truncated != tt.truncated || m.Len() > tt.size || tt.truncated && m.Len() < tt.size-40 || (m.IsEdns0() != nil) != (req.IsEdns0() != nil) {
			t.Errorf("%s: %d bytes, truncated %v; want at most %d, %v", tt.ask, m.Len(), m.Truncated, tt.size, tt.truncated)
		}
		if m := ask(t, s, "tcp", req); tt.truncated && (m.Truncated || len(m.Answer) != 300) {
			t.Errorf("%s by TCP: %d answers, truncated %v", tt.ask, len(m.Answer), m.Truncated)
		}
	}
	if got := s.Stats().Truncated; got != 5 {
		t.Errorf("%d truncated answers were counted", got)
	}
}

// TestGarbage: answers are not answered, neither is noise, and the server lives.
func TestGarbage(t *testing.T) {
	s := run(t, Config{Zone: testZone()})
	conn, err := net.Dial("udp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	response := testCase{ask: "web. A"}.question(t)
	response.Response = true
	packed, err := response.Pack()
	if err != nil {
		t.Fatal(err)
	}
	noise := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		b := packed
		if i > 0 {
			b = make([]byte, noise.IntN(600))
			for j := range b {
				b[j] = byte(noise.Uint32())
			}
			if len(b) > 2 {
				b[2] |= 0x80 // an answer, too
			}
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	c := testCase{"six. AAAA", "NOERROR aa rd ra\nsix. 1 AAAA fd00::6"}
	req := c.question(t)
	packed, err = req.Pack()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n := 0
	for deadline := time.Now().Add(askTime); n == 0; { // the noise may have filled the socket
		if _, err := conn.Write(packed); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		// What comes back first must be the answer to the query.
		if n, err = conn.Read(buf); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	var m dns.Msg
	if err := m.Unpack(buf[:n]); err != nil {
		t.Fatal(err)
	}
	c.check(t, req, &m)
	if got := s.Stats().Malformed; got == 0 {
		t.Error("garbage was not counted")
	}
}

// TestGate: one client cannot take all connections, and gets its places back.
func TestGate(t *testing.T) {
	s := run(t, Config{Zone: testZone()})
	addr := s.Addrs()[0].String()
	client := dns.Client{Net: "tcp", Timeout: askTime}
	question := testCase{ask: "web. A"}.question(t)
	var conns []*dns.Conn
	for range maxConnsFrom {
		conn, err := client.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// The library closes sooner what has not asked than what has.
		if _, _, err := client.ExchangeWithConn(question, conn); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	_, _, err := client.Exchange(question, addr)
	if timeout := net.Error(nil); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("one connection too many is not closed: %v", err)
	}

	other := client
	other.Dialer = &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	if _, _, err := other.Exchange(question, addr); err != nil {
		t.Errorf("another client: %v", err)
	}

	for _, conn := range conns {
		conn.Close()
	}
	for deadline := time.Now().Add(askTime); ; {
		if _, _, err = client.Exchange(question, addr); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("places did not come back: %v", err)
		}
	}
}

// TestGateTotal counts places without sockets.
func TestGateTotal(t *testing.T) {
	g := newGate(nil)
	client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range maxConns {
		if !g.enter(client(i)) {
			t.Fatalf("connection %d refused", i)
		}
	}
	if g.enter(client(maxConns)) {
		t.Error("one too many")
	}
	for i := range maxConns {
		g.leave(client(i))
	}
	if g.total != 0 || len(g.from) != 0 {
		t.Errorf("left behind: %d, %v", g.total, g.from)
	}
}

// TestGuestWrite: a client that does not read does not hold a goroutine.
func TestGuestWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		g := &guest{Conn: near, leave: func() {}}
		defer near.Close()
		start := time.Now()
		if _, err := g.Write([]byte("x")); err == nil || time.Since(start) != writeTime {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	taken := run(t, Config{Zone: testZone()}).Addrs()[0]
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{}, "needs a zone"},
		{Config{Zone: testZone(), Listen: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0")}}, "name one address"},
		{Config{Zone: testZone(), Listen: []netip.AddrPort{netip.MustParseAddrPort("[::]:0")}}, "name one address"},
		{Config{Zone: testZone(), Listen: []netip.AddrPort{{}}}, "name one address"},
		{Config{Zone: testZone(), Listen: []netip.AddrPort{loopback, taken}}, syscall.EADDRINUSE.Error()},
	} {
		if s, err := New(tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%+v) = %v, %v; want %q", tt.c, s, err, tt.want)
		}
	}
}

func TestLookup(t *testing.T) {
	s := server(t, testZone(), func(ctx context.Context, proto string, to netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
		m, err := oracle(ctx, proto, to, q)
		switch name := q.Question[0].Name; {
		case name == "broken.example.":
			return nil, errors.New("no")
		case name == "gone.example.":
			return new(dns.Msg).SetRcode(q, dns.RcodeNameError), nil
		case q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{
				&dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET}, Target: "y."},
				&dns.A{Hdr: dns.RR_Header{Name: "y.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 7)},
			}
		}
		return m, err
	})
	for _, tt := range []struct{ name, want, err string }{
		{"web", "10.32.0.1 10.32.0.2 fd00::1", ""},
		{"WEB.weft.internal.", "10.32.0.1 10.32.0.2 fd00::1", ""},
		{"six", "fd00::6", ""},
		{"nobody", "", ""},
		{"deep", "", ""},
		{"www.example.com", "192.0.2.7", ""},
		{"gone.example", "", ""},
		{"broken.example", "", "look up broken.example: upstream resolvers: SERVFAIL"},
		{"a..b", "", `look up: name "a..b": empty label`},
	} {
		got, err := s.Lookup(t.Context(), tt.name)
		slices.SortFunc(got, netip.Addr.Compare)
		var words []string
		for _, a := range got {
			words = append(words, a.String())
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if diff := cmp.Diff([]string{tt.want, tt.err}, []string{strings.Join(words, " "), text}); diff != "" {
			t.Errorf("Lookup(%q) (-want +got):\n%s", tt.name, diff)
		}
	}
}

// FuzzRespond gives the handler whatever the wire can carry, with whatever an
// upstream can answer: it must not panic, the answer must be for the question
// and fit.
func FuzzRespond(f *testing.F) {
	for _, c := range switchCases() {
		m := c.question(f)
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		answer, err := oracle(context.Background(), "", upstream1, m)
		if err != nil {
			f.Fatal(err)
		}
		upstream, err := answer.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, upstream)
	}
	z := testZone()
	f.Fuzz(func(t *testing.T, packet, upstream []byte) {
		var req, answer dns.Msg
		if req.Unpack(packet) != nil {
			return
		}
		s := server(t, z, func(context.Context, string, netip.AddrPort, *dns.Msg) (*dns.Msg, error) {
			if err := answer.Unpack(upstream); err != nil {
				return nil, err
			}
			return &answer, nil
		})
		for _, size := range []int{dns.MinMsgSize, dns.MaxMsgSize} {
			m, how := s.respond(t.Context(), &req, size, s.forward.shared)
			if how < 0 || how >= outcomes {
				t.Errorf("outcome %d", how)
			}
			if _, err := m.Pack(); err != nil && how != forwarded {
				t.Fatalf("cannot be written: %v\n%v", err, m)
			}
			packed, err := pack(&req, m)
			if err != nil {
				t.Fatalf("cannot be sent: %v\n%v", err, m)
			}
			if opt := req.IsEdns0(); opt != nil {
				size = max(size, min(int(opt.UDPSize()), maxUDP))
			}
			switch {
			case m.Id != req.Id || !m.Response || !bytes.Equal(packed[:2], []byte{byte(req.Id >> 8), byte(req.Id)}):
				t.Errorf("not an answer to this:\n%v\n%v", &req, m)
			case len(req.Question) == 1 && (len(m.Question) != 1 || m.Question[0] != req.Question[0]):
				t.Errorf("answer to another question:\n%v\n%v", &req, m)
			case len(packed) > size:
				t.Errorf("%d bytes do not fit into %d", len(packed), size)
			case len(req.Question) == 1 && below(fold(req.Question[0].Name), "weft.internal.") && how == forwarded:
				t.Errorf("a name of the switch went upstream: %v", &req)
			}
		}
	})
}

func BenchmarkRespond(b *testing.B) {
	z, _ := bigZone(10_000)
	s := server(b, z, oracle)
	req := testCase{ask: "host77.weft.internal. A edns=1232"}.question(b)
	b.ReportAllocs()
	for b.Loop() {
		if m, _ := s.respond(b.Context(), req, dns.MinMsgSize, s.forward.shared); len(m.Answer) != 1 {
			b.Fatal(m)
		}
	}
}

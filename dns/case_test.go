package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// testCase is one question and its answer as text. All tables of this package
// use it, over the handler, UDP and TCP.
type testCase struct {
	// ask is "name type", then any of: class=CH, opcode=NOTIFY, edns=SIZE,
	// version=1, do, cd, norec.
	ask string
	// want is the rcode and the flags besides qr, then one line per record:
	// "name ttl type data", those of the authority section after "ns", the OPT
	// record as "edns SIZE [do]".
	want string
}

func (c testCase) question(t testing.TB) *dns.Msg {
	t.Helper()
	words := strings.Fields(c.ask)
	m := new(dns.Msg).SetQuestion(words[0], dns.StringToType[words[1]])
	var size, version, do uint16
	for _, option := range words[2:] {
		key, value, _ := strings.Cut(option, "=")
		n, _ := strconv.ParseUint(value, 10, 16)
		switch key {
		case "class":
			m.Question[0].Qclass = dns.StringToClass[value]
		case "opcode":
			m.Opcode = dns.StringToOpcode[value]
		case "edns":
			size = uint16(n)
		case "version":
			version = uint16(n)
		case "do":
			do = 1
		case "cd":
			m.CheckingDisabled = true
		case "norec":
			m.RecursionDesired = false
		default:
			t.Fatalf("unknown option %q", option)
		}
	}
	if size != 0 {
		m.SetEdns0(size, do == 1)
		m.IsEdns0().SetVersion(uint8(version))
	}
	return m
}

// text renders an answer like want; the records of a section are sorted,
// because their order is random.
func text(m *dns.Msg) string {
	head := dns.RcodeToString[m.Rcode]
	if m.Rcode == dns.RcodeBadVers { // shares its number with BADSIG
		head = "BADVERS"
	}
	for _, flag := range []struct {
		name string
		set  bool
	}{
		{"notqr", !m.Response},
		{"aa", m.Authoritative},
		{"tc", m.Truncated},
		{"rd", m.RecursionDesired},
		{"ra", m.RecursionAvailable},
		{"ad", m.AuthenticatedData},
		{"cd", m.CheckingDisabled},
	} {
		if flag.set {
			head += " " + flag.name
		}
	}
	lines := []string{head}
	section := func(prefix string, rrs []dns.RR) {
		var list []string
		for _, rr := range rrs {
			h := rr.Header()
			if opt, ok := rr.(*dns.OPT); ok {
				list = append(list, strings.TrimRight(fmt.Sprintf("edns %d %s", opt.UDPSize(), map[bool]string{true: "do"}[opt.Do()]), " "))
				continue
			}
			data := strings.TrimPrefix(rr.String(), h.String())
			list = append(list, fmt.Sprintf("%s%s %d %s %s", prefix, h.Name, h.Ttl, dns.TypeToString[h.Rrtype], data))
		}
		slices.Sort(list)
		lines = append(lines, list...)
	}
	section("", m.Answer)
	section("ns ", m.Ns)
	section("", m.Extra)
	return strings.Join(lines, "\n")
}

func (c testCase) check(t testing.TB, req, got *dns.Msg) {
	t.Helper()
	if got.Id != req.Id || len(got.Question) != 1 || got.Question[0] != req.Question[0] {
		t.Errorf("%s: answer to another question: %v", c.ask, got)
	}
	want := strings.ReplaceAll(strings.TrimSpace(c.want), "\t", "")
	if diff := cmp.Diff(want, text(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", c.ask, diff)
	}
}

// server makes a server without sockets; its foreign questions go to exchange.
func server(t testing.TB, z *Zone, exchange exchange) *Server {
	t.Helper()
	s, err := New(Config{Zone: z, Upstreams: func() []netip.AddrPort { return []netip.AddrPort{upstream1} }})
	if err != nil {
		t.Fatal(err)
	}
	s.forward.exchange = exchange
	return s
}

// oracle is an upstream that answers everything with one record.
func oracle(_ context.Context, _ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	m.Answer = []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 300},
		Txt: []string{"upstream"},
	}}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(512, opt.Do())
	}
	return m, nil
}

// The zone and the answers of the switch's names: what people rely on.
func testZone() *Zone {
	return zone("weft.internal",
		"Web.weft.internal. 10.32.0.1 c1", "web.weft.internal. 10.32.0.2 c2", "web.WEFT.internal. fd00::1 c1",
		"web.weft.internal. 10.32.0.1 c3", // two containers claim it: one answer
		"other.weft.internal. 10.32.0.1",
		"a.deep.weft.internal. 10.32.0.7",
		"six.weft.internal. fd00::6")
}

const (
	soaZone = "ns weft.internal. 1 SOA weft.internal. hostmaster.weft.internal. 2 60 60 3600 1"
	soaRoot = "ns . 1 SOA weft.internal. hostmaster.weft.internal. 2 60 60 3600 1"
)

func switchCases() []testCase {
	return []testCase{
		{"web.weft.internal. A", "NOERROR aa rd ra\nweb.weft.internal. 1 A 10.32.0.1\nweb.weft.internal. 1 A 10.32.0.2"},
		{"web.weft.internal. AAAA", "NOERROR aa rd ra\nweb.weft.internal. 1 AAAA fd00::1"},
		{"web.weft.internal. ANY", "NOERROR aa rd ra\nweb.weft.internal. 1 A 10.32.0.1\nweb.weft.internal. 1 A 10.32.0.2\nweb.weft.internal. 1 AAAA fd00::1"},
		{"six.weft.internal. A", "NOERROR aa rd ra\n" + soaZone},
		{"web.weft.internal. MX", "NOERROR aa rd ra\n" + soaZone},
		{"nobody.weft.internal. A", "NXDOMAIN aa rd ra\n" + soaZone},
		{"nobody.weft.internal. MX norec", "NXDOMAIN aa ra\n" + soaZone},
		{"below.web.weft.internal. A", "NXDOMAIN aa rd ra\n" + soaZone},
		{`web\.weft.internal. A`, "NOERROR rd ra\nweb\\.weft.internal. 300 TXT \"upstream\""}, // two labels: not ours

		// Case: matching ignores it, the answer keeps the question's.
		{"wEB.Weft.INTERNAL. A", "NOERROR aa rd ra\nwEB.Weft.INTERNAL. 1 A 10.32.0.1\nwEB.Weft.INTERNAL. 1 A 10.32.0.2"},
		{"WEB. A", "NOERROR aa rd ra\nWEB. 1 A 10.32.0.1\nWEB. 1 A 10.32.0.2"},

		// One label: as if the domain followed.
		{"web. AAAA", "NOERROR aa rd ra\nweb. 1 AAAA fd00::1"},
		{"web. MX", "NOERROR aa rd ra\n" + soaRoot},
		{"web. NS", "NOERROR aa rd ra\n" + soaRoot},
		{"nobody. A", "NXDOMAIN aa rd ra\n" + soaRoot},
		{"deep. A", "NOERROR aa rd ra\n" + soaRoot},
		{"internal. A", "NOERROR aa rd ra\n" + soaRoot}, // the domain lies below it
		{"com. DS", "NOERROR rd ra\ncom. 300 TXT \"upstream\""},

		// Names without records of their own.
		{"weft.internal. A", "NOERROR aa rd ra\n" + soaZone},
		{"weft.internal. SOA", "NOERROR aa rd ra\n" + strings.TrimPrefix(soaZone, "ns ")},
		{"deep.weft.internal. A", "NOERROR aa rd ra\n" + soaZone},
		{"a.deep.weft.internal. A", "NOERROR aa rd ra\na.deep.weft.internal. 1 A 10.32.0.7"},

		// Reverse names.
		{"1.0.32.10.in-addr.arpa. PTR", "NOERROR aa rd ra\n1.0.32.10.in-addr.arpa. 1 PTR other.weft.internal.\n1.0.32.10.in-addr.arpa. 1 PTR web.weft.internal."},
		{"6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.F.IP6.arpa. PTR", "NOERROR aa rd ra\n" +
			"6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.F.IP6.arpa. 1 PTR six.weft.internal."},
		{"1.0.32.10.in-addr.arpa. TXT", "NOERROR aa rd ra\n" + soaRoot},
		{"9.0.32.10.in-addr.arpa. PTR", "NOERROR rd ra\n9.0.32.10.in-addr.arpa. 300 TXT \"upstream\""},
		{"0.32.10.in-addr.arpa. PTR", "NOERROR rd ra\n0.32.10.in-addr.arpa. 300 TXT \"upstream\""},
		{"x.weft.internal. PTR", "NXDOMAIN aa rd ra\n" + soaZone},

		// Others' names.
		{"invalid. A", "NXDOMAIN aa rd ra\n" + soaRoot},
		{"a.b.INVALID. TXT", "NXDOMAIN aa rd ra\n" + soaRoot},
		{"Example.com. TXT", "NOERROR rd ra\nExample.com. 300 TXT \"upstream\""},
		{"example.com. TXT cd norec", "NOERROR ra cd\nexample.com. 300 TXT \"upstream\""},
		{"other.internal. A", "NOERROR rd ra\nother.internal. 300 TXT \"upstream\""},
		{"aweft.internal. A", "NOERROR rd ra\naweft.internal. 300 TXT \"upstream\""},
		{". NS", "NOERROR rd ra\n. 300 TXT \"upstream\""},

		// EDNS is echoed with our own size, and only to those who speak it.
		{"six. AAAA edns=4096", "NOERROR aa rd ra\nsix. 1 AAAA fd00::6\nedns 1232"},
		{"six. AAAA edns=512 do", "NOERROR aa rd ra\nsix. 1 AAAA fd00::6\nedns 1232 do"},
		{"example.com. A edns=1400 do", "NOERROR rd ra\nexample.com. 300 TXT \"upstream\"\nedns 1232 do"},
		{"six. AAAA edns=512 version=1", "BADVERS rd ra\nedns 1232"},

		// What is not served.
		{"version.bind. TXT class=CH", "REFUSED rd ra"},
		{"weft.internal. AXFR", "REFUSED rd ra"},
		{"example.com. AXFR", "REFUSED rd ra"},
		{"weft.internal. SOA opcode=NOTIFY", "NOTIMP ra"},
	}
}

func TestAnswers(t *testing.T) {
	s := server(t, testZone(), oracle)
	for _, c := range switchCases() {
		req := c.question(t)
		got, _ := s.respond(t.Context(), req, dns.MinMsgSize, s.forward.shared)
		c.check(t, req, got)
	}
}

func TestAnswerOutcomes(t *testing.T) {
	s := server(t, testZone(), oracle)
	for ask, want := range map[string]outcome{
		"web. A": answered, "1.0.32.10.in-addr.arpa. PTR": answered, "web. MX": empty, "1.0.32.10.in-addr.arpa. A": empty,
		"nobody. A": unknown, "x.invalid. A": unknown, "example.com. A": forwarded,
		"version.bind. TXT class=CH": refused, "web. A edns=512 version=1": malformed,
	} {
		if _, got := s.respond(t.Context(), testCase{ask: ask}.question(t), dns.MinMsgSize, s.forward.shared); got != want {
			t.Errorf("%s: outcome %d, want %d", ask, got, want)
		}
	}
}

func TestTTL(t *testing.T) {
	s, err := New(Config{Zone: testZone(), TTL: 30})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []testCase{
		{"six. AAAA", "NOERROR aa rd ra\nsix. 30 AAAA fd00::6"},
		{"six. A", "NOERROR aa rd ra\nns . 30 SOA weft.internal. hostmaster.weft.internal. 2 60 60 3600 30"},
	} {
		req := c.question(t)
		got, _ := s.respond(t.Context(), req, dns.MinMsgSize, s.forward.shared)
		c.check(t, req, got)
	}
}

// TestReverseRange: nobody else is asked about the switch's own addresses.
func TestReverseRange(t *testing.T) {
	s, err := New(Config{
		Zone: testZone(), Range: netip.MustParsePrefix("10.32.0.0/12"),
		Upstreams: func() []netip.AddrPort { return []netip.AddrPort{upstream1} },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.forward.exchange = oracle
	for _, c := range []testCase{
		{"9.0.32.10.in-addr.arpa. PTR", "NXDOMAIN aa rd ra\n" + soaRoot},
		{"255.255.47.10.in-addr.arpa. TXT", "NXDOMAIN aa rd ra\n" + soaRoot},
		{"9.0.48.10.in-addr.arpa. PTR", "NOERROR rd ra\n9.0.48.10.in-addr.arpa. 300 TXT \"upstream\""},
		{"1.0.32.10.in-addr.arpa. TXT", "NOERROR aa rd ra\n" + soaRoot},
	} {
		req := c.question(t)
		got, _ := s.respond(t.Context(), req, dns.MinMsgSize, s.forward.shared)
		c.check(t, req, got)
	}
}

func TestTwoEDNSRecords(t *testing.T) {
	s := server(t, testZone(), oracle)
	req := testCase{ask: "web. A edns=512"}.question(t)
	req.Extra = append(req.Extra, req.Extra[0])
	got, _ := s.respond(t.Context(), req, dns.MinMsgSize, s.forward.shared)
	if got.Rcode != dns.RcodeFormatError {
		t.Errorf("got %s", text(got))
	}
}

// TestRelay: what belongs to the conversation with the upstream stays there.
func TestRelay(t *testing.T) {
	glue := dns.RR_Header{Name: "ns.example.com.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
	long := strings.Repeat("x", 300) // no character string is that long: cannot be written
	for _, tt := range []struct {
		testCase
		change func(*dns.Msg)
	}{
		{testCase{"example.com. A", "NOERROR aa rd ra ad\nexample.com. 300 TXT \"upstream\"\nns.example.com. 60 A 192.0.2.9"}, func(m *dns.Msg) {
			m.Authoritative, m.AuthenticatedData, m.RecursionAvailable, m.Zero = true, true, false, true
			m.Extra = []dns.RR{&dns.A{Hdr: glue, A: net.IPv4(192, 0, 2, 9)}}
			m.SetEdns0(4000, true)
			m.SetTsig("key.", dns.HmacSHA256, 300, 0)
		}},
		{testCase{"example.com. A", "SERVFAIL rd ra\nexample.com. 300 TXT \"upstream\""}, func(m *dns.Msg) { m.Rcode = dns.RcodeBadCookie }},
		{testCase{"example.com. A edns=512", "SERVFAIL rd ra\nedns 1232"}, func(m *dns.Msg) { m.Answer[0].(*dns.TXT).Txt = []string{long} }},
	} {
		s := server(t, testZone(), func(ctx context.Context, proto string, to netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
			m, err := oracle(ctx, proto, to, q)
			tt.change(m)
			return m, err
		})
		req := tt.question(t)
		m, how := s.respond(t.Context(), req, dns.MaxMsgSize, s.forward.shared)
		packed, err := pack(req, m)
		if err != nil || how != forwarded {
			t.Fatalf("outcome %d: %v", how, err)
		}
		var got dns.Msg
		if err := got.Unpack(packed); err != nil {
			t.Fatal(err)
		}
		tt.check(t, req, &got)
	}
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ask sends one question to the name server from inside the container. With
// size it says by EDNS that it takes so many bytes.
func (b *box) ask(network, name string, kind, size uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(b.n.c.t.Context(), time.Second*run.slow())
	defer cancel()
	c, err := b.Dial(ctx, network, netip.AddrPortFrom(resolver(), 53))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	m := new(dns.Msg).SetQuestion(name, kind)
	if size > 0 {
		m.SetEdns0(size, false)
	}
	answer, _, err := (&dns.Client{Net: network, UDPSize: max(size, dns.MinMsgSize)}).ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: c})
	return answer, err
}

// answer asks for an address until there is an answer.
func (b *box) answer(t *testing.T, network, name string, size uint16) (m *dns.Msg) {
	t.Helper()
	wait(t, fmt.Sprintf("%s is answered by %s with %d", b.Name(), network, size), time.Second, func() (err error) {
		m, err = b.ask(network, name, dns.TypeA, size)
		return err
	})
	return m
}

// everywhere asks in all containers and says what of the answer is not as it
// should be: "NOERROR" and the answers in order, or another code.
func everywhere(boxes []*box, name string, kind uint16, want ...string) error {
	for _, b := range boxes {
		m, err := b.ask("udp", name, kind, 0)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", b.Name(), name, err)
		}
		if got := said(m); !slices.Equal(got, want) {
			return fmt.Errorf("%s: %s %s is %q, want %q", b.Name(), name, dns.TypeToString[kind], got, want)
		}
	}
	return nil
}

func said(m *dns.Msg) []string {
	var out []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.PTR:
			out = append(out, rr.Ptr)
		default:
			out = append(out, rr.String())
		}
	}
	slices.Sort(out)
	return append([]string{dns.RcodeToString[m.Rcode]}, out...)
}

const ok, none, zone = "NOERROR", "NXDOMAIN", ".weft.internal."

// What is said of names on one host holds on all within a second.
func TestNamesAreQuick(t *testing.T) {
	parallel(t)
	c := joined(t, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	web := c.nodes[1].start("web")
	c.nodes[1].must("attach", "10.32.1.1/12", "10.32.1.2/12", web.Ref())
	for _, step := range []struct {
		on   int // the host
		args []string
		name string
		want []string
	}{
		{1, []string{"dns-add", web.Ref(), "-h", "web.weft.internal"}, "web", []string{ok, "10.32.1.1", "10.32.1.2"}},
		{1, []string{"dns-add", "10.32.1.2", web.Ref(), "-h", "one.weft.internal"}, "one", []string{ok, "10.32.1.2"}},
		{0, []string{"dns-add", "10.99.0.1", "10.99.0.2", "-h", "printer.weft.internal"}, "printer", []string{ok, "10.99.0.1", "10.99.0.2"}},
		// Two hosts with one name are both in the answer.
		{2, []string{"dns-add", "10.99.0.3", "-h", "printer.weft.internal"}, "printer", []string{ok, "10.99.0.1", "10.99.0.2", "10.99.0.3"}},
		{0, []string{"dns-remove", "10.99.0.1", "-h", "printer.weft.internal"}, "printer", []string{ok, "10.99.0.2", "10.99.0.3"}},
		{0, []string{"dns-remove", "10.99.0.2", "-h", "printer.weft.internal"}, "printer", []string{ok, "10.99.0.3"}},
		// Nobody takes away what another host said.
		{1, []string{"dns-remove", "10.99.0.3", "-h", "printer.weft.internal"}, "printer", []string{ok, "10.99.0.3"}},
		{2, []string{"dns-remove", "10.99.0.3", "-h", "printer.weft.internal"}, "printer", []string{none}},
		{1, []string{"dns-remove", "10.32.1.1", web.Ref(), "-h", "web.weft.internal"}, "web", []string{ok, "10.32.1.2"}},
		{1, []string{"dns-remove", web.Ref(), "-h", "web.weft.internal"}, "web", []string{none}},
		{1, []string{"dns-remove", web.Ref()}, "one", []string{none}},
		{1, []string{"dns-add", web.Ref(), "-h", "web.weft.internal"}, "web", []string{ok, "10.32.1.1", "10.32.1.2"}},
		// An address that goes takes its names along.
		{1, []string{"detach", "10.32.1.1/12", web.Ref()}, "web", []string{ok, "10.32.1.2"}},
		{0, []string{"expose", "10.32.0.100/12", "-h", "gate.weft.internal"}, "gate", []string{ok, "10.32.0.100"}},
		{0, []string{"hide"}, "gate", []string{none}},
	} {
		c.nodes[step.on].must(step.args...)
		wait(t, fmt.Sprintf("%s: %s is %v", strings.Join(step.args, " "), step.name, step.want), time.Second, func() error {
			return errors.Join(
				everywhere(boxes, step.name+".", dns.TypeA, step.want...),
				everywhere(boxes, step.name+zone, dns.TypeA, step.want...),
			)
		})
	}
	wait(t, "the address has its name", time.Second, func() error {
		return everywhere(boxes, "2.1.32.10.in-addr.arpa.", dns.TypePTR, ok, "web"+zone)
	})
	if err := web.Kill(); err != nil {
		t.Fatal(err)
	}
	wait(t, "the names of a dead container are gone", time.Second, func() error {
		return everywhere(boxes, "web"+zone, dns.TypeA, none)
	})
	wait(t, "the dead container's address has no name", time.Second, func() error {
		for _, b := range boxes {
			if m, err := b.ask("udp", "2.1.32.10.in-addr.arpa.", dns.TypePTR, 0); err != nil || len(m.Answer) > 0 {
				return fmt.Errorf("%s: %w: %v", b.Name(), errors.Join(err, errors.New("it has one")), m)
			}
		}
		return nil
	})
}

// The answers are those of docs/protocol.md#names, on every host, whoever asks in whatever way.
func TestNameAnswers(t *testing.T) {
	parallel(t)
	c := joined(t, 2)
	boxes := c.attachEach()
	whole(c, boxes)
	c.nodes[0].must("dns-add", "10.32.2.1", "-h", "MiXed.weft.internal")
	c.nodes[0].must("dns-add", "10.32.2.2", "-h", "deep.down.weft.internal")
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("10.32.3.%d", i+1))
	}
	c.nodes[1].must(append(append([]string{"dns-add"}, many...), "-h", "many.weft.internal")...)
	slices.Sort(many)
	for _, q := range []struct {
		name string
		kind uint16
		want []string
	}{
		{"mixed", dns.TypeA, []string{ok, "10.32.2.1"}},
		{"MIXED", dns.TypeA, []string{ok, "10.32.2.1"}},
		{"mIxEd.WEFT.internal", dns.TypeA, []string{ok, "10.32.2.1"}},
		{"1.2.32.10.in-addr.arpa", dns.TypePTR, []string{ok, "mixed.weft.internal."}},
		{"1.2.32.10.IN-ADDR.ARPA", dns.TypePTR, []string{ok, "mixed.weft.internal."}},
		{"deep.down.weft.internal", dns.TypeA, []string{ok, "10.32.2.2"}},
		// Known, with another type; a name that only has names below it; the domain.
		{"mixed", dns.TypeAAAA, []string{ok}},
		{"mixed.weft.internal", dns.TypeTXT, []string{ok}},
		{"down.weft.internal", dns.TypeA, []string{ok}},
		{"weft.internal", dns.TypeA, []string{ok}},
		// Unknown.
		{"nobody", dns.TypeA, []string{none}},
		{"nobody.weft.internal", dns.TypeA, []string{none}},
		{"nobody.weft.internal", dns.TypeAAAA, []string{none}},
		{"mixed.invalid", dns.TypeA, []string{none}},
		// Nobody is there to ask for what is not ours.
		{"weft.example", dns.TypeA, []string{"SERVFAIL"}},
	} {
		wait(t, fmt.Sprintf("%s %s is %v", q.name, dns.TypeToString[q.kind], q.want), time.Second, func() error {
			return everywhere(boxes, q.name+".", q.kind, q.want...)
		})
	}
	wait(t, "many addresses", time.Second, func() error {
		for _, b := range boxes {
			if m, err := b.ask("tcp", "many"+zone, dns.TypeA, 0); err != nil || len(m.Answer) != len(many) {
				return fmt.Errorf("%s: %w: %v", b.Name(), err, m)
			}
		}
		return nil
	})
	for _, b := range boxes {
		m := b.answer(t, "udp", "mIxEd.WEFT.internal.", 0)
		if m.Answer[0].Header().Name != "mIxEd.WEFT.internal." || m.Answer[0].Header().Ttl != 1 || !m.Authoritative || !m.RecursionAvailable {
			t.Errorf("%s: the answer is not in the form asked for:\n%v", b.Name(), m)
		}
		if m = b.answer(t, "udp", "nobody.weft.internal.", 0); len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA {
			t.Errorf("%s: nothing says how long the absence may be remembered:\n%v", b.Name(), m)
		}
		// What is too large for a datagram is said to be cut, unless the asker
		// takes more, or comes by TCP.
		for _, q := range []struct {
			network string
			size    uint16
			cut     bool
		}{{"udp", 0, true}, {"udp", 1232, false}, {"udp", 4096, false}, {"tcp", 0, false}, {"tcp", 1232, false}} {
			m := b.answer(t, q.network, "many.weft.internal.", q.size)
			got := said(m)[1:]
			m.Compress = true // as it came
			if m.Truncated != q.cut || q.cut && (len(got) == 0 || m.Len() > 512) || !q.cut && !slices.Equal(got, many) {
				t.Errorf("%s by %s with %d: cut %t, %d answers, %d bytes", b.Name(), q.network, q.size, m.Truncated, len(got), m.Len())
			}
			if (m.IsEdns0() != nil) != (q.size > 0) {
				t.Errorf("%s by %s with %d: EDNS in the answer: %v", b.Name(), q.network, q.size, m.IsEdns0())
			}
		}
	}
	for _, n := range c.nodes {
		if got := n.must("dns-lookup", "MIXED"); got != "10.32.2.1\n" {
			t.Errorf("dns-lookup on %s prints %q", n.Name(), got)
		}
		if r := n.weft("dns-lookup", "nobody"); r.Exit != 0 || r.Stdout != "" || r.Stderr != "" {
			t.Errorf("dns-lookup of an unknown name: %v", r)
		}
		want := fmt.Sprintf("%-12s %-15s %12s %s\n", "MiXed", "10.32.2.1", "weft:extern", c.nodes[0].identity().Name)
		if got := n.must("status", "dns"); !strings.Contains(got, want) {
			t.Errorf("status dns on %s lacks %q:\n%s", n.Name(), want, got)
		}
	}
}

// Other names come from the host's own resolvers, and what they do not know is
// unknown.
func TestNamesOfOthers(t *testing.T) {
	parallel(t)
	c := newCluster(t, 2)
	place := c.nodes[1]
	s := newNameServer(t, place, place.Addr())
	s.set("shop.example.", netip.MustParseAddr("203.0.113.7"))
	resolveBy(t, place.Addr(), c.nodes[0])
	c.nodes[0].launch()
	b := c.nodes[0].attach("c1", "10.32.0.1")
	for name, want := range map[string][]string{
		"shop.example.": {ok, "203.0.113.7"}, "nobody.example.": {none}, "c1.weft.internal.": {ok, "10.32.0.1"},
	} {
		wait(t, name+" from a container", time.Second, func() error { return everywhere([]*box{b}, name, dns.TypeA, want...) })
	}
	ours := []string{"c1.weft.internal.", "nobody.weft.internal.", "c1.", "shop.invalid."}
	for _, name := range ours {
		b.answer(t, "udp", name, 0)
	}
	for _, name := range ours {
		if n := s.askedFor(name); n > 0 {
			t.Errorf("%d questions about %s went out", n, name)
		}
	}
	if s.askedFor("shop.example.") == 0 {
		t.Error("no question about another name went out: this shows nothing")
	}
}

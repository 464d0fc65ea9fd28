package dns

import (
	"context"
	"errors"
	"net"

	"github.com/miekg/dns"
)

const (
	// maxUDP bounds what a client may ask to get in one UDP message.
	maxUDP = 4096
	// ednsSize is what we say that we take, and what we ask upstream for: it
	// crosses every path without fragments.
	ednsSize = 1232
	// invalidDomain never exists (RFC 6761 section 6.4).
	invalidDomain = "invalid."
)

// resolver gets the answer for a question that is not ours.
type resolver func(ctx context.Context, req *dns.Msg) (*dns.Msg, error)

// respond returns the whole answer to a query; size is the largest message the
// transport takes without being asked for more. It blocks only in foreign.
func (s *Server) respond(ctx context.Context, req *dns.Msg, size int, foreign resolver) (*dns.Msg, outcome) {
	m, how := s.decide(ctx, req, foreign)
	return finish(req, m, size), how
}

// finish makes the answer fit the client.
func finish(req, m *dns.Msg, size int) *dns.Msg {
	m.RecursionAvailable = true
	if opt := req.IsEdns0(); opt != nil {
		size = max(size, min(int(opt.UDPSize()), maxUDP))
		m.SetEdns0(ednsSize, opt.Do())
	} else if m.Rcode > 0xF { // the upper bits are in the OPT record
		m.Rcode = dns.RcodeServerFailure
	}
	m.Truncate(size)
	m.Compress = true
	return m
}

// decide sorts a query into those we answer, those we refuse and those that
// others answer.
func (s *Server) decide(ctx context.Context, req *dns.Msg, foreign resolver) (*dns.Msg, outcome) {
	if len(req.Question) != 1 || countOPT(req) > 1 {
		return rcode(req, dns.RcodeFormatError), malformed
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		return rcode(req, dns.RcodeBadVers), malformed
	}
	q := req.Question[0]
	switch {
	case req.Opcode != dns.OpcodeQuery:
		return rcode(req, dns.RcodeNotImplemented), refused
	case q.Qclass != dns.ClassINET, q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		return rcode(req, dns.RcodeRefused), refused
	}
	if m, how, ok := s.local(req, q); ok {
		return m, how
	}
	answer, err := foreign(ctx, req)
	switch {
	case errors.Is(err, errBusy):
		return rcode(req, dns.RcodeServerFailure), busy
	case err != nil:
		return rcode(req, dns.RcodeServerFailure), failed
	}
	return relay(req, answer), forwarded
}

// local answers what the switch knows or must not let out; ok is false for
// everything else.
func (s *Server) local(req *dns.Msg, q dns.Question) (m *dns.Msg, how outcome, ok bool) {
	snap, domain := s.zone.now.Load(), s.zone.domain
	name := fold(q.Name)
	switch {
	case below(name, domain):
		n, known := snap.names[name]
		m, how = s.answer(req, q, n, known, domain, snap.serial)
		return m, how, true
	case below(name, invalidDomain):
		return s.negative(req, dns.RcodeNameError, ".", snap.serial), unknown, true
	case oneLabel(name):
		n, known := snap.names[name+domain]
		if !known && delegation(q.Qtype) {
			return nil, 0, false
		}
		if !known && below(domain, name) { // "internal." exists: the domain lies below it
			known = true
		}
		m, how = s.answer(req, q, n, known, ".", snap.serial)
		return m, how, true
	}
	a, isReverse := parseReverse(name)
	if !isReverse {
		return nil, 0, false
	}
	hosts := shuffled(snap.hosts[a])
	switch {
	case len(hosts) > 0:
	case s.reverse.Contains(a): // nobody else can know it
		return s.negative(req, dns.RcodeNameError, ".", snap.serial), unknown, true
	default:
		return nil, 0, false
	}
	if q.Qtype != dns.TypePTR && q.Qtype != dns.TypeANY {
		return s.negative(req, dns.RcodeSuccess, ".", snap.serial), empty, true
	}
	m = positive(req)
	for _, host := range hosts {
		m.Answer = append(m.Answer, &dns.PTR{Hdr: s.header(q.Name, dns.TypePTR), Ptr: host})
	}
	return m, answered, true
}

// answer is the answer for a name of the switch. Its records carry the name as
// it was asked for.
func (s *Server) answer(req *dns.Msg, q dns.Question, n node, known bool, apex string, serial uint32) (*dns.Msg, outcome) {
	if !known {
		return s.negative(req, dns.RcodeNameError, apex, serial), unknown
	}
	m := positive(req)
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY {
		for _, a := range shuffled(n.v4) {
			m.Answer = append(m.Answer, &dns.A{Hdr: s.header(q.Name, dns.TypeA), A: net.IP(a.AsSlice())})
		}
	}
	if q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY {
		for _, a := range shuffled(n.v6) {
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: s.header(q.Name, dns.TypeAAAA), AAAA: net.IP(a.AsSlice())})
		}
	}
	if fold(q.Name) == s.zone.domain && (q.Qtype == dns.TypeSOA || q.Qtype == dns.TypeANY) {
		m.Answer = append(m.Answer, s.soa(q.Name, serial))
	}
	if len(m.Answer) == 0 {
		return s.negative(req, dns.RcodeSuccess, apex, serial), empty
	}
	return m, answered
}

// negative carries the SOA record that says how long the absence may be
// remembered (RFC 2308). Its owner must be the name asked for or lie above it:
// a careful resolver ignores it otherwise.
func (s *Server) negative(req *dns.Msg, code int, apex string, serial uint32) *dns.Msg {
	m := rcode(req, code)
	m.Authoritative = true
	m.Ns = []dns.RR{s.soa(apex, serial)}
	return m
}

func (s *Server) soa(owner string, serial uint32) *dns.SOA {
	return &dns.SOA{
		Hdr: s.header(owner, dns.TypeSOA), Ns: s.zone.domain, Mbox: "hostmaster." + s.zone.domain,
		Serial: serial, Refresh: 60, Retry: 60, Expire: 3600, Minttl: s.ttl,
	}
}

func (s *Server) header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: s.ttl}
}

// relay turns an upstream's answer into one for req. EDNS and signatures of
// transactions are between neighbours only, so those records go.
func relay(req, answer *dns.Msg) *dns.Msg {
	m := answer.Copy() // others may wait for the same answer
	m.Id, m.Question = req.Id, req.Question
	m.Response, m.Opcode = true, req.Opcode
	m.RecursionDesired, m.CheckingDisabled = req.RecursionDesired, req.CheckingDisabled
	m.Zero = false
	extra := m.Extra[:0]
	for _, rr := range m.Extra {
		if t := rr.Header().Rrtype; t != dns.TypeOPT && t != dns.TypeTSIG {
			extra = append(extra, rr)
		}
	}
	m.Extra = extra
	return m
}

func positive(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(req)
	m.Authoritative = true
	return m
}

func rcode(req *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg).SetRcode(req, code)
	m.Opcode = req.Opcode
	return m
}

func countOPT(m *dns.Msg) int {
	n := 0
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			n++
		}
	}
	return n
}

// delegation reports whether a type is about top-level domains when the name
// has one label. A validating resolver asks us for these.
func delegation(qtype uint16) bool {
	switch qtype {
	case dns.TypeNS, dns.TypeSOA, dns.TypeDS, dns.TypeDNSKEY:
		return true
	}
	return false
}

package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	// forwardTime is how long a foreign question may take; the C library's
	// own patience with us ends at 5 s.
	forwardTime = 4 * time.Second
	// forwardRounds is how often every upstream is asked within that time: a
	// lost packet, or an upstream that had to look far, gets a second chance.
	forwardRounds = 2
	// maxWaiting bounds the foreign questions that are waiting at one time.
	maxWaiting = 512
)

// errBusy says that maxWaiting questions are waiting already.
var errBusy = errors.New("too many questions are waiting for upstream resolvers")

// errNoUpstream says that there is nobody to ask.
var errNoUpstream = errors.New("no upstream resolver is known")

// exchange asks one upstream over "udp" or "tcp" and returns its answer.
type exchange func(ctx context.Context, network string, to netip.AddrPort, m *dns.Msg) (*dns.Msg, error)

// forwarder asks the host's resolvers. It is safe for concurrent use and keeps
// no answers.
type forwarder struct {
	// Constant after newForwarder.
	upstreams func() []netip.AddrPort
	self      []netip.AddrPort // never asked
	exchange  exchange
	log       *slog.Logger
	slots     chan struct{} // one element per question that waits

	// Safe by themselves.
	flights singleflight.Group // questions under way
	silent  atomic.Bool        // the last question got no answer
}

func newForwarder(upstreams func() []netip.AddrPort, self []netip.AddrPort, log *slog.Logger) *forwarder {
	return &forwarder{
		upstreams: upstreams, self: self, exchange: exchangeNet, log: log,
		slots: make(chan struct{}, maxWaiting),
	}
}

// shared is ask for questions from the network: equal ones under way get one
// answer. That also ends loops through other resolvers: a question that comes
// back to us waits for itself, and the first one's time runs out for all. The
// answer must not be changed.
func (f *forwarder) shared(ctx context.Context, req *dns.Msg) (*dns.Msg, error) {
	return f.limit(func() (*dns.Msg, error) {
		q := query(req)
		m, err, _ := f.flights.Do(flight(q), func() (any, error) { return f.ask(ctx, q) })
		if err != nil {
			return nil, err
		}
		return m.(*dns.Msg), nil
	})
}

// alone is ask for one caller, whose ctx ends nobody else's question.
func (f *forwarder) alone(ctx context.Context, req *dns.Msg) (*dns.Msg, error) {
	return f.limit(func() (*dns.Msg, error) { return f.ask(ctx, query(req)) })
}

func (f *forwarder) limit(do func() (*dns.Msg, error)) (*dns.Msg, error) {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
		return do()
	default:
		return nil, errBusy
	}
}

// ask blocks until an upstream has answered, all of them have failed, the time
// is over or ctx ends.
func (f *forwarder) ask(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	upstreams := f.usable()
	if len(upstreams) == 0 {
		return nil, errNoUpstream
	}
	m, err := f.askAll(ctx, upstreams, q)
	if ctx.Err() == nil && f.silent.Swap(err != nil) != (err != nil) {
		if err != nil {
			f.log.Warn("no upstream resolver answers", "servers", upstreams, "err", err)
		} else {
			f.log.Info("upstream resolvers answer again", "servers", upstreams)
		}
	}
	return m, err
}

func (f *forwarder) askAll(ctx context.Context, upstreams []netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	var (
		patience = forwardTime / time.Duration(forwardRounds*len(upstreams))
		fault    *dns.Msg // somebody answered that he cannot
		errs     []error
	)
	for range forwardRounds {
		errs = errs[:0]
		for _, up := range upstreams {
			m, err := f.askOne(ctx, up, q, patience)
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case err != nil:
				errs = append(errs, fmt.Errorf("ask %s: %w", up, err))
			case cannot(m.Rcode):
				fault = m
			default:
				return m, nil
			}
		}
		if fault != nil {
			return fault, nil
		}
	}
	return nil, errors.Join(errs...)
}

// askOne asks by UDP, and by TCP when the answer did not fit.
func (f *forwarder) askOne(ctx context.Context, up netip.AddrPort, q *dns.Msg, patience time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := f.exchange(ctx, "udp", up, q)
	if err == nil {
		err = fits(q, m)
	}
	if err != nil || !m.Truncated {
		return m, err
	}
	if whole, err := f.exchange(ctx, "tcp", up, q); err == nil && fits(q, whole) == nil {
		return whole, nil
	}
	return m, nil // still tells the client to come by TCP
}

// usable leaves out ourselves: a host's resolv.conf may name us.
func (f *forwarder) usable() []netip.AddrPort {
	if f.upstreams == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(f.upstreams()), func(up netip.AddrPort) bool {
		return slices.Contains(f.self, unmap(up))
	})
}

// query returns the question of req as we ask it upstream. Whether the client
// speaks EDNS decides whether we do, so that the answer suits it.
func query(req *dns.Msg) *dns.Msg {
	q := &dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id: dns.Id(), Opcode: dns.OpcodeQuery, RecursionDesired: req.RecursionDesired,
			CheckingDisabled: req.CheckingDisabled, AuthenticatedData: req.AuthenticatedData,
		},
		Question: slices.Clone(req.Question),
	}
	if opt := req.IsEdns0(); opt != nil {
		q.SetEdns0(ednsSize, opt.Do())
	}
	return q
}

// flight says which questions have the same answer.
func flight(q *dns.Msg) string {
	opt := q.IsEdns0()
	return fmt.Sprint(q.Question[0].Name, " ", q.Question[0].Qtype, q.RecursionDesired, q.CheckingDisabled,
		q.AuthenticatedData, opt != nil, opt != nil && opt.Do())
}

// fits reports why m cannot be the answer to q.
func fits(q, m *dns.Msg) error {
	if !m.Response || m.Opcode != q.Opcode {
		return errors.New("not an answer")
	}
	if len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype ||
		m.Question[0].Qclass != q.Question[0].Qclass || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
		return errors.New("answer to another question")
	}
	return nil
}

// cannot reports whether another upstream may do better.
func cannot(code int) bool {
	switch code {
	case dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
		return true
	}
	return false
}

// exchangeNet is the exchange over the host's network. Every question has a
// socket of its own, and with it a source port that cannot be guessed.
func exchangeNet(ctx context.Context, network string, to netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	client := dns.Client{Net: network, UDPSize: maxUDP, Timeout: forwardTime}
	conn, err := client.DialContext(ctx, to.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answer, _, err := client.ExchangeWithConnContext(ctx, m, conn)
	return answer, err
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

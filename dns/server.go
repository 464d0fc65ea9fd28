package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// DefaultTTL is how long an answer may be remembered, in seconds.
const DefaultTTL = 1

// Config is what a [Server] needs. Only Zone is required.
type Config struct {
	// Zone holds the names that are answered here.
	Zone *Zone
	// Listen are the addresses to serve, each over UDP and TCP. They need not
	// exist yet. Unspecified ones (0.0.0.0, ::) are refused.
	Listen []netip.AddrPort
	// TTL of the zone's records in seconds; zero means [DefaultTTL].
	TTL uint32
	// Upstreams returns the resolvers for all other names, in the order in
	// which they are asked; it must not block. [ResolvConf.Upstreams] is one.
	// Those that are this server are skipped. Nil: other names fail.
	Upstreams func() []netip.AddrPort
	// Range is where the switch's addresses are: reverse names in it are
	// answered here also when unknown. The zero prefix: only known ones are.
	Range netip.Prefix
	// Log may be nil.
	Log *slog.Logger
}

// Server answers DNS queries. It is safe for concurrent use.
type Server struct {
	// Constant after New.
	zone    *Zone
	ttl     uint32
	reverse netip.Prefix
	log     *slog.Logger
	sockets []sockets
	forward *forwarder

	// Safe by itself.
	count counters
}

// New opens the sockets: an address that is in use is an error here. Either
// [Server.Run] or [Server.Close] must follow.
func New(c Config) (*Server, error) {
	if c.Zone == nil {
		return nil, errors.New("dns: a server needs a zone")
	}
	s := &Server{zone: c.Zone, ttl: c.TTL, reverse: c.Range, log: c.Log}
	if s.ttl == 0 {
		s.ttl = DefaultTTL
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, addr := range c.Listen {
		pair, err := listen(addr)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.sockets = append(s.sockets, pair)
	}
	s.forward = newForwarder(c.Upstreams, s.Addrs(), s.log)
	return s, nil
}

// Addrs returns the addresses that are served; port 0 has become a real one.
func (s *Server) Addrs() []netip.AddrPort {
	list := make([]netip.AddrPort, 0, len(s.sockets))
	for _, pair := range s.sockets {
		list = append(list, pair.addr())
	}
	return list
}

// Close closes the sockets of a server that was never run.
func (s *Server) Close() error {
	var errs []error
	for _, pair := range s.sockets {
		errs = append(errs, pair.close())
	}
	return errors.Join(errs...)
}

// Stats returns the counters.
func (s *Server) Stats() Stats { return s.count.stats() }

// Run serves until ctx ends, and returns nil then. It closes the sockets; a
// server runs once. Queries under way are cut short.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close() // most are closed already, but not after a failed start
	group, ctx := errgroup.WithContext(ctx)
	for _, pair := range s.sockets {
		group.Go(func() error { return s.serve(ctx, &dns.Server{PacketConn: pair.udp}, dns.MinMsgSize) })
		group.Go(func() error { return s.serve(ctx, &dns.Server{Listener: newGate(pair.tcp)}, dns.MaxMsgSize) })
		s.log.Info("dns server listens", "address", pair.addr(), "domain", s.zone.domain)
	}
	<-ctx.Done()
	return group.Wait()
}

// serve runs one of the library's servers until ctx ends; size is the largest
// message that its transport takes without being asked for more.
func (s *Server) serve(ctx context.Context, server *dns.Server, size int) error {
	started := make(chan struct{})
	server.UDPSize = maxUDP
	if server.PacketConn != nil {
		server.ReadTimeout = time.Hour // it would only wake up for nothing
	}
	server.NotifyStartedFunc = func() { close(started) }
	server.MsgAcceptFunc = s.accept
	server.MsgInvalidFunc = func([]byte, error) { s.count.by[malformed].Add(1) }
	server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) { s.handle(ctx, w, req, size) })

	failure := make(chan error, 1)
	go func() { failure <- server.ActivateAndServe() }()
	select {
	case err := <-failure:
		return fmt.Errorf("dns server: start: %w", err)
	case <-started: // before this the library ignores Shutdown
	}
	select {
	case err := <-failure:
		return fmt.Errorf("dns server: %w", err)
	case <-ctx.Done():
	}
	err := server.Shutdown()
	return errors.Join(err, <-failure)
}

// accept looks at a message's header before the rest is read. Answers are
// dropped: two servers would send each other errors for ever.
func (s *Server) accept(h dns.Header) dns.MsgAcceptAction {
	action := dns.DefaultMsgAcceptFunc(h)
	if action != dns.MsgAccept {
		s.count.by[malformed].Add(1)
	}
	return action
}

func (s *Server) handle(ctx context.Context, w dns.ResponseWriter, req *dns.Msg, size int) {
	m, how := s.respond(ctx, req, size, s.forward.shared)
	s.count.by[how].Add(1)
	if size == dns.MaxMsgSize {
		s.count.tcp.Add(1)
	}
	if m.Truncated {
		s.count.truncated.Add(1)
	}
	packed, err := pack(req, m)
	if err == nil {
		_, err = w.Write(packed)
	}
	if err != nil { // a client that is gone needs no answer
		s.log.Debug("dns answer not sent", "client", w.RemoteAddr(), "err", err)
	}
}

// pack returns the bytes of the answer. What an upstream sent may be readable
// and yet not writable: then the client is told at once.
func pack(req, m *dns.Msg) ([]byte, error) {
	packed, err := m.Pack()
	if err != nil {
		return finish(req, rcode(req, dns.RcodeServerFailure), dns.MinMsgSize).Pack()
	}
	return packed, nil
}

// Lookup returns the addresses of a name as a client of this server would get
// them, IPv4 before IPv6; an unknown name has none, and that is no error. It
// blocks while upstream resolvers are asked, until ctx ends. The server need
// not be running.
func (s *Server) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	full, err := ParseName(name)
	if err != nil {
		return nil, fmt.Errorf("look up: %w", err)
	}
	var list []netip.Addr
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		req := new(dns.Msg).SetQuestion(full, qtype)
		m, _ := s.respond(ctx, req, dns.MaxMsgSize, s.forward.alone)
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("look up %s: %w", name, ctx.Err())
		case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
			return nil, fmt.Errorf("look up %s: upstream resolvers: %s", name, dns.RcodeToString[m.Rcode])
		}
		list = slices.Concat(list, addresses(m))
	}
	return list, nil
}

func addresses(m *dns.Msg) []netip.Addr {
	var list []netip.Addr
	for _, rr := range m.Answer {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			list = append(list, a.Unmap())
		}
	}
	return list
}

// Package hello introduces two hosts to each other by address, over TCP.
//
// It owns the connection: TLS 1.3 between identity keys, the proof of the
// cluster secret bound to it, the exchange of adverts, and the protection of
// the listener against everybody who cannot prove anything. It does not decide
// whom to dial or when to try again, keeps no list of peers and configures
// nothing: mesh does.
//
// # The introduction
//
// Inside TLS, d is the dialler and l the listener:
//
//	d → l  preamble: version, cluster, boot id
//	l → d  preamble
//	d → l  proof, label "dialler"
//	l → d  proof, label "listener"
//	d → l  adverts, the dialler's own first
//	l → d  adverts, the listener's own first
//	d → l  done
//	l → d  done
//
// In place of any message after the preambles either end may say why it
// refuses. The dialler proves first: a listener that did would hand everybody
// who connects something to test passwords against.
package hello

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
)

// Limits of what one introduction carries.
const (
	MaxAdverts     = 1024
	MaxAdvertBytes = 1 << 20
)

// Config is what an introduction needs to know. Key, Keys, Boot and Adverts
// are required.
type Config struct {
	Key  *crypto.Key
	Keys crypto.Keys
	Boot uint64       // random at each start of the daemon
	Log  *slog.Logger // nil: silence

	// Versions are those of the rules between hosts that we speak; at most 16.
	Versions Versions
	// Adverts returns what to tell a peer: our own advert first, then every
	// other that is known. What exceeds [MaxAdverts] or [MaxAdvertBytes] is
	// not sent. It is called from many goroutines and must not block.
	Adverts func() []advert.Signed
	// Check may refuse a peer after its proof by returning an error, whose
	// text both ends report. Nil refuses nobody. It is called from many
	// goroutines and must not block.
	Check func(advert.Signed) error
}

// Result is one completed introduction.
type Result struct {
	Peer    crypto.Identity
	Boot    uint64          // the peer's
	Adverts []advert.Signed // verified, one per identity; the peer's own is first

	Version uint16 // of the rules between hosts: the highest that both speak
	Dialled bool   // we dialled
	// Initiator says that we initiate the WireGuard handshake, and the peer
	// waits. Of several results with one peer the one with the greatest Order
	// counts, on both ends.
	Initiator bool
	Order     uint64 // counts the results of a Hello

	Observed netip.Addr     // our address as the peer saw it; invalid when it does not know
	Remote   netip.AddrPort // other end of the TCP connection
}

// Hello makes introductions. It is safe for concurrent use.
type Hello struct {
	// Constant after New.
	cfg    Config
	self   crypto.Identity
	log    *slog.Logger
	client *tls.Config
	server *tls.Config
	limits limits
	rules  rules
	dialer func(context.Context, netip.AddrPort) (net.Conn, error)

	// Each guards itself.
	gate  *gate
	pairs *pairs
	warn  *warner
}

// limits are the bounds of an introduction. Tests change them.
type limits struct {
	beforeProof time.Duration // of a connection to the listener, until its proof
	afterProof  time.Duration // from there to the end
	dial        time.Duration // the whole of a dial
	unproven    int64         // bytes read from an end that has not proven anything
}

// rules are the parts of the protocol that protect it. Each is a value of its
// own so that a test can take it away and show that it was needed.
type rules struct {
	proof func(p proof) []byte // what is authenticated
	pin   func(pin *crypto.Identity, got crypto.Identity) bool
	own   func(a advert.Signed, peer crypto.Identity, boot uint64) bool
}

// New returns a Hello.
func New(cfg Config) *Hello {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &Hello{
		cfg:  cfg,
		self: cfg.Key.Identity(),
		log:  log,
		limits: limits{
			beforeProof: 5 * time.Second,
			afterProof:  10 * time.Second,
			dial:        10 * time.Second,
			unproven:    4 << 10,
		},
		rules: rules{
			proof: proof.bytes,
			pin: func(pin *crypto.Identity, got crypto.Identity) bool {
				return pin == nil || *pin == got
			},
			own: func(a advert.Signed, peer crypto.Identity, boot uint64) bool {
				return a.Identity == peer && a.Boot == boot
			},
		},
		gate:  newGate(),
		pairs: newPairs(cfg.Key.Identity()),
		warn:  newWarner(log),
	}
	h.client, h.server = tlsConfigs(cfg.Key, cfg.Versions)
	h.dialer = func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		d := net.Dialer{Control: smallSegments}
		return d.DialContext(ctx, "tcp", addr.String())
	}
	return h
}

// Dial introduces us to the host at addr and returns its answer. It blocks for
// at most 10 seconds, less when ctx ends. With a pin, nothing is proven to any
// other identity.
//
// What is wrong is one of the Err values of this package; failures of the
// network come as package net reports them.
func (h *Hello) Dial(ctx context.Context, addr netip.AddrPort, pin *crypto.Identity) (Result, error) {
	short, cancel := context.WithTimeout(ctx, h.limits.dial)
	defer cancel()
	start := time.Now()
	conn, err := h.dialer(short, addr)
	if err != nil {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		return Result{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(start.Add(h.limits.dial))
	stop := context.AfterFunc(short, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	r, err := h.dial(short, conn, pin)
	if why := reason(err); err != nil && ctx.Err() != nil && (why == nil || errors.Is(why, ErrNotWeft)) {
		return Result{}, ctx.Err()
	}
	return r, err
}

package hello

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
)

func (h *Hello) dial(ctx context.Context, tcp net.Conn, pin *crypto.Identity) (Result, error) {
	raw := &meteredConn{Conn: tcp, left: h.limits.unproven}
	conn := tls.Client(raw, h.client)
	if err := conn.HandshakeContext(ctx); err != nil {
		if ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			raw.drain()
		}
		return Result{}, explainHandshake(err, raw, h.limits.dial)
	}
	defer conn.Close()
	s, err := h.newSession(conn, raw, true)
	if err != nil {
		return Result{}, err
	}
	return s.dial(pin)
}

// session is one introduction on its connection. One goroutine owns it.
type session struct {
	*Hello
	conn     *tls.Conn
	raw      *meteredConn
	dialled  bool
	peer     crypto.Identity
	version  uint16 // that both speak; 0: not known yet
	boot     uint64 // of the peer, known after the preambles
	exporter []byte
}

func (h *Hello) newSession(conn *tls.Conn, raw *meteredConn, dialled bool) (*session, error) {
	state := conn.ConnectionState()
	peer, err := certIdentity(state)
	if err != nil {
		return nil, err
	}
	exporter, err := state.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
	if err != nil {
		return nil, fmt.Errorf("bind proof to connection: %w", err)
	}
	version, _ := agreed(state.NegotiatedProtocol)
	return &session{Hello: h, conn: conn, raw: raw, dialled: dialled, peer: peer, exporter: exporter, version: version}, nil
}

// dial is the dialler's side.
func (s *session) dial(pin *crypto.Identity) (Result, error) {
	if s.version == 0 { // a host that names no versions in TLS speaks one, or none of ours
		s.version = s.cfg.Versions.orFirst().Min
	}
	if err := writePreamble(s.conn, s.preamble()); err != nil {
		return Result{}, s.broken(err)
	}
	theirs, err := readPreamble(s.conn, s.spoken())
	if err != nil {
		return Result{}, s.broken(err)
	}
	if theirs.version != s.version {
		return Result{}, s.otherVersion(readOther(s.conn, theirs.version))
	}
	if err := s.meet(theirs); err != nil {
		return Result{}, err
	}
	if !s.rules.pin(pin, s.peer) {
		_ = writeRefusal(s.conn, refuseIdentity, "")
		return Result{}, fmt.Errorf("%w: it is %s, expected %s", ErrIdentity, s.peer.Fingerprint(), pin.Fingerprint())
	}
	// Noted before the listener can hear of it: two hosts that dial at once
	// then know from each other's adverts frame.
	end := s.pairs.begin(s.peer, s.boot, true)
	defer end.fail()
	if err := writeFrame(s.conn, frameProof, s.prove(labelDialler)); err != nil {
		return Result{}, s.broken(err)
	}
	got, err := s.expect(frameProof, proofSize)
	if err != nil {
		return Result{}, err
	}
	if !s.verify(labelListener, got) {
		_ = writeRefusal(s.conn, refuseSecret, "")
		return Result{}, ErrSecret
	}
	s.raw.lift()
	if err := s.sendAdverts(end.recent()); err != nil {
		return Result{}, err
	}
	b, adverts, err := s.receiveAdverts()
	if err != nil {
		return Result{}, err
	}
	if err := writeFrame(s.conn, frameDone, nil); err != nil {
		return Result{}, s.broken(err)
	}
	if _, err := s.expect(frameDone, 0); err != nil {
		return Result{}, err
	}
	return s.result(end, b, adverts), nil
}

// listen is the listener's side until the dialler has proven itself.
func (s *session) listen() error {
	theirs, err := readPreamble(s.conn, s.spoken())
	if errors.Is(err, errMagic) {
		return errStranger
	}
	if err != nil {
		return s.broken(err)
	}
	if !s.spoken().has(theirs.version) {
		if err := writeOther(s.conn, s.cfg.Versions.nearest(theirs.version), s.cfg.Versions); err != nil {
			return s.broken(err)
		}
		there := s.raw.offers
		if there == (Versions{}) {
			there = Versions{theirs.version, theirs.version}
		}
		return s.otherVersion(there)
	}
	s.version = theirs.version
	// Our own goes out in any case: the dialler finds by itself what differs.
	if err := writePreamble(s.conn, s.preamble()); err != nil {
		return s.broken(err)
	}
	if err := s.meet(theirs); err != nil {
		return err
	}
	got, err := s.expect(frameProof, proofSize)
	if err != nil {
		return err
	}
	if !s.verify(labelDialler, got) {
		_ = writeRefusal(s.conn, refuseSecret, "")
		return ErrSecret
	}
	return nil
}

// finish is the listener's side after that.
func (s *session) finish(done func(Result)) error {
	s.raw.lift()
	end := s.pairs.begin(s.peer, s.boot, false)
	defer end.fail()
	if err := writeFrame(s.conn, frameProof, s.prove(labelListener)); err != nil {
		return s.broken(err)
	}
	b, adverts, err := s.receiveAdverts()
	if err != nil {
		return err
	}
	if err := s.sendAdverts(end.recent()); err != nil {
		return err
	}
	if _, err := s.expect(frameDone, 0); err != nil {
		return err
	}
	r := s.result(end, b, adverts)
	// It is complete for us before the dialler hears so, and for the dialler
	// only when it hears: what it has, we have.
	done(r)
	_ = writeFrame(s.conn, frameDone, nil)
	return nil
}

func (s *session) preamble() preamble {
	return preamble{version: s.version, cluster: s.cfg.Keys.Cluster, boot: s.cfg.Boot}
}

// spoken are the versions that may be spoken on this connection.
func (s *session) spoken() Versions {
	if s.version != 0 {
		return Versions{s.version, s.version}
	}
	return s.cfg.Versions
}

func (s *session) otherVersion(there Versions) error {
	return fmt.Errorf("%w: %s there, %s here; run the same version of weft on both", ErrVersion, there, s.cfg.Versions)
}

// meet compares the other end with us, by what both ends know of each other
// without a secret.
func (s *session) meet(theirs preamble) error {
	s.boot = theirs.boot
	switch {
	case s.peer == s.self && theirs.boot == s.cfg.Boot:
		return ErrSelf
	case s.peer == s.self:
		return ErrClone
	case theirs.cluster != s.cfg.Keys.Cluster:
		return ErrCluster
	}
	return nil
}

// sendAdverts tells what we know, our own advert first.
func (s *session) sendAdverts(recent bool) error {
	all := s.cfg.Adverts()
	if len(all) == 0 || !s.rules.own(all[0], s.self, s.cfg.Boot) {
		return errors.New("introduction: our own advert is not ready")
	}
	remote := remoteAddr(s.raw)
	b := encodeBody(body{observed: remote.Addr(), recent: recent}, all)
	if err := writeFrame(s.conn, frameAdverts, b); err != nil {
		return s.broken(err)
	}
	return nil
}

// receiveAdverts reads what the peer knows and checks its own advert.
func (s *session) receiveAdverts() (body, []advert.Signed, error) {
	payload, err := s.expect(frameAdverts, maxBody)
	if err != nil {
		return body{}, nil, err
	}
	b, adverts, err := decodeBody(payload)
	if err != nil {
		_ = writeRefusal(s.conn, refusePeer, "malformed adverts")
		return body{}, nil, s.broken(err)
	}
	known, dropped := verifyAdverts(adverts)
	if len(known) == 0 || !s.rules.own(known[0], s.peer, s.boot) {
		_ = writeRefusal(s.conn, refusePeer, "the first advert is not its sender's")
		return body{}, nil, fmt.Errorf("%w: its first advert is not its own", errProtocol)
	}
	if dropped > 0 {
		s.log.Warn("adverts that do not verify were dropped", "peer", s.peer.Fingerprint(), "count", dropped)
	}
	if s.cfg.Check != nil {
		if err := s.cfg.Check(known[0]); err != nil {
			_ = writeRefusal(s.conn, refusePeer, err.Error())
			return body{}, nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return b, known, nil
}

func (s *session) result(end *introduction, b body, adverts []advert.Signed) Result {
	initiator, order := end.complete(b.recent)
	return Result{
		Peer: s.peer, Boot: s.boot, Adverts: adverts, Version: s.version,
		Dialled: s.dialled, Initiator: initiator, Order: order,
		Observed: b.observed, Remote: remoteAddr(s.raw),
	}
}

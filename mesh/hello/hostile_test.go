package hello

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
)

// TestRules attacks each rule that protects the introduction, once with the
// rule and once without it: with it the attack must fail, without it succeed,
// or the test would show nothing.
func TestRules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		remove func(h *Hello)
		// attack tries against hosts prepared by rule and says whether it got
		// through.
		attack func(t *testing.T, rule func(*Hello)) bool
	}{
		{"label: a proof sent back", without(func(p *proof) { p.label = "" }), reflect},
		{"exporter: a proof passed on by who has both identity keys", without(func(p *proof) { p.exporter = nil }), passOn(true)},
		{"exporter: a proof used again", without(func(p *proof) { p.exporter = nil }), replay},
		{"identities: a proof passed on", without(func(p *proof) {
			p.exporter, p.dialler, p.listener = nil, crypto.Identity{}, crypto.Identity{}
		}), passOn(false)},
		{"pin: a proof for a stranger", func(h *Hello) {
			h.rules.pin = func(*crypto.Identity, crypto.Identity) bool { return true }
		}, proofDespitePin},
		{"own advert: another's in its place", anyAdvert, foreignAdvert(2, 3, 3)},
		{"own advert: of another boot", anyAdvert, foreignAdvert(2, 2, 77)},
		{"deadline: a slow connection", func(h *Hello) { h.limits.beforeProof = time.Hour }, slowloris},
		{"bytes: much before the proof", func(h *Hello) { h.limits.unproven = 1 << 40 }, bigCertificate},
		{"connections: many from many", func(h *Hello) { h.gate.maxPending = 1 << 20 }, crowd(200, 1)},
		{"connections: many from a few", func(h *Hello) { h.gate.maxPending = 1 << 20 }, crowd(200, 10)},
		{"connections: many from one", func(h *Hello) { h.gate.maxPerSource = 1 << 20 }, crowd(17, 17)},
		{"room: all places held by a few", func(h *Hello) { h.gate.makeRoom = false }, keepOut(22)},
		{"room: all places held by many", func(h *Hello) { h.gate.makeRoom = false }, keepOut(60)},
		{"back-off: guessing", func(h *Hello) { h.gate.freeFailures = 1 << 20 }, guess},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.attack(t, func(*Hello) {}) {
				t.Error("the attack gets through")
			}
			if !tt.attack(t, tt.remove) {
				t.Error("without the rule the attack fails all the same: this test shows nothing")
			}
		})
	}
	// The exporter alone also stops who has no identity key, and the
	// identities alone too: either is enough there.
	if passOn(false)(t, without(func(p *proof) { p.exporter = nil })) {
		t.Error("identities do not stop a proof that is passed on")
	}
	if passOn(false)(t, without(func(p *proof) { p.dialler, p.listener = crypto.Identity{}, crypto.Identity{} })) {
		t.Error("the exporter does not stop a proof that is passed on")
	}
}

// without leaves something out of what is proven.
func without(change func(*proof)) func(*Hello) {
	return func(h *Hello) {
		h.rules.proof = func(p proof) []byte {
			change(&p)
			return p.bytes()
		}
	}
}

func anyAdvert(h *Hello) {
	h.rules.own = func(advert.Signed, crypto.Identity, uint64) bool { return true }
}

const (
	victimD  = 1
	victimL  = 2
	attacker = 66
)

// fakeListener accepts one connection with a key and hands it over after TLS
// and preambles.
func fakeListener(network *memNet, addr netip.AddrPort, k *crypto.Key, do func(*tls.Conn)) (wait func()) {
	ln := network.listen(addr)
	ended := make(chan struct{})
	_, server := tlsConfigs(k, Versions{})
	go func() {
		defer close(ended)
		tcp, err := ln.Accept()
		if err != nil {
			return
		}
		defer tcp.Close()
		conn := tls.Server(tcp, server)
		if conn.Handshake() != nil {
			return
		}
		if _, err := readPreamble(conn, Versions{}); err != nil {
			return
		}
		_ = writePreamble(conn, preamble{1, crypto.Secret{}.Keys("weft").Cluster, victimL})
		do(conn)
	}()
	return func() {
		_ = ln.Close()
		<-ended
	}
}

// fakeDialler connects with a key, up to the preambles.
func fakeDialler(network *memNet, addr netip.AddrPort, k *crypto.Key, boot uint64) (*tls.Conn, error) {
	tcp, err := network.dial(hostAddr(attacker).Addr(), addr)
	if err != nil {
		return nil, err
	}
	client, _ := tlsConfigs(k, Versions{})
	conn := tls.Client(tcp, client)
	if err := conn.Handshake(); err != nil {
		_ = tcp.Close()
		return nil, err
	}
	_ = writePreamble(conn, preamble{1, crypto.Secret{}.Keys("weft").Cluster, boot})
	if _, err := readPreamble(conn, Versions{}); err != nil {
		_ = tcp.Close()
		return nil, err
	}
	return conn, nil
}

// reflect sends the dialler's own proof back to it.
func reflect(t *testing.T, rule func(*Hello)) (through bool) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		wait := fakeListener(network, hostAddr(victimL), key(attacker), func(conn *tls.Conn) {
			_, p, err := readFrame(conn, frameProof, proofSize)
			if err != nil {
				return
			}
			_ = writeFrame(conn, frameProof, p)
			kind, _, err := readFrame(conn, frameAdverts, maxBody)
			through = err == nil && kind == frameAdverts
		})
		d := newHost(t, network, hostConfig{n: victimD})
		rule(d.Hello)
		_, _ = d.Dial(t.Context(), hostAddr(victimL), nil)
		wait()
	})
	return through
}

// passOn stands between dialler and listener with a TLS session to each; with
// the identity keys of both, or only with its own.
func passOn(stolen bool) func(t *testing.T, rule func(*Hello)) bool {
	return func(t *testing.T, rule func(*Hello)) (through bool) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			asL, asD, boot := key(attacker), key(attacker), uint64(attacker)
			if stolen {
				asL, asD, boot = key(victimL), key(victimD), victimD
			}
			between := hostAddr(attacker)
			l := newHost(t, network, hostConfig{n: victimL})
			rule(l.Hello)
			stop := l.serve(t, network.listen(l.addr))
			wait := fakeListener(network, between, asL, func(toD *tls.Conn) {
				toL, err := fakeDialler(network, l.addr, asD, boot)
				if err != nil {
					return
				}
				defer toL.Close()
				_, p, err := readFrame(toD, frameProof, proofSize)
				if err != nil {
					return
				}
				_ = writeFrame(toL, frameProof, p)
				kind, _, err := readFrame(toL, frameProof, proofSize)
				through = err == nil && kind == frameProof
			})
			d := newHost(t, network, hostConfig{n: victimD})
			rule(d.Hello)
			_, _ = d.Dial(t.Context(), between, nil)
			wait()
			stop()
		})
		return through
	}
}

// replay uses a proof that the dialler gave to who has the listener's key, in
// a later connection with the dialler's key.
func replay(t *testing.T, rule func(*Hello)) (through bool) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		var recorded []byte
		wait := fakeListener(network, hostAddr(attacker), key(victimL), func(conn *tls.Conn) {
			_, recorded, _ = readFrame(conn, frameProof, proofSize)
		})
		d := newHost(t, network, hostConfig{n: victimD})
		rule(d.Hello)
		_, _ = d.Dial(t.Context(), hostAddr(attacker), nil)
		wait()
		if len(recorded) != proofSize {
			t.Fatal("nothing was recorded")
		}
		time.Sleep(time.Hour)

		l := newHost(t, network, hostConfig{n: victimL})
		rule(l.Hello)
		stop := l.serve(t, network.listen(l.addr))
		conn, err := fakeDialler(network, l.addr, key(victimD), victimD)
		if err != nil {
			t.Fatal(err)
		}
		_ = writeFrame(conn, frameProof, recorded)
		kind, _, err := readFrame(conn, frameProof, proofSize)
		through = err == nil && kind == frameProof
		_ = conn.Close()
		stop()
	})
	return through
}

// proofDespitePin listens where another identity was expected.
func proofDespitePin(t *testing.T, rule func(*Hello)) (through bool) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		wait := fakeListener(network, hostAddr(victimL), key(attacker), func(conn *tls.Conn) {
			all, _ := io.ReadAll(conn)
			through = len(all) >= headerSize && all[0] == frameProof
		})
		d := newHost(t, network, hostConfig{n: victimD})
		rule(d.Hello)
		pin := key(victimL).Identity()
		_, _ = d.Dial(t.Context(), hostAddr(victimL), &pin)
		wait()
	})
	return through
}

// foreignAdvert is a member whose first advert is another's, or of another
// boot.
func foreignAdvert(member, owner byte, boot uint64) func(t *testing.T, rule func(*Hello)) bool {
	return func(t *testing.T, rule func(*Hello)) (through bool) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			l := newHost(t, network, hostConfig{n: 9})
			rule(l.Hello)
			stop := l.serve(t, network.listen(l.addr))
			d := newHost(t, network, hostConfig{n: member, adverts: func(advert.Signed) []advert.Signed {
				return []advert.Signed{signAdvert(t, key(owner), boot, 5)}
			}})
			anyAdvert(d.Hello)
			_, err := d.Dial(t.Context(), l.addr, nil)
			through = err == nil
			stop()
			// The other way round: the member listens.
			d2 := newHost(t, network, hostConfig{n: 10})
			rule(d2.Hello)
			stop = d.serve(t, network.listen(d.addr))
			if _, err := d2.Dial(t.Context(), d.addr, nil); (err == nil) != through {
				t.Errorf("dialler and listener judge differently: %v", err)
			}
			stop()
		})
		return through
	}
}

// slowloris sends a byte per second and is through when the listener still
// listens after its time.
func slowloris(t *testing.T, rule func(*Hello)) (through bool) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l := newHost(t, network, hostConfig{n: victimL})
		rule(l.Hello)
		stop := l.serve(t, network.listen(l.addr))
		conn, err := network.dial(hostAddr(attacker).Addr(), l.addr)
		if err != nil {
			t.Fatal(err)
		}
		dripped := make(chan struct{})
		go func() {
			defer close(dripped)
			for _, b := range []byte("\x16\x03\x01\x07\x00\x01\x00\x06\xfc\x03\x03") {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		_ = conn.SetReadDeadline(time.Now().Add(5*time.Second + time.Millisecond))
		_, err = io.Copy(io.Discard, conn)
		through = err != nil // still open
		_ = conn.Close()
		<-dripped
		stop()
	})
	return through
}

// bigCertificate makes the listener read more than 4 KiB of a stranger, in a
// certificate that is otherwise right.
func bigCertificate(t *testing.T, rule func(*Hello)) (through bool) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l := newHost(t, network, hostConfig{n: victimL})
		rule(l.Hello)
		stop := l.serve(t, network.listen(l.addr))
		client, _ := tlsConfigs(key(attacker), Versions{})
		client.Certificates = []tls.Certificate{bigCert(t, key(attacker).Signer(), 8000)}
		tcp, err := network.dial(hostAddr(attacker).Addr(), l.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(tcp, client)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		_ = writePreamble(conn, preamble{1, l.cfg.Keys.Cluster, 1})
		_, err = readPreamble(conn, Versions{})
		through = err == nil
		_ = tcp.Close()
		stop()
	})
	return through
}

func bigCert(t testing.TB, k ed25519.PrivateKey, size int) tls.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		ExtraExtensions: []pkix.Extension{{
			Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999}, Value: make([]byte, size),
		}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

// guess tries passwords, ten times at once.
func guess(t *testing.T, rule func(*Hello)) (through bool) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l := newHost(t, network, hostConfig{n: victimL})
		rule(l.Hello)
		stop := l.serve(t, network.listen(l.addr))
		tried := 0
		for i := range 10 {
			d := newHost(t, network, hostConfig{n: attacker, secret: byte(100 + i)})
			_, err := d.Dial(t.Context(), l.addr, nil)
			switch {
			case errors.Is(err, ErrSecret):
				tried++
			case !errors.Is(err, ErrRefused):
				t.Errorf("got %v", err)
			}
			synctest.Wait()
		}
		through = tried == 10
		if !through {
			// Others are not concerned; the guesser may come back later.
			d := newHost(t, network, hostConfig{n: victimD})
			if _, err := d.Dial(t.Context(), l.addr, nil); err != nil {
				t.Errorf("another host: %v", err)
			}
			time.Sleep(time.Minute)
			d.dialer = network.dialFrom(hostAddr(attacker).Addr())
			if _, err := d.Dial(t.Context(), l.addr, nil); err != nil {
				t.Errorf("a minute later: %v", err)
			}
		}
		stop()
	})
	return through
}

package hello

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A dialler with a wrong secret gets nothing from the listener that depends on
// the right one: it could be used to test passwords offline.
func TestNothingToGuessWith(t *testing.T) {
	transcript := func(secret, proofOf byte) (plain []byte) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet()
			l := newHost(t, network, hostConfig{n: victimL, secret: secret})
			stop := l.serve(t, network.listen(l.addr))
			d := newHost(t, network, hostConfig{n: attacker, secret: proofOf})
			tcp, err := network.dial(d.addr.Addr(), l.addr)
			if err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(tcp, d.client)
			if err := conn.Handshake(); err != nil {
				t.Fatal(err)
			}
			s, err := d.newSession(conn, &meteredConn{Conn: tcp}, true)
			if err != nil {
				t.Fatal(err)
			}
			_ = writePreamble(conn, s.preamble())
			got := make([]byte, preambleSize)
			if _, err := io.ReadFull(conn, got); err != nil {
				t.Fatal(err)
			}
			s.peer = l.self
			_ = writeFrame(conn, frameProof, s.prove(labelDialler))
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			rest, _ := io.ReadAll(conn)
			plain = append(got, rest...)
			_ = tcp.Close()
			stop()
		})
		return plain
	}
	a, b := transcript(1, 9), transcript(2, 9)
	if !bytes.Equal(a, b) {
		t.Errorf("what the listener says depends on its secret:\n%x\n%x", a, b)
	}
	// It does when the secret is right, so this test can see it.
	if a, b = transcript(1, 1), transcript(2, 2); bytes.Equal(a, b) {
		t.Error("this test shows nothing")
	}
}

// A listener that never sends a proof, or a wrong one, is nobody.
func TestFalseListener(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(conn *tls.Conn)
		want   error
	}{
		"random proof":   {func(c *tls.Conn) { _ = writeFrame(c, frameProof, make([]byte, proofSize)) }, ErrSecret},
		"short proof":    {func(c *tls.Conn) { _ = writeFrame(c, frameProof, make([]byte, proofSize-1)) }, errProtocol},
		"long proof":     {func(c *tls.Conn) { _ = writeFrame(c, frameProof, make([]byte, proofSize+1)) }, errProtocol},
		"no proof":       {func(c *tls.Conn) { _ = writeFrame(c, frameAdverts, nil) }, errProtocol},
		"done":           {func(c *tls.Conn) { _ = writeFrame(c, frameDone, nil) }, errProtocol},
		"huge":           {func(c *tls.Conn) { _, _ = c.Write([]byte{frameProof, 255, 255, 255, 255}) }, errProtocol},
		"empty refusal":  {func(c *tls.Conn) { _ = writeFrame(c, frameRefusal, nil) }, errProtocol},
		"refuses":        {func(c *tls.Conn) { _ = writeRefusal(c, refuseSecret, "") }, ErrSecret},
		"busy":           {func(c *tls.Conn) { _ = writeRefusal(c, refuseBusy, "") }, ErrRefused},
		"some text":      {func(c *tls.Conn) { _ = writeRefusal(c, refusePeer, "send the password to mallory") }, ErrRefused},
		"identity":       {func(c *tls.Conn) { _ = writeRefusal(c, refuseIdentity, "") }, ErrRefused},
		"unknown reason": {func(c *tls.Conn) { _ = writeRefusal(c, 99, "") }, ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				wait := fakeListener(network, hostAddr(victimL), key(attacker), func(conn *tls.Conn) {
					_, _, _ = readFrame(conn, frameProof, proofSize)
					tt.answer(conn)
					_, _ = io.Copy(io.Discard, conn)
				})
				d := newHost(t, network, hostConfig{n: victimD})
				_, err := d.Dial(t.Context(), hostAddr(victimL), nil)
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if err != nil && bytes.Contains([]byte(err.Error()), []byte("mallory")) {
					t.Errorf("the text of a stranger is repeated: %v", err)
				}
				wait()
			})
		})
	}
}

// Clients that are no weft, or no longer.
func TestStrangers(t *testing.T) {
	signer := key(attacker).Signer()
	for name, change := range map[string]func(c *tls.Config){
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
		"two certificates": func(c *tls.Config) {
			c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, c.Certificates[0].Certificate[0])
		},
		"ECDSA":      func(c *tls.Config) { c.Certificates = httpsConfig(t, 0).Certificates },
		"no ALPN":    func(c *tls.Config) { c.NextProtos = nil },
		"other ALPN": func(c *tls.Config) { c.NextProtos = []string{"h2"} },
		"TLS 1.2":    func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"not its key": func(c *tls.Config) {
			c.Certificates[0].Certificate = certificate(key(victimD)).Certificate
			c.Certificates[0].PrivateKey = signer
		},
		"signed by another": func(c *tls.Config) {
			template := &x509.Certificate{SerialNumber: big.NewInt(1)}
			der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), key(victimD).Signer())
			if err != nil {
				der, err = x509.CreateCertificate(rand.Reader, template,
					&x509.Certificate{PublicKey: key(victimD).Signer().Public()}, signer.Public(), key(victimD).Signer())
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				l := newHost(t, network, hostConfig{n: victimL})
				stop := l.serve(t, network.listen(l.addr))
				client, _ := tlsConfigs(key(attacker), Versions{})
				change(client)
				client.VerifyConnection = nil
				tcp, err := network.dial(hostAddr(attacker).Addr(), l.addr)
				if err != nil {
					t.Fatal(err)
				}
				conn := tls.Client(tcp, client)
				if conn.Handshake() == nil {
					_ = writePreamble(conn, preamble{1, l.cfg.Keys.Cluster, 1})
					if _, err := readPreamble(conn, Versions{}); err == nil {
						t.Error("it is talked to")
					}
				}
				_ = tcp.Close()
				synctest.Wait()
				stop()
				want := "level=WARN msg=\"introduction failed\" remote=192.0.2.66 err=\"what connected does not speak weft\"\n"
				if got := l.logs.String(); got != want {
					t.Errorf("log:\n%s", got)
				}
			})
		})
	}
}

// Who only looks whether the port is reached, as members do for each other, is
// not taken for somebody without the secret.
func TestLookAtThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l, d := newHost(t, network, hostConfig{n: victimL}), newHost(t, network, hostConfig{n: victimD})
		stop := l.serve(t, network.listen(l.addr))
		for range 40 {
			tcp, err := network.dial(hostAddr(victimD).Addr(), l.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = tcp.Close()
			time.Sleep(30 * time.Second)
		}
		if _, err := d.Dial(t.Context(), l.addr, nil); err != nil {
			t.Errorf("after 40 looks: %v", err)
		}
		stop()
		if got := l.logs.String(); strings.Contains(got, "WARN") {
			t.Errorf("log:\n%s", got)
		}
	})
}

// The certificate's dates, names and uses are nobody's business.
func TestCertificateOnlyCarriesTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l, d := newHost(t, network, hostConfig{n: victimL}), newHost(t, network, hostConfig{n: victimD})
		k := key(victimD).Signer()
		template := &x509.Certificate{
			SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "somebody"},
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0), DNSNames: []string{"example.com"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
		if err != nil {
			t.Fatal(err)
		}
		d.client.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}
		stop := l.serve(t, network.listen(l.addr))
		if _, err := d.Dial(context.Background(), l.addr, nil); err != nil {
			t.Error(err)
		}
		stop()
	})
}

// An introduction stays well below what is read before the proof.
func TestBytesBeforeProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		a, b := network.pair(hostAddr(victimD), hostAddr(victimL))
		d, l := newHost(t, network, hostConfig{n: victimD}), newHost(t, network, hostConfig{n: victimL})
		listened := make(chan int64)
		go func() {
			raw := &meteredConn{Conn: b, left: l.limits.unproven}
			conn := tls.Server(raw, l.server)
			if err := conn.Handshake(); err != nil {
				t.Error(err)
			}
			s, err := l.newSession(conn, raw, false)
			if err != nil {
				t.Error(err)
			}
			if err := s.listen(); err != nil {
				t.Error(err)
			}
			left := raw.left
			if err := s.finish(func(Result) {}); err != nil {
				t.Error(err)
			}
			listened <- l.limits.unproven - left
		}()
		raw := &meteredConn{Conn: a, left: d.limits.unproven}
		conn := tls.Client(raw, d.client)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		s, err := d.newSession(conn, raw, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.dial(nil); err != nil {
			t.Fatal(err)
		}
		if n := <-listened; n > 3<<10 {
			t.Errorf("the listener reads %d bytes before the proof: too near to the limit of %d", n, l.limits.unproven)
		} else {
			t.Logf("the listener reads %d bytes before the proof", n)
		}
		_ = conn.Close()
	})
}

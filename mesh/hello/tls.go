package hello

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	"github.com/weftnet/weft/crypto"
)

// tlsConfigs returns the two ends' configurations. Certificates only carry the
// identity keys: TLS proves possession, we look at nothing else.
func tlsConfigs(k *crypto.Key, v Versions) (client, server *tls.Config) {
	cert := certificate(k)
	base := tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cert},
		NextProtos:             v.protocols(),
		SessionTicketsDisabled: true,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		// There is no authority to ask: VerifyConnection takes any identity,
		// and the proof of the secret decides.
		InsecureSkipVerify: true,
		ClientAuth:         tls.RequireAnyClientCert,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := certIdentity(s)
			return err
		},
	}
	client, server = base.Clone(), base.Clone()
	// The order of the listener's list decides: the highest version of both.
	server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if c, ok := h.Conn.(*meteredConn); ok {
			c.offers = offered(h.SupportedProtos)
		}
		return nil, nil
	}
	return client, server
}

func certificate(k *crypto.Key) tls.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: baseProtocol},
		// Clocks of hosts that meet may be anywhere; nobody looks at these.
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:  time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	key := k.Signer()
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic("hello: an ed25519 key signs its own certificate: " + err.Error())
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// certIdentity returns the identity that the other end proved by TLS.
func certIdentity(s tls.ConnectionState) (crypto.Identity, error) {
	if _, ok := agreed(s.NegotiatedProtocol); !ok || s.Version != tls.VersionTLS13 || s.DidResume || len(s.PeerCertificates) != 1 {
		return crypto.Identity{}, errCert
	}
	cert := s.PeerCertificates[0]
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != crypto.IdentitySize {
		return crypto.Identity{}, errCert
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return crypto.Identity{}, fmt.Errorf("%w: %w", errCert, err)
	}
	return crypto.Identity(key), nil
}

// meteredConn counts what arrives from an end that has not proven anything,
// and remembers how it began.
type meteredConn struct {
	net.Conn
	left   int64 // bytes that may still be read
	lifted bool
	head   []byte   // the first bytes read, at most headSize
	offers Versions // of a dialler; zero: it does not say
}

const headSize = 7

func (c *meteredConn) Read(p []byte) (int, error) {
	if !c.lifted {
		if c.left <= 0 {
			return 0, errTooMuch
		}
		p = p[:min(int64(len(p)), c.left)]
	}
	n, err := c.Conn.Read(p)
	c.left -= int64(n)
	if room := headSize - len(c.head); room > 0 {
		c.head = append(c.head, p[:min(n, room)]...)
	}
	return n, err
}

// drain looks for something that was said before the connection broke under
// our own writing.
func (c *meteredConn) drain() {
	if len(c.head) == 0 {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = c.Read(make([]byte, headSize))
	}
}

// lift ends the counting.
func (c *meteredConn) lift() { c.lifted = true }

// tls reports whether what arrived begins like a TLS record.
func (c *meteredConn) tls() bool {
	return len(c.head) >= 2 && c.head[0] >= 20 && c.head[0] <= 23 && c.head[1] == 3
}

// busyAlert is what a listener says that does not want to do any work for the
// connection: a plain TLS alert, fatal, access denied.
const busyAlert = "\x15\x03\x03\x00\x02\x02\x31"

func (c *meteredConn) busy() bool { return string(c.head) == busyAlert }

// remoteAddr returns the other end of a TCP connection, zero for others.
func remoteAddr(c net.Conn) netip.AddrPort {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

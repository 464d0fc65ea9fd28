package crypto

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
)

// IdentitySize is the length of an [Identity] in bytes.
const IdentitySize = ed25519.PublicKeySize

// OverlayPrefix is the ULA prefix that holds every overlay address, the same
// in every cluster (RFC 4193).
var OverlayPrefix = netip.MustParsePrefix("fd77:6566:7400::/48")

// Identity is the ed25519 public key of a host. It is the only thing that
// decisions about ownership compare.
type Identity [IdentitySize]byte

// Name is the six-octet label of a host, a locally administered unicast MAC
// address. It is for people and proves nothing.
type Name [6]byte

// Name returns the name derived from the identity.
func (id Identity) Name() Name {
	sum := digest("weft name", id[:])
	var n Name
	copy(n[:], sum[:6])
	n[0] = n[0]&^0x01 | 0x02
	return n
}

// Overlay returns the self-certifying overlay address: [OverlayPrefix] and 80
// bits of the identity's hash.
func (id Identity) Overlay() netip.Addr {
	sum := digest("weft overlay", id[:])
	a := OverlayPrefix.Addr().As16()
	copy(a[6:], sum[:10])
	return netip.AddrFrom16(a)
}

// Compare orders identities bytewise. The peer with the smaller identity is
// the decider of a pair.
func (id Identity) Compare(other Identity) int { return bytes.Compare(id[:], other[:]) }

// IsZero reports whether id is unset.
func (id Identity) IsZero() bool { return id == Identity{} }

// String returns the identity in hexadecimal.
func (id Identity) String() string { return hex.EncodeToString(id[:]) }

// Fingerprint returns the first eight bytes in hexadecimal, for messages.
func (id Identity) Fingerprint() string { return hex.EncodeToString(id[:8]) }

// MarshalText implements [encoding.TextMarshaler].
func (id Identity) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *Identity) UnmarshalText(b []byte) error {
	if len(b) != 2*IdentitySize {
		return fmt.Errorf("identity: want %d hexadecimal digits, got %d", 2*IdentitySize, len(b))
	}
	var parsed Identity
	if _, err := hex.Decode(parsed[:], b); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	*id = parsed
	return nil
}

// Verify reports whether sig is the identity's signature of msg in domain.
func (id Identity) Verify(domain string, msg, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize &&
		ed25519.Verify(id[:], signedBytes(domain, msg), sig)
}

// Key is the private half of a host's identity and everything that is derived
// from its seed. It is immutable and safe for concurrent use.
type Key struct {
	seed      [ed25519.SeedSize]byte
	sign      ed25519.PrivateKey
	wireguard *ecdh.PrivateKey
}

// NewKey makes a key from the system's random source.
func NewKey() (*Key, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand.Reader, seed[:]); err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	return KeyFromSeed(seed), nil
}

// KeyFromSeed returns the key that belongs to seed. The signing key and the
// WireGuard key come from the seed under different labels, so neither tells
// anything of the other.
func KeyFromSeed(seed [ed25519.SeedSize]byte) *Key {
	signSeed := derive(seed[:], "identity", nil)
	wgSeed := derive(seed[:], "wireguard", nil)
	wg, err := ecdh.X25519().NewPrivateKey(wgSeed[:])
	if err != nil {
		panic("crypto: X25519 takes any 32 bytes: " + err.Error())
	}
	return &Key{seed: seed, sign: ed25519.NewKeyFromSeed(signSeed[:]), wireguard: wg}
}

// Seed returns the 32 bytes to store. They are secret.
func (k *Key) Seed() [ed25519.SeedSize]byte { return k.seed }

// Identity returns the public half.
func (k *Key) Identity() Identity { return Identity(k.sign.Public().(ed25519.PublicKey)) }

// Sign signs msg in domain, so that a signature made for one purpose is
// worthless for another.
func (k *Key) Sign(domain string, msg []byte) []byte {
	return ed25519.Sign(k.sign, signedBytes(domain, msg))
}

// Signer returns a copy of the identity's private key for a TLS certificate.
func (k *Key) Signer() ed25519.PrivateKey { return bytes.Clone(k.sign) }

// String names the key by its public half, so that printing a key by mistake
// gives nothing away.
func (k *Key) String() string { return "key of " + k.Identity().Fingerprint() }

// GoString is like [Key.String], for %#v.
func (k *Key) GoString() string { return k.String() }

// LogValue implements [slog.LogValuer].
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// WireGuardPrivate returns the X25519 private key, clamped as RFC 7748 says.
func (k *Key) WireGuardPrivate() [32]byte {
	b := [32]byte(k.wireguard.Bytes())
	b[0] &= 248
	b[31] = b[31]&127 | 64
	return b
}

// WireGuardPublic returns the X25519 public key.
func (k *Key) WireGuardPublic() [32]byte { return [32]byte(k.wireguard.PublicKey().Bytes()) }

func signedBytes(domain string, msg []byte) []byte {
	b := make([]byte, 0, 2+len(domain)+len(msg))
	b = binary.BigEndian.AppendUint16(b, uint16(len(domain)))
	b = append(b, domain...)
	return append(b, msg...)
}

func digest(label string, data []byte) [sha256.Size]byte {
	return sha256.Sum256(signedBytes(label, data))
}

// Sorted returns the two identities in order, smaller first.
func Sorted(a, b Identity) (Identity, Identity) {
	if a.Compare(b) > 0 {
		return b, a
	}
	return a, b
}

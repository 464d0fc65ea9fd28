package crypto

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// MinPasswordLength is the shortest password taken without --weak-password, in
// characters.
const MinPasswordLength = 14

const (
	tokenPrefix = "weft1."
	tokenSize   = 32 + IdentitySize + 4 // secret, issuer, check sum
)

// ErrWeakPassword is returned for a password below [MinPasswordLength].
var ErrWeakPassword = errors.New("password is too short")

// Secret is what every member of a cluster knows: a token's 32 random bytes,
// or a password after argon2id. It is never used as a key itself.
type Secret [32]byte

// NewSecret makes a random secret of 256 bits.
func NewSecret() (Secret, error) {
	var s Secret
	if _, err := io.ReadFull(rand.Reader, s[:]); err != nil {
		return Secret{}, fmt.Errorf("make cluster secret: %w", err)
	}
	return s, nil
}

// PasswordSecret stretches a password for a cluster with argon2id (RFC 9106;
// t=3, 64 MiB, p=4). It takes about a second and returns the 64 MiB to the
// system before it answers. A password below [MinPasswordLength] gives
// [ErrWeakPassword] unless weak is set.
func PasswordSecret(password, cluster string, weak bool) (Secret, error) {
	if password == "" {
		return Secret{}, fmt.Errorf("%w: it is empty", ErrWeakPassword)
	}
	if n := utf8.RuneCountInString(password); n < MinPasswordLength && !weak {
		return Secret{}, fmt.Errorf("%w: %d characters, want at least %d; use a longer one, a token, or --weak-password",
			ErrWeakPassword, n, MinPasswordLength)
	}
	s := Secret(argon2.IDKey([]byte(password), []byte("weft/1"+cluster), 3, 64<<10, 4, 32))
	debug.FreeOSMemory()
	return s, nil
}

// What holds a secret prints as this, whatever the verb.
const redacted = "[secret]"

// String hides the secret: it does not belong in messages. What people copy
// is [Token.String].
func (s Secret) String() string { return redacted }

// GoString is like [Secret.String], for %#v.
func (s Secret) GoString() string { return redacted }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Token is a secret in the form people copy, with the identity of the host
// that issued it, so that the first dial with it is pinned.
type Token struct {
	Secret Secret
	Issuer Identity // zero: not pinned
}

// String returns the token's text. It is as secret as the secret.
func (t Token) String() string {
	b := append(t.Secret[:len(t.Secret):len(t.Secret)], t.Issuer[:]...)
	sum := digest("weft token", b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:4]...))
}

// GoString hides the token, for %#v.
func (t Token) GoString() string { return redacted }

// LogValue hides the token: [slog.LogValuer].
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// ParseToken reads what [Token.String] wrote; spaces and line ends around it
// are ignored, those within are not.
func ParseToken(s string) (Token, error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("token does not begin with %q; print one with 'weft token' on a host of the cluster", tokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	// The decoder skips line ends, so the length of the text is compared too.
	if err != nil || len(b) != tokenSize || len(body) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return Token{}, errors.New("token is incomplete; copy the whole line that 'weft token' prints")
	}
	sum := digest("weft token", b[:32+IdentitySize])
	if string(sum[:4]) != string(b[32+IdentitySize:]) {
		return Token{}, errors.New("token has a typing error; copy the whole line that 'weft token' prints")
	}
	return Token{Secret: Secret(b[:32]), Issuer: Identity(b[32 : 32+IdentitySize])}, nil
}

// Keys are the keys of one cluster, derived from its secret and name with
// HKDF-SHA256 (RFC 5869). They are immutable.
type Keys struct {
	Gossip       [32]byte // memberlist's AES-256 key
	Introduction [32]byte // key of the proof in mesh/hello
	VNI          uint32   // 24 bits, never zero
	Cluster      [32]byte // hash of the cluster's name; public

	pair [32]byte
}

// String hides the keys.
func (k Keys) String() string { return redacted }

// GoString is like [Keys.String], for %#v.
func (k Keys) GoString() string { return redacted }

// LogValue implements [slog.LogValuer].
func (k Keys) LogValue() slog.Value { return slog.StringValue(redacted) }

// Keys derives the keys of the cluster called name.
func (s Secret) Keys(name string) Keys {
	cluster := digest("weft cluster", []byte(name))
	vni := derive(s[:], "vni", cluster[:])
	k := Keys{
		Gossip:       derive(s[:], "gossip", cluster[:]),
		Introduction: derive(s[:], "introduction", cluster[:]),
		VNI:          binary.BigEndian.Uint32(vni[:]) >> 8,
		Cluster:      cluster,
		pair:         derive(s[:], "pair", cluster[:]),
	}
	k.VNI = max(k.VNI, 1)
	return k
}

// PresharedKey returns the WireGuard PresharedKey of a pair, the same for both.
func (k Keys) PresharedKey(a, b Identity) [32]byte { return k.forPair("wireguard psk", a, b) }

// PairKey returns the key that authenticates probes and binds of a pair.
func (k Keys) PairKey(a, b Identity) [32]byte { return k.forPair("pair", a, b) }

func (k Keys) forPair(label string, a, b Identity) [32]byte {
	a, b = Sorted(a, b)
	return derive(k.pair[:], label, append(a[:len(a):len(a)], b[:]...))
}

// derive is HKDF with a length-prefixed label and context as info.
func derive(secret []byte, label string, context []byte) [32]byte {
	info := signedBytes("weft/1 "+label, context)
	b, err := hkdf.Key(sha256.New, secret, nil, string(info), 32)
	if err != nil {
		panic("crypto: HKDF of 32 bytes: " + err.Error())
	}
	return [32]byte(b)
}

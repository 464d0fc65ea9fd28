package crypto

import (
	"crypto/subtle"
	"hash"

	"golang.org/x/crypto/blake2s"
)

// macsSize is what mac1 and mac2 take at the end of a handshake message, in
// bytes, half each.
const macsSize = 32

// MAC1 checks the first MAC of WireGuard's handshake messages, which says for
// whom a message is to everybody who knows that host's public key (WireGuard
// whitepaper, section 5.4.4). It proves nothing about the sender. It is not safe
// for concurrent use.
type MAC1 struct {
	h   hash.Hash
	sum []byte
}

// NewMAC1 returns the check for messages to the host with a WireGuard public
// key.
func NewMAC1(public [32]byte) *MAC1 {
	key := blake2s.Sum256(append([]byte("mac1----"), public[:]...))
	h, err := blake2s.New128(key[:])
	if err != nil {
		panic("crypto: BLAKE2s takes a key of 32 bytes: " + err.Error())
	}
	return &MAC1{h: h, sum: make([]byte, 0, h.Size())}
}

// Verify reports whether msg, a whole initiation or response, is for the host.
// It allocates nothing.
func (m *MAC1) Verify(msg []byte) bool {
	if len(msg) < macsSize {
		return false
	}
	m.h.Reset()
	m.h.Write(msg[:len(msg)-macsSize])
	m.sum = m.h.Sum(m.sum[:0])
	return subtle.ConstantTimeCompare(m.sum, msg[len(msg)-macsSize:][:m.h.Size()]) == 1
}

// Put writes the MAC into msg, as the sender of a message to the host does.
func (m *MAC1) Put(msg []byte) {
	m.h.Reset()
	m.h.Write(msg[:len(msg)-macsSize])
	m.h.Sum(msg[len(msg)-macsSize : len(msg)-macsSize])
}

package hello

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/weftnet/weft/crypto"
)

const (
	labelDialler  = "dialler"
	labelListener = "listener"

	exporterLabel = "EXPORTER-weft-introduction"
	exporterSize  = 32
	proofSize     = sha256.Size
)

// proof is what one end authenticates with the cluster's introduction key.
// The label keeps it from being sent back, the identities from being used
// between others, the exporter from being used in any other connection.
type proof struct {
	label             string
	version           uint16
	dialler, listener crypto.Identity
	exporter          []byte
}

func (p proof) bytes() []byte {
	b := make([]byte, 0, 128)
	b = append(append(b, byte(len(p.label))), p.label...)
	b = binary.BigEndian.AppendUint16(b, p.version)
	b = append(b, p.dialler[:]...)
	b = append(b, p.listener[:]...)
	return append(b, p.exporter...)
}

func (s *session) prove(label string) []byte {
	p := proof{label: label, version: s.version, dialler: s.self, listener: s.peer, exporter: s.exporter}
	if !s.dialled {
		p.dialler, p.listener = s.peer, s.self
	}
	m := hmac.New(sha256.New, s.cfg.Keys.Introduction[:])
	m.Write(s.rules.proof(p))
	return m.Sum(nil)
}

func (s *session) verify(label string, got []byte) bool { return hmac.Equal(got, s.prove(label)) }

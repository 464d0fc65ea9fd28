package hello

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"unicode"

	"github.com/weftnet/weft/mesh/advert"
)

// The preamble, integers big-endian:
//
//	 4  "weft"
//	 2  protocol version; in every version these six bytes come first
//	32  hash of the cluster's name
//	 8  boot id
//
// A listener that speaks no version of the dialler's says the nearest one, then
// in place of the rest the least and the greatest that it does speak (2 and 2).
//
// After the preamble come frames:
//
//	1  type
//	4  length of what follows
//	…  content
const (
	magic        = "weft"
	versionSize  = len(magic) + 2
	preambleSize = versionSize + 32 + 8
	headerSize   = 5
)

// The types of frames.
const (
	frameProof   = 1 // 32 bytes, HMAC-SHA256
	frameRefusal = 2 // 1 byte code, then a text for people
	frameAdverts = 3 // see body
	frameDone    = 4 // empty
)

// The codes of refusals.
const (
	refuseSecret   = 1
	refuseIdentity = 2 // the dialler pinned another one
	refusePeer     = 3 // with a text
	refuseBusy     = 4
)

const (
	maxRefusal = 1 + 512
	maxBody    = MaxAdvertBytes
)

var errMagic = errors.New("it does not begin like weft's")

type preamble struct {
	version uint16
	cluster [32]byte
	boot    uint64
}

func writePreamble(w io.Writer, p preamble) error {
	b := append(make([]byte, 0, preambleSize), magic...)
	b = binary.BigEndian.AppendUint16(b, p.version)
	b = append(b, p.cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, p.boot)
	_, err := w.Write(b)
	return err
}

// writeOther says in place of a preamble that there is no version in common.
func writeOther(w io.Writer, nearest uint16, v Versions) error {
	b := binary.BigEndian.AppendUint16([]byte(magic), nearest)
	_, err := w.Write(append(b, v.Meta()[1:]...))
	return err
}

// readOther reads what follows the version then. Without a range around it,
// which hosts of version 1 do not send, it is the only one.
func readOther(r io.Reader, nearest uint16) Versions {
	only := Versions{nearest, nearest}
	if nearest <= 1 {
		return only
	}
	b := []byte{1, 4: 0}
	if _, err := io.ReadFull(r, b[1:]); err != nil {
		return only
	}
	if v := ParseMeta(b); v.has(nearest) {
		return v
	}
	return only
}

// readPreamble reads a preamble; of a version that is not spoken only the
// version.
func readPreamble(r io.Reader, spoken Versions) (preamble, error) {
	var b [preambleSize]byte
	if _, err := io.ReadFull(r, b[:versionSize]); err != nil {
		return preamble{}, err
	}
	if string(b[:len(magic)]) != magic {
		return preamble{}, errMagic
	}
	p := preamble{version: binary.BigEndian.Uint16(b[len(magic):])}
	if !spoken.has(p.version) {
		return p, nil
	}
	if _, err := io.ReadFull(r, b[versionSize:]); err != nil {
		return preamble{}, err
	}
	copy(p.cluster[:], b[versionSize:])
	p.boot = binary.BigEndian.Uint64(b[versionSize+32:])
	return p, nil
}

func writeFrame(w io.Writer, kind byte, content []byte) error {
	b := append(make([]byte, 0, headerSize+len(content)), kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	_, err := w.Write(append(b, content...))
	return err
}

// readFrame reads a frame of the wanted kind with at most most bytes, or a
// refusal. It allocates no more than has arrived.
func readFrame(r io.Reader, want byte, most int) (kind byte, content []byte, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	kind, n := h[0], int64(binary.BigEndian.Uint32(h[1:]))
	switch kind {
	case want:
	case frameRefusal:
		most = maxRefusal
	default:
		return 0, nil, fmt.Errorf("%w: type %d, want %d", errProtocol, kind, want)
	}
	if n > int64(most) {
		return 0, nil, fmt.Errorf("%w: %d bytes, at most %d are taken", errProtocol, n, most)
	}
	content, err = io.ReadAll(io.LimitReader(r, n))
	if err == nil && int64(len(content)) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, nil, err
	}
	return kind, content, nil
}

// expect reads the content of the next frame, or why there is none.
func (s *session) expect(want byte, most int) ([]byte, error) {
	kind, content, err := readFrame(s.conn, want, most)
	switch {
	case err != nil:
		return nil, s.broken(err)
	case kind == frameRefusal && kind != want:
		return nil, s.refusal(content)
	case want == frameProof && len(content) != proofSize:
		return nil, fmt.Errorf("%w: proof of %d bytes", errProtocol, len(content))
	}
	return content, nil
}

func writeRefusal(w io.Writer, code byte, text string) error {
	text = text[:min(len(text), maxRefusal-1)]
	return writeFrame(w, frameRefusal, append([]byte{code}, strings.ToValidUTF8(text, "")...))
}

// refusal turns a refusal into an error. The text of an end that has not
// proven anything is not repeated.
func (s *session) refusal(content []byte) error {
	if len(content) == 0 {
		return fmt.Errorf("%w: empty refusal", errProtocol)
	}
	switch code := content[0]; {
	case code == refuseSecret:
		return ErrSecret
	case code == refuseIdentity && !s.dialled:
		return fmt.Errorf("%w: the dialler expected another host here", ErrIdentity)
	case code == refuseBusy:
		return errBusy()
	case code == refusePeer && s.raw.lifted:
		return fmt.Errorf("%w by the peer: %s", ErrRefused, printable(string(content[1:])))
	}
	return fmt.Errorf("%w by the peer", ErrRefused)
}

// printable keeps a text of the other end to one harmless line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// body is the content of the adverts frame, before the adverts:
//
//	1  flags: 1 recent
//	1  0, 4 or 6, then an address of 0, 4 or 16 bytes: the receiver as seen
//	2  number of adverts, then each: 2 bytes length, advert
type body struct {
	observed netip.Addr
	recent   bool // an introduction in the other direction stands or just did
}

const flagRecent = 1

// encodeBody encodes as many adverts, from the first, as the limits allow.
func encodeBody(h body, adverts []advert.Signed) []byte {
	raw := make([][]byte, 0, min(len(adverts), MaxAdverts))
	size := 1 + 1 + 16 + 2
	for _, a := range adverts[:min(len(adverts), MaxAdverts)] {
		b := a.Bytes()
		if size += 2 + len(b); size > maxBody {
			break
		}
		raw = append(raw, b)
	}
	return h.encode(raw)
}

func (h body) encode(adverts [][]byte) []byte {
	var flags byte
	if h.recent {
		flags |= flagRecent
	}
	b := []byte{flags}
	switch a := h.observed.Unmap(); {
	case a.Is4():
		b = append(append(b, 4), a.AsSlice()...)
	case a.Is6():
		b = append(append(b, 6), a.AsSlice()...)
	default:
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(adverts)))
	for _, a := range adverts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(a)))
		b = append(b, a...)
	}
	return b
}

// decodeBody reads what encode wrote and nothing else. The adverts are parts
// of b, not looked into.
func decodeBody(b []byte) (body, [][]byte, error) {
	if len(b) < 2 || b[0]&^flagRecent != 0 {
		return body{}, nil, fmt.Errorf("%w: unknown flags", errProtocol)
	}
	h := body{recent: b[0]&flagRecent != 0}
	size := map[byte]int{0: 0, 4: 4, 6: 16}
	n, known := size[b[1]]
	if b = b[2:]; !known || len(b) < n+2 {
		return body{}, nil, fmt.Errorf("%w: observed address", errProtocol)
	}
	if n > 0 {
		h.observed, _ = netip.AddrFromSlice(b[:n])
	}
	if h.observed.Is4In6() {
		return body{}, nil, fmt.Errorf("%w: IPv4 address written as IPv6", errProtocol)
	}
	count := int(binary.BigEndian.Uint16(b[n:]))
	b = b[n+2:]
	if count > MaxAdverts {
		return body{}, nil, fmt.Errorf("%w: %d adverts, at most %d are taken", errProtocol, count, MaxAdverts)
	}
	var adverts [][]byte
	for range count {
		if len(b) < 2 {
			return body{}, nil, fmt.Errorf("%w: it is cut off", errProtocol)
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; n > len(b) || n > advert.MaxSize {
			return body{}, nil, fmt.Errorf("%w: advert of %d bytes", errProtocol, n)
		}
		adverts, b = append(adverts, b[:n]), b[n:]
	}
	if len(b) > 0 {
		return body{}, nil, fmt.Errorf("%w: %d bytes too many", errProtocol, len(b))
	}
	return h, adverts, nil
}

// verifyAdverts returns the adverts that verify, one per identity: the first
// of the first identity, which is the sender's, and the newest of the others.
// Without a valid first there is none.
func verifyAdverts(raw [][]byte) (known []advert.Signed, dropped int) {
	at := make(map[[32]byte]int)
	for i, b := range raw {
		a, err := advert.Parse(b)
		if err != nil {
			if i == 0 {
				return nil, 1
			}
			dropped++
			continue
		}
		switch j, seen := at[a.Identity]; {
		case !seen:
			at[a.Identity] = len(known)
			known = append(known, a)
		case j > 0 && a.Newer(known[j]):
			known[j] = a
		}
	}
	return known, dropped
}

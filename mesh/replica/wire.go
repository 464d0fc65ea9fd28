package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/weftnet/weft/crypto"
)

// Kind is the kind of a [Message].
type Kind uint8

// The kinds.
const (
	KindDigest  Kind = 1 // what the sender has
	KindRequest Kind = 2 // what the sender wants
	KindDelta   Kind = 3 // what the receiver lacks
)

// Message is what hosts send each other.
//
//	byte     kind in bits 0–3, relay in bit 4, answer in bit 5
//	32 bytes sender
//	uvarint  count of what follows:
//	digest   32 bytes owner, byte number of channels, for each:
//	           byte channel, uvarint version, 8 bytes hash
//	request  32 bytes owner, byte channel, byte full, uvarint since
//	delta    32 bytes owner, byte channel, byte full, uvarint base,
//	         uvarint version, 8 bytes hash, uvarint part, uvarint parts,
//	         uvarint changes, for each:
//	           uvarint version, byte deleted, uvarint length, key,
//	           and unless deleted: uvarint length, value
//
// Numbers are big endian, uvarints minimal, a digest strictly ascending:
// there is one encoding of each message. Nothing follows the last item.
type Message struct {
	Kind   Kind
	Relay  bool // came by broadcast: pass it on when it is news
	Answer bool // of a digest: send back what I lack of these logs
	From   crypto.Identity

	Digest []Summary
	Pulls  []Pull
	Chunks []Chunk
}

// Summary is one log in a digest. Version 0 says that the sender has none.
type Summary struct {
	ID
	Version uint64
	Hash    uint64
}

// Pull asks for the changes of a log after Since, or for a snapshot.
type Pull struct {
	ID
	Since uint64
	Full  bool
}

// Chunk is one part of the changes that lead a log from Base to Version, or of
// a snapshot when Full. Hash is the log's hash at Version.
type Chunk struct {
	ID
	Full        bool
	Base        uint64
	Version     uint64
	Hash        uint64
	Part, Parts uint16
	Changes     []Change // ascending by version
}

// Change is the latest change of a key.
type Change struct {
	Key     string
	Value   []byte
	Version uint64
	Deleted bool
}

var errWire = errors.New("malformed message")

const (
	flagRelay  = 1 << 4
	flagAnswer = 1 << 5
	headSize   = 1 + crypto.IdentitySize
	maxParts   = 256
)

// Marshal returns the bytes of m.
func (m Message) Marshal() []byte {
	b := make([]byte, 0, headSize+binary.MaxVarintLen64+m.size())
	k := byte(m.Kind)
	if m.Relay {
		k |= flagRelay
	}
	if m.Answer {
		k |= flagAnswer
	}
	b = append(b, k)
	b = append(b, m.From[:]...)
	switch m.Kind {
	case KindDigest:
		b = appendDigest(b, m.Digest)
	case KindRequest:
		b = binary.AppendUvarint(b, uint64(len(m.Pulls)))
		for _, p := range m.Pulls {
			b = appendID(b, p.ID, p.Full)
			b = binary.AppendUvarint(b, p.Since)
		}
	case KindDelta:
		b = binary.AppendUvarint(b, uint64(len(m.Chunks)))
		for _, c := range m.Chunks {
			b = appendChunk(b, c)
		}
	}
	return b
}

func (m Message) size() int {
	n := 64*len(m.Digest) + 48*len(m.Pulls)
	for _, c := range m.Chunks {
		n += c.size()
	}
	return n
}

// size is an upper bound of a chunk's length.
func (c Chunk) size() int {
	n := chunkHead
	for _, ch := range c.Changes {
		n += ch.size()
	}
	return n
}

const chunkHead = crypto.IdentitySize + 2 + 6*binary.MaxVarintLen64 + 8

func (c Change) size() int { return 17 + len(c.Key) + len(c.Value) }

func appendDigest(b []byte, d []Summary) []byte {
	owners := 0
	for i := range d {
		if i == 0 || d[i].Owner != d[i-1].Owner {
			owners++
		}
	}
	b = binary.AppendUvarint(b, uint64(owners))
	for i := 0; i < len(d); {
		n := i
		for n < len(d) && d[n].Owner == d[i].Owner {
			n++
		}
		b = append(b, d[i].Owner[:]...)
		b = append(b, byte(n-i))
		for ; i < n; i++ {
			b = append(b, d[i].Channel)
			b = binary.AppendUvarint(b, d[i].Version)
			b = binary.BigEndian.AppendUint64(b, d[i].Hash)
		}
	}
	return b
}

func appendID(b []byte, id ID, full bool) []byte {
	b = append(b, id.Owner[:]...)
	return append(b, id.Channel, flag(full))
}

func appendChunk(b []byte, c Chunk) []byte {
	b = appendID(b, c.ID, c.Full)
	b = binary.AppendUvarint(b, c.Base)
	b = binary.AppendUvarint(b, c.Version)
	b = binary.BigEndian.AppendUint64(b, c.Hash)
	b = binary.AppendUvarint(b, uint64(c.Part))
	b = binary.AppendUvarint(b, uint64(c.Parts))
	b = binary.AppendUvarint(b, uint64(len(c.Changes)))
	for _, ch := range c.Changes {
		b = binary.AppendUvarint(b, ch.Version)
		b = append(b, flag(ch.Deleted))
		b = binary.AppendUvarint(b, uint64(len(ch.Key)))
		b = append(b, ch.Key...)
		if !ch.Deleted {
			b = binary.AppendUvarint(b, uint64(len(ch.Value)))
			b = append(b, ch.Value...)
		}
	}
	return b
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// Parse reads a message. Values of the result share memory with b; the store
// copies what it keeps.
func Parse(b []byte) (Message, error) {
	r := reader{b: b}
	var m Message
	k := r.byte()
	m.Kind, m.Relay, m.Answer = Kind(k&0x0f), k&flagRelay != 0, k&flagAnswer != 0
	if k&^(0x0f|flagRelay|flagAnswer) != 0 {
		r.bad = true
	}
	m.From = r.identity()
	switch m.Kind {
	case KindDigest:
		for range r.count(crypto.IdentitySize + 11) {
			r.digest(&m)
		}
	case KindRequest:
		n := r.count(crypto.IdentitySize + 3)
		m.Pulls = make([]Pull, 0, n)
		for range n {
			m.Pulls = append(m.Pulls, r.pull())
		}
	case KindDelta:
		n := r.count(crypto.IdentitySize + 15)
		m.Chunks = make([]Chunk, 0, n)
		for range n {
			m.Chunks = append(m.Chunks, r.chunk())
		}
	default:
		return Message{}, fmt.Errorf("%w: kind %d", errWire, k)
	}
	if r.bad || len(r.b) != 0 {
		return Message{}, errWire
	}
	return m, nil
}

// reader takes bytes from the front; after the first mistake bad is set and
// everything reads as zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) bool() bool {
	v := r.byte()
	r.bad = r.bad || v > 1
	return v == 1
}

func (r *reader) hash() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || n > 1 && r.b[n-1] == 0 || v > MaxVersion {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) identity() crypto.Identity {
	var id crypto.Identity
	copy(id[:], r.take(len(id)))
	return id
}

func (r *reader) channel() uint8 {
	c := r.byte()
	r.bad = r.bad || c > MaxChannel
	return c
}

// count reads the number of items of at least size bytes each.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) digest(m *Message) {
	owner := r.identity()
	n := r.byte()
	r.bad = r.bad || n == 0 || n > MaxChannel+1
	for i := byte(0); i < n && !r.bad; i++ {
		s := Summary{ID: ID{owner, r.channel()}, Version: r.uvarint(), Hash: r.hash()}
		if k := len(m.Digest); k > 0 && m.Digest[k-1].Compare(s.ID) >= 0 ||
			i == 0 && k > 0 && m.Digest[k-1].Owner == owner {
			r.bad = true
		}
		m.Digest = append(m.Digest, s)
	}
}

func (r *reader) pull() Pull {
	p := Pull{ID: ID{r.identity(), r.channel()}, Full: r.bool(), Since: r.uvarint()}
	r.bad = r.bad || p.Full && p.Since != 0
	return p
}

func (r *reader) chunk() Chunk {
	c := Chunk{ID: ID{r.identity(), r.channel()}, Full: r.bool(), Base: r.uvarint(), Version: r.uvarint(), Hash: r.hash()}
	part, parts := r.uvarint(), r.uvarint()
	if parts == 0 || parts > maxParts || part >= parts ||
		c.Full && c.Base != 0 || c.Base > c.Version {
		r.bad = true
		return c
	}
	c.Part, c.Parts = uint16(part), uint16(parts)
	n := r.count(3)
	c.Changes = make([]Change, 0, n)
	last := c.Base
	for range n {
		ch := Change{Version: r.uvarint(), Deleted: r.bool()}
		ch.Key = string(r.bytes(MaxKey))
		if !ch.Deleted {
			ch.Value = r.bytes(MaxValue)
		}
		if ch.Version <= last || ch.Version > c.Version || c.Full && ch.Deleted {
			r.bad = true
		}
		if r.bad {
			return c
		}
		last = ch.Version
		c.Changes = append(c.Changes, ch)
	}
	return c
}

func (r *reader) bytes(limit uint64) []byte {
	n := r.uvarint()
	if n > limit {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

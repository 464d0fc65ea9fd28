package wire

import (
	"errors"
	"fmt"

	"github.com/weftnet/weft/mesh/ipam/space"
)

// kind is the kind of a message's body.
type kind uint8

const (
	kindDigest kind = iota + 1
	kindState
	kindWant
	kindGive
	kindHeld
	kindConflict
	kindPrepare
	kindPromise
	kindNack
	kindOff
	kindAccept
	kindAccepted
	kindElect
	kindFenceAsk
	kindFencePromise
	kindFenceRefuse
	kindFenceOver
	kindHandOver
	kindHandedOver
)

func (Digest) kind() kind       { return kindDigest }
func (State) kind() kind        { return kindState }
func (Want) kind() kind         { return kindWant }
func (Give) kind() kind         { return kindGive }
func (Held) kind() kind         { return kindHeld }
func (Conflict) kind() kind     { return kindConflict }
func (Prepare) kind() kind      { return kindPrepare }
func (Promise) kind() kind      { return kindPromise }
func (Nack) kind() kind         { return kindNack }
func (Off) kind() kind          { return kindOff }
func (Accept) kind() kind       { return kindAccept }
func (Accepted) kind() kind     { return kindAccepted }
func (Elect) kind() kind        { return kindElect }
func (FenceAsk) kind() kind     { return kindFenceAsk }
func (FencePromise) kind() kind { return kindFencePromise }
func (FenceRefuse) kind() kind  { return kindFenceRefuse }
func (FenceOver) kind() kind    { return kindFenceOver }
func (HandOver) kind() kind     { return kindHandOver }
func (HandedOver) kind() kind   { return kindHandedOver }

var (
	errWire     = errors.New("malformed message")
	errTooLarge = errors.New("message too large")
)

// Marshal returns the bytes of m, at most [MaxMessage] of them. Lists that are
// sets may be in any order. When there is too much of it, the labels of
// leases are left out, then their keys, and only then it fails: an address
// that is not told could be given twice, an unknown holder cannot hurt. It
// also fails on addresses outside the range.
func (m Message) Marshal() ([]byte, error) {
	geo, err := space.NewGeometry(m.Range)
	if err != nil {
		return nil, err
	}
	for detail := withLabels; detail >= bare; detail-- {
		c := newWriter(geo, detail)
		c.body(m.Body)
		if c.err != nil {
			return nil, fmt.Errorf("write %T: %w", m.Body, c.err)
		}
		if b := c.finish(m); len(b) <= MaxMessage {
			return b, nil
		}
	}
	return nil, fmt.Errorf("write %T: %w", m.Body, errTooLarge)
}

// body writes b. The copy of b that the switch makes keeps its lists: nothing
// below writes to them.
func (c *Coder) body(b Body) {
	switch m := b.(type) {
	case Digest:
		m.fields(c)
	case State:
		m.fields(c)
	case Want:
		m.fields(c)
	case Give:
		m.fields(c)
	case Held:
		m.fields(c)
	case Conflict:
		m.fields(c)
	case Prepare:
		m.fields(c)
	case Promise:
		m.fields(c)
	case Nack:
		m.fields(c)
	case Off:
		m.fields(c)
	case Accept:
		m.fields(c)
	case Accepted:
		m.fields(c)
	case Elect:
		m.fields(c)
	case FenceAsk:
		m.fields(c)
	case FencePromise:
		m.fields(c)
	case FenceRefuse:
		m.fields(c)
	case FenceOver:
		m.fields(c)
	case HandOver:
		m.fields(c)
	case HandedOver:
		m.fields(c)
	default:
		c.fail(errors.New("no such body"))
	}
}

// ParseMessage reads a message. Nothing of the result shares memory with b.
func ParseMessage(b []byte) (Message, error) {
	c, m, k, err := newReader(b)
	if err != nil {
		return Message{}, err
	}
	switch k {
	case kindDigest:
		m.Body = parseBody[Digest](c)
	case kindState:
		m.Body = parseBody[State](c)
	case kindWant:
		m.Body = parseBody[Want](c)
	case kindGive:
		m.Body = parseBody[Give](c)
	case kindHeld:
		m.Body = parseBody[Held](c)
	case kindConflict:
		m.Body = parseBody[Conflict](c)
	case kindPrepare:
		m.Body = parseBody[Prepare](c)
	case kindPromise:
		m.Body = parseBody[Promise](c)
	case kindNack:
		m.Body = parseBody[Nack](c)
	case kindOff:
		m.Body = parseBody[Off](c)
	case kindAccept:
		m.Body = parseBody[Accept](c)
	case kindAccepted:
		m.Body = parseBody[Accepted](c)
	case kindElect:
		m.Body = parseBody[Elect](c)
	case kindFenceAsk:
		m.Body = parseBody[FenceAsk](c)
	case kindFencePromise:
		m.Body = parseBody[FencePromise](c)
	case kindFenceRefuse:
		m.Body = parseBody[FenceRefuse](c)
	case kindFenceOver:
		m.Body = parseBody[FenceOver](c)
	case kindHandOver:
		m.Body = parseBody[HandOver](c)
	case kindHandedOver:
		m.Body = parseBody[HandedOver](c)
	default:
		return Message{}, fmt.Errorf("%w: kind %d", errWire, k)
	}
	if err := c.done(); err != nil {
		return Message{}, fmt.Errorf("%w: %T", err, m.Body)
	}
	return m, nil
}

func parseBody[T Body, P interface {
	*T
	fields(c *Coder)
}](c *Coder) Body {
	var m T
	P(&m).fields(c)
	return m
}

// The fields of each body, once for both directions.

func (m *Digest) fields(c *Coder) {
	c.Uint(&m.Exchange)
	c.hash(&m.Hash)
	for i := range m.Groups {
		c.hash(&m.Groups[i])
	}
	c.fences(&m.Pending)
}

func (m *State) fields(c *Coder) {
	c.Uint(&m.Re)
	c.runs(&m.Runs)
	c.hash(&m.Wanted)
	c.Uint(&m.LastOp)
	c.fences(&m.Against)
	c.fences(&m.Pending)
	c.removed(&m.Removed)
	m.Held.fields(c)
}

func (m *Want) fields(c *Coder) {
	c.Uint(&m.Op)
	c.subnet(&m.Subnet)
	c.optional(&m.Addr)
	c.Text(&m.Key)
	c.Text(&m.Label)
	c.Flag(&m.Unsure)
}

func (m *Give) fields(c *Coder) {
	c.Uint(&m.Op)
	c.runs(&m.Runs)
	c.optional(&m.Addr)
	c.Flag(&m.Busy)
	answers := 0
	for _, is := range []bool{len(m.Runs) > 0, m.Addr.IsValid(), m.Busy} {
		if is {
			answers++
		}
	}
	c.Must(answers <= 1)
}

func (m *Held) fields(c *Coder) {
	c.Uint(&m.UpTo)
	c.ops(&m.Open)
	c.Flag(&m.Full)
	if m.Full {
		c.spans(&m.Blocks)
	}
	c.Must(m.Full || len(m.Blocks) == 0)
	c.leases(&m.Held)
	c.addrs(&m.Dropped)
}

func (m *Conflict) fields(c *Coder) {
	c.Uint(&m.Op)
	c.addr(&m.Addr, c.start())
	c.ID(&m.Host)
	c.Text(&m.Key)
	c.Text(&m.Label)
}

// Code codes b in both directions.
func (b *Ballot) Code(c *Coder) {
	c.Uint(&b.Round)
	if b.Round == 0 {
		c.Must(b.Proposer.IsZero())
		return
	}
	c.ID(&b.Proposer)
	c.Must(!b.Proposer.IsZero())
}

// Code codes p in both directions; its blocks are those of the range that was
// coded before.
func (p *Proposal) Code(c *Coder) {
	c.RingID(&p.Ring)
	if p.Ring.IsZero() {
		c.Must(len(p.Runs) == 0)
		return
	}
	c.runs(&p.Runs)
	blocks := 0
	for _, r := range p.Runs {
		blocks += r.Count
	}
	c.Must(blocks == c.geo.Blocks())
}

func (m *Prepare) fields(c *Coder) {
	m.Ballot.Code(c)
	c.IDs(&m.Electorate)
}

func (m *Promise) fields(c *Coder) {
	m.Ballot.Code(c)
	c.IDs(&m.Known)
	m.Accepted.Code(c)
	m.Proposal.Code(c)
	c.Must((m.Accepted.Round == 0) == m.Proposal.Ring.IsZero())
}

func (m *Nack) fields(c *Coder) {
	m.Ballot.Code(c)
	m.Seen.Code(c)
	c.IDs(&m.Known)
}

func (m *Off) fields(c *Coder) { c.role(&m.Role) }

func (m *Accept) fields(c *Coder) {
	m.Ballot.Code(c)
	c.IDs(&m.Electorate)
	m.Proposal.Code(c)
	c.Must(!m.Proposal.Ring.IsZero())
}

func (m *Accepted) fields(c *Coder) { m.Ballot.Code(c) }

func (m *Elect) fields(*Coder) {}

func (m *FenceAsk) fields(c *Coder) {
	c.Uint(&m.Op)
	c.IDs(&m.Targets)
	c.Uint(&m.Epoch)
}

func (m *FencePromise) fields(c *Coder) {
	c.Uint(&m.Op)
	c.Uint(&m.Epoch)
	c.runs(&m.Runs)
	c.IDs(&m.Known)
	c.removed(&m.Removed)
	c.granted(&m.Attached)
	c.leases(&m.Held)
}

func (m *FenceRefuse) fields(c *Coder) {
	c.Uint(&m.Op)
	why := byte(m.Why)
	c.octet(&why)
	m.Why = Refusal(why)
	c.Must(m.Why >= RefuseAlive && m.Why <= RefuseEpoch)
	if m.Why == RefuseAlive {
		c.ID(&m.Peer)
	}
	c.Must(m.Peer.IsZero() == (m.Why != RefuseAlive))
	c.Uint(&m.Epoch)
}

func (m *FenceOver) fields(c *Coder) {
	c.Uint(&m.Op)
	c.IDs(&m.Targets)
	c.Uint(&m.Epoch)
	c.Flag(&m.Taken)
	c.runs(&m.Runs)
}

func (m *HandOver) fields(c *Coder) {
	c.Uint(&m.Op)
	c.runs(&m.Runs)
	c.granted(&m.Leases)
}

func (m *HandedOver) fields(c *Coder) {
	c.Uint(&m.Op)
	c.Flag(&m.Refused)
}

func (c *Coder) role(r *Role) {
	b := byte(*r)
	c.octet(&b)
	*r = Role(b)
	c.Must(*r >= RoleVoter && *r <= RoleOff)
}

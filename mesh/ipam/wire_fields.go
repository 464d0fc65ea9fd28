package ipam

import (
	"errors"
	"fmt"
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
	geo, err := newGeometry(m.Range)
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
func (c *coder) body(b Body) {
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
	fields(c *coder)
}](c *coder) Body {
	var m T
	P(&m).fields(c)
	return m
}

// The fields of each body, once for both directions.

func (m *Digest) fields(c *coder) {
	c.uint(&m.Exchange)
	c.hash(&m.Hash)
	for i := range m.Groups {
		c.hash(&m.Groups[i])
	}
	c.fences(&m.Pending)
}

func (m *State) fields(c *coder) {
	c.uint(&m.Re)
	c.runs(&m.Runs)
	c.hash(&m.Wanted)
	c.uint(&m.LastOp)
	c.fences(&m.Against)
	c.fences(&m.Pending)
	c.removed(&m.Removed)
	m.Held.fields(c)
}

func (m *Want) fields(c *coder) {
	c.uint(&m.Op)
	c.subnet(&m.Subnet)
	c.optional(&m.Addr)
	c.text(&m.Key)
	c.text(&m.Label)
	c.flag(&m.Unsure)
}

func (m *Give) fields(c *coder) {
	c.uint(&m.Op)
	c.runs(&m.Runs)
	c.optional(&m.Addr)
	c.flag(&m.Busy)
	answers := 0
	for _, is := range []bool{len(m.Runs) > 0, m.Addr.IsValid(), m.Busy} {
		if is {
			answers++
		}
	}
	c.must(answers <= 1)
}

func (m *Held) fields(c *coder) {
	c.uint(&m.UpTo)
	c.ops(&m.Open)
	c.flag(&m.Full)
	if m.Full {
		c.spans(&m.Blocks)
	}
	c.must(m.Full || len(m.Blocks) == 0)
	c.leases(&m.Held)
	c.addrs(&m.Dropped)
}

func (m *Conflict) fields(c *coder) {
	c.uint(&m.Op)
	c.addr(&m.Addr, c.geo.base)
	c.id(&m.Host)
	c.text(&m.Key)
	c.text(&m.Label)
}

func (b *Ballot) fields(c *coder) {
	c.uint(&b.Round)
	if b.Round == 0 {
		c.must(b.Proposer.IsZero())
		return
	}
	c.id(&b.Proposer)
	c.must(!b.Proposer.IsZero())
}

func (p *Proposal) fields(c *coder) {
	c.ring(&p.Ring)
	if p.Ring.IsZero() {
		c.must(len(p.Runs) == 0)
		return
	}
	c.runs(&p.Runs)
	blocks := 0
	for _, r := range p.Runs {
		blocks += r.Count
	}
	c.must(blocks == c.geo.Blocks())
}

func (m *Prepare) fields(c *coder) {
	m.Ballot.fields(c)
	c.ids(&m.Electorate)
}

func (m *Promise) fields(c *coder) {
	m.Ballot.fields(c)
	c.ids(&m.Known)
	m.Accepted.fields(c)
	m.Proposal.fields(c)
	c.must((m.Accepted.Round == 0) == m.Proposal.Ring.IsZero())
}

func (m *Nack) fields(c *coder) {
	m.Ballot.fields(c)
	m.Seen.fields(c)
	c.ids(&m.Known)
}

func (m *Off) fields(c *coder) { c.role(&m.Role) }

func (m *Accept) fields(c *coder) {
	m.Ballot.fields(c)
	c.ids(&m.Electorate)
	m.Proposal.fields(c)
	c.must(!m.Proposal.Ring.IsZero())
}

func (m *Accepted) fields(c *coder) { m.Ballot.fields(c) }

func (m *Elect) fields(*coder) {}

func (m *FenceAsk) fields(c *coder) {
	c.uint(&m.Op)
	c.ids(&m.Targets)
	c.uint(&m.Epoch)
}

func (m *FencePromise) fields(c *coder) {
	c.uint(&m.Op)
	c.uint(&m.Epoch)
	c.runs(&m.Runs)
	c.ids(&m.Known)
	c.removed(&m.Removed)
	c.granted(&m.Attached)
	c.leases(&m.Held)
}

func (m *FenceRefuse) fields(c *coder) {
	c.uint(&m.Op)
	why := byte(m.Why)
	c.octet(&why)
	m.Why = Refusal(why)
	c.must(m.Why >= RefuseAlive && m.Why <= RefuseEpoch)
	if m.Why == RefuseAlive {
		c.id(&m.Peer)
	}
	c.must(m.Peer.IsZero() == (m.Why != RefuseAlive))
	c.uint(&m.Epoch)
}

func (m *FenceOver) fields(c *coder) {
	c.uint(&m.Op)
	c.ids(&m.Targets)
	c.uint(&m.Epoch)
	c.flag(&m.Taken)
	c.runs(&m.Runs)
}

func (m *HandOver) fields(c *coder) {
	c.uint(&m.Op)
	c.runs(&m.Runs)
	c.granted(&m.Leases)
}

func (m *HandedOver) fields(c *coder) {
	c.uint(&m.Op)
	c.flag(&m.Refused)
}

func (c *coder) role(r *Role) {
	b := byte(*r)
	c.octet(&b)
	*r = Role(b)
	c.must(*r >= RoleVoter && *r <= RoleOff)
}

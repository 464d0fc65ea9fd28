package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"github.com/weftnet/weft/crypto"
)

// A checkup travels through the mesh, to one member: byte [CheckupByte], byte
// 1, byte kind, 8 bytes that the asking host drew, and then
//
//	1 ask     nothing
//	4 time    nothing: an ask for the answer alone
//	2 answer  8 bytes: nanoseconds since 1970 by the clock of who answers
//	3 news    byte: the TCP port of who asked, from here; byte: the own name server
//
// An answer comes at once, news when they are known. What is wrong in length,
// version or kind is dropped: an older daemon that does not know of checkups
// drops all of them.
const (
	// CheckupByte is the first byte of our payloads, and of no other in the mesh.
	CheckupByte = 0x43

	checkupVersion = 1
	checkupHead    = 3 + 8

	kindAsk    = 1
	kindAnswer = 2
	kindNews   = 3
	kindTime   = 4
)

// The limits of checkups.
const (
	askTime  = 2500 * time.Millisecond // for an answer, and for the news
	askGap   = 10 * time.Second        // a host that asks more often gets the news of the last time: they cost a dial
	maxDials = 16                      // hosts that are looked at at the same time
	maxAsked = 256
)

// Sender sends a payload to a member. It must not block.
type Sender interface {
	Send(to crypto.Identity, payload []byte)
}

// Host is what a host looks at for another one. Each may take some seconds.
type Host interface {
	// DialBack says whether the introduction port of a peer is reached where
	// its tunnel goes.
	DialBack(ctx context.Context, peer crypto.Identity) Reach
	// OwnNames says whether our own name server answers.
	OwnNames(ctx context.Context) Reach
}

// Checkups asks other hosts how they do, and answers them. It is safe for
// concurrent use.
type Checkups struct {
	// Constant.
	send Sender
	host Host
	now  func() time.Time

	mu     sync.Mutex
	asked  map[[8]byte]*question
	served map[crypto.Identity]*visit
	busy   int // goroutines that look for news
}

// visit is what was last looked at for a host.
type visit struct {
	at          time.Time
	back, names Reach
}

type question struct {
	peer crypto.Identity
	sent time.Time
	got  Checkup
	news bool          // they came, or were not asked for
	done chan struct{} // closed when all came
}

// NewCheckups returns a Checkups; host must not be nil.
func NewCheckups(send Sender, host Host) *Checkups {
	return &Checkups{send: send, host: host, now: time.Now, asked: make(map[[8]byte]*question), served: make(map[crypto.Identity]*visit)}
}

func checkup(kind byte, nonce [8]byte, rest ...byte) []byte {
	b := append([]byte{CheckupByte, checkupVersion, kind}, nonce[:]...)
	return append(b, rest...)
}

// Ask asks all peers at once and waits for at most 2.5 s. A peer that does not
// answer has an empty checkup. Only those that news names look at our port and at
// their name server; nil names all.
func (c *Checkups) Ask(ctx context.Context, peers []crypto.Identity, news func(crypto.Identity) bool) map[crypto.Identity]Checkup {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	mine := make(map[[8]byte]*question)
	for _, p := range peers[:min(len(peers), maxAsked)] {
		var nonce [8]byte
		if _, err := rand.Read(nonce[:]); err != nil {
			break
		}
		kind, all := byte(kindAsk), news == nil || news(p)
		if !all {
			kind = kindTime
		}
		q := &question{peer: p, sent: c.now(), news: !all, done: make(chan struct{})}
		mine[nonce] = q
		c.mu.Lock()
		c.asked[nonce] = q
		c.mu.Unlock()
		c.send.Send(p, checkup(kind, nonce))
	}
	for _, q := range mine {
		select {
		case <-q.done:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[crypto.Identity]Checkup, len(mine))
	for nonce, q := range mine {
		delete(c.asked, nonce)
		out[q.peer] = q.got
	}
	return out
}

// Receive takes what came from another host, which the mesh has authenticated.
// It does not block; the payload is not kept.
func (c *Checkups) Receive(from crypto.Identity, payload []byte) {
	if len(payload) < checkupHead || payload[0] != CheckupByte || payload[1] != checkupVersion {
		return
	}
	nonce, rest := [8]byte(payload[3:checkupHead]), bytes.Clone(payload[checkupHead:])
	switch payload[2] {
	case kindAsk:
		if len(rest) == 0 {
			c.answer(from, nonce)
			c.look(from, nonce)
		}
	case kindTime:
		if len(rest) == 0 {
			c.answer(from, nonce)
		}
	case kindAnswer:
		if len(rest) == 8 {
			c.answered(from, nonce, time.Unix(0, int64(binary.BigEndian.Uint64(rest))))
		}
	case kindNews:
		if len(rest) == 2 && Reach(rest[0]) <= Closed && Reach(rest[1]) <= Closed {
			c.news(from, nonce, Reach(rest[0]), Reach(rest[1]))
		}
	}
}

// answer tells the time at once.
func (c *Checkups) answer(from crypto.Identity, nonce [8]byte) {
	c.send.Send(from, checkup(kindAnswer, nonce, binary.BigEndian.AppendUint64(nil, uint64(c.now().UnixNano()))...))
}

// look looks for news, once in a while for each host, and tells them.
func (c *Checkups) look(from crypto.Identity, nonce [8]byte) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, v := range c.served { // few: those of the last seconds
		if now.Sub(v.at) >= askGap {
			delete(c.served, id)
		}
	}
	v := c.served[from]
	if v != nil || c.busy >= maxDials {
		if v == nil {
			v = &visit{}
		}
		c.send.Send(from, checkup(kindNews, nonce, byte(v.back), byte(v.names)))
		return
	}
	v = &visit{at: now}
	c.served[from] = v
	c.busy++
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), askTime*4/5)
		defer cancel()
		seen := make(chan Reach, 1)
		go func() { seen <- c.host.OwnNames(ctx) }()
		back := c.host.DialBack(ctx, from)
		names := <-seen
		c.send.Send(from, checkup(kindNews, nonce, byte(back), byte(names)))
		c.mu.Lock()
		defer c.mu.Unlock()
		v.back, v.names = back, names
		c.busy--
	}()
}

func (c *Checkups) answered(from crypto.Identity, nonce [8]byte, theirs time.Time) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.asked[nonce]
	if q == nil || q.peer != from || q.got.Answered {
		return
	}
	rtt := now.Sub(q.sent) // by the monotonic clock
	q.got.Answered, q.got.RTT = true, rtt
	q.got.Skew = theirs.Sub(q.sent.Add(rtt / 2).Round(0))
	q.end()
}

func (c *Checkups) news(from crypto.Identity, nonce [8]byte, back, names Reach) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.asked[nonce]
	if q == nil || q.peer != from || q.news {
		return
	}
	q.news, q.got.Back, q.got.Names = true, back, names
	q.end()
}

// end ends the waiting when both came: they may overtake each other.
func (q *question) end() {
	if q.news && q.got.Answered {
		close(q.done)
	}
}

package tap

import (
	"sync/atomic"
	"time"
)

// reason says why a frame was not forwarded.
type reason uint8

const (
	fine reason = iota
	elsewhere
	tooShort  // no Ethernet header
	tooLong   // longer than the switch carries
	badSender // comes from a group address
	badHeader // the TAP gave an offload header that does not fit the frame
	badSource // not from a switch: source port
	badLength // lengths of the headers are not those of the packet
	badVNI    // of another network
	noWay     // nobody to send it to
	noDevice  // the TAP is gone or down
	noSpace   // the kernel did not take it
	told      // too large for the path, and its sender was told
	reasons
)

// names of the reasons, as metrics show them.
var names = [reasons]string{
	tooShort: "short", tooLong: "long", badSender: "sender", badHeader: "offload-header", badSource: "source-port",
	badLength: "length", badVNI: "vni", noWay: "no-remote", noDevice: "no-device", noSpace: "refused", told: "too-big",
}

// counters are added to once for each batch.
type counters struct {
	sentFrames, sentBytes         atomic.Uint64
	receivedFrames, receivedBytes atomic.Uint64
	superRead, superWritten       atomic.Uint64
	flooded, answered, tooBig     atomic.Uint64
	writeErrors                   atomic.Uint64
	dropped                       [reasons]atomic.Uint64
}

// Stats are counters of a port since it was made, and what it is now.
type Stats struct {
	Offload string // "tcp+udp", "tcp" or "off", and why

	SentFrames, SentBytes         uint64 // to remotes, copies counted
	ReceivedFrames, ReceivedBytes uint64 // from remotes, given to the bridge
	SuperRead, SuperWritten       uint64 // super-frames from and to the bridge
	Flooded                       uint64 // frames that went to more than one remote
	Answered                      uint64 // ARP and ND answered in the owner's place
	TooBig                        uint64 // answers that a packet does not fit
	WriteErrors                   uint64 // super-frames that the kernel refused

	Dropped map[string]uint64 // by reason; all reasons are there

	Remotes               int    // hosts that frames are sent to
	Known, Learnt, Groups int    // entries of the table
	Moves                 uint64 // learnt entries that changed their remote
	Refused               uint64 // not learnt: a limit was reached
	Astray                uint64 // frames of a known address from another host
}

// Carried is how many frames were sent and received. It costs next to nothing and
// may be called at any time.
func (p *Port) Carried() uint64 {
	return p.counters.sentFrames.Load() + p.counters.receivedFrames.Load()
}

// Stats may be called at any time.
func (p *Port) Stats() Stats {
	c, t := &p.counters, p.table.Stats()
	s := Stats{
		Offload:    p.offloads(),
		SentFrames: c.sentFrames.Load(), SentBytes: c.sentBytes.Load(),
		ReceivedFrames: c.receivedFrames.Load(), ReceivedBytes: c.receivedBytes.Load(),
		SuperRead: c.superRead.Load(), SuperWritten: c.superWritten.Load(),
		Flooded: c.flooded.Load(), Answered: c.answered.Load(), TooBig: c.tooBig.Load(), WriteErrors: c.writeErrors.Load(),
		Dropped: make(map[string]uint64, reasons),
		Remotes: len(p.table.Remotes()),
		Known:   t.Known, Learnt: t.Learnt, Groups: t.Groups,
		Moves: t.Moves, Refused: t.Refused, Astray: t.Astray,
	}
	for r, name := range names {
		if name != "" {
			s.Dropped[name] = c.dropped[r].Load()
		}
	}
	return s
}

// offloads says in a word which super-frames there are.
func (p *Port) offloads() string {
	switch {
	case p.tap.Load() == nil:
		return "no device"
	case !p.joins.Load():
		return "off"
	case !p.uso.Load():
		return "tcp"
	}
	return "tcp+udp"
}

// limiter lets through so many a second, and as many at once.
type limiter struct {
	paid atomic.Int64 // age up to which what was let through is paid for
}

// perSecond bounds answers that a packet is too big: enough for every
// connection to hear of it, too few to be of use to a flooder.
const perSecond = 100

// allow may be called from any goroutine.
// age is how old it is.
func (l *limiter) allow(age time.Duration) bool {
	const step = time.Second / perSecond
	for {
		old := l.paid.Load()
		paid := max(time.Duration(old), age-time.Second) + step
		if paid > age {
			return false
		}
		if l.paid.CompareAndSwap(old, int64(paid)) {
			return true
		}
	}
}

package tap

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"time"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/tap/fit"
	"github.com/weftnet/weft/router/tap/offload"
)

// largest is more than any frame with its offload header: super-frames carry
// 65,535 bytes of IP.
const largest = 1 << 17

// maxSingles is how many frames that are no super-frames go into one batch.
// wireguard-go queues up to 1,024 batches for a peer, whatever is in them: with
// 128 datagrams in each, one container could fill the memory, and wait for its
// own packets for seconds.
const maxSingles = 16

// outbound takes frames from the TAP device and makes packets for remotes.
type outbound struct {
	// Constant after init.

	port *Port

	// Owned by the goroutine that reads.

	raw    []byte // what the device gave: offload header and frame
	have   int    // bytes of raw that are yet to be looked at; 0: none
	plane  *plane // of the frame in hand
	header offload.Header
	frame  []byte
	cut    offload.Cut
	now    *remote   // that the segments of cut go to; nil: none
	to     []*remote // that the frame goes to afterwards
	list   []*remote // room for to
	single bool      // it goes to one remote
	source uint16
	ecn    byte
	flow   flow
	answer []byte // room for a frame that is given back
	give   writer // gives it back

	sentFrames, sentBytes uint64 // not yet counted
}

func (o *outbound) init(p *Port) {
	o.port = p
	o.raw = make([]byte, largest)
	o.answer = make([]byte, answerLen)
	o.flow.seed = maphash.MakeSeed()
}

// answerLen is the longest frame that is given back: RFC 4443 wants as much of
// a packet in an answer as fits 1280 bytes.
const answerLen = 2048

// busy says that the frame in hand has more packets.
func (o *outbound) busy() bool { return o.now != nil }

// read fills bufs as far as there are frames, and does not wait for any.
func (o *outbound) read(bufs [][]byte, sizes []int, offset int) int {
	n, singles := 0, 0
	for n < len(bufs) {
		if o.now == nil {
			if singles == maxSingles || o.have == 0 && !o.fetch() {
				break
			}
			o.begin()
			if o.header.GSOType == offload.GSONone {
				singles++
			}
			continue
		}
		m := o.next(bufs[n][offset:])
		if m > 0 {
			sizes[n] = m
			n++
		}
	}
	if o.sentFrames > 0 {
		o.port.counters.sentFrames.Add(o.sentFrames)
		o.port.counters.sentBytes.Add(o.sentBytes)
		o.sentFrames, o.sentBytes = 0, 0
	}
	return n
}

// fetch takes one frame from the device, if there is one.
func (o *outbound) fetch() bool {
	f := o.port.tap.Load()
	if f == nil {
		return false
	}
	n, err := f.read(o.raw)
	if err != nil || n <= 0 {
		if errors.Is(err, errGone) {
			o.port.lost(f)
		}
		return false
	}
	o.have = n
	return true
}

func (o *outbound) drop(why reason) { o.port.counters.dropped[why].Add(1) }

// begin looks at the frame in raw and decides where it goes.
func (o *outbound) begin() {
	n := o.have
	o.have, o.now = 0, nil
	o.plane = o.port.plane.Load()
	if o.header.Parse(o.raw[:n]) != nil || n < offload.HeaderLen+ethernetLen {
		o.drop(tooShort)
		return
	}
	o.frame = o.raw[offload.HeaderLen:n]
	if o.plane == nil {
		o.drop(noWay)
		return
	}
	if o.header.GSOType != offload.GSONone {
		o.port.counters.superRead.Add(1)
	}
	var whole bool
	if o.source, o.ecn, whole = o.flow.of(o.frame); !whole {
		o.drop(tooShort)
		return
	}
	o.port.table.Local(fdb.MAC(o.frame[6:12]))
	o.to = o.where()
	if len(o.to) == 0 {
		return
	}
	o.single = len(o.to) == 1
	o.start()
}

// where says which remotes the frame goes to. It answers questions about known
// attachments itself.
func (o *outbound) where() []*remote {
	t := o.port.table
	if o.frame[0]&1 == 0 {
		if a, ok := t.Lookup(fdb.MAC(o.frame[:6])); ok {
			if r := o.plane.remotes[a]; r != nil {
				o.list = append(o.list[:0], r)
				return o.list
			}
		}
		return o.flood(o.plane.all)
	}
	if isQuestion(o.frame) {
		if n, ok := t.Answer(o.frame, o.answer); ok {
			o.port.counters.answered.Add(1)
			o.giveBack(n)
			return nil
		}
	}
	members, all := t.Members(o.frame)
	if all {
		return o.flood(o.plane.all)
	}
	o.list = o.list[:0]
	for _, a := range members {
		if r := o.plane.remotes[a]; r != nil {
			o.list = append(o.list, r)
		}
	}
	return o.flood(o.list)
}

func (o *outbound) flood(list []*remote) []*remote {
	switch len(list) {
	case 0:
		o.drop(noWay)
	case 1:
	default:
		o.port.counters.flooded.Add(1)
	}
	return list
}

// isQuestion says whether a frame may be an ARP request or a neighbour
// solicitation, to spare the table the others.
func isQuestion(frame []byte) bool {
	const solicitation = 135
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeARP:
		return true
	case typeIPv6:
		return len(frame) > ethernetLen+ipv6Len && frame[ethernetLen+6] == 58 && frame[ethernetLen+ipv6Len] == solicitation
	}
	return false
}

// start goes on with the next remote of the frame.
func (o *outbound) start() {
	o.now = nil
	for len(o.to) > 0 {
		r := o.to[0]
		o.to = o.to[1:]
		if o.cut.Start(o.header, o.frame) != nil {
			o.drop(badHeader)
			o.to = nil
			return
		}
		if o.fits(r) {
			o.now = r
			return
		}
	}
}

// fits says whether the segments of the frame are sent to r. What is too large
// for the switch never is; what is too large for the path is when its sender
// cannot be told, in fragments below the tunnel.
func (o *outbound) fits(r *remote) bool {
	size := o.cut.Len()
	if size > o.plane.mtu+vlanLen { // which bridges let pass, too
		o.tell(o.plane.mtu)
		o.drop(tooLong)
		o.to = nil // nobody gets it
		return false
	}
	if o.single && o.plane.narrow(r) && size > r.Whole && o.tell(r.Whole) {
		o.drop(told)
		return false
	}
	return true
}

// tell answers the sender of the frame that it is too large.
func (o *outbound) tell(mtu int) bool {
	frame := o.frame
	if o.header.GSOType != offload.GSONone {
		// Quoted is what would have been sent: the first segment.
		room := o.raw[offload.HeaderLen+len(frame):]
		n, _ := o.cut.Next(room)
		frame = room[:n]
		_ = o.cut.Start(o.header, o.frame) // again, as it was
	}
	n, ok := fit.TooBig(o.answer, frame, mtu)
	if !ok || !o.port.limit.allow(time.Since(o.port.born)+time.Second) {
		return false
	}
	o.port.counters.tooBig.Add(1)
	o.giveBack(n)
	return true
}

// giveBack writes a frame of ours, n bytes of answer, to the bridge.
func (o *outbound) giveBack(n int) {
	if f := o.port.tap.Load(); f != nil {
		_ = o.give.plain(f, o.answer[:n])
	}
}

// next writes the next packet of the frame in hand to b; 0 when there is none.
func (o *outbound) next(b []byte) int {
	n, ok := o.cut.Next(b[outerLen:])
	if !ok {
		if o.cut.Err() != nil {
			o.drop(badHeader)
		}
		o.start()
		return 0
	}
	r := o.now
	if o.plane.narrow(r) && o.header.GSOType == offload.GSONone {
		fit.ClampMSS(b[outerLen:outerLen+n], r.Whole-overhead4, r.Whole-overhead6)
	}
	r.wrap(b, n, o.source, o.ecn)
	o.sentFrames++
	o.sentBytes += uint64(n)
	return outerLen + n
}

// What TCP segments lose to headers.
const (
	overhead4 = 20 + 20
	overhead6 = 40 + 20
)

package tap

import (
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/tap/fit"
	"github.com/weftnet/weft/router/tap/offload"
)

// maxRefused is how many super-frames in a row the kernel may refuse before no
// more are made. One alone may be a frame that only we took for a good one.
const maxRefused = 16

// inbound is what one call of Write works with.
type inbound struct {
	// Constant after newInbound.

	port *Port
	join [2]*offload.Join // without and with datagrams
	emit func(h offload.Header, parts [][]byte)

	// Owned by the call.

	file   *file
	rest   [][]byte // packets for the TUN device
	write  writer
	whole  []byte // room for a refused super-frame
	single []byte // and for its segments
	cut    offload.Cut

	frames, bytes, supers uint64
	dropped               [reasons]uint64
}

func newInbound(p *Port) *inbound {
	in := &inbound{port: p, join: [2]*offload.Join{offload.New(false), offload.New(true)}}
	in.emit = in.put
	return in
}

// Write implements [tun.Device]. It returns how many packets were for the TUN
// device or the switch, and the error of the former: frames that the kernel
// does not take are dropped and counted.
func (c *composite) Write(bufs [][]byte, offset int) (int, error) {
	in := c.port.inbounds.Get().(*inbound)
	in.take(bufs, offset)
	n, err := len(bufs)-len(in.rest), error(nil)
	if len(in.rest) > 0 {
		var m int
		m, err = c.Device.Write(in.rest, offset)
		n += m
	}
	clear(in.rest)
	in.rest = in.rest[:0]
	c.port.inbounds.Put(in)
	return n, err
}

// take gives all frames among the packets to the bridge, and keeps the other
// packets in rest.
func (in *inbound) take(bufs [][]byte, offset int) {
	p := in.port
	q := p.plane.Load()
	if q == nil {
		in.rest = append(in.rest, bufs...)
		return
	}
	in.file = p.tap.Load()
	joins := p.joins.Load()
	join := in.join[0]
	if p.uso.Load() {
		join = in.join[1]
	}
	var last fdb.MAC
	var from netip.Addr // one for all: the packets of a call are of one peer
	var r *remote
	for _, b := range bufs {
		frame, why := q.unwrap(b[offset:])
		switch {
		case why == elsewhere:
			in.rest = append(in.rest, b)
			continue
		case why == fine && in.file == nil:
			why = noDevice
		}
		if why != fine {
			in.dropped[why]++
			continue
		}
		if src := netip.AddrFrom16([16]byte(b[offset+8:])); src != from {
			from, r, last = src, q.remotes[src], fdb.MAC{}
		}
		if mac := fdb.MAC(frame[6:12]); mac != last {
			p.table.Learn(mac, from)
			last = mac
		}
		if frame[0]&1 != 0 {
			p.table.Snoop(frame, from)
		}
		if r != nil && q.narrow(r) {
			fit.ClampMSS(frame, r.Whole-overhead4, r.Whole-overhead6)
		}
		if joins {
			join.Add(frame)
		} else {
			in.result(in.write.plain(in.file, frame), 1, len(frame))
		}
	}
	if joins {
		join.Flush(in.emit)
	}
	in.count()
	in.file = nil
}

// put writes what Join made.
func (in *inbound) put(h offload.Header, parts [][]byte) {
	err := in.write.super(in.file, h, parts)
	if h.GSOType == offload.GSONone {
		in.result(err, 1, len(parts[0]))
		return
	}
	in.supers++
	if !errors.Is(err, errRefused) {
		if err == nil && in.port.refused.Load() != 0 {
			in.port.refused.Store(0)
		}
		in.result(err, len(parts), whole(h, parts))
		return
	}
	// This kernel does not take it, or not this one: as single frames then.
	in.port.refusedOne()
	in.whole = in.whole[:0]
	for _, b := range parts {
		in.whole = append(in.whole, b...)
	}
	if err := in.cut.Start(h, in.whole); err != nil {
		in.result(err, len(parts), whole(h, parts))
		return
	}
	if in.single == nil {
		in.single = make([]byte, 1<<16)
	}
	for {
		n, ok := in.cut.Next(in.single)
		if !ok {
			return
		}
		in.result(in.write.plain(in.file, in.single[:n]), 1, n)
	}
}

// whole is the bytes of all frames that the parts of a super-frame were.
func whole(h offload.Header, parts [][]byte) (n int) {
	for _, b := range parts {
		n += len(b)
	}
	return n + (len(parts)-1)*int(h.HdrLen)
}

// refusedOne counts a super-frame that the kernel did not take.
func (p *Port) refusedOne() {
	p.counters.writeErrors.Add(1)
	if p.refused.Add(1) == maxRefused && p.joins.Swap(false) {
		p.log.Warn("this kernel takes no super-frames: frames are written one by one from now on, which is slower")
	}
}

// result counts frames, and the bytes of all of them, once the device was given
// them.
func (in *inbound) result(err error, frames, bytes int) {
	switch {
	case err == nil:
		in.frames += uint64(frames)
		in.bytes += uint64(bytes)
	case errors.Is(err, errGone), errors.Is(err, errDown):
		in.dropped[noDevice] += uint64(frames)
	default:
		in.dropped[noSpace] += uint64(frames)
	}
}

func (in *inbound) count() {
	c := &in.port.counters
	if in.frames > 0 {
		c.receivedFrames.Add(in.frames)
		c.receivedBytes.Add(in.bytes)
	}
	if in.supers > 0 {
		c.superWritten.Add(in.supers)
	}
	for why, n := range in.dropped {
		if n > 0 {
			c.dropped[why].Add(n)
		}
	}
	in.frames, in.bytes, in.supers, in.dropped = 0, 0, 0, [reasons]uint64{}
}

// writer gives frames to a TAP device, each with one system call.
type writer struct {
	header [offload.HeaderLen]byte
	pieces []unix.Iovec
}

// plain writes a frame with complete checksums.
func (w *writer) plain(f *file, frame []byte) error {
	w.header = [offload.HeaderLen]byte{}
	w.begin()
	w.add(frame)
	return f.writev(w.pieces)
}

// super writes the frame that the parts are together.
func (w *writer) super(f *file, h offload.Header, parts [][]byte) error {
	h.Put(w.header[:])
	w.begin()
	for _, b := range parts {
		w.add(b)
	}
	return f.writev(w.pieces)
}

func (w *writer) begin() {
	w.pieces = w.pieces[:0]
	w.add(w.header[:])
}

func (w *writer) add(b []byte) {
	var v unix.Iovec
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
	w.pieces = append(w.pieces, v)
}

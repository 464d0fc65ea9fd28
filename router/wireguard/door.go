package wireguard

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/weftnet/weft/router/signal"
)

// door stands between wireguard-go and its bind. What is not WireGuard's goes
// to somebody else, what comes from where it must not come is dropped, and
// what is too large for its path leaves in fragments.
type door struct {
	conn.Bind

	// Constant.

	receive func(from netip.AddrPort, to netip.Addr, b []byte) // nil: nobody wants it
	raw     *rawPort                                           // nil in tests without a kernel

	quiet  quietList
	limits atomic.Pointer[map[netip.AddrPort]limit] // never changed; nil: none
}

// located is an endpoint that says where it is without making a string of it.
type located interface{ where() netip.AddrPort }

func where(ep conn.Endpoint) netip.AddrPort {
	if l, ok := ep.(located); ok {
		return l.where()
	}
	return netip.AddrPort{}
}

// Open is [conn.Bind.Open].
func (d *door) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := d.Bind.Open(port)
	for i, receive := range fns {
		fns[i] = func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := receive(bufs, sizes, eps)
			for k := range n {
				if sizes[k] > 0 && !d.admit(bufs[k][:sizes[k]], eps[k]) {
					sizes[k] = 0 // which wireguard-go skips
				}
			}
			return n, err
		}
	}
	return fns, port, err
}

// admit says whether a packet is for WireGuard.
func (d *door) admit(b []byte, ep conn.Endpoint) bool {
	if signal.Is(b) {
		if d.receive != nil {
			d.receive(where(ep), ep.SrcIP(), b)
		}
		return false
	}
	return !d.quiet.has(ep)
}

// limit is the way to an endpoint that does not carry every packet whole.
type limit struct {
	mtu    int            // the largest IP packet in bytes
	routed bool           // a route says so; else the interface carries no more
	cut    *atomic.Uint64 // packets that were larger
}

// limit sets the ways to some endpoints; counters of those that stay go on.
// The map is the door's from now on.
func (d *door) limit(m map[netip.AddrPort]limit) {
	if len(m) == 0 {
		d.limits.Store(nil)
		return
	}
	for ep, l := range m {
		if l.cut = d.counter(ep); l.cut == nil {
			l.cut = new(atomic.Uint64)
		}
		m[ep] = l
	}
	d.limits.Store(&m)
}

// counter counts the packets that left in fragments to an endpoint; nil: there
// are none.
func (d *door) counter(ep netip.AddrPort) *atomic.Uint64 {
	if m := d.limits.Load(); m != nil {
		return (*m)[ep].cut
	}
	return nil
}

// Send is [conn.Bind.Send]. What is larger than its path carries goes through
// a socket that lets the kernel fragment it, by the route of
// [Device.setNarrow].
func (d *door) Send(bufs [][]byte, ep conn.Endpoint) error {
	limits := d.limits.Load()
	if limits == nil || d.raw == nil {
		return d.Bind.Send(bufs, ep)
	}
	to := where(ep)
	l, ok := (*limits)[to]
	if !ok {
		return d.Bind.Send(bufs, ep)
	}
	limit := l.mtu - headers(to.Addr())
	var last error
	for len(bufs) > 0 {
		fits := len(bufs[0]) <= limit
		n := 1
		for n < len(bufs) && (len(bufs[n]) <= limit) == fits {
			n++
		}
		err := d.send(bufs[:n], ep, fits || !l.routed)
		switch {
		case err != nil:
			last = err
		case !fits:
			l.cut.Add(uint64(n))
		}
		bufs = bufs[n:]
	}
	return last
}

func (d *door) send(bufs [][]byte, ep conn.Endpoint, whole bool) error {
	e, ok := ep.(*endpoint)
	if whole || !ok {
		return d.Bind.Send(bufs, ep)
	}
	err := d.raw.send(flow{to: e.dst, scope: e.scope, from: e.source()}, bufs, SendOptions{})
	if errors.Is(err, fs.ErrPermission) {
		// No raw socket: somebody on the way may fragment it.
		return d.Bind.Send(bufs, ep)
	}
	return err
}

// signal sends a packet that is none of WireGuard's.
func (d *door) signal(to netip.AddrPort, b []byte, o SendOptions) error {
	if (o.TTL != 0 || o.DontFragment) && d.raw != nil {
		return d.raw.send(flow{to: to, from: o.From}, [][]byte{b}, o)
	}
	ep, err := d.ParseEndpoint(to.String())
	if err != nil {
		return err
	}
	bufs := [][]byte{b}
	if o.Segment > 0 {
		bufs = slices.Collect(slices.Chunk(b, o.Segment))
	}
	if e, ok := ep.(*endpoint); ok {
		e.src = o.From
		if e.row = rowSingle; o.Coalesced {
			e.row = rowCoalesced
		}
	}
	return d.Bind.Send(bufs, ep)
}

// headers is the size of the IP and UDP headers of a packet to a, in bytes.
func headers(a netip.Addr) int {
	if a.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// quietList is from where nothing is taken, and until when. While it is empty,
// which is nearly always, asking costs one load.
type quietList struct {
	until atomic.Pointer[map[netip.AddrPort]time.Time] // replaced, never changed; nil: empty

	mu sync.Mutex // of those who replace it
}

func (q *quietList) has(ep conn.Endpoint) bool {
	m := q.until.Load()
	if m == nil {
		return false
	}
	until, ok := (*m)[where(ep)]
	return ok && time.Now().Before(until)
}

func (q *quietList) set(from netip.AddrPort, t time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.replaceLocked(func(m map[netip.AddrPort]time.Time) { m[from] = time.Now().Add(t) })
	if t > 0 {
		time.AfterFunc(t, q.sweep)
	}
}

func (q *quietList) sweep() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.replaceLocked(func(map[netip.AddrPort]time.Time) {})
}

func (q *quietList) replaceLocked(change func(map[netip.AddrPort]time.Time)) {
	m := make(map[netip.AddrPort]time.Time)
	if old := q.until.Load(); old != nil {
		maps.Copy(m, *old)
	}
	change(m)
	now := time.Now()
	maps.DeleteFunc(m, func(_ netip.AddrPort, until time.Time) bool { return !now.Before(until) })
	if len(m) == 0 {
		q.until.Store(nil)
		return
	}
	q.until.Store(&m)
}

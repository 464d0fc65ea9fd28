package tunnel

import (
	"errors"
	"net/netip"
	"time"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/signal"
)

// rows is the test whether coalesced packets come to a peer by its direct path.
type rows struct {
	endpoint netip.AddrPort // that is tested; zero: none
	test     *path.RowTest
}

// broken reports whether packets to the endpoint have to leave one by one.
func (r *rows) broken() bool { return r.test != nil && r.test.Broken() }

// restart tests again.
func (r *rows) restart() {
	if r.test != nil {
		r.test.Restart()
	}
}

// stepRows tests every direct path once its MTU is known, and again while it
// has traffic: who has nothing to send need not know.
func (t *Tunnels) stepRows(now time.Time) {
	if t.rows.skip(now, t) {
		return
	}
	for _, w := range t.tunnels {
		r := w.machine.Route()
		if w.machine.State() != path.Established || !r.Direct() ||
			w.mtu.endpoint != r.Endpoint || w.mtu.told == 0 || w.mtu.search.Searching() {
			continue
		}
		if w.rows.endpoint != r.Endpoint {
			w.rows = rows{endpoint: r.Endpoint, test: path.NewRowTest(nil)}
			t.graph.stale = true
		}
		if !w.rows.test.Testing() && now.Sub(w.busy) > busyTime {
			continue
		}
		if !w.rows.test.Next().After(now) {
			t.testRows(now, w, path.RowTick{})
		}
		t.rows.want(w.rows.test.Next())
	}
	t.wakeAt(t.rows.due)
}

// testRows lets a test take a step and sends what it asks for.
func (t *Tunnels) testRows(now time.Time, w *tunnel, e path.RowEvent) {
	before := w.rows.broken()
	row, ok := w.rows.test.Step(now, e)
	if ok {
		// Any other error says that this row does not arrive.
		if err := t.prober.ProbeRow(now, w.peer.Identity, w.rows.endpoint, t.rowSize(w), row); errors.Is(err, errors.ErrUnsupported) {
			// The kernel's WireGuard does as it likes, and lends nobody its port.
			w.rows.test.Step(now, path.RowRefused{})
		}
	}
	is := w.rows.broken()
	if is == before {
		return
	}
	t.graph.stale = true // our relay has to know
	t.showAt = time.Time{}
	log := t.log.With("peer", w.peer.Name, "nickname", w.peer.Nickname, "endpoint", w.rows.endpoint)
	if is {
		log.Warn("packets that leave in one piece (UDP GSO) do not arrive, those that leave alone do: each is sent by itself, which is slower; " +
			"look for a newer kernel or driver")
	} else {
		log.Info("packets that leave in one piece (UDP GSO) arrive: they are sent so again")
	}
}

// rowSize is that of the largest packets of the switch on the direct path to a
// peer, as far as three of them fit what UDP carries.
func (t *Tunnels) rowSize(w *tunnel) int {
	headers := signal.Headers(w.rows.endpoint.Addr())
	full := t.cfg.MTU + fdb.Encapsulation + fdb.TunnelOverhead + headers
	return min(full, w.mtu.told, signal.MaxSize/path.RowLength)
}

// rowAnswered tells a test of an answer.
func (t *Tunnels) rowAnswered(now time.Time, w *tunnel, r path.ProbeResult) {
	if r.Row != 0 && w.rows.endpoint == r.Endpoint {
		t.testRows(now, w, path.RowAnswered{Number: r.Row, Place: r.Place, RTT: r.RTT})
	}
}

// single reports whether packets along the route in use have to leave one by
// one. Those to a relay go where its own do.
func (t *Tunnels) single(w *tunnel) bool {
	r := w.machine.Route()
	if !r.Relayed() {
		return w.rows.endpoint == r.Endpoint && w.rows.broken()
	}
	first := t.tunnels[r.Via[0]]
	return first != nil && first.rows.endpoint.Addr() == r.Endpoint.Addr() && first.rows.broken()
}

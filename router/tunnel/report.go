package tunnel

import (
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/signal"
)

// reporter publishes our links.
type reporter struct {
	damper topology.Publisher
	lookAt time.Time
	failed *topology.Report // could not be published: to be tried again
}

func newReporter() reporter { return reporter{} }

// reportGap is how often our links are compared with what was published.
const (
	reportGap   = 100 * time.Millisecond
	reportShare = 10 * time.Millisecond // for each peer, when there are many
	reportRetry = 5 * time.Second       // after one that could not be published
)

// stepReport publishes our links when they are worth it.
func (t *Tunnels) stepReport(now time.Time) {
	r := &t.report
	if r.lookAt.After(now) {
		t.wakeAt(r.lookAt)
		return
	}
	r.lookAt = now.Add(max(reportGap, time.Duration(len(t.tunnels))*reportShare))
	publish, report := r.damper.Step(now, t.ownReport(now))
	t.wakeAt(r.damper.Next())
	switch {
	case t.leaving && !publish && len(report.Links) > 0: // there is no time to wait
		last := report.Seq
		report = t.ownReport(now)
		report.Seq = last + 1
	case publish:
	case r.failed != nil:
		report = *r.failed
	default:
		return
	}
	b, err := topology.Sign(t.cfg.Key, report)
	if err == nil {
		err = t.cfg.Mesh.Put(topologyKey, b)
	}
	if err == nil {
		r.failed = nil
		return
	}
	if r.failed == nil {
		t.log.Warn("own links not published; no other host relays to this one", "err", err)
	}
	r.failed = &report
	r.lookAt = now.Add(reportRetry)
}

// ownReport is what we have to tell of our links now.
func (t *Tunnels) ownReport(now time.Time) topology.Report {
	r := topology.Report{
		Owner: t.self, Boot: t.cfg.Boot, SwitchMTU: t.cfg.MTU,
		NAT: t.observed.kind(now, t.own),
	}
	if t.leaving {
		return r
	}
	for id, w := range t.tunnels {
		if l, ok := t.link(now, id, w); ok {
			r.Links = append(r.Links, l)
		}
	}
	slices.SortFunc(r.Links, func(a, b topology.Link) int { return a.Peer.Compare(b.Peer) })
	return r
}

// link is what there is to tell of one peer.
func (t *Tunnels) link(now time.Time, id crypto.Identity, w *tunnel) (topology.Link, bool) {
	st := w.machine.Status()
	s := st.Route
	if w.machine.State() != path.Established || !s.Endpoint.IsValid() || t.silent(now, w) && !w.peer.Alive {
		return topology.Link{}, false
	}
	_, end := t.graph.bound[bind{id, signal.WireGuardPort}]
	_, between := t.graph.bound[bind{id, signal.RelayPort}]
	l := topology.Link{
		Peer: id, State: topology.Direct, Outbound: w.peer.Target != "" || t.self.Compare(id) < 0,
		Endpoint: s.Endpoint, RTT: st.LeastRTT, MTU: w.linkMTU(), Bound: end && between, Age: now.Sub(st.Since),
	}
	switch {
	case !s.Direct():
		l.State, l.Bound = topology.Relayed, false
	case !w.peer.Alive:
		l.State = topology.Pending
	}
	return l, true
}

// leave tells the others not to send through us any more.
func (t *Tunnels) leave() {
	t.leaving = true
	t.report.lookAt = time.Time{}
	t.graph.stale = true
	t.cfg.Relay.Withdraw()
}

// Withdraw ends our relaying for others: they are told to take other ways, and
// it returns how long the relay has to go on for those who have not heard. It
// does not block.
func (t *Tunnels) Withdraw() (wait time.Duration) {
	t.mu.Lock()
	t.waiting.leave = true
	t.mu.Unlock()
	t.wake.Ring()
	if t.cfg.Relay.Stats().Sessions == 0 {
		return 0
	}
	return 2 * time.Second
}

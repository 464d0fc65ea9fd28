package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/replica"
	"github.com/weftnet/weft/mesh/topology"
)

// View is what the router needs to know of the cluster. It is immutable.
type View struct {
	Self    advert.Signed
	Peers   []Peer  // all that are known, by identity
	Entries []Entry // of this host and of live members, by owner and key
	// UnmetTargets counts targets that are neither ourselves nor one of Peers.
	UnmetTargets int
}

// Peer is a known peer.
type Peer struct {
	advert.Signed
	Alive bool // it is a member
	// Introduced counts the introductions with it since the start. When it
	// changes, the WireGuard peer is to be added again.
	Introduced uint64
	// Initiator says that we initiate the WireGuard handshake: as the last
	// introduction since the start of both daemons decided, without one when
	// our identity is smaller. It is false for a peer that is not to be dialled.
	Initiator bool
	// Candidates are endpoints of its WireGuard port, best first: where it
	// was last reached, where it was introduced, what it says. There are none
	// when the peer is not to be dialled (no discovery, or the limit of
	// connections); it may still come to us.
	Candidates []netip.AddrPort
	// Passive says that the peer is not to be dialled, nor asked whether it
	// answers; there are no Candidates then.
	Passive bool
	Target  string // as typed, when it is known as one
	// Protocol is the highest version of the rules between hosts that both
	// speak: the first until something else was heard of.
	Protocol uint16
	// Report is what it last said of its links, for [topology.Parse]; nil:
	// nothing is known. It is there also when the peer is not alive: it may be
	// a member to others, who are on the way to it. It must not be modified.
	Report []byte
}

// Entry is an entry of a host.
type Entry struct {
	Owner     crypto.Identity
	OwnerName crypto.Name
	Key       string
	Value     []byte // must not be modified
	Version   uint64
}

// TargetState is the state of a target, in the words of
// `weft status connections`.
type TargetState string

// The states of a target.
//
//	            ┌──────────── lost ────────────┐
//	            ▼                              │
//	connecting ──▶ pending ──▶ established ────┘
//	  │   ▲          │
//	  ▼   │          │ no member in time
//	retrying, failed ◀┘
const (
	Connecting  TargetState = "connecting"  // being introduced for the first time
	Pending     TargetState = "pending"     // introduced, not yet a member
	Established TargetState = "established" // a member
	Retrying    TargetState = "retrying"    // not reached; dialled again
	Failed      TargetState = "failed"      // reached and refused; dialled again seldom or never
)

// Target is the state of a target.
type Target struct {
	Name    string         // as typed
	Address netip.AddrPort // as last resolved; invalid before
	State   TargetState
	Err     string          // of the last attempt
	Retry   time.Time       // of the next attempt; zero: never, or being made
	Never   bool            // no attempt will be made
	Peer    crypto.Identity // who answers there; zero: not known
}

// Info is what `weft status connections` prints of a target without a
// connection.
func (t Target) Info() string {
	switch {
	case t.State != Failed || t.Err == "":
		return t.Err
	case t.Never:
		return t.Err + ", retry: never"
	case t.Retry.IsZero():
		return t.Err + ", retry: now"
	}
	return fmt.Sprintf("%s, retry: %s", t.Err, t.Retry.UTC().Truncate(time.Second))
}

// Status is the state of the mesh. It is immutable.
type Status struct {
	Targets  []Target // in the order given
	Known    int      // peers
	Members  int      // of them, live
	Gossip   bool     // memberlist runs
	Seq      uint64   // of our advert
	Warnings []string

	Dropped              uint64 // messages, because the queue was full
	StateSent            uint64 // bytes of digests in push/pull
	StateReceived        uint64
	MessagesReceived     uint64
	MessageBytesReceived uint64
	MessageBytesSent     uint64

	Gone     int // peers that were forgotten, and whom an old advert does not bring back
	Payloads Payloads
}

// Payloads counts what other packages sent through the mesh.
type Payloads struct {
	Sent, SentBytes         uint64 // by [Mesh.Send], as far as the network took them
	Cast                    uint64 // by [Mesh.Broadcast]
	Received, ReceivedBytes uint64 // handed to [Config.Deliver]
	Dropped                 uint64 // out: too many, too large, no member, not sent; in: of nobody known
}

// view builds the View. Values and adverts are shared, they never change.
func (m *Mesh) view() View {
	v := View{Self: m.advert, Peers: make([]Peer, 0, len(m.peers))}
	for id, p := range m.peers {
		if p.left() {
			continue
		}
		vp := Peer{Signed: p.advert, Alive: p.member, Introduced: p.introduced, Target: p.target}
		vp.Passive = !p.dial
		vp.Protocol, _ = p.speaks.Common(m.cfg.Versions)
		if p.dial {
			vp.Candidates = m.candidates(p)
			vp.Initiator = m.self.Compare(id) < 0
			if p.decided {
				vp.Initiator = p.initiator
			}
		}
		v.Peers = append(v.Peers, vp)
	}
	slices.SortFunc(v.Peers, func(a, b Peer) int { return a.Identity.Compare(b.Identity) })
	// The entries of one owner come sorted: owners in order make all sorted.
	own := false
	for i := range v.Peers {
		p := &v.Peers[i]
		if !own && m.self.Compare(p.Identity) < 0 {
			v.Entries, own = appendEntries(v.Entries, m.entriesOf(m.self), m.self, m.cfg.Name), true
		}
		list := m.entriesOf(p.Identity)
		p.Report = reportIn(list)
		if p.Alive {
			v.Entries = appendEntries(v.Entries, list, p.Identity, p.Name)
		}
	}
	if !own {
		v.Entries = appendEntries(v.Entries, m.entriesOf(m.self), m.self, m.cfg.Name)
	}
	return v
}

func (m *Mesh) entriesOf(owner crypto.Identity) []replica.Entry {
	return m.store.Entries(replica.ID{Owner: owner, Channel: entries})
}

func appendEntries(out []Entry, list []replica.Entry, owner crypto.Identity, name crypto.Name) []Entry {
	for _, e := range list {
		out = append(out, Entry{Owner: owner, OwnerName: name, Key: e.Key, Value: e.Value, Version: e.Version})
	}
	return out
}

// reportIn returns the report among a peer's entries, which come by key.
func reportIn(list []replica.Entry) []byte {
	i, ok := slices.BinarySearchFunc(list, topology.EntryKey, func(e replica.Entry, key string) int {
		return strings.Compare(e.Key, key)
	})
	if !ok {
		return nil
	}
	return list[i].Value
}

// chooseDialled decides which peers are dialled: all, unless discovery is off
// or there are more than the limit; then targets and members first.
func (m *Mesh) chooseDialled() {
	var may []*peer
	for _, p := range m.peers {
		p.dial = m.cfg.Discovery || p.target != "" || p.introduced > 0
		if p.dial {
			may = append(may, p)
		}
	}
	limit := m.cfg.ConnLimit
	if limit <= 0 || len(may) <= limit {
		return
	}
	rank := func(p *peer) int {
		switch {
		case p.target != "":
			return 0
		case p.member:
			return 1
		}
		return 2
	}
	slices.SortFunc(may, func(a, b *peer) int {
		if c := rank(a) - rank(b); c != 0 {
			return c
		}
		return a.advert.Identity.Compare(b.advert.Identity)
	})
	for _, p := range may[limit:] {
		p.dial = false
	}
}

package mesh

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/replica"
)

// Limits of what memberlist may hand us.
const (
	maxMessage = 64 << 10
	maxDigest  = 1 << 20
)

// delegate is what memberlist calls, some of it under its own lock, so nothing
// here calls memberlist or waits: it looks, copies and returns.
type delegate struct{ m *Mesh }

var (
	_ memberlist.Delegate      = (*delegate)(nil)
	_ memberlist.EventDelegate = (*delegate)(nil)
	_ memberlist.AliveDelegate = (*delegate)(nil)
	_ memberlist.PingDelegate  = (*delegate)(nil)
)

// NodeMeta is which versions we speak.
func (d *delegate) NodeMeta(int) []byte { return d.m.cfg.Versions.Meta() }

// NotifyMsg delivers a payload and queues any other message. One that is too large, or does not fit into the
// queue, is dropped and counted; the next digest shows what was in it.
func (d *delegate) NotifyMsg(b []byte) {
	if len(b) > 0 && b[0] == payloadKind {
		d.m.deliver(b)
		return
	}
	d.m.counts.messagesReceived.Add(1)
	d.m.counts.messageBytes.Add(uint64(len(b)))
	d.enqueue(b, maxMessage)
}

// MergeRemoteState queues the other's digest in the same way.
func (d *delegate) MergeRemoteState(b []byte, _ bool) {
	d.m.counts.stateReceived.Add(uint64(len(b)))
	d.enqueue(b, maxDigest)
}

func (d *delegate) enqueue(b []byte, limit int) {
	if len(b) > limit || len(d.m.messages) == cap(d.m.messages) {
		d.m.counts.dropped.Add(1)
		return
	}
	select {
	case d.m.messages <- bytes.Clone(b):
	default:
		d.m.counts.dropped.Add(1)
	}
}

// LocalState is our digest, nothing more.
func (d *delegate) LocalState(bool) []byte {
	b := *d.m.digest.Load()
	d.m.counts.stateSent.Add(uint64(len(b)))
	return b
}

func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.m.broadcasts(overhead, limit)
}

// NotifyAlive refuses whoever is not what it says, and whoever we could not
// reach yet; never a member.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	id, err := parseNode(n.Name)
	if err != nil {
		return err
	}
	addr, _ := netip.AddrFromSlice(n.Addr)
	return d.m.desk.alive(d.m.self, id, netip.AddrPortFrom(addr, n.Port), hello.ParseMeta(n.Meta))
}

func (d *delegate) NotifyJoin(n *memberlist.Node) { d.setMember(n.Name, true) }

func (d *delegate) NotifyLeave(n *memberlist.Node) { d.setMember(n.Name, false) }

func (d *delegate) NotifyUpdate(*memberlist.Node) {}

func (d *delegate) setMember(name string, member bool) {
	if id, err := parseNode(name); err == nil && id != d.m.self {
		d.m.desk.setMember(id, member)
	}
}

// AckPayload implements memberlist.PingDelegate.
func (d *delegate) AckPayload() []byte { return nil }

// NotifyPingComplete implements memberlist.PingDelegate.
func (d *delegate) NotifyPingComplete(*memberlist.Node, time.Duration, []byte) {
	d.m.desk.ponged(time.Now())
}

// parseNode reads a node's name. There is one spelling of each, or a node
// could appear twice.
func parseNode(name string) (crypto.Identity, error) {
	var id crypto.Identity
	if err := id.UnmarshalText([]byte(name)); err != nil {
		return id, errors.New("node name is no identity")
	}
	if id.String() != name {
		return id, errors.New("node name is not in lower case")
	}
	return id, nil
}

// The largest digest fits: owners with two channels each.
var _ [maxDigest - replica.MaxOwners*(crypto.IdentitySize+1+2*18)]struct{}

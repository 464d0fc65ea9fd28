// Package kernel is the only door to netlink, network namespaces and sysctls.
//
// It owns no state of the host: it translates values into kernel calls and
// errno into [fs.ErrNotExist] and [fs.ErrExist]. What should be there is
// decided by its callers, each of which declares an interface of the few
// methods it uses; router/kerneltest is a fake that satisfies them all.
package kernel

import (
	"net"
	"net/netip"
	"time"
)

// MAC is a hardware address of six octets; the zero value means "any".
type MAC [6]byte

// Link is a network interface as the kernel reports it.
type Link struct {
	Index     int
	Name      string
	Kind      string // "bridge", "vxlan", "veth", "wireguard", "tun", …; "" for hardware
	MAC       MAC
	MTU       int
	Up        bool
	Master    int // index of the bridge; 0: none
	PeerIndex int // of a veth: the other end's index, in its own namespace
	Alias     string
	Deaf      bool // drops all that comes to it

	// Of a vxlan only.

	VNI               uint32
	Port              uint16 // destination
	PortLow, PortHigh uint16 // source
	Local             netip.Addr
	Learning          bool
	ZeroChecksums     bool // sends and accepts none over IPv6
	Limit             int  // forwarding entries; 0: unbounded
}

// Guest is the namespace that AddVeth makes the inner end in: a *Kernel for a
// *Kernel, a fake for a fake.
type Guest interface {
	// ID is the namespace's identity, see [Kernel.ID].
	ID() string
}

// Route is a route of one table.
type Route struct {
	Dst   netip.Prefix
	Via   netip.Addr // zero: none
	Link  string     // device
	Table int        // 0: main
	Src   netip.Addr
	MTU   int // 0: the device's
	// MTULock makes packets of local sockets leave in fragments of MTU, and
	// the kernel learn no other. It needs an MTU.
	MTULock bool
	OnLink  bool // Via is a neighbour on Link whatever the other routes say
	Scope   Scope
	Proto   int // routing protocol; 0: boot
}

// Scope is the scope of an IPv4 route.
type Scope uint8

// The scopes that weft uses.
const (
	ScopeGlobal Scope = iota
	ScopeLink
)

// Rule is a policy routing rule.
type Rule struct {
	Priority       int
	From           netip.Prefix // zero: any
	Mark, Mask     uint32
	DestPort       uint16 // of any protocol that has ports; 0: any
	Table          int
	SuppressPrefix int // -1: none; 0: suppress_prefixlength 0
	IPv6           bool
}

// FDB is a forwarding entry of a VXLAN device.
type FDB struct {
	MAC       MAC // zero: for broadcast, unknown and multicast
	Dst       netip.Addr
	Permanent bool
	// Fixed is for an entry that was not learnt: it stays where it is, and
	// frames from its MAC that come from elsewhere are dropped.
	Fixed bool
	VNI   uint32 // that the remote has; 0: the device's own
}

// MDB says that a VXLAN device sends a multicast group to a remote.
type MDB struct {
	Group netip.Addr
	Dst   netip.Addr
	VNI   uint32 // 0: the device's own
}

// BridgeFDB is what a bridge knows of one MAC address that is behind a port,
// not the port's own.
type BridgeFDB struct {
	MAC  MAC
	Port int // index of the port
	// Told is for an entry that was not learnt. It does not age; when a frame
	// from its MAC comes through another port, it becomes a learnt one there.
	Told bool
}

// Neighbour is an IPv4 neighbour that the kernel was told of: it does not ask
// for it.
type Neighbour struct {
	Addr netip.Addr
	MAC  MAC
}

// VXLAN says how a VXLAN device is made (RFC 7348). It sends and accepts zero
// UDP checksums over IPv6 and is bound to no lower device.
type VXLAN struct {
	VNI               uint32
	Port              uint16
	PortLow, PortHigh uint16 // source ports
	Local             netip.Addr
	MTU               int
	Learning          bool
	Ageing            time.Duration // of learnt entries; 0: the kernel's default (300 s)
	Limit             int           // of forwarding entries; 0: unbounded
}

// Event says that something of the kinds named changed. It carries no detail:
// the receiver looks again at everything it owns. Learnt neighbours are no
// change.
type Event uint8

// The kinds of events.
const (
	LinkChanged Event = 1 << iota
	AddrChanged
	RouteChanged
	RuleChanged
	FirewallChanged
	NeighChanged

	AllChanged = LinkChanged | AddrChanged | RouteChanged | RuleChanged | FirewallChanged | NeighChanged
)

// String prints the address as `ip` does.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

package api

import (
	"net/netip"
	"time"
)

// Status is one consistent snapshot of a host. `weft status …`, `weft report`
// and the metrics are views of it.
type Status struct {
	Ready          bool
	Waiting        string // what readiness waits for; empty when ready
	Version        string
	Protocol       string // "weft 1"
	Name           string // six octets
	Nickname       string
	Identity       string // hexadecimal
	Overlay        netip.Addr
	Port           uint16 // introduction
	Cluster        string
	Datapath       string // kernel | userspace
	MTU            int    // of the switch
	PeerDiscovery  bool
	TrustedSubnets []netip.Prefix
	Targets        []string // as typed, in the order given
	Connections    []Connection
	Terminated     uint64        // connections that stood and ended, since the daemon began
	Peers          []Peer        // self first, then by nickname and name
	Relay          *RelayStatus  // nil: this host relays for nobody
	Switch         *SwitchStatus // of the userspace data path; nil: the kernel forwards
	IPAM           *IPAM         // nil: the allocator is off (--ipalloc-range="")
	DNS            *DNS          // nil with --no-dns
	Warnings       []string      // for people; `weft launch` prints them
	Findings       []Finding     // warnings and problems of the daemon's last look at its host, the gravest first
}

// State of a connection, in the words of `weft status connections`.
type State string

// The states.
const (
	Established State = "established"
	Pending     State = "pending"
	Connecting  State = "connecting"
	Retrying    State = "retrying"
	Failed      State = "failed"
	Relayed     State = "relayed"
)

// Lossy is the share of lost pings from which a path is not well.
const Lossy = 0.05

// Carries reports whether packets pass.
func (s State) Carries() bool { return s == Established || s == Relayed }

// Connection is this host's connection to one peer or one target.
type Connection struct {
	Address   string // target as resolved, else the WireGuard endpoint
	Outbound  bool
	State     State
	Info      string // why, when there is no connection
	Name      string // of the peer, when known
	Nickname  string
	Overlay   netip.Addr
	Encrypted bool
	Datapath  string // of this host: kernel | userspace
	MTU       int
	RTT       time.Duration // through the tunnel; zero: not measured
	Loss      float64       // share of recent pings through the tunnel that were lost, 0 to 1
	Via       []string      // nicknames of relays, nearest first
	Handshake time.Time     // last one; zero: never
	RxBytes   uint64
	TxBytes   uint64
	Changes   uint64 // of path or state since the daemon began
	// Fragmented counts packets that were larger than the path that is used now
	// carries, and left in fragments. Peers behind one relay share the number.
	Fragmented uint64
	// Single says that this host sends its packets one by one, because coalesced
	// ones (UDP GSO) do not arrive; known of the userspace data path only.
	Single bool
}

// RelayStatus is what this host forwards for others, sealed. The counters count
// since the daemon began.
type RelayStatus struct {
	Packets  uint64            // forwarded
	Bytes    uint64            // of them, UDP payload
	Dropped  map[string]uint64 // packets, by reason: one word, underscores within
	Sessions int               // WireGuard sessions whose way is recorded
	Bound    int               // hosts that can be reached through us
}

// SwitchStatus is what the userspace switch port did since the daemon began, and
// what it knows now.
type SwitchStatus struct {
	Offload        string // which frames cross the device in pieces of up to 64 kB: off | tcp | tcp+udp
	SentFrames     uint64 // to other hosts, each copy
	SentBytes      uint64
	ReceivedFrames uint64 // from other hosts
	ReceivedBytes  uint64
	SuperSent      uint64            // pieces of more than one frame that came from the bridge
	SuperReceived  uint64            // and that were given to it
	Flooded        uint64            // frames that went to more than one host
	Answered       uint64            // ARP requests and neighbour solicitations answered on this host
	TooBig         uint64            // senders told that a packet is larger than its path
	Dropped        map[string]uint64 // frames, by reason
	Remotes        int               // hosts that frames are sent to
	Known          int               // attachments that other hosts told of
	Learnt         int               // MAC addresses learnt from frames
	Moves          uint64            // of learnt addresses from one host to another
	Refused        uint64            // not learnt: a limit was reached
	Astray         uint64            // frames of a known address that came from another host
}

// Peer is a host of the cluster as this one sees it.
type Peer struct {
	Name        string
	Nickname    string
	Identity    string
	Overlay     netip.Addr
	Boot        uint64 // of its daemon, random at each start; zero: unknown
	Self        bool
	Alive       bool
	Version     uint64 // sequence number of its advert
	Connections []PeerConnection
	Attached    []Attached // as it tells of them, by MAC address
}

// Attached is an interface on the switch of a host, which may be another one.
type Attached struct {
	MAC       string
	Addresses []netip.Addr
}

// PeerConnection is one of a peer's own connections.
type PeerConnection struct {
	Name     string
	Nickname string
	Address  string
	Outbound bool
	State    State
	RTT      time.Duration // of its underlay, the least lately; zero: not measured
	MTU      int           // largest IP packet of the underlay to there, in bytes; zero: not known
}

// DNS is the state of the embedded server.
type DNS struct {
	Domain   string
	Upstream []string
	Address  string
	TTL      uint32
	Entries  []NameEntry
}

// NameEntry is one name that the switch knows.
type NameEntry struct {
	Hostname    string // full, as given
	Origin      string // name of the peer that owns it
	ContainerID string
	Address     netip.Addr
	Version     uint64
	Tombstone   bool
}

// Addresses are addresses in the order in which they were given.
type Addresses []netip.Prefix

// ConnectRequest names targets: ip-or-name[:port].
type ConnectRequest struct {
	Targets []string
	Replace bool
}

// AttachRequest asks for a container to be put on the switch.
type AttachRequest struct {
	Container        string   // Docker name or id, pid:N, netns:/absolute/path
	Addresses        []string // as typed: [ip:]CIDR | net:CIDR | net:default; none: net:default
	WithoutDNS       bool
	RewriteHosts     bool
	AddHosts         []string // name:ip
	NoMulticastRoute bool
	MAC              string
}

// DetachRequest takes the addresses named, or all of them, from a container.
type DetachRequest struct {
	Container string
	Addresses []string
}

// ExposeRequest puts the host on the switch.
type ExposeRequest struct {
	Addresses         []string // none: one of the default subnet
	FQDN              string   // one label without a final dot is a name of the domain
	WithoutMasquerade bool
}

// HideRequest takes the host's addresses, or those named, off the switch.
type HideRequest struct {
	Addresses []string
}

// NameRequest adds or removes names by hand. Either Container or FQDN is set,
// or both.
type NameRequest struct {
	Container string
	Addresses []netip.Addr // none: those of the container
	FQDN      string       // one label without a final dot is a name of the domain
}

// ExposeName is what the host itself is called among the attachments.
const ExposeName = "weft:expose"

// Attachment is one container interface on this host's switch. The host itself
// comes first, as [ExposeName] with the MAC of the bridge and the addresses
// exposed, which may be none; asked for by name it comes only when named.
type Attachment struct {
	Container string // as `weft ps` prints it
	ID        string // full Docker id; empty for pid: and netns:
	Interface string // inside the container
	MAC       string
	Addresses Addresses
	Names     []string
}

// Token is the cluster secret.
type Token struct {
	Token string
	Join  string // a ready command for another host
}

package router

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/port"
	"github.com/weftnet/weft/router/tunnel"
	"github.com/weftnet/weft/router/wireguard"
)

// Names and ports that are the same on every host.
const (
	BridgeName    = "weft"
	WireGuardName = "weft-wg"
	VXLANName     = port.DefaultName
	MulticastName = port.MulticastName
	VXLANPort     = 6785

	// FwMark keeps what goes to the underlay apart from the switch's packets.
	FwMark = 0x77656674 & 0xffff0000
)

// DNSAddress is where containers find the name server, the same on every host
// and local to it.
var DNSAddress = netip.MustParseAddr("169.254.67.83")

// Host is what stays the same about this host while the daemon runs.
type Host struct {
	Key  *crypto.Key
	Keys crypto.Keys
	Port uint16 // introduction; WireGuard is Port+1
	MTU  int    // of the switch
	DNS  netip.Addr
	// Userspace says that frames are forwarded in this process: that port bounds
	// TCP segments by itself, for each peer.
	Userspace bool
}

// exposure is the host's own place on the switch.
type exposure struct {
	addresses  []netip.Prefix
	masquerade []netip.Prefix
}

// plan is everything that this host's kernel should hold.
type plan struct {
	wireguard wireguard.Config
	port      fdb.Config
	bridge    bridge.Config
}

// makePlan computes the desired state from the cluster's view. It is pure.
//
// Every known peer gets a tunnel; frames go to those that are members or whose
// tunnel stands, because a host whose daemon is dead may still forward.
//
// Where the kernel forwards, TCP segments are bounded by the widest path, if that is narrower than the
// switch, so that nobody gets less than it can take.
func makePlan(h Host, v mesh.View, known []fdb.Known, e exposure, way func(crypto.Identity) tunnel.Way) plan {
	self := h.Key.Identity()
	p := plan{
		wireguard: wireguard.Config{
			PrivateKey: h.Key.WireGuardPrivate(),
			ListenPort: h.Port + 1,
			MTU:        h.MTU + fdb.Encapsulation + fdb.TagSize,
			Address:    self.Overlay(),
			FwMark:     FwMark,
			ToldMark:   bridge.FrameMark, WholeMark: bridge.WholeMark, FrameMask: bridge.FrameMask,
		},
		port: fdb.Config{
			Name: VXLANName, Bridge: BridgeName,
			VNI: h.Keys.VNI, Port: VXLANPort,
			Local: self.Overlay(), MTU: h.MTU,
		},
		bridge: bridge.Config{
			Name: BridgeName, MAC: bridgeMAC(self), MTU: h.MTU,
			DNS: h.DNS, Overlay: self.Overlay(),
			WireGuard: WireGuardName, VXLAN: VXLANName,
			Port: h.Port + 1, RelayPort: h.Port, VXLANPort: VXLANPort, GossipPort: mesh.GossipPort,
			Exposed: e.addresses, Masquerade: e.masquerade,
		},
	}
	whole, reached := 0, make(map[netip.Addr]bool, len(v.Peers))
	for _, peer := range v.Peers {
		w := way(peer.Identity)
		if w.Up {
			whole = max(whole, w.Told)
		}
		p.wireguard.Peers = append(p.wireguard.Peers, tunnel.PeerConfig(h.Keys, self, peer, w))
		if peer.Alive || w.Up {
			p.port.Remotes = append(p.port.Remotes, fdb.Remote{Overlay: peer.Identity.Overlay(), Whole: w.Told})
			reached[peer.Identity.Overlay()] = true
		}
	}
	slices.SortFunc(p.port.Remotes, func(a, b fdb.Remote) int { return a.Overlay.Compare(b.Overlay) })
	for _, k := range known {
		if reached[k.At] {
			p.port.Known = append(p.port.Known, k)
		}
	}
	if !h.Userspace && whole > 0 && whole < h.MTU {
		const headers = 20 + 20 // of IPv4 and TCP
		p.bridge.MSS = whole - headers
	}
	p.bridge.Told = p.wireguard.LeastTold()
	if !h.Userspace { // wireguard-go's is counted where it is sent
		p.bridge.Cuts = p.wireguard.Cuts()
	}
	return p
}

// bridgeMAC is fixed, because a bridge would otherwise follow its ports. It
// differs from the peer's name so that the two cannot be taken for each other.
func bridgeMAC(id crypto.Identity) kernel.MAC {
	m := kernel.MAC(id.Name())
	m[5] ^= 0x01
	return m
}

package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Config is everything about a device.
type Config struct {
	PrivateKey [32]byte
	ListenPort uint16 // UDP, IPv4 and IPv6
	MTU        int    // of the device; raised to MinMTU
	Address    netip.Addr
	FwMark     uint32 // of the encrypted packets; 0: none
	// ToldMark is that of frames on their way to a peer, for whose sake there are
	// routes as narrow as paths are ([Peer.Told]); WholeMark that of those that
	// pass all the same. Both count where FrameMask has bits. ToldMark 0: no such
	// routes.
	ToldMark, WholeMark, FrameMask uint32
	Peers                          []Peer
}

// Peer is one peer of the device.
type Peer struct {
	PublicKey    [32]byte
	PresharedKey [32]byte // zero: none
	// Endpoint is where its packets go. The zero value leaves what is there:
	// WireGuard learns from authentic packets, or SetEndpoint said it.
	Endpoint  netip.AddrPort
	Overlay   netip.Addr    // the only address allowed inside the tunnel
	Keepalive time.Duration // in whole seconds; 0: none
	MTU       int           // of the widest route to Overlay, in bytes; 0: the device's
	// Told is the largest packet to Overlay that needs no fragments on the path,
	// in bytes; 0: MTU. Larger frames are refused where their sender can be told,
	// which is so from [MinTold].
	Told int
	// PathMTU is the largest IP packet on the path to PathEndpoint, in bytes; 0:
	// not known. WireGuard packets to there that are larger leave in fragments
	// of that size; it takes a FwMark.
	PathMTU      int
	PathEndpoint netip.AddrPort // zero: where the device sends to now
	// Single says that packets to PathEndpoint leave one by one, because
	// coalesced ones do not arrive. Only an in-process device can be told.
	Single bool
}

// check finds what would be accepted by WireGuard and be wrong, or fail half
// way through.
func (c Config) check() error {
	if c.PrivateKey == [32]byte{} {
		return errors.New("no private key")
	}
	if c.ListenPort == 0 {
		return errors.New("no port")
	}
	if !c.Address.Is6() {
		return fmt.Errorf("address %s is not IPv6", c.Address)
	}
	own := wgtypes.Key(c.PrivateKey).PublicKey()
	keys := make(map[wgtypes.Key]bool, len(c.Peers))
	overlays := map[netip.Addr]bool{c.Address: true}
	for _, p := range c.Peers {
		if err := p.check(); err != nil {
			return err
		}
		key := wgtypes.Key(p.PublicKey)
		switch {
		case key == own:
			return fmt.Errorf("peer %s has our own key", p.Overlay)
		case keys[key]:
			return fmt.Errorf("peer %s: its key is given twice", p.Overlay)
		case overlays[p.Overlay]:
			return fmt.Errorf("peer %s: its overlay address is given twice", p.Overlay)
		}
		keys[key], overlays[p.Overlay] = true, true
	}
	return nil
}

func (p Peer) check() error {
	switch {
	case p.PublicKey == [32]byte{}:
		return fmt.Errorf("peer %s has no key", p.Overlay)
	case !p.Overlay.Is6():
		return fmt.Errorf("peer with overlay address %s: not IPv6", p.Overlay)
	case p.Keepalive < 0 || p.Keepalive%time.Second != 0 || p.Keepalive > 65535*time.Second:
		return fmt.Errorf("peer %s: keepalive of %s", p.Overlay, p.Keepalive)
	}
	return nil
}

// full is the peer as it is added, whole.
func (p Peer) full() wgtypes.PeerConfig {
	c := wgtypes.PeerConfig{
		PublicKey:         p.PublicKey,
		Endpoint:          toUDP(p.Endpoint),
		ReplaceAllowedIPs: true,
		AllowedIPs:        []net.IPNet{single(p.Overlay)},
	}
	if psk := wgtypes.Key(p.PresharedKey); psk != (wgtypes.Key{}) {
		c.PresharedKey = &psk
	}
	if p.Keepalive != 0 {
		c.PersistentKeepaliveInterval = &p.Keepalive
	}
	return c
}

// change is what makes the peer that is there the one that is wanted; ok is
// false when it is that already. An endpoint is written only when write says
// so, since WireGuard moves it with the peer.
func (p Peer) change(is wgtypes.Peer, write bool) (c wgtypes.PeerConfig, ok bool) {
	c = wgtypes.PeerConfig{PublicKey: p.PublicKey, UpdateOnly: true}
	if psk := wgtypes.Key(p.PresharedKey); psk != is.PresharedKey {
		c.PresharedKey, ok = &psk, true
	}
	if p.Keepalive != is.PersistentKeepaliveInterval {
		c.PersistentKeepaliveInterval, ok = &p.Keepalive, true
	}
	if len(is.AllowedIPs) != 1 || toPrefix(is.AllowedIPs[0]) != netip.PrefixFrom(p.Overlay, 128) {
		c.ReplaceAllowedIPs, c.AllowedIPs, ok = true, []net.IPNet{single(p.Overlay)}, true
	}
	if write && p.Endpoint.IsValid() && p.Endpoint != toAddrPort(is.Endpoint) {
		c.Endpoint, ok = toUDP(p.Endpoint), true
	}
	return c, ok
}

// changes says how to get from the device that is there to the one wanted, in
// calls of a kind that wgctrl does not split: within its batches it leaves out
// parts of a key's second entry, and repeats the device's settings. Removals
// are apart, to come last. before holds the peers of the last Set.
func changes(c Config, is *wgtypes.Device, before map[wgtypes.Key]Peer) (set, remove []wgtypes.Config) {
	var device wgtypes.Config
	var ok bool
	if key := clamp(c.PrivateKey); key != is.PrivateKey {
		device.PrivateKey, ok = &key, true
	}
	if port := int(c.ListenPort); port != is.ListenPort {
		device.ListenPort, ok = &port, true
	}
	if mark := int(c.FwMark); mark != is.FirewallMark {
		device.FirewallMark, ok = &mark, true
	}
	if ok {
		set = append(set, device)
	}

	there := make(map[wgtypes.Key]wgtypes.Peer, len(is.Peers))
	for _, p := range is.Peers {
		there[p.PublicKey] = p
	}
	var peers, gone []wgtypes.PeerConfig
	for _, p := range c.Peers {
		now, known := there[p.PublicKey]
		delete(there, p.PublicKey)
		if !known {
			peers = append(peers, p.full())
			continue
		}
		// After a restart the endpoint that works is the better one.
		last, again := before[p.PublicKey]
		write := now.Endpoint == nil || again && last.Endpoint != p.Endpoint
		if change, ok := p.change(now, write); ok {
			peers = append(peers, change)
		}
	}
	for _, p := range is.Peers {
		if _, left := there[p.PublicKey]; left {
			gone = append(gone, wgtypes.PeerConfig{PublicKey: p.PublicKey, Remove: true})
		}
	}
	return append(set, inCalls(peers)...), inCalls(gone)
}

// clamp is what WireGuard does to a private key (RFC 7748) before it tells it.
func clamp(key [32]byte) wgtypes.Key {
	key[0] &= 248
	key[31] = key[31]&127 | 64
	return key
}

// maxPeers is how many peers wgctrl takes in one call without splitting it.
const maxPeers = 32

func inCalls(peers []wgtypes.PeerConfig) []wgtypes.Config {
	var calls []wgtypes.Config
	for len(peers) > 0 {
		n := min(len(peers), maxPeers)
		calls = append(calls, wgtypes.Config{Peers: peers[:n:n]})
		peers = peers[n:]
	}
	return calls
}

func single(a netip.Addr) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func toPrefix(n net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits)
}

// toUDP returns nil for the zero value.
func toUDP(ep netip.AddrPort) *net.UDPAddr {
	if !ep.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(unmap(ep))
}

// toAddrPort returns the zero value for nil. An IPv4 address is never mapped
// into IPv6, whichever client it came from.
func toAddrPort(a *net.UDPAddr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	return unmap(a.AddrPort())
}

func unmap(ep netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ep.Addr().Unmap(), ep.Port())
}

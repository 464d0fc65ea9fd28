package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weft/router/kernel"
)

// protoKernel is the protocol of the routes that come with addresses.
const protoKernel = 2

// Set makes the device exactly what c says: keys, port and mark, peers, MTU,
// address, up, a route to each peer, and more to each peer and endpoint whose
// path is narrow. What a dead predecessor left goes. It
// looks at what is there each time and changes only what differs, so calling
// it again does nothing; additions come before removals.
//
// The endpoint of a peer that is there is written only if it has none, or if
// the one in c is not that of the last Set: WireGuard follows a peer that
// moves, and it knows better.
func (d *Device) Set(c Config) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("set device %s: %w", d.name, err)
	}
	c.MTU = max(c.MTU, MinMTU)
	c.Peers = slices.Clone(c.Peers)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = &c
	if err := d.setLocked(c); err != nil {
		return fmt.Errorf("set device %s: %w", d.name, err)
	}
	return nil
}

// Check looks at everything that Set made, repairs it, and says in words what
// was wrong with the interface and its routes. Without a Set before, there is
// nothing to look at.
func (d *Device) Check() (repaired []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked == nil {
		return nil, nil
	}
	if err := d.setLocked(*d.asked); err != nil {
		return d.did, fmt.Errorf("set device %s: %w", d.name, err)
	}
	return d.did, nil
}

// didLocked notes what was not as it should be.
func (d *Device) didLocked(format string, args ...any) {
	d.did = append(d.did, fmt.Sprintf(format, args...))
}

func (d *Device) setLocked(c Config) error {
	if d.closed {
		return fs.ErrClosed
	}
	d.did = nil
	if err := d.ensureLocked(c.MTU); err != nil {
		return err
	}
	d.mtu = c.MTU
	is, err := d.readLocked()
	if err != nil {
		return err
	}
	set, remove := changes(c, is, d.wanted)
	for _, call := range set {
		if err := d.configureLocked(call); err != nil {
			return busy(err, c.ListenPort)
		}
		for _, p := range call.Peers {
			if p.Endpoint != nil { // WireGuard may have begun a handshake
				k := d.knownLocked(p.PublicKey)
				k.endpoint, k.initiated = toAddrPort(p.Endpoint), time.Now()
			}
		}
	}
	d.wanted = make(map[wgtypes.Key]Peer, len(c.Peers))
	for _, p := range c.Peers {
		d.wanted[p.PublicKey] = p
	}
	if err := d.setLink(c); err != nil {
		return err
	}
	if d.local != nil {
		// The interface coming up opens the sockets too, but later, and its
		// failure would only be a line in the log.
		if err := d.local.Up(); err != nil {
			return busy(err, c.ListenPort)
		}
	}
	if d.raw != nil {
		if err := d.raw.set(c.ListenPort, c.FwMark); err != nil {
			return err
		}
	}
	strange, err := d.setRoutes(c)
	err = errors.Join(err, d.setFrames(c), d.setNarrow(c))
	d.setSingle(c)
	for _, call := range remove {
		err = errors.Join(err, d.configureLocked(call))
	}
	for _, call := range remove {
		for _, p := range call.Peers {
			delete(d.known, p.PublicKey)
		}
	}
	for _, p := range strange {
		err = errors.Join(err, missingOK(d.links.DelAddr(d.name, p)))
	}
	return err
}

// setLink sees to the interface itself: MTU, IPv6, address, up.
func (d *Device) setLink(c Config) error {
	l, err := d.links.Link(d.name)
	if err != nil {
		return err
	}
	if l.MTU != c.MTU {
		if err := d.links.SetMTU(d.name, c.MTU); err != nil {
			return err
		}
		d.didLocked("mtu of %s was %d", d.name, l.MTU)
	}
	if err := d.setSysctls(); err != nil {
		return err
	}
	addrs, err := d.links.Addrs(d.name)
	if err != nil {
		return err
	}
	own := netip.PrefixFrom(c.Address, 128)
	there := slices.Contains(addrs, own)
	if !there {
		if err := d.links.AddAddr(d.name, own, true); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		d.didLocked("address %s was missing from %s", own, d.name)
	}
	if !l.Up {
		if err := d.links.SetUp(d.name, true); err != nil {
			return busy(err, c.ListenPort)
		}
		d.didLocked("%s was down", d.name)
	}
	if there && l.Up || d.usable == nil {
		return nil
	}
	return d.usable(c.Address)
}

// waitUsable waits until packets reach an address of this host: also without
// duplicate detection the kernel adds the route that takes them only a moment
// after the address, and what comes before is lost. It sends itself one, and
// does not insist, since a firewall may forbid that.
func waitUsable(a netip.Addr) error {
	c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: a.AsSlice()})
	if err != nil {
		return fmt.Errorf("address %s is not usable: %w", a, err)
	}
	for range 100 {
		var b [1]byte
		_, err := c.WriteTo(b[:], c.LocalAddr())
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, err = c.Read(b[:])
		}
		if err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return c.Close()
}

// setSysctls turns IPv6 on for this interface alone, where it is off. The
// interface has no use for the link-local address that a TUN device makes.
func (d *Device) setSysctls() error {
	conf := "net/ipv6/conf/" + d.name + "/"
	if err := missingOK(d.setSysctl(conf+"addr_gen_mode", "1")); err != nil {
		return err
	}
	err := d.setSysctl(conf+"disable_ipv6", "0")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("this kernel has no IPv6 (ipv6.disable=1?), which the overlay needs: %w", err)
	}
	return err
}

func (d *Device) setSysctl(key, value string) error {
	is, err := d.links.Sysctl(key)
	if err == nil && is != value {
		err = d.links.SetSysctl(key, value)
	}
	return err
}

// hop is where all our routes lead. There is nobody at that address, and nobody
// is asked for it: the peer is found by the packet's destination. But the kernel
// keeps a neighbour for each next hop, of IPv6 also where there are no
// neighbours, 1,024 on the whole machine if nobody allows more; without a common
// hop each peer would be one.
func hop() netip.Addr { return netip.MustParseAddr("fe80::1") }

// setRoutes gives each peer a route with its MTU and removes others; it
// returns the addresses that should not be there, to be removed later.
func (d *Device) setRoutes(c Config) (strange []netip.Prefix, err error) {
	routes, err := d.links.Routes(0)
	if err != nil {
		return nil, err
	}
	is := make(map[netip.Prefix]kernel.Route)
	var others []kernel.Route
	want := make(map[netip.Prefix]bool, len(c.Peers))
	for _, p := range c.Peers {
		want[netip.PrefixFrom(p.Overlay, 128)] = true
	}
	for _, r := range routes {
		switch {
		case r.Link != d.name || r.Proto == protoKernel:
		case want[r.Dst] && (r.Via == hop() || !r.Via.IsValid()):
			is[r.Dst] = r
		default:
			others = append(others, r)
		}
	}
	for _, p := range c.Peers {
		r := kernel.Route{Dst: netip.PrefixFrom(p.Overlay, 128), Via: hop(), Link: d.name, MTU: c.routeMTU(p)}
		if old, ok := is[r.Dst]; ok && old.MTU == r.MTU && old.Via == r.Via {
			continue
		}
		if rerr := d.links.ReplaceRoute(r); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		d.didLocked("the route to %s was missing from %s", p.Overlay, d.name)
	}
	for _, r := range others {
		err = errors.Join(err, missingOK(d.links.DelRoute(r)))
	}
	addrs, aerr := d.links.Addrs(d.name)
	for _, p := range addrs {
		if p != netip.PrefixFrom(c.Address, 128) {
			strange = append(strange, p)
		}
	}
	return strange, errors.Join(err, aerr)
}

// routeMTU is that of the route that gossip takes: what fits the device, the
// peer, and the path as well.
func (c Config) routeMTU(p Peer) int {
	if told, narrow := c.told(p); narrow {
		return max(MinMTU, told)
	}
	if p.MTU == 0 {
		return 0
	}
	return c.wide(p)
}

// readLocked reads the device and notes what it says of each peer.
func (d *Device) readLocked() (*wgtypes.Device, error) {
	is, err := d.wg.Device(d.name)
	if err != nil {
		return nil, fmt.Errorf("read device: %w", err)
	}
	d.noteLocked(is, time.Now())
	return is, nil
}

func (d *Device) configureLocked(c wgtypes.Config) error {
	if err := d.wg.ConfigureDevice(d.name, c); err != nil {
		return fmt.Errorf("configure device: %w", err)
	}
	return nil
}

// busy makes the commonest failure readable. The UAPI socket tells errors by
// number only.
func busy(err error, port uint16) error {
	if errors.Is(err, unix.EADDRINUSE) || strings.Contains(err.Error(), fmt.Sprintf("errno=-%d", unix.EADDRINUSE)) {
		return fmt.Errorf("UDP port %d is taken by another program: %w", port, err)
	}
	return err
}

func missingOK(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// port is one end of a host's link: the one on the network's bridge.
type port struct {
	Name    string // in the switch namespace
	Host    string
	Guest   string // in the host
	Network string
	Link    Link
}

// bridgeName and portName give the interfaces in the switch namespace; names of
// hosts and networks may be too long for that.
func bridgeName(network int) string { return fmt.Sprintf("n%d", network) }

func portName(host, link int) string { return fmt.Sprintf("p%d-%d", host, link) }

// ports lists every port that t asks for.
func (t Topology) ports() []port {
	var out []port
	for i, h := range t.Hosts {
		for j, l := range h.Links {
			out = append(out, port{
				Name: portName(i, j), Host: h.Name, Guest: fmt.Sprintf("eth%d", j), Network: l.Network, Link: l,
			})
		}
	}
	return out
}

func (l *Lab) ports() []port {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.topology.ports()
}

// addBridges makes the networks.
func (l *Lab) addBridges() error {
	off := false
	for i, n := range l.topology.Networks {
		a := netlink.NewLinkAttrs()
		a.Name, a.MTU, a.Alias = bridgeName(i), n.MTU, n.Name
		br := &netlink.Bridge{LinkAttrs: a, MulticastSnooping: &off}
		if err := l.sw.nl.LinkAdd(br); err != nil {
			return fmt.Errorf("network %s: add bridge: %w", n.Name, err)
		}
		if err := l.sw.nl.LinkSetUp(br); err != nil {
			return fmt.Errorf("network %s: set bridge up: %w", n.Name, err)
		}
	}
	return nil
}

func (l *Lab) bridge(network string) (netlink.Link, int, error) {
	for i, n := range l.topology.Networks {
		if n.Name == network {
			br, err := l.sw.nl.LinkByName(bridgeName(i))
			return br, n.MTU, err
		}
	}
	return nil, 0, fmt.Errorf("there is no network %q", network)
}

// plug connects a host to its networks and gives it addresses and routes.
func (l *Lab) plug(h *Host) error {
	if err := setUp(h.nl, "lo"); err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	for _, p := range l.ports() {
		if p.Host != h.name {
			continue
		}
		if err := l.plugPort(h, p); err != nil {
			return fmt.Errorf("host %s: %s on %s: %w", h.name, p.Guest, p.Network, err)
		}
	}
	if err := h.awaitCarrier(); err != nil {
		return err
	}
	for _, gw := range l.topology.gateways(h.spec) {
		if err := h.nl.RouteAdd(&netlink.Route{Gw: gw.AsSlice(), Dst: nil}); err != nil {
			return fmt.Errorf("host %s: default route via %s: %w", h.name, gw, err)
		}
	}
	return nil
}

func (l *Lab) plugPort(h *Host, p port) error {
	br, mtu, err := l.bridge(p.Network)
	if err != nil {
		return err
	}
	l.unplugPort(p)
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU, a.Alias = p.Name, mtu, p.Host+" on "+p.Network
	a.MasterIndex = br.Attrs().Index
	v := &netlink.Veth{LinkAttrs: a, PeerName: p.Guest, PeerNamespace: netlink.NsPid(h.pid), PeerMTU: uint32(mtu)}
	if err := l.sw.nl.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	if err := setUp(l.sw.nl, p.Name); err != nil {
		return err
	}
	guest, err := h.nl.LinkByName(p.Guest)
	if err != nil {
		return fmt.Errorf("look for the new link: %w", err)
	}
	// Networks of a lab have no duplicates; waiting for the proof takes seconds.
	err = h.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/"+p.Guest+"/accept_dad", []byte("0"), 0) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, addr := range p.Link.Addresses {
		na, err := netlink.ParseAddr(addr.String())
		if err != nil {
			return err
		}
		if addr.Addr().Is6() {
			na.Flags = unix.IFA_F_NODAD
		}
		err = h.nl.AddrAdd(guest, na)
		if addr.Addr().Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP)) {
			continue // IPv6 is switched off by the host's sysctls, or not in the kernel
		}
		if err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
	}
	if err := h.nl.LinkSetUp(guest); err != nil {
		return err
	}
	return l.shapePort(p)
}

// awaitCarrier waits until every link of the host carries: the kernel finds that
// out by itself, a little later.
func (h *Host) awaitCarrier() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		links, err := h.nl.LinkList()
		if err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
		down := ""
		for _, l := range links {
			if l.Type() == "veth" && l.Attrs().OperState != netlink.OperUp {
				down = l.Attrs().Name
			}
		}
		if down == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("host %s: %s gets no carrier", h.name, down)
		}
	}
}

// unplugPort takes the cable out, so that nothing that dies afterwards can say
// so to its peers.
func (l *Lab) unplugPort(p port) {
	if old, err := l.sw.nl.LinkByName(p.Name); err == nil {
		_ = l.sw.nl.LinkDel(old)
	}
}

func setUp(nl *netlink.Handle, name string) error {
	link, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// ErrUnavailable says that this kernel cannot do what was asked.
var ErrUnavailable = errors.New("not available in this kernel")

// SetShape limits what the network sends to a host from now on. A delay needs
// netem; without it the error wraps [ErrUnavailable] and nothing changes.
func (l *Lab) SetShape(host, network string, s Shape) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, h := range l.topology.Hosts {
		for j, link := range h.Links {
			if h.Name != host || link.Network != network {
				continue
			}
			former := link.Shape
			l.topology.Hosts[i].Links[j].Shape = s
			for _, p := range l.topology.ports() {
				if p.Name != portName(i, j) {
					continue
				}
				if err := l.shapePort(p); err != nil {
					l.topology.Hosts[i].Links[j].Shape = former
					return err
				}
			}
			return l.save()
		}
	}
	return fmt.Errorf("host %s is not on network %q", host, network)
}

// shapePort replaces the queueing of a port: netem for the delay, below it a
// token bucket for the rate.
func (l *Lab) shapePort(p port) error {
	link, err := l.sw.nl.LinkByName(p.Name)
	if err != nil {
		return fmt.Errorf("shape %s on %s: %w", p.Host, p.Network, err)
	}
	attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	s := p.Link.Shape
	old, err := l.sw.nl.QdiscList(link)
	if err != nil {
		return fmt.Errorf("shape %s on %s: %w", p.Host, p.Network, err)
	}
	var q []netlink.Qdisc
	if s.Delay > 0 {
		q = append(q, netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Latency: uint32(s.Delay.Microseconds()), Limit: 100000}))
		attrs.Parent, attrs.Handle = netlink.MakeHandle(1, 1), netlink.MakeHandle(2, 0)
	}
	if s.RateKbit > 0 {
		bytes := s.RateKbit * 1000 / 8
		// A bucket must hold at least one 64 kB super-frame.
		q = append(q, &netlink.Tbf{
			QdiscAttrs: attrs, Rate: bytes, Buffer: netlink.Xmittime(bytes, 128<<10), Limit: uint32(max(bytes/10, 256<<10)),
		})
	}
	for _, o := range old {
		if o.Attrs().Parent == netlink.HANDLE_ROOT && (o.Type() == "netem" || o.Type() == "tbf") {
			if err := l.sw.nl.QdiscDel(o); err != nil {
				return fmt.Errorf("shape %s on %s: %w", p.Host, p.Network, err)
			}
		}
	}
	for _, d := range q {
		err := l.sw.nl.QdiscAdd(d)
		if d.Type() == "netem" && errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delay %s on %s: netem is %w", p.Host, p.Network, ErrUnavailable)
		}
		if err != nil {
			return fmt.Errorf("shape %s on %s: add %s: %w", p.Host, p.Network, d.Type(), err)
		}
	}
	return nil
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
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
		for j := range h.Links {
			out = append(out, portOf(i, j, h))
		}
	}
	return out
}

// portOf is the port of the j-th link of the i-th host.
func portOf(i, j int, h HostSpec) port {
	l := h.Links[j]
	return port{Name: portName(i, j), Host: h.Name, Guest: fmt.Sprintf("eth%d", j), Network: l.Network, Link: l}
}

func (l *Lab) ports() []port { return l.Topology().ports() }

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

func (l *Lab) bridge(network string) (netlink.Link, Network, error) {
	for i, n := range l.Topology().Networks {
		if n.Name == network {
			br, err := l.sw.nl.LinkByName(bridgeName(i))
			return br, n, err
		}
	}
	return nil, Network{}, fmt.Errorf("there is no network %q", network)
}

// plug connects a host to its networks and gives it addresses and routes.
func (l *Lab) plug(ctx context.Context, h *Host) error {
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
	if err := h.setRoutes(l.Topology()); err != nil {
		return err
	}
	h.edged = false
	return h.applyEdge(ctx, h.Spec())
}

func (l *Lab) plugPort(h *Host, p port) error {
	br, n, err := l.bridge(p.Network)
	if err != nil {
		return err
	}
	l.unplugPort(p)
	mtu := p.Link.mtu(n)
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
	if err := h.setAddresses(guest, p.Link.Addresses); err != nil {
		return err
	}
	if err := h.nl.LinkSetUp(guest); err != nil {
		return err
	}
	if spec := h.Spec(); spec.MaxUDP > 0 {
		// What it forwards is measured packet by packet, not by super-frame.
		if err := l.wholePackets(p); err != nil {
			return err
		}
	}
	return l.shapePort(p)
}

// awaitCarrier waits until every link of the host carries: the kernel finds that
// out by itself, a little later.
func (h *Host) awaitCarrier() error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
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

// wholePackets makes the network hand single packets to a port: otherwise up to
// 64 kB of a flow travel as one until somebody has to cut them.
func (l *Lab) wholePackets(p port) error {
	link, err := l.sw.nl.LinkByName(p.Name)
	if err == nil {
		err = l.sw.nl.LinkSetGSOMaxSegs(link, 1)
	}
	if err != nil {
		return fmt.Errorf("%s on %s: single packets: %w", p.Host, p.Network, err)
	}
	return nil
}

// unplugPort takes the cable out, so that nothing that dies afterwards can say
// so to its peers.
func (l *Lab) unplugPort(p port) {
	_ = l.release(p.Name)
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

// SetShape limits what the network sends to a host from now on. Where a delay is
// not possible the error wraps [ErrUnavailable] and nothing changes.
func (l *Lab) SetShape(host, network string, s Shape) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, j, err := l.link(host, network)
	if err != nil {
		return err
	}
	spec := l.topology.Hosts[i]
	spec.Links = slices.Clone(spec.Links)
	spec.Links[j].Shape = s
	if err := l.shapePort(portOf(i, j, spec)); err != nil {
		return err
	}
	l.setSpec(i, spec)
	return l.save()
}

// link finds a host and its link to a network; l.mu is held.
func (l *Lab) link(host, network string) (i, j int, err error) {
	i = slices.IndexFunc(l.topology.Hosts, func(h HostSpec) bool { return h.Name == host })
	if i < 0 {
		return 0, 0, fmt.Errorf("there is no host %q", host)
	}
	j = slices.IndexFunc(l.topology.Hosts[i].Links, func(k Link) bool { return k.Network == network })
	if j < 0 {
		return 0, 0, fmt.Errorf("host %s is not on network %q", host, network)
	}
	return i, j, nil
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
	if err := l.delay(p, 0); err != nil {
		return err
	}
	for i, d := range q {
		err := l.sw.nl.QdiscAdd(d)
		if d.Type() == "netem" && errors.Is(err, os.ErrNotExist) {
			if err := l.delay(p, s.Delay); err != nil {
				return err
			}
			if i+1 < len(q) {
				*q[i+1].Attrs() = netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("shape %s on %s: add %s: %w", p.Host, p.Network, d.Type(), err)
		}
	}
	return nil
}

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Edge says what a host lets pass between what is outside and what is inside:
// of a router the networks behind it, of any other host the host itself. The
// zero value lets everything pass.
type Edge struct {
	// Outside names the network outside; empty: that of the host's first link.
	Outside string `json:"outside,omitempty" yaml:"outside,omitempty"`
	// NAT hides what is inside behind the router's own address; nil: nothing is
	// hidden.
	NAT *NAT `json:"nat,omitempty" yaml:"nat,omitempty"`
	// Firewall lets packets in only when they answer some that went out.
	Firewall bool `json:"firewall,omitempty" yaml:"firewall,omitempty"`
	// HideMTU makes the host lose every ICMP message, its own too, that says
	// that a packet was too big.
	HideMTU bool `json:"hide_mtu,omitempty" yaml:"hide_mtu,omitempty"`
	// MaxUDP is the size in bytes, IP header included, of the longest UDP packet
	// that a router forwards; longer ones are lost in silence. 0: any.
	MaxUDP int `json:"max_udp,omitempty" yaml:"max_udp,omitempty"`
}

// NAT is how a router translates. Whatever it is, only packets from an address
// and port that something went to come back in.
type NAT struct {
	Mapping     Mapping     `json:"mapping,omitempty" yaml:"mapping,omitempty"`
	Unsolicited Unsolicited `json:"unsolicited,omitempty" yaml:"unsolicited,omitempty"`
	// Ports gives single UDP ports of the inside another one outside, the same
	// for all destinations; for the others Mapping holds.
	Ports map[uint16]uint16 `json:"ports,omitempty" yaml:"ports,omitempty"`
}

// Mapping is how a NAT chooses the outer port of a flow.
type Mapping string

// The mappings of NATs.
const (
	// PortPreserving keeps the inner port while no other flow has it, so that
	// all destinations see the same: the kind that can be punched. The default.
	PortPreserving Mapping = "port-preserving"
	// RandomPort draws a port for each destination, as a symmetric NAT does.
	RandomPort Mapping = "random"
)

// Unsolicited is what a NAT does with packets from outside that it has no
// mapping for.
type Unsolicited string

// The answers of NATs to strangers.
const (
	// Drop forgets them. The default.
	Drop Unsolicited = "drop"
	// Answer says that nobody listens at the port, and remembers the flow: an
	// inner host that sends the other way afterwards gets another outer port.
	// Linux does that unless its administrator has forbidden it.
	Answer Unsolicited = "answer"
)

// check says what is wrong with an edge of that host.
func (e Edge) check(h HostSpec) error {
	if e.Outside != "" && !slices.ContainsFunc(h.Links, func(l Link) bool { return l.Network == e.Outside }) {
		return fmt.Errorf("its outside %q is none of its networks", e.Outside)
	}
	if e != (Edge{}) && len(h.Links) == 0 {
		return errors.New("it has an edge, and no link")
	}
	if !h.Forward && (e.NAT != nil || e.MaxUDP != 0) {
		return errors.New("only a router translates or drops what it forwards: forward is missing")
	}
	if e.MaxUDP < 0 {
		return fmt.Errorf("it cannot forward %d bytes at most", e.MaxUDP)
	}
	if e.NAT == nil {
		return nil
	}
	if m := e.NAT.Mapping; m != "" && m != PortPreserving && m != RandomPort {
		return fmt.Errorf("NAT mapping %q: want %s or %s", m, PortPreserving, RandomPort)
	}
	if u := e.NAT.Unsolicited; u != "" && u != Drop && u != Answer {
		return fmt.Errorf("NAT, unsolicited %q: want %s or %s", u, Drop, Answer)
	}
	return nil
}

// SetEdge changes what a running host lets pass. Whenever it is called, the host
// forgets every flow and every mapping, as a router does that is restarted.
func (l *Lab) SetEdge(ctx context.Context, host string, e Edge) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.topology.Hosts, func(s HostSpec) bool { return s.Name == host })
	if i < 0 {
		return fmt.Errorf("there is no host %q", host)
	}
	spec := l.topology.Hosts[i]
	spec.Edge = e
	if err := e.check(spec); err != nil {
		return fmt.Errorf("host %s: %w", host, err)
	}
	if h := l.hosts[host]; h.pid > 0 {
		if err := h.applyEdge(ctx, spec); err != nil {
			return err
		}
		for j := range spec.Links {
			if e.MaxUDP > 0 {
				if err := l.wholePackets(portOf(i, j, spec)); err != nil {
					return err
				}
			}
		}
	}
	l.setSpec(i, spec)
	return l.save()
}

// setSpec replaces the specification of a host; l.mu is held.
func (l *Lab) setSpec(i int, spec HostSpec) {
	l.topology.Hosts = slices.Clone(l.topology.Hosts)
	l.topology.Hosts[i] = spec
	l.hosts[spec.Name].spec.Store(&spec)
}

// applyEdge makes the rules of a running host those of spec.
func (h *Host) applyEdge(ctx context.Context, spec HostSpec) error {
	text := spec.edgeRules()
	if text == "" && !h.edged {
		return nil // nft is needed only by those who want it
	}
	const none = "table inet lab\ndelete table inet lab\n"
	if r := h.RunInput(ctx, none+text, "nft", "-f", "-"); r.Err != nil {
		return fmt.Errorf("set the edge of %s: %w", h.name, r.Err)
	}
	h.edged = true
	err := h.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("forget the flows of %s: %w", h.name, err)
	}
	return nil
}

// outsideNetwork returns the network that is outside of a host with links.
func (h HostSpec) outsideNetwork() string { return cmp.Or(h.Outside, h.Links[0].Network) }

// outside returns the host's interface there.
func (h HostSpec) outside() string {
	i := slices.IndexFunc(h.Links, func(l Link) bool { return l.Network == h.outsideNetwork() })
	return fmt.Sprintf("eth%d", i)
}

// edgeRules renders the table that makes the edge; "" when it lets all pass.
func (h HostSpec) edgeRules() string {
	var input, output, forward, nat []string
	if h.NAT != nil || h.Firewall {
		in := fmt.Sprintf("iifname %q ct state new ", h.outside())
		if h.Firewall && !h.Forward {
			in = `iifname "eth*" ct state new `
		}
		verdict := "drop"
		if h.NAT != nil && h.NAT.Unsolicited == Answer {
			verdict = "reject"
		} else {
			// Before it is confirmed: a flow that is dropped here takes no port.
			input = append(input, in+verdict)
		}
		forward = append(forward, in+verdict)
	}
	if h.NAT != nil {
		nat = h.NAT.rules(h.outside())
	}
	if h.MaxUDP > 0 {
		// By the headers of each piece, not of what they are put together to.
		forward = append(forward,
			fmt.Sprintf("ip protocol udp meta length > %d drop", h.MaxUDP),
			fmt.Sprintf("meta nfproto ipv6 meta l4proto udp meta length > %d drop", h.MaxUDP))
	}
	if h.HideMTU {
		hide := []string{"icmp type destination-unreachable icmp code frag-needed drop", "icmpv6 type packet-too-big drop"}
		forward, output = append(forward, hide...), append(output, hide...)
	}
	var b strings.Builder
	for _, c := range []struct {
		name, kind string
		rules      []string
	}{
		{"inputs", "filter hook input priority 10", input},
		{"outputs", "filter hook output priority 10", output},
		{"forwards", "filter hook forward priority 10", forward},
		{"translates", "nat hook postrouting priority 100", nat},
	} {
		if len(c.rules) > 0 {
			fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s; policy accept;\n\t\t%s\n\t}\n", c.name, c.kind, strings.Join(c.rules, "\n\t\t"))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "table inet lab {\n" + b.String() + "}\n"
}

// rules renders the translation of what leaves by an interface.
func (n NAT) rules(outside string) []string {
	out := fmt.Sprintf("oifname %q ", outside)
	var list []string
	for _, p := range slices.Sorted(maps.Keys(n.Ports)) {
		list = append(list, fmt.Sprintf("%sudp sport %d masquerade to :%d", out, p, n.Ports[p]))
	}
	if n.Mapping == RandomPort {
		return append(list, out+"masquerade fully-random")
	}
	return append(list, out+"masquerade")
}

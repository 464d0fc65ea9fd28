package lab

import (
	"cmp"
	"fmt"
	"strings"
)

// Line is what a drawing shows from one host to another, besides who reaches
// whom.
type Line struct{ From, To, Text string }

// Draw describes the lab for people, in Markdown with diagrams that code hosting
// sites and editors show as pictures: the wires with what is wrong with them, and
// who reaches whom by them, along with the lines.
func (l *Lab) Draw(title string, lines ...Line) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return draw(l.topology, l.faults, title, lines)
}

func draw(t Topology, faults []Fault, title string, lines []Line) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nThe wires:\n\n```mermaid\nflowchart LR\n", title)
	drawWires(&b, t)
	drawFaults(&b, faults)
	b.WriteString("```\n\nWho reaches whom without help (thin), and what else is told (thick):\n\n```mermaid\nflowchart LR\n")
	drawReach(&b, t, faults)
	for _, x := range lines {
		fmt.Fprintf(&b, "  %s == %q ==> %s\n", node(x.From), x.Text, node(x.To))
	}
	b.WriteString("```\n\n```text\n" + reachTable(t, faults))
	for _, x := range lines {
		fmt.Fprintf(&b, "%-14s -> %-14s %s\n", x.From, x.To, x.Text)
	}
	b.WriteString("```\n")
	return b.String()
}

// node is the name of a host in a diagram, where a dash would mean a line.
func node(name string) string { return "h_" + strings.ReplaceAll(name, "-", "_") }

func drawWires(b *strings.Builder, t Topology) {
	net := func(name string) string { return "n_" + strings.ReplaceAll(name, "-", "_") }
	for _, n := range t.Networks {
		text := []string{n.Name}
		for _, s := range n.Subnets {
			text = append(text, s.String())
		}
		if n.MTU != 1500 && n.MTU != 0 {
			text = append(text, fmt.Sprintf("MTU %d", n.MTU))
		}
		fmt.Fprintf(b, "  %s([%q])\n", net(n.Name), strings.Join(text, "<br/>"))
	}
	for _, h := range t.Hosts {
		fmt.Fprintf(b, "  %s[%q]\n", node(h.Name), h.Name+h.traits())
		for _, k := range h.Links {
			var text []string
			for _, a := range k.Addresses {
				text = append(text, a.Addr().String())
			}
			fmt.Fprintf(b, "  %s --- %s\n", node(h.Name), net(k.Network))
			if len(text) > 0 {
				fmt.Fprintf(b, "  %%%% %s on %s: %s\n", h.Name, k.Network, strings.Join(text, " "))
			}
		}
	}
}

// manyFaults are too many to see anything in a picture; the table has them.
const manyFaults = 24

func drawFaults(b *strings.Builder, faults []Fault) {
	if len(faults) > manyFaults {
		fmt.Fprintf(b, "  faults[\"%d faults\"]\n", len(faults))
		return
	}
	who := func(name string) string {
		if name == "" {
			return "anybody"
		}
		return node(name)
	}
	for _, f := range faults {
		text := fmt.Sprintf("%g %% lost", f.Percent)
		if f.Network != "" {
			text += " on " + f.Network
		}
		fmt.Fprintf(b, "  %s -. %q .-x %s\n", who(f.From), text, who(f.To))
	}
}

// drawReach draws a line between hosts that reach each other, an arrow where it
// is one way only.
func drawReach(b *strings.Builder, t Topology, faults []Fault) {
	hosts := t.ends()
	for i, x := range hosts {
		fmt.Fprintf(b, "  %s[%q]\n", node(x), x)
		for _, y := range hosts[:i] {
			there, _ := t.Reaches(faults, x, y)
			back, _ := t.Reaches(faults, y, x)
			switch {
			case there && back:
				fmt.Fprintf(b, "  %s --- %s\n", node(y), node(x))
			case there:
				fmt.Fprintf(b, "  %s --> %s\n", node(x), node(y))
			case back:
				fmt.Fprintf(b, "  %s --> %s\n", node(y), node(x))
			}
		}
	}
}

// ends lists the hosts that are no routers.
func (t Topology) ends() []string {
	var out []string
	for _, h := range t.Hosts {
		if !h.Forward {
			out = append(out, h.Name)
		}
	}
	return out
}

// reachTable says who reaches whom, and how or why not.
func reachTable(t Topology, faults []Fault) string {
	var b strings.Builder
	for _, from := range t.ends() {
		var yes, no []string
		for _, to := range t.ends() {
			if from == to {
				continue
			}
			ok, why := t.Reaches(faults, from, to)
			if text := to + " (" + why + ")"; ok {
				yes = append(yes, text)
			} else {
				no = append(no, text)
			}
		}
		fmt.Fprintf(&b, "%-14s reaches %s; not %s\n", from, cmp.Or(strings.Join(yes, ", "), "nobody"), cmp.Or(strings.Join(no, ", "), "anybody"))
	}
	return b.String()
}

// traits says in a drawing what is special about a host.
func (h HostSpec) traits() string {
	var out string
	add := func(format string, args ...any) { out += "<br/>" + fmt.Sprintf(format, args...) }
	switch {
	case h.NAT != nil:
		add("NAT, %s, %s unsolicited", cmp.Or(h.NAT.Mapping, PortPreserving), cmp.Or(h.NAT.Unsolicited, Drop))
	case h.Forward:
		add("router")
	}
	if h.Firewall {
		add("firewall")
	}
	if h.HideMTU {
		add("hides packet-too-big")
	}
	if h.MaxUDP > 0 {
		add("no UDP above %d bytes", h.MaxUDP)
	}
	return out
}

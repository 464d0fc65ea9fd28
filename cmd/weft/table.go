package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/router/api"
)

// section is one view of a status: a value for JSON and a table for people and
// for scripts that cut columns out of it.
type section func(api.Status) (value any, table []byte)

func sectionOf(name string) section {
	switch name {
	case "targets":
		return targetsStatus
	case "connections":
		return connectionsStatus
	case "peers":
		return peersStatus
	case "dns":
		return dnsStatus
	case "ipam":
		return ipamStatus
	}
	return nil
}

// sortStatus orders connections by nickname, then name; what has neither comes
// last, by address. Owners of addresses are ordered the same way, ourselves
// first.
func sortStatus(s *api.Status) {
	if s.IPAM != nil {
		s.IPAM = sortIPAM(s.IPAM)
	}
	s.Connections = slices.Clone(s.Connections)
	slices.SortStableFunc(s.Connections, func(a, b api.Connection) int {
		if (a.Name == "") != (b.Name == "") {
			return cmp.Compare(b.Name, a.Name)
		}
		return cmp.Or(cmp.Compare(a.Nickname, b.Nickname), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
}

func wholeStatus(s api.Status) (any, []byte) {
	var b sheet
	subnets := make([]string, 0, len(s.TrustedSubnets))
	for _, p := range s.TrustedSubnets {
		subnets = append(subnets, p.String())
	}
	b.gap()
	b.line("Version", "%s", s.Version)
	b.gap()
	b.line("Service", "router")
	b.line("Protocol", "%s", s.Protocol)
	b.line("Name", "%s(%s)", s.Name, s.Nickname)
	b.line("Encryption", "enabled")
	b.line("Datapath", "%s", s.Datapath)
	b.line("PeerDiscovery", "%s", enabled(s.PeerDiscovery))
	b.line("Targets", "%d", len(s.Targets))
	b.line("Connections", "%s", connectionCounts(s.Connections))
	b.line("Peers", "%s", peerCounts(s.Peers))
	b.line("TrustedSubnets", "%s", listed(subnets))
	if s.IPAM != nil {
		b.gap()
		b.line("Service", "ipam")
		b.line("Status", "%s", s.IPAM.State)
		b.line("Range", "%s", s.IPAM.Range)
		b.line("DefaultSubnet", "%s", s.IPAM.DefaultSubnet)
	}
	if s.DNS != nil {
		b.gap()
		b.line("Service", "dns")
		b.line("Domain", "%s", s.DNS.Domain)
		b.line("Upstream", "%s", listed(s.DNS.Upstream))
		b.line("TTL", "%d", s.DNS.TTL)
		b.line("Entries", "%d", len(liveEntries(s.DNS)))
	}
	b.gap()
	return s, b.Bytes()
}

// sheet is text in the form of `weft status`: values behind labels of one width.
type sheet struct{ bytes.Buffer }

func (b *sheet) line(label, format string, a ...any) {
	fmt.Fprintf(b, "%15s: %s\n", label, fmt.Sprintf(format, a...))
}

// rows puts several values below each other; none is said.
func (b *sheet) rows(label string, rows []string) {
	if len(rows) == 0 {
		rows = []string{"none"}
	}
	b.line(label, "%s", rows[0])
	for _, r := range rows[1:] {
		fmt.Fprintf(b, "%17s%s\n", "", r)
	}
}

// gap ends a section.
func (b *sheet) gap() { b.WriteByte('\n') }

func enabled(b bool) string {
	if b {
		return "enabled"
	}
	return "disabled"
}

func listed(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// counts prints how many of states are in each of words, without zeros.
func counts(states []api.State, words ...api.State) string {
	var parts []string
	for _, w := range words {
		n := 0
		for _, s := range states {
			if s == w {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, w))
		}
	}
	return strings.Join(parts, ", ")
}

func connectionCounts(list []api.Connection) string {
	states := make([]api.State, 0, len(list))
	for _, c := range list {
		states = append(states, c.State)
	}
	text := counts(states, api.Established, api.Pending, api.Retrying, api.Failed, api.Connecting, api.Relayed)
	if text == "" {
		return fmt.Sprint(len(list))
	}
	return fmt.Sprintf("%d (%s)", len(list), text)
}

func peerCounts(list []api.Peer) string {
	var states []api.State
	for _, p := range list {
		for _, c := range p.Connections {
			states = append(states, peerState(c.State))
		}
	}
	text := counts(states, api.Established, api.Pending, api.Relayed)
	if text == "" {
		return fmt.Sprint(len(list))
	}
	return fmt.Sprintf("%d (with %s connections)", len(list), text)
}

// peerState leaves the three words that are said of another peer's connection.
func peerState(s api.State) api.State {
	if s.Carries() {
		return s
	}
	return api.Pending
}

func targetsStatus(s api.Status) (any, []byte) {
	var b bytes.Buffer
	for _, t := range s.Targets {
		fmt.Fprintln(&b, t)
	}
	return orEmpty(s.Targets), b.Bytes()
}

func connectionsStatus(s api.Status) (any, []byte) {
	var b bytes.Buffer
	for _, c := range s.Connections {
		row(&b, "%s %-21v %-11v %s", direction(c.Outbound, c.State), c.Address, c.State, connectionInfo(c))
	}
	return orEmpty(s.Connections), b.Bytes()
}

func direction(outbound bool, s api.State) string {
	switch {
	case s == api.Relayed:
		return "~>"
	case outbound:
		return "->"
	}
	return "<-"
}

// connectionInfo is the last column: why there is no connection, or what it is
// like.
func connectionInfo(c api.Connection) string {
	if !c.State.Carries() && (c.Info != "" || c.Name == "") {
		return c.Info
	}
	encryption := "unencrypted"
	if c.Encrypted {
		encryption = "encrypted"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-11v %-9v %s(%s)", encryption, c.Datapath, c.Name, c.Nickname)
	if !c.State.Carries() {
		return b.String()
	}
	if c.MTU > 0 {
		fmt.Fprintf(&b, " mtu=%d", c.MTU)
	}
	if c.RTT > 0 {
		fmt.Fprintf(&b, " rtt=%s", milliseconds(c.RTT))
	}
	if c.State == api.Relayed && len(c.Via) > 0 {
		fmt.Fprintf(&b, " via=%s", strings.Join(c.Via, ","))
	}
	return b.String()
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
}

func peersStatus(s api.Status) (any, []byte) {
	var b bytes.Buffer
	for _, p := range s.Peers {
		fmt.Fprintf(&b, "%s(%s)\n", p.Name, p.Nickname)
		for _, c := range p.Connections {
			row(&b, "   %s %-21v %-37v %s", direction(c.Outbound, c.State), c.Address,
				fullName(c.Name, c.Nickname), peerState(c.State))
		}
	}
	return orEmpty(s.Peers), b.Bytes()
}

func dnsStatus(s api.Status) (any, []byte) {
	if s.DNS == nil {
		return []api.NameEntry{}, nil
	}
	var b bytes.Buffer
	live := liveEntries(s.DNS)
	for _, e := range live {
		name := strings.TrimSuffix(e.Hostname, "."+s.DNS.Domain)
		fmt.Fprintf(&b, "%-12v %-15v %12.12v %s\n", name, e.Address, e.ContainerID, e.Origin)
	}
	return live, b.Bytes()
}

func liveEntries(d *api.DNS) []api.NameEntry {
	return orEmpty(slices.DeleteFunc(slices.Clone(d.Entries), func(e api.NameEntry) bool { return e.Tombstone }))
}

// row writes one line whose last column may be empty.
func row(b *bytes.Buffer, format string, a ...any) {
	b.WriteString(strings.TrimRight(fmt.Sprintf(format, a...), " ") + "\n")
}

func psTable(list []api.Attachment) []byte {
	var b bytes.Buffer
	for _, a := range list {
		words := []string{a.Container, a.MAC}
		for _, p := range a.Addresses {
			words = append(words, p.String())
		}
		fmt.Fprintln(&b, strings.Join(words, " "))
	}
	return b.Bytes()
}

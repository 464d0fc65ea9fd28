package doctor

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/fdb"
)

// What is worth a word.
const (
	// maxSkew is how far clocks may differ. weft itself does not mind; logs
	// cannot be compared any more, and TLS of others fails with more.
	maxSkew = 2 * time.Second
	// badSkew is when certificates and tokens of others begin to fail.
	badSkew = 5 * time.Minute
)

// checkIdentity finds a cloned host.
func checkIdentity(f *findings, s api.Status) {
	for _, w := range s.Warnings {
		switch {
		case cloned(w):
			f.clone("", w)
		case s.IPAM == nil || !slices.Contains(s.IPAM.Warnings, w):
			f.add(api.Warning, "attention", "", w, "do what it says; 'weft logs' tells when it began")
		}
	}
}

// cloned says whether a text is about a copied identity: the mesh and the
// introduction each tell of one.
func cloned(text string) bool {
	return strings.Contains(text, "has our identity") || strings.Contains(text, "cloned disk")
}

func (f *findings) clone(subject, what string) {
	f.add(api.Problem, "clone", subject, "two hosts have one identity: "+what,
		"on the copy: 'weft reset --force', then launch it again; before copying a disk leave out /var/lib/weft and empty /etc/machine-id")
}

func checkSpace(f *findings, s api.Status) {
	if s.IPAM == nil {
		return
	}
	for _, d := range s.IPAM.Duplicates {
		f.add(api.Problem, "address-twice", d.Address.String(), fmt.Sprintf("address %s is held more than once: %s", d.Address, strings.Join(d.Holders, ", ")), "keep one of them: on the hosts of the others 'weft detach CONTAINER'")
	}
	for _, w := range s.IPAM.Warnings {
		f.add(api.Warning, "addresses", "", w, "'weft status ipam' tells more")
	}
	if s.IPAM.UnreachablePeers > 0 {
		f.add(api.Warning, "addresses-out-of-reach", "", fmt.Sprintf("%d owners of address space are out of reach", s.IPAM.UnreachablePeers),
			"bring them back; what is gone for good gives its space away with "+removal(*s.IPAM))
	}
	for _, p := range s.IPAM.Pending {
		f.add(api.Warning, "address-awaited", p.Container, fmt.Sprintf("%s waits for an address: %s", p.Container, cmp.Or(p.Why, "its host asks others")), "'weft status ipam' tells more")
	}
}

// removal is how the space of the owners that are out of reach is taken over.
func removal(s api.IPAM) string {
	const most = 5
	var commands []string
	for _, e := range s.Entries {
		if e.IPs > 0 && !e.Reachable && !e.Self && len(commands) < most {
			commands = append(commands, "'weft rmpeer "+argument(api.Connection{Name: e.Name, Nickname: e.Nickname})+"'")
		}
	}
	return cmp.Or(strings.Join(commands, ", "), "'weft rmpeer'")
}

// checkTargets is about hosts that were named and did not become peers.
func checkTargets(f *findings, s api.Status) {
	for _, c := range s.Connections {
		if c.Name != "" && c.State != api.Failed || c.State.Carries() {
			continue
		}
		switch {
		case strings.HasPrefix(c.Info, "wrong password"):
			f.add(api.Problem, "wrong-password", c.Address, c.Address+" has another cluster secret", "give both hosts the same: 'weft stop' here, and then the command that 'weft token' prints there; it replaces the secret that is kept here")
		case strings.HasPrefix(c.Info, "other protocol version"):
			why, _, _ := strings.Cut(strings.TrimPrefix(c.Info, "other protocol version: "), ";")
			f.add(api.Problem, "version", cmp.Or(label(c), c.Address), fmt.Sprintf("%s and this host have no version of the protocol in common (%s)", cmp.Or(label(c), c.Address), why),
				"install the same version of weft on both; 'weft version' tells what is there")
		case cloned(c.Info):
			f.clone(c.Address, c.Info)
		case strings.HasPrefix(c.Info, "cannot connect to ourself"):
			f.add(api.Note, "target-self", c.Address, c.Address+" is this host", "'weft forget "+c.Address+"'")
		case c.State == api.Connecting || c.State == api.Pending:
			f.add(api.Note, "target", c.Address, "connecting to "+c.Address, "wait; 'weft status connections' shows how it goes")
		default:
			f.add(api.Problem, "target", c.Address, fmt.Sprintf("%s is not reached: %s", c.Address, cmp.Or(c.Info, "no answer")),
				"see whether weftd runs there, and let TCP 6783, UDP 6783 and UDP 6784 through; if it is not meant: 'weft forget "+c.Address+"'")
		}
	}
}

// label is what people call the peer of a connection.
func label(c api.Connection) string { return cmp.Or(c.Nickname, c.Name) }

// plain is a name that a shell takes as it is.
var plain = regexp.MustCompile(`^[A-Za-z0-9._][A-Za-z0-9._-]*$`)

// argument is how a command that people copy names the peer of a connection.
func argument(c api.Connection) string {
	if l := label(c); plain.MatchString(l) {
		return l
	}
	return c.Name
}

func checkPeers(f *findings, facts Facts) {
	s := *facts.Status
	good := 0
	for _, c := range s.Connections {
		if c.Name == "" {
			continue
		}
		before := len(f.list)
		checkPath(f, c, facts.Whys[c.Name])
		checkMTU(f, c, facts.Whys[c.Name], s.MTU)
		if v := facts.Versions[c.Name]; v != "" && facts.Version != "" && v != facts.Version && c.State.Carries() {
			f.add(api.Note, "version", label(c), fmt.Sprintf("%s runs weft %s, this host %s", label(c), v, facts.Version), "bring all hosts to one version when you can; those that speak 'weft 1' understand each other")
		}
		if k, ok := facts.Checkups[c.Name]; ok && c.State.Carries() {
			checkAnswer(f, c, k, facts)
		}
		if !slices.ContainsFunc(f.list[before:], func(x api.Finding) bool { return x.Severity.Rank() >= api.Warning.Rank() }) && c.State.Carries() {
			good++
		}
	}
	if good > 0 {
		f.ok("peers", fmt.Sprintf("nothing is wrong with the paths to %d of %d peers", good, len(s.Peers)-1))
	}
}

func whyTells(c api.Connection) string { return "'weft why " + argument(c) + "' tells more" }

func checkPath(f *findings, c api.Connection, w api.Why) {
	why := func(text string) string {
		if w.Reason != "" {
			return text + ": " + w.Reason
		}
		return text
	}
	switch c.State {
	case api.Established:
		if c.Single {
			f.add(api.Warning, "single-sends", label(c), why("packets to "+label(c)+" are sent one by one, which is slower"), cmp.Or(w.Help, whyTells(c)))
		}
	case api.Relayed:
		f.add(api.Warning, "relayed", label(c), why(fmt.Sprintf("%s is reached through %s only", label(c), strings.Join(c.Via, ", "))), cmp.Or(w.Help, whyTells(c)))
	case api.Pending, api.Connecting:
		f.add(api.Note, "peer-connecting", label(c), fmt.Sprintf("%s: %s", label(c), cmp.Or(c.Info, string(c.State))), "wait; 'weft why "+argument(c)+"' shows what is tried")
	case api.Failed:
		if strings.HasPrefix(c.Info, "wrong password") {
			return // checkTargets says it
		}
		fallthrough
	case api.Retrying:
		f.add(api.Problem, "peer-lost", label(c), why(fmt.Sprintf("%s is not reached: %s", label(c), cmp.Or(c.Info, "no answer"))),
			cmp.Or(strings.ReplaceAll(w.Help, "'weft rmpeer'", "'weft rmpeer "+argument(c)+"'"), "see whether weftd runs there; let UDP 6783 and 6784 through; if it is gone for good: 'weft rmpeer "+argument(c)+"'"))
	}
	if c.State.Carries() && c.Loss >= api.Lossy {
		f.add(api.Warning, "loss", label(c), fmt.Sprintf("%.0f %% of the pings to %s are lost", 100*c.Loss, label(c)), cmp.Or(w.Help, "look at the network between the two hosts"))
	}
}

// checkMTU finds a path that carries less than the switch: what cannot be told
// to its sender travels in fragments. Where only the longer header of IPv6 takes
// the difference, nothing is broken.
func checkMTU(f *findings, c api.Connection, w api.Why, mtu int) {
	if !c.State.Carries() || c.MTU == 0 || mtu == 0 || c.MTU >= mtu {
		return
	}
	what := fmt.Sprintf("the path to %s carries packets of %d bytes, the switch of %d: larger ones are refused or sent in fragments", label(c), c.MTU, mtu)
	if w.PathMTU > 0 {
		what += fmt.Sprintf(" (the network between carries %d)", w.PathMTU)
	}
	if e, err := netip.ParseAddrPort(w.Address); err == nil && e.Addr().Is6() && c.MTU >= fdb.InnerMTU(w.PathMTU, true) && mtu <= fdb.InnerMTU(w.PathMTU, false) {
		f.add(api.Note, "mtu", label(c), what+": IPv6 has the longer header", fmt.Sprintf("nothing, or launch all hosts with --mtu=%d", c.MTU))
		return
	}
	f.add(api.Warning, "mtu", label(c), what, fmt.Sprintf("mend the network between, or launch all hosts with --mtu=%d", c.MTU))
}

func checkAnswer(f *findings, c api.Connection, k Checkup, facts Facts) {
	if !k.Answered && facts.Versions[c.Name] != facts.Version {
		f.add(api.Note, "peer-silent", label(c), fmt.Sprintf("the daemon of %s does not say how it does: its version may be too old for that", label(c)), "bring all hosts to one version when you can")
		return
	}
	if !k.Answered {
		f.add(api.Warning, "peer-silent", label(c), fmt.Sprintf("the daemon of %s does not answer, though its tunnel stands", label(c)), fmt.Sprintf("look there: 'weft status' and 'weft doctor' at %s", label(c)))
		return
	}
	if skew := max(k.Skew, -k.Skew); skew > maxSkew+k.RTT/2 {
		s, how := api.Warning, "ahead of"
		if k.Skew < 0 {
			how = "behind"
		}
		if skew > badSkew {
			s = api.Problem
		}
		f.add(s, "clock", label(c), fmt.Sprintf("the clock of %s is %s %s ours", label(c), skew.Round(time.Millisecond*100), how),
			"compare both with 'date -u'; 'timedatectl set-ntp true', or start chrony, on the one that is wrong")
	}
	if k.Back == Closed {
		f.add(api.Warning, "port-closed", label(c), fmt.Sprintf("TCP %d of this host is not reached from %s: it cannot introduce itself here", facts.Port, label(c)),
			fmt.Sprintf("let TCP %d in, on this host and in front of it; behind a NAT forward it, and name the address outside with --host", facts.Port))
	}
	if k.Looked && k.There != "" {
		f.add(api.Note, "peer-port-closed", label(c), fmt.Sprintf("the TCP port of %s is not reached from here: %s", label(c), k.There), "let it in there, so that hosts can join through it")
	}
}

// end is what only `weft doctor PEER` looks at.
func end(f *findings, facts Facts) {
	if facts.Status == nil {
		return
	}
	for _, c := range facts.Status.Connections {
		w, ok := facts.Whys[c.Name]
		if !ok || c.Name == "" {
			continue
		}
		if c.State.Carries() {
			f.add(api.OK, "path", label(c), fmt.Sprintf("packets pass: %s, rtt %s, mtu %d", cmp.Or(route(c), w.Address), c.RTT.Round(10*time.Microsecond), c.MTU), "")
		}
		k, ok := facts.Checkups[c.Name]
		if !ok || !k.Answered {
			continue
		}
		f.add(api.OK, "both-ways", label(c), fmt.Sprintf("its daemon answers after %s; its clock differs by %s", k.RTT.Round(10*time.Microsecond), k.Skew.Round(time.Millisecond)), "")
		if k.Back == Reached {
			f.add(api.OK, "port-open", label(c), fmt.Sprintf("TCP %d of this host is reached from there", facts.Port), "")
		}
		switch {
		case k.Sent == 0:
		case k.MTU < k.Sent:
			f.add(api.Problem, "mtu-hole", label(c), fmt.Sprintf("packets of %d bytes inside the tunnel do not come back, smaller ones do", k.Sent), "'weft why "+argument(c)+"' shows what was measured; something on the way drops large packets")
		default:
			f.add(api.OK, "large-packets", label(c), fmt.Sprintf("packets of %d bytes come back", k.Sent), "")
		}
		switch k.Names {
		case Unknown:
		case Closed:
			f.add(api.Warning, "peer-dns", label(c), "the name server of "+label(c)+" does not answer there", "'weft doctor' there tells more")
		case Reached:
			f.add(api.OK, "peer-dns", label(c), "its name server answers there", "")
		}
		for _, p := range facts.Status.Peers {
			if p.Name == c.Name {
				f.add(api.OK, "containers", label(c), fmt.Sprintf("%d of its containers are known here", len(p.Attached)), "")
			}
		}
	}
}

func route(c api.Connection) string {
	if len(c.Via) > 0 {
		return "through " + strings.Join(c.Via, ", ")
	}
	if c.Address != "" {
		return "direct to " + c.Address
	}
	return ""
}

// Echo sends one ICMPv6 echo request of size bytes from one overlay address to
// another and waits a second for the reply.
func Echo(ctx context.Context, from, to netip.Addr, size int) error {
	var lc net.ListenConfig
	c, err := lc.ListenPacket(ctx, "ip6:ipv6-icmp", from.String())
	if err != nil {
		return fmt.Errorf("open a socket for echo requests: %w", err)
	}
	defer c.Close()
	const header = 40 // of IPv6
	b := make([]byte, max(8, size-header))
	id := uint16(os.Getpid()) ^ uint16(time.Now().UnixNano())
	b[0] = 128 // echo request; the kernel writes the checksum (RFC 4443)
	binary.BigEndian.PutUint16(b[4:], id)
	if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return fmt.Errorf("send an echo request: %w", err)
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	reply := make([]byte, 64<<10)
	for {
		n, who, err := c.ReadFrom(reply)
		if err != nil {
			return fmt.Errorf("no reply to an echo request of %d bytes: %w", size, err)
		}
		if a, ok := who.(*net.IPAddr); ok && n == len(b) && reply[0] == 129 && binary.BigEndian.Uint16(reply[4:]) == id && a.IP.Equal(to.AsSlice()) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

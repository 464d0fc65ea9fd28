package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/router/api"
)

func (p *program) whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why PEER_ID",
		Short: "Show the path to a peer, why it is not better, and its history",
		Long: `Show the path to a peer now: direct or through which relays, how fast, with how much loss, and for packets of which size.
Where it is not direct, or there is none, the reason is told as far as it is known, and what would help; then where the peer was
looked for, the relays that could be used, and the last changes with their reasons.

A PEER_ID is the name or the nickname of a peer, as 'weft status connections' shows them.`,
		Example: "  weft why host3\n  weft why 02:9c:11:ab:7d:66 -o json",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usagef("takes one peer, got %q and %q", args[0], args[1])
			case len(args) == 0 || args[0] == "":
				return usagef("name a peer, as 'weft status connections' shows it")
			}
			return nil
		},
		ValidArgsFunction: p.completePeers,
	}
	o := outputFlag(cmd)
	cmd.RunE = p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
		w, err := d.Why(ctx, args[0])
		if err != nil {
			return err
		}
		return p.list(*o, fullWhy(w), whyTable(w, time.Now()))
	})
	return cmd
}

// completePeers offers every peer that this host has to do with.
func (p *program) completePeers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	d, err := p.load(cmd)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, _ := d.Status(cmd.Context()) // without an answer there is nothing to offer
	var peers []api.PeerID
	for _, c := range s.Connections {
		if c.Name != "" {
			peers = append(peers, api.PeerID{Name: c.Name, Nickname: c.Nickname})
		}
	}
	return callNames(append(peers, api.PeerID{Name: s.Name, Nickname: s.Nickname}))[:len(peers)], cobra.ShellCompDirectiveNoFileComp
}

// callNames returns what to call each of peers: by its nickname when no other
// has that too, else by its name.
func callNames(peers []api.PeerID) []string {
	names := make([]string, 0, len(peers))
	for _, p := range peers {
		same := func(o api.PeerID) bool { return o.Nickname == p.Nickname && o.Name != p.Name }
		if p.Nickname == "" || slices.ContainsFunc(peers, same) {
			names = append(names, p.Name)
		} else {
			names = append(names, p.Nickname)
		}
	}
	return names
}

// fullWhy makes JSON say [] instead of null.
func fullWhy(w api.Why) api.Why {
	w.Via, w.Candidates, w.History = orEmpty(w.Via), orEmpty(w.Candidates), orEmpty(w.History)
	w.Relays = orEmpty(slices.Clone(w.Relays))
	for i := range w.Relays {
		w.Relays[i].Via = orEmpty(w.Relays[i].Via)
	}
	return w
}

// whyTable prints times of day in the zone of now.
func whyTable(w api.Why, now time.Time) []byte {
	var b sheet
	b.gap()
	b.line("Peer", "%s", fullName(w.Name, w.Nickname))
	b.line("Overlay", "%s", w.Overlay)
	b.line("State", "%s", whyState(w, now))
	b.line("Path", "%s", whyPath(w))
	decider := "the peer"
	if w.Decider {
		decider = "this host"
	}
	b.line("Decider", "%s", decider)
	rtt := "not measured"
	if w.RTT > 0 {
		rtt = milliseconds(w.RTT)
	}
	b.line("RTT", "%s", rtt)
	if measured(w.RTT, w.Loss) {
		b.line("Loss", "%.1f%%", 100*w.Loss)
	}
	b.line("MTU", "%s", bytesOr(w.MTU, "unknown"))
	b.line("PathMTU", "%s", bytesOr(w.PathMTU, "unknown"))
	b.line("Handshake", "%s", ago(w.Handshake, now))
	b.line("Received", "%d bytes", w.RxBytes)
	b.line("Sent", "%d bytes", w.TxBytes)
	if w.Fragmented > 0 {
		b.line("Fragmented", "%d packets", w.Fragmented)
	}
	if w.Reason != "" {
		b.gap()
		b.line("Reason", "%s", w.Reason)
		if w.Help != "" {
			b.line("Help", "%s", w.Help)
		}
	}
	b.gap()
	b.rows("Candidates", candidateRows(w.Candidates, now))
	b.rows("Relays", relayRows(w.Relays))
	b.gap()
	b.line("Changes", "%d", w.Changes)
	b.rows("History", historyRows(w.History, now.Location()))
	b.gap()
	return b.Bytes()
}

// whyState is the state, for how long, and what it waits for.
func whyState(w api.Why, now time.Time) string {
	text := string(w.State)
	if !w.Since.IsZero() {
		text += " for " + span(now.Sub(w.Since))
	}
	if w.Info != "" && !w.State.Carries() {
		text += ": " + w.Info
	}
	return text
}

// whyPath is where packets go, or would go.
func whyPath(w api.Why) string {
	if w.Address == "" {
		return "none"
	}
	path := "direct"
	if len(w.Via) > 0 {
		path = "via " + strings.Join(w.Via, ",")
	}
	if !w.State.Carries() && w.State != api.Pending {
		path = "trying " + path
	}
	return path + " (" + w.Address + ")"
}

func candidateRows(list []api.WhyCandidate, now time.Time) []string {
	rows := make([]string, 0, len(list))
	for _, c := range list {
		var words []string
		if c.RTT > 0 {
			words = append(words, "rtt="+milliseconds(c.RTT))
		}
		if !c.Asked.IsZero() {
			words = append(words, "asked "+ago(c.Asked, now))
		}
		switch {
		case !c.Answered.IsZero():
			words = append(words, "answered "+ago(c.Answered, now))
		case !c.Asked.IsZero():
			words = append(words, "never answered")
		}
		rows = append(rows, choice(c.Address, c.State, words))
	}
	return rows
}

func relayRows(list []api.WhyRelay) []string {
	rows := make([]string, 0, len(list))
	for _, r := range list {
		state := "usable"
		if r.InUse {
			state = "in use"
		}
		var words []string
		if r.RTT > 0 {
			words = append(words, "rtt="+milliseconds(r.RTT))
		}
		if r.MTU > 0 {
			words = append(words, fmt.Sprintf("mtu=%d", r.MTU))
		}
		rows = append(rows, choice(strings.Join(r.Via, ","), state, words))
	}
	return rows
}

// choice is one way to the peer in columns.
func choice(where, state string, words []string) string {
	return strings.TrimRight(fmt.Sprintf("%-21v %-9v %s", where, state, strings.Join(words, ", ")), " ")
}

func historyRows(list []api.WhyChange, zone *time.Location) []string {
	route := func(s string) string {
		if s == "" {
			return "no path"
		}
		return s
	}
	rows := make([]string, 0, len(list))
	for _, c := range list {
		row := c.At.In(zone).Format(time.DateTime) + "  "
		if c.From != c.To {
			row += route(c.From) + " -> "
		}
		row += route(c.To)
		if c.Why != "" {
			row += ": " + c.Why
		}
		rows = append(rows, row)
	}
	return rows
}

// measured says whether a loss means something: a path without a round trip
// may lose everything, or nobody has asked yet.
func measured(rtt time.Duration, loss float64) bool { return rtt > 0 || loss > 0 }

func bytesOr(n int, unknown string) string {
	if n <= 0 {
		return unknown
	}
	return fmt.Sprintf("%d bytes", n)
}

// ago is how long t is past; a clock that was set back makes it zero.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return span(now.Sub(t)) + " ago"
}

// span is a time in its two greatest units: 47s, 3m12s, 5h3m, 4d7h.
func span(d time.Duration) string {
	d = max(0, d).Truncate(time.Second)
	days, hours, minutes, seconds := d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, seconds)
	}
	return fmt.Sprintf("%ds", seconds)
}

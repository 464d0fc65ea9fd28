package ui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/weftnet/weft/router/api"
)

// Level says how bad something is.
type Level string

// The levels, the worst last.
const (
	Well    Level = "ok"
	Warning Level = "warn"
	Bad     Level = "bad"
)

// Say is one sentence for an operator.
type Say struct {
	Level Level  `json:"level"`
	Text  string `json:"text"`
	Host  string `json:"host,omitempty"` // whom it is about: a [Host.ID]
}

// say tells in words what the picture shows: first whether all is well, then
// what is not, the worst first.
func say(s api.Status, p Picture) []Say {
	var list []Say
	if !s.Ready {
		list = append(list, Say{Warning, "This host is not ready yet: " + cmp.Or(s.Waiting, "it starts") + ".", s.Name})
	}
	list = append(list, sayPaths(s, p)...)
	list = append(list, sayOthers(s, p)...)
	list = append(list, sayAddresses(s.IPAM)...)
	for _, w := range s.Warnings {
		// The allocator's are among them.
		if !slices.ContainsFunc(list, func(l Say) bool { return l.Text == w }) && !api.Held(s.Findings, w) {
			list = append(list, Say{Level: Warning, Text: w})
		}
	}
	list = append(list, sayFindings(s.Findings)...)
	slices.SortStableFunc(list, func(a, b Say) int {
		if a.Level == b.Level {
			return 0
		}
		if a.Level == Bad {
			return -1
		}
		return 1
	})
	switch len(list) {
	case 0:
		return []Say{{Level: Well, Text: allWell(p)}}
	case 1:
		return list
	}
	head := Say{list[0].Level, fmt.Sprintf("%s And %s more.", list[0].Text, count(len(list)-1)), list[0].Host}
	return append([]Say{head}, list...)
}

// sayFindings tells what the host found wrong with itself. Of peers, targets and
// loss the paths tell already.
func sayFindings(list []api.Finding) (out []Say) {
	for _, f := range list {
		if f.ID == "peer-lost" || f.ID == "target" || f.ID == "loss" {
			continue
		}
		level := Warning
		if f.Severity == api.Problem {
			level = Bad
		}
		out = append(out, Say{Level: level, Text: whole(f.What)})
	}
	return out
}

// whole makes a sentence of what is said in a list.
func whole(text string) string {
	r, n := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(r)) + strings.TrimSuffix(text[n:], ".") + "."
}

// allWell is the sentence that one wants to read.
func allWell(p Picture) string {
	direct, relayed := 0, 0
	for _, h := range p.Hosts {
		switch h.State {
		case Direct:
			direct++
		case Relayed:
			relayed++
		case Pending, Failed:
		}
	}
	hosts := fmt.Sprintf("%d hosts", len(p.Hosts))
	switch {
	case len(p.Hosts) < 2:
		return "All is well. This host is alone: 'weft token' tells how others join."
	case relayed == 0 && direct == 1:
		return "All is well: two hosts, which reach each other directly."
	case relayed == 0:
		return "All is well: " + hosts + ", and this one reaches all others directly."
	case direct == 0:
		return fmt.Sprintf("All is well: %s, and this one reaches %s through others.", hosts, count(relayed))
	}
	return fmt.Sprintf("All is well: %s. This one reaches %s directly and %s through others.", hosts, count(direct), count(relayed))
}

func count(n int) string {
	if n == 1 {
		return "one"
	}
	return fmt.Sprint(n)
}

// sayPaths tells of the paths of this host.
func sayPaths(s api.Status, p Picture) (list []Say) {
	nick := nicknames(p)
	var failed, pending []string
	for _, path := range p.Paths {
		if !path.Own {
			continue
		}
		name := nick[path.B]
		switch {
		case path.State == Failed:
			failed = append(failed, name)
			list = append(list, Say{Bad, sentence(noPath(s, path, name), path.Info), path.B})
		case path.State == Pending:
			pending = append(pending, name)
			list = append(list, Say{Warning, sentence("The path to "+name+" is being set up", path.Info), path.B})
		case path.Loss >= api.Lossy:
			list = append(list, Say{Warning, fmt.Sprintf("The path to %s loses %.0f%% of its packets.", name, 100*path.Loss), path.B})
		case path.Back == Failed || path.Back == Pending:
			list = append(list, Say{Warning, fmt.Sprintf("%s says that it has no path to this host, although this host has one to it.", name), path.B})
		}
	}
	if len(failed) > 4 {
		list = slices.DeleteFunc(list, func(l Say) bool { return l.Level == Bad })
		list = append(list, Say{Level: Bad, Text: fmt.Sprintf("No path to %s.", enumerate(failed, "hosts"))})
	}
	if len(pending) > 4 {
		list = slices.DeleteFunc(list, func(l Say) bool {
			return strings.HasPrefix(l.Text, "The path to ") && strings.Contains(l.Text, " is being set up")
		})
		list = append(list, Say{Level: Warning, Text: fmt.Sprintf("The paths to %s are being set up.", enumerate(pending, "hosts"))})
	}
	return list
}

// noPath tells whether a host is gone for all or for this one only: what to do
// about it is different.
func noPath(s api.Status, path Path, name string) string {
	if name == path.B && path.B == path.Address { // a target; who is there is not known
		return "Nobody that belongs here answers at " + name
	}
	reached, asked := 0, 0
	for _, peer := range s.Peers {
		if peer.Self || peer.Name == path.B {
			continue
		}
		asked++
		for _, l := range peer.Connections {
			if st := stateOf(l.State); l.Name == path.B && (st == Direct || st == Relayed) {
				reached++
			}
		}
	}
	switch {
	case reached == 1:
		return fmt.Sprintf("No path to %s from this host; another one has one", name)
	case reached > 1:
		return fmt.Sprintf("No path to %s from this host; %d others have one", name, reached)
	case asked > 0:
		return fmt.Sprintf("No host has a path to %s: it is down, or cut off", name)
	}
	return "No path to " + name
}

// sayOthers tells of paths between others. Those to a host that is out of reach
// for this one, too, were told already.
func sayOthers(s api.Status, p Picture) (list []Say) {
	nick, told := nicknames(p), make(map[string]bool)
	for _, path := range p.Paths {
		if path.Own && path.State != Direct && path.State != Relayed {
			told[path.B] = true
		}
	}
	var pairs []string
	for _, path := range p.Paths {
		if !path.Own && path.State.rank() >= Pending.rank() && !told[path.A] && !told[path.B] && path.A != s.Name {
			pairs = append(pairs, cmp.Or(nick[path.A], path.A)+" and "+cmp.Or(nick[path.B], path.B))
		}
	}
	switch {
	case len(pairs) > 3:
		return []Say{{Level: Warning, Text: fmt.Sprintf("%d pairs of other hosts have no path to each other: %s.", len(pairs), enumerate(pairs, "pairs"))}}
	}
	for _, pair := range pairs {
		list = append(list, Say{Level: Warning, Text: pair + " have no path to each other."})
	}
	return list
}

// sayAddresses tells of the address space.
func sayAddresses(i *api.IPAM) (list []Say) {
	if i == nil {
		return nil
	}
	for _, d := range i.Duplicates {
		list = append(list, Say{Level: Bad, Text: fmt.Sprintf("Two hosts hold the address %s: %s.", d.Address, strings.Join(d.Holders, ", "))})
	}
	switch {
	case i.State == "ready" || i.State == "idle" || i.State == "":
	case strings.HasPrefix(i.State, "awaiting"), i.State == "priming":
		list = append(list, Say{Level: Warning, Text: "The address range has not been divided yet: " + i.State + "."})
	default:
		list = append(list, Say{Level: Bad, Text: "Containers wait for addresses: " + i.State + "."})
	}
	if n := len(i.Pending); n > 0 {
		list = append(list, Say{Level: Warning, Text: fmt.Sprintf("%s of this host's containers waits for an address: %s.", count(n), i.Pending[0].Why)})
	}
	for _, w := range i.Warnings {
		list = append(list, Say{Level: Warning, Text: w})
	}
	return list
}

func nicknames(p Picture) map[string]string {
	nick := make(map[string]string, len(p.Hosts))
	for _, h := range p.Hosts {
		nick[h.ID] = h.Nickname
	}
	return nick
}

// sentence adds why, which is in the words of 'weft status connections'.
func sentence(what, why string) string {
	if why == "" {
		return what + "."
	}
	return what + " (" + why + ")."
}

// enumerate names the first ones.
func enumerate(names []string, what string) string {
	if len(names) <= 6 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%d %s: %s …", len(names), what, strings.Join(names[:6], ", "))
}

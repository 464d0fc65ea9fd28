// Package doctor says what is wrong with a host and how to mend it: a
// [Gatherer] looks at the host and [Check] decides about what was seen, so that every
// finding is a case of a table.
//
// It does not mend anything and changes nothing that is in use: it tries what
// the kernel makes in a namespace of its own, for which that may load modules,
// and writes a small file that it forgets. It does not know how
// peers are reached: the daemon tells it what it knows of them.
package doctor

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weftnet/weft/router/api"
)

// maxFindings bounds a diagnosis: with hundreds of peers in trouble the first
// ones tell.
const maxFindings = 200

// findings collects what was found.
type findings struct{ list []api.Finding }

func (f *findings) add(s api.Severity, id, subject, what, remedy string) {
	f.list = append(f.list, api.Finding{ID: id, Severity: s, Subject: subject, What: what, Remedy: remedy})
}

func (f *findings) ok(id, what string) { f.add(api.OK, id, "", what, "") }

// Check decides. It is pure; the gravest findings come first.
func Check(facts Facts) []api.Finding {
	f := &findings{}
	checkDaemon(f, facts)
	checkKernel(f, facts)
	checkFirewall(f, facts)
	checkSysctls(f, facts)
	checkNeighbours(f, facts)
	checkDocker(f, facts)
	checkDisks(f, facts)
	checkNames(f, facts)
	if facts.Status != nil {
		checkIdentity(f, *facts.Status)
		checkSpace(f, *facts.Status)
		checkTargets(f, *facts.Status)
		checkPeers(f, facts)
	}
	return sorted(f.list)
}

// CheckPeer is Check of the way to one peer, of what matters for it.
func CheckPeer(facts Facts, nickname string) []api.Finding {
	f := &findings{}
	checkFirewall(f, facts)
	if facts.Status != nil {
		checkPeers(f, facts)
	}
	end(f, facts)
	f.list = slices.DeleteFunc(f.list, func(x api.Finding) bool {
		return x.Subject != "" && x.Subject != nickname && x.ID != "firewall"
	})
	return sorted(f.list)
}

func sorted(list []api.Finding) []api.Finding {
	slices.SortStableFunc(list, func(a, b api.Finding) int {
		return cmp.Or(b.Severity.Rank()-a.Severity.Rank(), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Subject, b.Subject))
	})
	return list[:min(len(list), maxFindings)]
}

// gravest returns the findings of at least severity s.
func gravest(list []api.Finding, s api.Severity) []api.Finding {
	return slices.DeleteFunc(slices.Clone(list), func(f api.Finding) bool { return f.Severity.Rank() < s.Rank() })
}

// Lasting leaves of what was found what status and log tell of unasked: not
// what they tell in other words anyway, and not what is no trouble.
func Lasting(list []api.Finding) []api.Finding {
	told := []string{
		"attention", "daemon", "relayed", "single-sends", "version", "peer-connecting",
		"addresses", "addresses-out-of-reach", "address-awaited", "address-twice",
	}
	return slices.DeleteFunc(gravest(list, api.Warning), func(f api.Finding) bool { return slices.Contains(told, f.ID) })
}

// kinds are the findings that rest upon a step.
func kinds(step string) []string {
	switch {
	case step == "firewall":
		return []string{"firewall", "firewall-unread", "firewall-forward"}
	case step == "sysctls":
		return []string{"forwarding", "bridge-arptables", "tunnel-ipv6", "firewall-forward"}
	case step == "neighbours":
		return []string{"neighbours"}
	case strings.HasPrefix(step, "disk "):
		return []string{"disk"}
	}
	return nil
}

// Kept returns what is found now, and of what was found before that which rests
// upon a step that brought nothing this time.
func Kept(now, before []api.Finding, facts Facts) []api.Finding {
	lost := make(map[string]bool)
	for _, s := range facts.Stuck {
		for _, id := range kinds(s.Step) {
			lost[id] = true
		}
	}
	if facts.Firewall.Err != "" { // it says why, and nothing else
		lost["firewall"], lost["firewall-forward"] = true, true
	}
	kept := slices.DeleteFunc(Fewer(before, now), func(f api.Finding) bool { return !lost[f.ID] })
	return sorted(append(slices.Clone(now), kept...))
}

// Fewer returns what is in list and not in others, by kind and subject.
func Fewer(list, others []api.Finding) []api.Finding {
	return slices.DeleteFunc(slices.Clone(list), func(f api.Finding) bool {
		return slices.ContainsFunc(others, func(o api.Finding) bool { return o.ID == f.ID && o.Subject == f.Subject && o.Severity == f.Severity })
	})
}

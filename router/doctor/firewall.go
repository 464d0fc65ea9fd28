package doctor

import (
	"bufio"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/router/api"
)

// maxRules bounds what is read of a ruleset, in lines.
const maxRules = 50_000

// Ruleset is the base chains of a firewall with their rules.
type Ruleset []Chain

// Chain is one chain. One that is not a base chain has no hook.
type Chain struct {
	Table  string // family and name: "inet filter"
	Name   string
	Hook   string // input | forward | …
	Policy string // accept | drop
	Rules  []string
}

var (
	chainType  = regexp.MustCompile(`^type (\w+) hook (\w+)`)
	policy     = regexp.MustCompile(`policy (\w+)`)
	portMatch  = regexp.MustCompile(`\b(udp|tcp|th) dport (?:!= )?(\{[^}]*\}|\S+)`)
	otherMatch = regexp.MustCompile(`\b(tcp|udp) (?:flags|sport|option|length)\b`)
	protoList  = regexp.MustCompile(`\bmeta l4proto (\{[^}]*\}|\S+)|\bip protocol (\{[^}]*\}|\S+)`)
)

// parseNFT reads what `nft list ruleset` prints. What it does not understand it
// leaves out; !whole: there is more than it reads.
func parseNFT(text string) (out Ruleset, whole bool) {
	var table string
	var chain *Chain
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	depth := 0
	for n := 0; lines.Scan(); n++ {
		if n == maxRules {
			return out, false
		}
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case depth == 0 && strings.HasPrefix(line, "table ") && strings.HasSuffix(line, "{"):
			table, depth = strings.TrimSuffix(strings.TrimPrefix(line, "table "), " {"), 1
		case depth == 1 && strings.HasPrefix(line, "chain ") && strings.HasSuffix(line, "{"):
			out = append(out, Chain{Table: table, Name: strings.TrimSuffix(strings.TrimPrefix(line, "chain "), " {")})
			chain, depth = &out[len(out)-1], 2
		case depth == 1 && strings.HasSuffix(line, "{"): // a set or a map
			chain, depth = nil, 2
		case line == "}":
			depth = max(0, depth-1)
			if depth < 2 {
				chain = nil
			}
		case chain == nil:
		case strings.HasPrefix(line, "type "):
			if m := chainType.FindStringSubmatch(line); m != nil {
				chain.Hook = m[2]
				if m[1] != "filter" {
					chain.Hook = m[1] // nat and route chains do not filter
				}
			}
			if m := policy.FindStringSubmatch(line); m != nil {
				chain.Policy = m[1]
			}
		default:
			chain.Rules = append(chain.Rules, line)
		}
	}
	return out, lines.Err() == nil
}

// parseIPTables reads what `iptables-legacy-save` prints, as far as ports and
// verdicts go, in the words of nft; !whole: there is more than it reads.
func parseIPTables(text string) (out Ruleset, whole bool) {
	table, at := "", map[string]int{}
	for n, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if n == maxRules {
			return out, false
		}
		switch {
		case len(f) == 0:
		case strings.HasPrefix(line, "*"):
			table, at = strings.TrimPrefix(f[0], "*"), map[string]int{}
		case strings.HasPrefix(line, ":") && len(f) > 1:
			c := Chain{Table: "iptables " + table, Name: f[0][1:], Policy: strings.ToLower(f[1])}
			if table == "filter" && f[1] != "-" {
				c.Hook = strings.ToLower(c.Name)
			}
			at[c.Name] = len(out)
			out = append(out, c)
		case f[0] == "-A" && len(f) > 2:
			if i, ok := at[f[1]]; ok {
				out[i].Rules = append(out[i].Rules, nftWords(f[2:]))
			}
		}
	}
	return out, true
}

// nftWords says a rule of iptables as nft would, in what matters here.
func nftWords(f []string) string {
	var words []string
	proto := "th"
	for i := 0; i < len(f); i++ {
		next := ""
		if i+1 < len(f) {
			next = f[i+1]
		}
		switch f[i] {
		case "-p":
			proto = next
			words = append(words, "ip protocol "+next)
		case "--dport", "--dports":
			words = append(words, fmt.Sprintf("%s dport { %s }", proto, strings.ReplaceAll(strings.ReplaceAll(next, ",", ", "), ":", "-")))
		case "-j":
			words = append(words, strings.ToLower(next))
		case "-i":
			words = append(words, "iifname "+next)
		case "-s":
			words = append(words, "ip saddr "+next)
		default:
			continue
		}
		i++
	}
	return strings.Join(words, " ")
}

// own tells our tables, which drop on purpose, from others'.
func own(table string) bool {
	f := strings.Fields(table)
	return len(f) == 2 && f[1] == "weft"
}

// wanted is a port that others must reach.
type wanted struct {
	proto string
	port  uint16
	what  string
}

func wantedPorts(port uint16) []wanted {
	return []wanted{{"tcp", port, "introductions"}, {"udp", port, "relays"}, {"udp", port + 1, "WireGuard"}}
}

func (w wanted) String() string { return fmt.Sprintf("%s %d", strings.ToUpper(w.proto), w.port) }

// matches says whether a rule is about a port: it names it, or names none and
// no other protocol.
func (w wanted) matches(rule string) (named, covered bool) {
	ports := portMatch.FindAllStringSubmatch(rule, -1)
	for _, m := range ports {
		if m[1] != "th" && m[1] != w.proto {
			return false, false
		}
		in := slices.ContainsFunc(strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune("{}, ", r) }), w.in)
		if strings.Contains(m[0], "!= ") {
			in = !in
		}
		if !in {
			return false, false
		}
	}
	for _, m := range protoList.FindAllStringSubmatch(rule, -1) {
		if !strings.Contains(m[1]+m[2], w.proto) {
			return false, false
		}
	}
	for _, other := range []string{"icmp", "igmp", "sctp"} {
		if strings.Contains(rule, other+" ") || strings.Contains(rule, other+"v6 ") {
			return false, false
		}
	}
	for _, m := range otherMatch.FindAllStringSubmatch(rule, -1) {
		if m[1] != w.proto {
			return false, false
		}
	}
	return len(ports) > 0, true
}

func (w wanted) in(word string) bool {
	low, high, isRange := strings.Cut(word, "-")
	a, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return false
	}
	b := a
	if isRange {
		if b, err = strconv.ParseUint(high, 10, 16); err != nil {
			return false
		}
	}
	return uint64(w.port) >= a && uint64(w.port) <= b
}

// narrow is a rule that is about some packets only, for a reason that is not
// looked into: an interface, an address, a state, a rate.
var narrow = regexp.MustCompile(`\b(iif|iifname|oif|oifname|saddr|ct state|ct status|limit|meter|mark|skuid|set|fib|ether|vlan|nflog|daddr)\b|@`)

func verdict(rule string) string {
	for w := range strings.FieldsSeq(rule) {
		switch w {
		case "accept", "drop", "reject":
			return w
		case "jump", "goto":
			return "jump"
		}
	}
	return ""
}

// fate is what becomes of a new packet to a port in a base chain, as far as the
// rules tell without knowing where it comes from.
func (r Ruleset) fate(c Chain, w wanted) (drops bool, rule string) {
	maybe := false // something earlier may let it through
	for _, line := range c.Rules {
		named, covered := w.matches(line)
		if !covered {
			continue
		}
		v := verdict(line)
		switch {
		case (v == "drop" || v == "reject") && (named || !narrow.MatchString(line)) && !(narrow.MatchString(line) && maybe):
			if strings.Contains(line, "ct state invalid") {
				continue
			}
			return true, line
		case v == "accept" && (named || !narrow.MatchString(line)):
			return false, line
		case v == "jump":
			if d, ok := r.through(c.Table, line, w); ok {
				return d, line
			}
			maybe = true
		}
	}
	return c.Policy == "drop" && !maybe, "policy drop"
}

// through follows a jump, one step deep; !ok: nothing there decides.
func (r Ruleset) through(table, line string, w wanted) (drops, ok bool) {
	if narrow.MatchString(line) {
		return false, false
	}
	f := strings.Fields(line)
	i := slices.IndexFunc(f, func(s string) bool { return s == "jump" || s == "goto" })
	if i < 0 || i+1 == len(f) {
		return false, false
	}
	for _, c := range r {
		if c.Table != table || c.Name != f[i+1] {
			continue
		}
		for _, rule := range c.Rules {
			named, covered := w.matches(rule)
			switch v := verdict(rule); {
			case !covered || !named && narrow.MatchString(rule):
			case v == "accept":
				return false, true
			case v == "drop" || v == "reject":
				return true, true
			}
		}
	}
	return false, false
}

// checkFirewall finds rules of others that keep other hosts from our ports, and
// containers from each other.
func checkFirewall(f *findings, facts Facts) {
	if facts.stuck("firewall") {
		return // nothing was seen, and checkDaemon says so
	}
	if facts.Firewall.TooLarge {
		f.add(api.Note, "firewall-unread", "", "the host's firewall is too large to be looked at: "+facts.Firewall.Err, "see for yourself that its rules let other hosts in")
		return
	}
	if facts.Firewall.Err != "" {
		f.add(api.Warning, "firewall-unread", "", "the host's firewall cannot be read: "+facts.Firewall.Err, "see whether 'nft list ruleset' works as root")
		return
	}
	bad := false
	for _, rules := range []Ruleset{facts.Firewall.Rules, facts.Firewall.Legacy} {
		for _, c := range rules {
			if own(c.Table) || c.Hook != "input" {
				continue
			}
			var closed []string
			var by string
			for _, w := range wantedPorts(facts.Port) {
				if drops, rule := rules.fate(c, w); drops {
					closed, by = append(closed, w.String()), rule
				}
			}
			if len(closed) > 0 {
				bad = true
				f.add(api.Problem, "firewall", c.Table, fmt.Sprintf("chain %s of table %s drops %s (%s): other hosts reach this one only when it calls them first",
					c.Name, c.Table, strings.Join(closed, ", "), by), openPorts(c.Table, c.Name, facts.Port))
			}
		}
	}
	if !bad && (len(facts.Firewall.Rules) > 0 || facts.Kernel.Looked) {
		f.ok("firewall", fmt.Sprintf("no rule on this host closes TCP %d, UDP %d or UDP %d", facts.Port, facts.Port, facts.Port+1))
	}
	checkForward(f, facts)
}

func openPorts(table, chain string, port uint16) string {
	if strings.HasPrefix(table, "iptables ") {
		return fmt.Sprintf("'iptables-legacy -I %s -p tcp --dport %d -j ACCEPT' and 'iptables-legacy -I %s -p udp --dport %d:%d -j ACCEPT'", chain, port, chain, port, port+1)
	}
	return fmt.Sprintf("'nft insert rule %s %s tcp dport %d accept' and 'nft insert rule %s %s udp dport %d-%d accept'; then in your firewall's own configuration",
		table, chain, port, table, chain, port, port+1)
}

// checkForward finds what drops frames between containers: they pass the
// forward hook where the bridge calls iptables, and always on their way out.
func checkForward(f *findings, facts Facts) {
	called := facts.Sysctls[bridgeCalls] == "1"
	for _, rules := range []Ruleset{facts.Firewall.Rules, facts.Firewall.Legacy} {
		for _, c := range rules {
			ip := strings.HasPrefix(c.Table, "ip ") || strings.HasPrefix(c.Table, "inet ") || strings.HasPrefix(c.Table, "iptables ")
			if own(c.Table) || c.Hook != "forward" || c.Policy != "drop" || !ip || !called && !facts.Exposed {
				continue
			}
			if accepted(rules, c) {
				continue
			}
			f.add(api.Problem, "firewall-forward", c.Table, fmt.Sprintf("chain %s of table %s drops what it does not name, and names nothing of bridge weft", c.Name, c.Table),
				acceptSwitch(c))
		}
	}
}

// acceptSwitch lets the frames of the switch pass a chain.
func acceptSwitch(c Chain) string {
	if strings.HasPrefix(c.Table, "iptables ") {
		return fmt.Sprintf("'iptables-legacy -I %[1]s -i weft -j ACCEPT' and 'iptables-legacy -I %[1]s -o weft -j ACCEPT'", c.Name)
	}
	return fmt.Sprintf("'nft insert rule %[1]s %[2]s iifname weft accept' and 'nft insert rule %[1]s %[2]s oifname weft accept'; then in your firewall's own configuration", c.Table, c.Name)
}

// accepted looks for a rule about the bridge, in the chain or where it jumps.
func accepted(rules Ruleset, c Chain) bool {
	about := func(rule string) bool {
		return strings.Contains(rule, "accept") && (strings.Contains(rule, `"weft"`) || strings.Contains(rule, "iifname weft"))
	}
	if slices.ContainsFunc(c.Rules, about) {
		return true
	}
	for _, rule := range c.Rules {
		for _, other := range rules {
			if other.Table == c.Table && strings.Contains(rule, "jump "+other.Name) && slices.ContainsFunc(other.Rules, about) {
				return true
			}
		}
	}
	return false
}

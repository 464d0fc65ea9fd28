package lab

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Fault loses packets on their way through the networks. An empty From or To
// means anybody.
type Fault struct {
	From    string  `json:"from,omitempty" yaml:"from,omitempty"`
	To      string  `json:"to,omitempty" yaml:"to,omitempty"`
	Network string  `json:"network,omitempty" yaml:"network,omitempty"` // empty: everywhere
	Percent float64 `json:"percent" yaml:"percent"`                     // 100: everything
}

// check says what is wrong with a fault in that topology.
func (f Fault) check(t Topology) error {
	for _, name := range []string{f.From, f.To} {
		if _, ok := t.host(name); name != "" && !ok {
			return fmt.Errorf("there is no host %q", name)
		}
	}
	if f.Percent < 0 || f.Percent > 100 {
		return fmt.Errorf("cannot lose %v percent", f.Percent)
	}
	return nil
}

func (f Fault) same(o Fault) bool { return f.From == o.From && f.To == o.To && f.Network == o.Network }

// SetFault adds a fault or replaces the one between the same ends; zero percent
// removes it. It takes effect at once and outlives reboots of the hosts.
func (l *Lab) SetFault(ctx context.Context, faults ...Fault) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	former := slices.Clone(l.faults)
	for _, f := range faults {
		if err := f.check(l.topology); err != nil {
			l.faults = former
			return err
		}
		l.faults = slices.DeleteFunc(l.faults, f.same)
		if f.Percent > 0 {
			l.faults = append(l.faults, f)
		}
	}
	if err := l.applyFaults(ctx); err != nil {
		l.faults = former
		return err
	}
	return l.save()
}

// Cut takes a host off every network without its noticing.
func (l *Lab) Cut(ctx context.Context, host string) error { return l.between(ctx, host, "", 100) }

// Heal undoes [Lab.Cut].
func (l *Lab) Heal(ctx context.Context, host string) error { return l.between(ctx, host, "", 0) }

// CutPair stops everything between two hosts.
func (l *Lab) CutPair(ctx context.Context, a, b string) error { return l.between(ctx, a, b, 100) }

// HealPair undoes [Lab.CutPair].
func (l *Lab) HealPair(ctx context.Context, a, b string) error { return l.between(ctx, a, b, 0) }

// CutOneWay stops what from sends to another host; the other way stays.
func (l *Lab) CutOneWay(ctx context.Context, from, to string) error {
	return l.SetFault(ctx, Fault{From: from, To: to, Percent: 100})
}

// Loss loses a share of what one host sends and of what it gets; 0 ends that.
func (l *Lab) Loss(ctx context.Context, host string, percent float64) error {
	return l.between(ctx, host, "", percent)
}

// HealAll removes every fault.
func (l *Lab) HealAll(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = nil
	if err := l.applyFaults(ctx); err != nil {
		return err
	}
	return l.save()
}

func (l *Lab) between(ctx context.Context, a, b string, percent float64) error {
	return l.SetFault(ctx, Fault{From: a, To: b, Percent: percent}, Fault{From: b, To: a, Percent: percent})
}

func (l *Lab) applyFaults(ctx context.Context) error {
	if len(l.faults) == 0 && !l.filtered {
		return nil // nft is needed only by those who want faults
	}
	cmd := l.sw.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules(l.topology, l.faults))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Err
	if err == nil {
		err = l.sw.StartCommand(cmd)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("set faults: nft: %w: %s", err, strings.TrimSpace(out.String()))
	}
	l.filtered = true
	return nil
}

// SetFaults replaces all faults at one moment.
func (l *Lab) SetFaults(ctx context.Context, faults ...Fault) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range faults {
		if err := f.check(l.topology); err != nil {
			return err
		}
	}
	former := l.faults
	l.faults = slices.Clone(faults)
	if err := l.applyFaults(ctx); err != nil {
		l.faults = former
		return err
	}
	return l.save()
}

// match is which frames a fault is about: a key of nft and what it must be.
type match struct{ key, value string }

// rules renders the whole table that makes the faults. What is lost altogether
// is looked up in sets, so that many cuts cost no more than one.
func rules(t Topology, faults []Fault) string {
	var lines []string
	cuts := map[string][]string{}
	for _, f := range faults {
		for _, m := range f.matches(t) {
			if f.Percent == 100 {
				cuts[m.key] = append(cuts[m.key], m.value)
				continue
			}
			lines = append(lines, fmt.Sprintf("%s { %s } numgen random mod 10000 < %d drop", m.key, m.value, int(math.Round(f.Percent*100))))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(cuts)) {
		values := cuts[key]
		slices.Sort(values)
		lines = append(lines, fmt.Sprintf("%s { %s } drop", key, strings.Join(slices.Compact(values), ", ")))
	}
	var b strings.Builder
	b.WriteString("table bridge lab\ndelete table bridge lab\ntable bridge lab {\n\tchain faults {\n")
	// Not priority 0: with br_netfilter Linux 6.1 skips forward chains there.
	b.WriteString("\t\ttype filter hook forward priority -300; policy accept;\n")
	for _, line := range lines {
		b.WriteString("\t\t" + line + "\n")
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// matches says which frames a fault is about: by port where both ends are on
// one network, so that ARP and broadcast are meant too; by address elsewhere.
// What a NAT has translated goes by under other addresses and is not meant.
func (f Fault) matches(t Topology) []match {
	var out []match
	for _, in := range t.ports() {
		for _, to := range t.ports() {
			if in.Host == f.From && to.Host == f.To && in.Network == to.Network && (f.Network == "" || f.Network == in.Network) {
				out = append(out, match{"iifname . oifname", fmt.Sprintf("%q . %q", in.Name, to.Name)})
			}
		}
		switch {
		case f.Network != "" && f.Network != in.Network:
		case f.From == "" && f.To == "", in.Host == f.From && f.To == "":
			out = append(out, match{"iifname", fmt.Sprintf("%q", in.Name)})
		case in.Host == f.To && f.From == "":
			out = append(out, match{"oifname", fmt.Sprintf("%q", in.Name)})
		}
	}
	from, ok1 := t.host(f.From)
	to, ok2 := t.host(f.To)
	if !ok1 || !ok2 || f.Network != "" || f.Percent < 100 && len(out) > 0 {
		return out // partial loss is not applied twice to one packet
	}
	for _, a := range from.Addrs() {
		for _, b := range to.Addrs() {
			switch {
			case a.Is4() && b.Is4():
				out = append(out, match{"ip saddr . ip daddr", fmt.Sprintf("%s . %s", a, b)})
			case a.Is6() && b.Is6():
				out = append(out, match{"ip6 saddr . ip6 daddr", fmt.Sprintf("%s . %s", a, b)})
			}
		}
	}
	return out
}

// String says what a fault does.
func (f Fault) String() string {
	who := func(s string) string {
		if s == "" {
			return "anybody"
		}
		return s
	}
	s := fmt.Sprintf("%g %% lost from %s to %s", f.Percent, who(f.From), who(f.To))
	if f.Network != "" {
		s += " on " + f.Network
	}
	return s
}

// Faults returns the faults that are set.
func (l *Lab) Faults() []Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.faults)
}

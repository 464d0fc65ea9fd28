package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// dockerAccept is one rule in iptables, per family. An accept of nftables ends
// our own chain and no other, so where the FORWARD chain of iptables drops
// what it does not know (Docker sets that policy), switch traffic needs a rule
// there: on hosts where bridged frames pass through iptables, and for an
// exposed host. The rule accepts what our forward chain has marked.
//
// The program is `iptables` from PATH, as it is for Docker: so both write to
// the same of the two kinds of iptables. Trouble here is logged and stops
// nothing.
type dockerAccept struct {
	// Constant.

	kernel  Kernel
	commits *commits
	log     *slog.Logger

	// Guarded by Bridge.mu.

	complaint string             // the last one, to log it once
	handles   map[string]*handle // by program: each question is a process
	at        point              // when all was well
}

// handle is an iptables that was asked once what it is.
type handle struct {
	*iptables.IPTables
	legacy bool
}

const (
	filterTable  = "filter"
	forwardChain = "FORWARD"
	dockerChain  = "DOCKER-USER"
)

var protocols = []struct {
	program  string
	protocol iptables.Protocol
	names    string // lists the tables of legacy iptables
}{
	{"iptables", iptables.ProtocolIPv4, "/proc/thread-self/net/ip_tables_names"},
	{"ip6tables", iptables.ProtocolIPv6, "/proc/thread-self/net/ip6_tables_names"},
}

func acceptRule() []string {
	return []string{
		"-m", "mark", "--mark", fmt.Sprintf("%#x/%#x", markValue, uint32(markMask)),
		"-m", "comment", "--comment", "weft", "-j", "ACCEPT",
	}
}

func (d *dockerAccept) set(ctx context.Context) (repaired []string, err error) {
	at := d.commits.now()
	if at.same(d.at) && d.countable() {
		return nil, nil
	}
	d.at = point{}
	defer func() {
		if d.complaint == "" && len(repaired) == 0 {
			d.at = at
		}
	}()
	err = d.each(ctx, func(program string, t *iptables.IPTables) error {
		chains, err := readChains(t)
		if err != nil {
			return err
		}
		words, err := place(t, program, chains, wantedChain(chains))
		repaired = append(repaired, words...)
		return err
	})
	d.complain(err)
	return repaired, nil
}

// countable says that no change of iptables can be missed by who counts those of
// nftables.
func (d *dockerAccept) countable() bool {
	for _, p := range protocols {
		if h := d.handles[p.program]; h == nil || h.legacy {
			return false
		}
	}
	return true
}

func (d *dockerAccept) remove(ctx context.Context) error {
	return d.each(ctx, func(program string, t *iptables.IPTables) error {
		chains, err := readChains(t)
		if err != nil {
			return err
		}
		_, err = place(t, program, chains, "")
		return err
	})
}

// complain logs an error when it is another one than the last.
func (d *dockerAccept) complain(err error) {
	var text string
	if err != nil {
		text = err.Error()
	}
	if text != d.complaint && text != "" {
		d.log.Warn("iptables may drop switch traffic", "err", text)
	}
	d.complaint = text
}

// each calls f for IPv4 and IPv6, if there is such an iptables in use.
func (d *dockerAccept) each(ctx context.Context, f func(program string, t *iptables.IPTables) error) error {
	var errs []error
	for _, p := range protocols {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := d.kernel.Do(func() error {
			t, err := d.handle(ctx, p.program, p.protocol)
			if err != nil || t == nil {
				return err
			}
			if used, err := t.inUse(p.names); err != nil || !used {
				return err
			}
			return f(p.program, t.IPTables)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.program, err))
		}
	}
	return errors.Join(errs...)
}

// handle returns the iptables of a family; nil when there is no such program.
func (d *dockerAccept) handle(ctx context.Context, program string, protocol iptables.Protocol) (*handle, error) {
	if h := d.handles[program]; h != nil {
		return h, nil
	}
	version, err := exec.CommandContext(ctx, program, "--version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t, err := iptables.New(iptables.IPFamily(protocol), iptables.Timeout(5))
	if err != nil {
		return nil, err
	}
	h := &handle{t, !strings.Contains(string(version), "(nf_tables)")}
	if d.handles == nil {
		d.handles = make(map[string]*handle)
	}
	d.handles[program] = h
	return h, nil
}

// inUse says whether asking iptables changes nothing: the legacy kind makes
// the table that it is asked for, and the other only when it writes.
func (h *handle) inUse(names string) (bool, error) {
	if !h.legacy {
		return true, nil
	}
	tables, err := os.ReadFile(names)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return slices.Contains(strings.Fields(string(tables)), filterTable), err
}

// readChains returns the rules of the chains that matter, of those that exist.
func readChains(t *iptables.IPTables) (map[string][]string, error) {
	chains := make(map[string][]string)
	for _, chain := range []string{dockerChain, forwardChain} {
		rules, err := t.List(filterTable, chain)
		var e *iptables.Error
		if errors.As(err, &e) && e.ExitStatus() == 1 {
			continue // no such chain
		}
		if err != nil {
			return nil, err
		}
		chains[chain] = rules
	}
	return chains, nil
}

// wantedChain is where the accept belongs; "" when none is needed.
func wantedChain(chains map[string][]string) string {
	if _, ok := chains[dockerChain]; ok {
		return dockerChain
	}
	if slices.Contains(chains[forwardChain], "-P FORWARD DROP") {
		return forwardChain
	}
	return ""
}

// place makes the accept be in one chain, once, and in no other.
func place(t *iptables.IPTables, program string, chains map[string][]string, want string) (repaired []string, err error) {
	for _, chain := range []string{dockerChain, forwardChain} {
		rules, ok := chains[chain]
		if !ok {
			continue
		}
		ours, effective := findAccept(rules, chain)
		if chain == want && ours == 1 && effective {
			continue
		}
		for range ours {
			if err := t.Delete(filterTable, chain, acceptRule()...); err != nil {
				return repaired, err
			}
		}
		if chain == want {
			if err := t.Insert(filterTable, chain, 1, acceptRule()...); err != nil {
				return repaired, err
			}
			repaired = append(repaired, fmt.Sprintf("the accept in chain %s of %s was missing", chain, program))
		}
	}
	return repaired, nil
}

// findAccept counts our rules in a chain and says whether the first of them
// comes before the chain returns.
func findAccept(rules []string, chain string) (ours int, effective bool) {
	mark := fmt.Sprintf(" --mark %#x/%#x ", markValue, uint32(markMask))
	returned := false
	for _, r := range rules {
		switch {
		case strings.Contains(r, mark) && strings.HasSuffix(r, "-j ACCEPT"):
			if ours == 0 {
				effective = !returned
			}
			ours++
		case r == "-A "+chain+" -j RETURN":
			returned = true
		}
	}
	return ours, effective
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/router/api"
)

func (p *program) primeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "prime",
		Short: "Wait until the address space has been divided among the hosts",
		Long: `Wait until the address space has been divided among the hosts, and have it divided when that is still to be done.

Without prime that happens when the first address is asked for. What it waits for is said on stderr; interrupt it at any time.`,
		Args: noArgs,
		RunE: p.withDaemon(func(ctx context.Context, d daemon, _ []string) error {
			_, err := waiting(ctx, p, func(ctx context.Context) (struct{}, error) { return struct{}{}, d.Prime(ctx) })
			return err
		}),
	}
}

func (p *program) rmpeerCommand() *cobra.Command {
	var r api.RemoveRequest
	cmd := &cobra.Command{
		Use:   "rmpeer [--force] PEER_ID …",
		Short: "Take over the address space of peers that are gone for good",
		Long: `Take over the address space of peers that are gone for good. A PEER_ID is the name or the nickname of a peer, as
'weft status ipam' shows them.

It is refused while one of them answers. All other hosts are asked first whether they got space from them; a host that is out of
reach must be named too when it is gone, or brought back. --force goes on without it; an address may then be given twice.`,
		Example: "  weft rmpeer host3\n  weft rmpeer f6:42:1d:0a:5e:01 host5",
		RunE: p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
			if len(args) == 0 || slices.Contains(args, "") {
				return usagef("name a peer that is gone for good, as 'weft status ipam' shows it")
			}
			r.Peers = args
			list, err := waiting(ctx, p, func(ctx context.Context) ([]api.Removed, error) { return d.RemovePeers(ctx, r) })
			if err != nil {
				return err
			}
			var b bytes.Buffer
			for _, o := range list {
				fmt.Fprintf(&b, "%d IPs taken over from %s\n", o.IPs, fullName(o.Name, o.Nickname))
			}
			err = p.print(b.Bytes())
			for _, o := range list {
				if o.Released > 0 {
					p.say("%d addresses that containers of %s held are free again", o.Released, fullName(o.Name, o.Nickname))
				}
			}
			return err
		}),
		ValidArgsFunction: p.completeGone,
	}
	cmd.Flags().BoolVar(&r.Force, "force", false, "go on although hosts out of reach may hold their space")
	return cmd
}

// completeGone offers who owns space and is out of reach; the nickname when it
// is nobody else's.
func (p *program) completeGone(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	d, err := p.load(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := d.Status(cmd.Context())
	if err != nil || s.IPAM == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	owners := make([]api.PeerID, 0, len(s.IPAM.Entries))
	for _, e := range s.IPAM.Entries {
		owners = append(owners, api.PeerID{Name: e.Name, Nickname: e.Nickname})
	}
	var names []string
	for i, name := range callNames(owners) {
		if e := s.IPAM.Entries[i]; !e.Self && !e.Reachable && !slices.Contains(args, name) {
			names = append(names, name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// fullName is how a peer is printed.
func fullName(name, nickname string) string { return name + "(" + nickname + ")" }

// talk is what a request waits for, said on stderr once it takes long.
type talk struct {
	// Constant.
	p *program

	mu           sync.Mutex
	reason, said string
}

func (t *talk) hear(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reason = reason
}

// speak says what has not been said.
func (t *talk) speak() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reason != t.said {
		t.said = t.reason
		t.p.say("waiting: %s", t.reason)
	}
}

// waiting runs a request that may have to wait for other hosts. Why it waits
// is said once it outlasts our patience, and again when that changes; at once
// when it is interrupted.
func waiting[T any](ctx context.Context, p *program, f func(context.Context) (T, error)) (T, error) {
	t := &talk{p: p}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(max(p.patience, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				t.speak()
			}
		}
	}()
	v, err := f(api.WithProgress(ctx, t.hear))
	close(done)
	<-ended
	if ctx.Err() != nil {
		t.speak()
	}
	return v, err
}

// ipamStatus is what each peer owns. What is not in the table goes to stderr,
// see remarksOf; the value for JSON has everything.
func ipamStatus(s api.Status) (any, []byte) {
	if s.IPAM == nil {
		return nil, nil
	}
	var b bytes.Buffer
	for _, e := range s.IPAM.Entries {
		active, reach := "", ""
		if e.Active >= 0 {
			active = fmt.Sprintf(" (%d active)", e.Active)
		}
		if !e.Reachable && !e.Self {
			reach = " - unreachable!"
		}
		fmt.Fprintf(&b, "%-37v %8d IPs (%04.1f%% of total)%s%s\n", fullName(e.Name, e.Nickname), e.IPs, share(e.IPs, s.IPAM.RangeIPs), active, reach)
	}
	return s.IPAM, b.Bytes()
}

// share returns a part of a whole in percent.
func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// sortIPAM puts ourselves first, then by nickname and name.
func sortIPAM(i *api.IPAM) *api.IPAM {
	sorted := *i
	sorted.Entries = slices.Clone(i.Entries)
	slices.SortStableFunc(sorted.Entries, func(a, b api.IPAMEntry) int {
		switch {
		case a.Self != b.Self && a.Self:
			return -1
		case a.Self != b.Self:
			return 1
		}
		return cmp.Or(cmp.Compare(a.Nickname, b.Nickname), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Identity, b.Identity))
	})
	return &sorted
}

// remarksOf is what people must know beside a table whose form belongs to
// scripts: each line goes to stderr. Of the whole status or of its part ipam.
func remarksOf(s api.Status, section string, now time.Time) []string {
	var lines []string
	warn := func(format string, a ...any) { lines = append(lines, "warning: "+fmt.Sprintf(format, a...)) }
	if section == "" {
		for _, w := range s.Warnings {
			if !api.Held(s.Findings, w) {
				warn("%s", w)
			}
		}
		lines = append(lines, told(s.Findings)...)
	}
	if section != "" && section != "ipam" || s.IPAM == nil {
		return lines
	}
	for _, w := range s.IPAM.Warnings {
		if section != "" || !slices.Contains(s.Warnings, w) {
			warn("%s", w)
		}
	}
	for _, d := range s.IPAM.Duplicates {
		warn("address %s is held more than once: %s; detach all but one", d.Address, strings.Join(d.Holders, ", "))
	}
	for _, w := range s.IPAM.Pending {
		what := "an address in " + w.What
		if w.Kind == "claim" {
			what = "its address " + w.What
		}
		line := fmt.Sprintf("%s waits for %s", w.Container, what)
		if age := now.Sub(w.Since).Round(time.Second); !w.Since.IsZero() && age > 0 {
			line += fmt.Sprintf(" (for %s)", age)
		}
		if w.Why != "" {
			line += ": " + w.Why
		}
		lines = append(lines, line)
	}
	return lines
}

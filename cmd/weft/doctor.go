package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
)

// besideLimit is how long `weftd doctor` may take.
const besideLimit = 20 * time.Second

func (p *program) doctorCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor [PEER_ID]",
		Short: "Say what is wrong with this host or the way to a peer, and how to mend it",
		Long: `Say what is wrong with this host, and how to mend it: what the kernel can do, rules of firewalls that are in the way, ports
that other hosts do not reach, MTU, clocks, settings of kernel and Docker, name resolution, disk, versions; with a PEER_ID the
way to that peer from end to end. It changes nothing that is in use. Without a daemon, or when that does not answer, it looks at what can be
seen without.

The exit code is 0 when there is no problem (warnings and notes are none), and 1 when there is one.`,
		Example: "  weft doctor\n  weft doctor host2\n  weft doctor -o json | jq -r '.findings[] | select(.severity == \"problem\") | .remedy'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("takes one peer, got %q and %q", args[0], args[1])
			}
			if len(args) == 1 && args[0] == "" {
				return usagef("name a peer, as 'weft status connections' shows it, or none")
			}
			return nil
		},
		ValidArgsFunction: p.completePeers,
	}
	o := outputFlag(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show also what is as it should be")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := p.load(cmd)
		if err != nil {
			return err
		}
		var r api.DoctorRequest
		if len(args) == 1 {
			r.Peer = args[0]
		}
		found, err := p.diagnose(cmd.Context(), cmd, d, r)
		if err != nil {
			return err
		}
		if found.Findings = orEmpty(found.Findings); *o == "json" {
			err = p.printJSON(found)
		} else {
			err = p.print(doctorTable(found, all))
		}
		if err != nil {
			return err
		}
		if worst(found.Findings) == api.Problem {
			return &exitError{code: exitFailed}
		}
		return nil
	}
	return cmd
}

// diagnose asks the daemon, or looks without it.
func (p *program) diagnose(ctx context.Context, cmd *cobra.Command, d daemon, r api.DoctorRequest) (api.Diagnosis, error) {
	found, err := d.Doctor(ctx, r)
	gone := errors.Is(err, api.ErrUnreachable) || errors.Is(err, api.ErrSilent)
	if !gone || r.Peer != "" {
		return found, err
	}
	p.say("%v; looking without it", err)
	return p.beside(ctx, settings.DaemonArgs(cmd.Flags(), settings.Client))
}

// beside runs `weftd doctor`, which reads the same settings: args are the flags
// that were given here.
func (p *program) beside(ctx context.Context, args []string) (api.Diagnosis, error) {
	var found api.Diagnosis
	path, err := p.findDaemon()
	if err != nil {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, besideLimit)
	defer cancel()
	var out, said bytes.Buffer
	c := exec.CommandContext(ctx, path, append([]string{"doctor"}, args...)...)
	c.Env = settings.ChildEnviron(p.environ)
	c.Stdout, c.Stderr = &out, &said
	c.WaitDelay = time.Second
	if err := c.Run(); err != nil {
		return found, fmt.Errorf("weftd doctor: %s", cmp.Or(strings.TrimPrefix(strings.TrimSpace(said.String()), "weftd: "), err.Error()))
	}
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		return found, fmt.Errorf("weftd doctor: %w", err)
	}
	return found, nil
}

// worst is the gravest severity of a list.
func worst(list []api.Finding) api.Severity {
	w := api.OK
	for _, f := range list {
		if f.Severity.Rank() > w.Rank() {
			w = f.Severity
		}
	}
	return w
}

// doctorTable is one line for each finding and, below it, what to do.
func doctorTable(d api.Diagnosis, all bool) []byte {
	var b bytes.Buffer
	fine := 0
	for _, f := range d.Findings {
		if f.Severity == api.OK {
			fine++
			if !all {
				continue
			}
		}
		fmt.Fprintf(&b, "%-8s %-18s %s\n", f.Severity, f.ID, oneLineOf(f.What))
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%28s%s\n", "-> ", oneLineOf(f.Remedy))
		}
	}
	count := func(s api.Severity) (n int) {
		for _, f := range d.Findings {
			if f.Severity == s {
				n++
			}
		}
		return n
	}
	about := d.Host
	if d.Peer != "" {
		about += " to " + d.Peer
	}
	fmt.Fprintf(&b, "%s: %d problems, %d warnings, %d notes, %d fine\n", about, count(api.Problem), count(api.Warning), count(api.Note), fine)
	return b.Bytes()
}

// maxTold bounds the lines that `weft status` says of findings.
const maxTold = 3

// told is what `weft status` says of what the daemon found wrong.
func told(list []api.Finding) (lines []string) {
	for i, f := range list {
		if i == maxTold {
			return append(lines, fmt.Sprintf("%d more; see 'weft doctor'", len(list)-maxTold))
		}
		line := fmt.Sprintf("%s: %s", f.Severity, f.What)
		if i == len(list)-1 {
			line += "; see 'weft doctor'"
		}
		lines = append(lines, line)
	}
	return lines
}

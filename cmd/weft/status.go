package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/router/api"
)

// waitInterval is how often --wait looks.
const waitInterval = 200 * time.Millisecond

func (p *program) statusCommand() *cobra.Command {
	var wait string
	var timeout time.Duration
	var watch watching
	sections := []string{"targets", "connections", "peers", "dns", "ipam"}
	cmd := &cobra.Command{
		Use:   "status [targets|connections|peers|dns|ipam]",
		Short: "Show what weft knows and does; exit 1 before it is ready",
		Long: `Show what weft knows and does; exit 1 before it is ready. The tables are for people and for scripts that cut columns out
of them. Warnings, addresses that are held twice, and requests that wait go to stderr; with -o json they are part of the answer.`,
		Example:   "  weft status --wait=connections=2 --timeout=30s\n  weft status connections --watch",
		ValidArgs: sections,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usagef("takes one section, got %q and %q", args[0], args[1])
			case len(args) == 1 && sectionOf(args[0]) == nil:
				return usagef("unknown section %q: want %s", args[0], strings.Join(sections, ", "))
			}
			return nil
		},
	}
	o := outputFlag(cmd)
	watch.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&wait, "wait", "", "wait until there are N: `connections=N`")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "let --wait wait for `TIME`")
	cmd.RunE = p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
		want, err := parseWait(wait, timeout, cmd.Flags().Changed("wait"), cmd.Flags().Changed("timeout"))
		if err != nil {
			return err
		}
		if err := watch.check(cmd.Flags()); err != nil {
			return err
		}
		s, err := waitConnections(ctx, d, want, timeout)
		if err != nil {
			return p.ended(cmd, err)
		}
		section, name := section(wholeStatus), ""
		if len(args) == 1 {
			section, name = sectionOf(args[0]), args[0]
		}
		if watch.on {
			return p.watchStatus(ctx, d, s, view{section, name, *o == "json", watch.interval})
		}
		sortStatus(&s)
		value, table := section(s)
		if err := p.list(*o, value, table); err != nil {
			return err
		}
		if *o != "json" { // which has it all
			for _, line := range remarksOf(s, name, time.Now()) {
				p.say("%s", line)
			}
		}
		return notReady(s)
	})
	return cmd
}

func notReady(s api.Status) error {
	switch {
	case s.Ready:
		return nil
	case s.Waiting != "":
		return fmt.Errorf("weftd is not ready yet: %s", s.Waiting)
	}
	return fmt.Errorf("weftd is not ready yet")
}

// parseWait returns the number of connections to wait for; -1 is no waiting.
func parseWait(wait string, timeout time.Duration, waits, times bool) (int, error) {
	if !waits {
		if times {
			return 0, usagef("--timeout needs --wait=connections=N")
		}
		return -1, nil
	}
	number, ok := strings.CutPrefix(wait, "connections=")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 {
		return 0, usagef("--wait=%s: want connections=N", wait)
	}
	if timeout <= 0 {
		return 0, usagef("--timeout=%s: want a time such as 30s", timeout)
	}
	return n, nil
}

// waitConnections returns the first status with at least want connections that
// carry packets; at once when want is negative.
func waitConnections(ctx context.Context, d daemon, want int, timeout time.Duration) (api.Status, error) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	for {
		s, err := d.Status(ctx)
		if err != nil || want < 0 {
			return s, err
		}
		n := 0
		for _, c := range s.Connections {
			if c.State.Carries() {
				n++
			}
		}
		if s.Ready && n >= want {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-deadline.C:
			if n >= want {
				return s, notReady(s)
			}
			return s, fmt.Errorf("%d of %d connections after %s; see 'weft status connections'", n, want, timeout)
		case <-tick.C:
		}
	}
}

// carries reports whether packets pass.
func (p *program) reportCommand() *cobra.Command {
	var format, bundle string
	cmd := &cobra.Command{
		Use:   "report [-f TEMPLATE | --bundle FILE]",
		Short: "Print everything as JSON, or through a Go template; or pack what helps to understand a host",
		Long: `Print everything as JSON, or through a Go template.

With --bundle nothing is printed: status, paths, what the doctor finds, events, the end of the log, the configuration, and what
ip, nft and others say of the host go into an archive that only its owner can read. Passwords, tokens and keys are taken out.`,
		Example: "  weft report -f '{{.Router.Name}}'\n  weft report -f '{{json .DNS.Entries}}'\n  weft report --bundle report.tar.gz",
		Args:    noArgs,
	}
	cmd.Flags().StringVar(&bundle, "bundle", "", "pack an archive for whoever helps: `FILE.tar.gz`")
	cmd.Flags().StringVarP(&format, "format", "f", "", "Go `TEMPLATE` with a json function")
	show := p.withDaemon(func(ctx context.Context, d daemon, _ []string) error {
		render := marshalJSON
		if cmd.Flags().Changed("format") {
			var err error
			if render, err = templateOf(format); err != nil {
				return err
			}
		}
		s, err := d.Status(ctx)
		if err != nil {
			return err
		}
		sortStatus(&s)
		b, err := render(reportOf(s))
		if err != nil {
			return err
		}
		return p.print(append(b, '\n'))
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("bundle"):
			return show(cmd, args)
		case bundle == "" || cmd.Flags().Changed("format"):
			return usagef("--bundle takes the name of a file, and no -f")
		}
		return p.bundle(cmd, bundle)
	}
	return cmd
}

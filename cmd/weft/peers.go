package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/router/api"
)

func (p *program) connectCommand() *cobra.Command {
	var r api.ConnectRequest
	cmd := &cobra.Command{
		Use:   "connect [--replace] [PEER …]",
		Short: "Add peers to connect to, or replace them; remembered",
		RunE: p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
			if len(args) == 0 && !r.Replace {
				return usagef("name a peer: IP-OR-NAME[:PORT]")
			}
			if err := targetArgs(args); err != nil {
				return err
			}
			r.Targets = args
			return d.Connect(ctx, r)
		}),
	}
	cmd.Flags().BoolVar(&r.Replace, "replace", false, "forget all others")
	return cmd
}

func (p *program) forgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "forget PEER …",
		Short: "Stop connecting to peers; connections that stand stay",
		RunE: p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
			if len(args) == 0 {
				return usagef("name a peer as 'weft status targets' shows it")
			}
			if err := targetArgs(args); err != nil {
				return err
			}
			return d.Forget(ctx, args)
		}),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			d, err := p.load(cmd)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			s, _ := d.Status(cmd.Context()) // without an answer there is nothing to offer
			return s.Targets, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func (p *program) tokenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "token",
		Short: "Print the cluster secret, and on stderr how another host joins with it",
		Args:  noArgs,
		RunE: p.withDaemon(func(ctx context.Context, d daemon, _ []string) error {
			t, err := d.Token(ctx)
			if err != nil {
				return err
			}
			if err := p.print([]byte(t.Token + "\n")); err != nil {
				return err
			}
			if t.Join != "" {
				p.say("another host joins with: %s", t.Join)
			}
			return nil
		}),
	}
}

func (p *program) logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs [-f]",
		Short: "Print the daemon's log",
		Args:  noArgs,
		RunE: p.withDaemon(func(ctx context.Context, d daemon, _ []string) error {
			return d.Logs(ctx, follow, p.stdout)
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, until interrupted")
	return cmd
}

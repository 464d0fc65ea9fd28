package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/router/api"
)

func (p *program) dnsAddCommand() *cobra.Command {
	return p.nameCommand("dns-add", "Give a container, or addresses, a name by hand",
		func(ctx context.Context, d daemon, r api.NameRequest) error { return d.DNSAdd(ctx, r) })
}

func (p *program) dnsRemoveCommand() *cobra.Command {
	cmd := p.nameCommand("dns-remove", "Remove names of a container, or of addresses",
		func(ctx context.Context, d daemon, r api.NameRequest) error { return d.DNSRemove(ctx, r) })
	cmd.ValidArgsFunction = p.completeContainers
	return cmd
}

func (p *program) nameCommand(name, short string, f func(context.Context, daemon, api.NameRequest) error) *cobra.Command {
	var fqdn string
	cmd := &cobra.Command{
		Use:     name + " [IP …] CONTAINER [-h FQDN] | " + name + " IP … -h FQDN",
		Short:   short,
		Example: "  weft " + name + " web -h shop.weft.internal\n  weft " + name + " 10.32.0.7 -h printer.weft.internal",
	}
	cmd.Flags().StringVarP(&fqdn, "fqdn", "h", "", "the `NAME`; default the name of the container")
	cmd.RunE = p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
		r, err := nameArgs(args, fqdn, cmd.Flags().Changed("fqdn"))
		if err != nil {
			return err
		}
		return f(ctx, d, r)
	})
	return cmd
}

func (p *program) dnsLookupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dns-lookup NAME",
		Short: "Print the addresses of a name, one per line",
		Long:  "Print the addresses of a name, one per line, as the embedded server gives them. An unknown name prints nothing.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("takes one name")
			}
			_, err := api.ParseFQDN(args[0])
			return err
		},
	}
	o := outputFlag(cmd)
	cmd.RunE = p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
		list, err := d.DNSLookup(ctx, args[0])
		if err != nil {
			return err
		}
		var b bytes.Buffer
		for _, a := range bare(list) {
			fmt.Fprintln(&b, a)
		}
		return p.list(*o, bare(list), b.Bytes())
	})
	return cmd
}

func (p *program) dnsArgsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "dns-args",
		Short:   "Print the arguments that make docker run use the embedded name server",
		Example: "  docker run $(weft dns-args) …",
		Args:    noArgs,
		RunE: p.withDaemon(func(ctx context.Context, d daemon, _ []string) error {
			s, err := d.Status(ctx)
			if err != nil || s.DNS == nil {
				return err
			}
			server := s.DNS.Address
			if ap, err := netip.ParseAddrPort(server); err == nil {
				server = ap.Addr().String()
				if ap.Port() != 53 {
					p.say("warning: the name server listens on port %d, and Docker always asks port 53", ap.Port())
				}
			}
			return p.print(fmt.Appendf(nil, "--dns=%s --dns-search=%s\n", server, s.DNS.Domain))
		}),
	}
}

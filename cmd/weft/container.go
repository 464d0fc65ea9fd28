package main

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/router/api"
)

func (p *program) attachCommand() *cobra.Command {
	var r api.AttachRequest
	cmd := &cobra.Command{
		Use:   "attach [flags] [ADDRESS …] CONTAINER",
		Short: "Put a container on the switch and print its addresses",
		Long: `Put a container on the switch and print its addresses. Doing it again gives the same answer.

A container is a Docker name or id, pid:N, or netns:NAME-or-path. An address is [ip:]ADDRESS/LENGTH, or net:SUBNET/LENGTH for
one that the allocator chooses in a subnet; net:default is the default subnet, which is meant when no address is named.
What a request waits for is said on stderr; one that is interrupted leaves nothing behind.`,
		Example: "  weft attach web\n  weft attach net:10.33.0.0/16 web\n  weft attach 10.32.0.2/12 netns:blue",
		RunE: p.withDaemon(func(ctx context.Context, d daemon, args []string) (err error) {
			if r.Addresses, r.Container, err = splitArgs(args); err != nil {
				return err
			}
			if r.Container == "" {
				return usagef("name a container")
			}
			if len(r.AddHosts) > 0 && !r.RewriteHosts {
				return usagef("--add-host needs --rewrite-hosts")
			}
			for _, h := range r.AddHosts {
				name, ip, _ := strings.Cut(h, ":")
				if _, err := netip.ParseAddr(ip); err != nil || name == "" {
					return usagef("--add-host=%s: want NAME:ADDRESS", h)
				}
			}
			if mac, err := net.ParseMAC(r.MAC); r.MAC != "" && (err != nil || len(mac) != 6 || mac[0]&1 != 0) {
				return usagef("--mac=%s: want a unicast MAC address such as 02:00:00:00:00:01", r.MAC)
			}
			return p.printAddresses(waiting(ctx, p, func(ctx context.Context) (api.Addresses, error) { return d.Attach(ctx, r) }))
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&r.WithoutDNS, "without-dns", false, "register no names")
	f.BoolVar(&r.RewriteHosts, "rewrite-hosts", false, "put the addresses into the container's /etc/hosts")
	f.StringArrayVar(&r.AddHosts, "add-host", nil, "one more `NAME:ADDRESS` for /etc/hosts; may be repeated")
	f.BoolVar(&r.NoMulticastRoute, "no-multicast-route", false, "do not route multicast through the switch")
	f.StringVar(&r.MAC, "mac", "", "`MAC` address of the interface")
	return cmd
}

func (p *program) detachCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "detach [ADDRESS …] CONTAINER",
		Short: "Take addresses, or everything, from a container and print them",
		RunE: p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
			addresses, container, err := splitArgs(args)
			if err != nil {
				return err
			}
			if container == "" {
				return usagef("name a container")
			}
			return p.printAddresses(d.Detach(ctx, api.DetachRequest{Container: container, Addresses: addresses}))
		}),
		ValidArgsFunction: p.completeContainers,
	}
}

func (p *program) exposeCommand() *cobra.Command {
	var r api.ExposeRequest
	cmd := &cobra.Command{
		Use:   "expose [flags] [ADDRESS …]",
		Short: "Put this host on the switch",
		Long: `Put this host on the switch and print its addresses. Containers reach the outside through it unless told otherwise.
Addresses are named as for attach; without any the allocator chooses one in the default subnet.`,
		Example: "  weft expose\n  weft expose 10.32.0.100/12 -h gateway.weft.internal",
	}
	cmd.RunE = p.withDaemon(func(ctx context.Context, d daemon, args []string) (err error) {
		if r.Addresses, err = addressArgs(args); err != nil {
			return err
		}
		if cmd.Flags().Changed("fqdn") {
			if r.FQDN, err = fqdnArg(r.FQDN); err != nil {
				return err
			}
		}
		return p.printAddresses(waiting(ctx, p, func(ctx context.Context) (api.Addresses, error) { return d.Expose(ctx, r) }))
	})
	cmd.Flags().StringVarP(&r.FQDN, "fqdn", "h", "", "register this `NAME` for the host")
	cmd.Flags().BoolVar(&r.WithoutMasquerade, "without-masquerade", false, "do not let containers reach the outside through this host")
	return cmd
}

func (p *program) hideCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hide [ADDRESS …]",
		Short: "Take this host off the switch",
		RunE: p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
			addresses, err := addressArgs(args)
			if err != nil {
				return err
			}
			return p.printAddresses(d.Hide(ctx, api.HideRequest{Addresses: addresses}))
		}),
	}
}

func (p *program) psCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ps [CONTAINER …]",
		Short:             "List containers on this host's switch: name, MAC, addresses",
		ValidArgsFunction: p.completeContainers,
	}
	o := outputFlag(cmd)
	cmd.RunE = p.withDaemon(func(ctx context.Context, d daemon, args []string) error {
		containers := make([]string, 0, len(args))
		for _, arg := range args {
			c, err := arg, error(nil)
			if arg != api.ExposeName {
				c, err = containerArg(arg)
			}
			if err != nil {
				return err
			}
			containers = append(containers, c)
		}
		list, err := d.PS(ctx, containers)
		if err != nil {
			return err
		}
		return p.list(*o, orEmpty(list), psTable(list))
	})
	return cmd
}

// printAddresses writes addresses bare, in order, on one line.
func (p *program) printAddresses(list api.Addresses, err error) error {
	if err != nil || len(list) == 0 {
		return err
	}
	return p.print([]byte(strings.Join(bare(list), " ") + "\n"))
}

func bare(list api.Addresses) []string {
	words := make([]string, 0, len(list))
	for _, a := range list {
		words = append(words, a.Addr().String())
	}
	return words
}

// completeContainers offers what is attached.
func (p *program) completeContainers(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	d, err := p.load(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := d.PS(cmd.Context(), nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, a := range list {
		if a.Container != api.ExposeName {
			names = append(names, a.Container)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// orEmpty makes JSON say [] instead of null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

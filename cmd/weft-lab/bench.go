package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/weft-lab/bench"
)

// benchCommand compares the ways on which traffic can go between hosts.
func benchCommand() *cobra.Command {
	o := bench.Options{Rounds: 5, Time: time.Second, Datapath: "userspace", BinDir: binDir()}
	var out string
	c := &cobra.Command{
		Use: "bench", Short: "compare weft with bare veth, VXLAN, wireguard-go, tinc and Nebula, in one run", Args: args(cobra.NoArgs),
		Long: "Measures throughput, latency and processor time on every way in turns, several rounds, and prints medians and\n" +
			"ratios. Writes bench.json, bench.md and bench.svg. The ways: " + strings.Join(bench.Ways(), ", ") + ".",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			o.Progress = cmd.ErrOrStderr()
			r, err := bench.Run(cmd.Context(), o)
			if err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			w := cmd.OutOrStdout()
			if err := errors.Join(r.Tables(w), r.Write(out)); err != nil {
				return err
			}
			fmt.Fprintln(w)
			r.Goals(w)
			if len(r.Failed) > 0 {
				return fmt.Errorf("bench: %d measurements failed", len(r.Failed))
			}
			return nil
		},
	}
	c.Flags().IntVar(&o.Rounds, "rounds", o.Rounds, "how often each figure is taken")
	c.Flags().DurationVar(&o.Time, "time", o.Time, "length of one measurement of throughput, whole seconds")
	c.Flags().StringSliceVar(&o.Ways, "ways", nil, "only these")
	c.Flags().StringVar(&o.Datapath, "datapath", o.Datapath, "weft's data path: kernel or userspace")
	c.Flags().BoolVar(&o.Filter, "filter", false, "let frames on bridges pass through the packet filter of IP, as Docker wants it (br_netfilter)")
	c.Flags().StringVar(&out, "out", binDir(), "directory for the results")
	c.AddCommand(benchTunnelCommand())
	return c
}

// benchTunnelCommand is the plain tunnel that everything is compared with.
func benchTunnelCommand() *cobra.Command {
	var name string
	var mtu int
	c := &cobra.Command{
		Use: "wireguard-go FILE", Hidden: true, Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return bench.Tunnel(cmd.Context(), name, mtu, a[0])
		},
	}
	c.Flags().StringVar(&name, "name", "wg0", "interface")
	c.Flags().IntVar(&mtu, "mtu", 1420, "of the interface")
	return c
}

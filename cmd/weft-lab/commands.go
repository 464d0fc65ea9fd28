package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// binDir is where this program is, and with it weft and weftd.
func binDir() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Dir(exe)
}

// step says what is being done, and how long it took when it was long.
func step(w io.Writer, what string, f func() error) error {
	fmt.Fprintf(w, "%s …\n", what)
	begun := time.Now()
	err := f()
	if took := time.Since(begun); err == nil && took > time.Second {
		fmt.Fprintf(w, "  took %s\n", took.Round(100*time.Millisecond))
	}
	return err
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "labs with their hosts, containers and addresses", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := lab.Names()
			if err != nil {
				return err
			}
			return list(cmd.OutOrStdout(), names...)
		},
	}
}

func list(out io.Writer, names ...string) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, name := range names {
		l, err := lab.Open(name)
		if err != nil {
			fmt.Fprintf(w, "%s\t(not running: weft-lab down --lab %s)\n", name, name)
			continue
		}
		for _, h := range l.Hosts() {
			var containers, addrs []string
			for c, p := range h.Containers() {
				containers = append(containers, c+"="+p.Ref())
			}
			slices.Sort(containers)
			for _, a := range h.Spec().Addrs() {
				addrs = append(addrs, a.String())
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, h.Name(), strings.Join(addrs, " "), strings.Join(containers, " "))
		}
		for _, f := range l.Faults() {
			fmt.Fprintf(w, "%s\tfault\t%s\t\n", name, f)
		}
		l.Close()
	}
	return w.Flush()
}

func downCommand(name *string) *cobra.Command {
	all := false
	c := &cobra.Command{
		Use: "down [LAB]", Short: "end a lab and remove everything of it", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			there, err := lab.Names()
			if err != nil {
				return err
			}
			names := a
			switch {
			case all && len(a) > 0:
				return usagef("--all and a name do not go together")
			case all:
				names = there
			case len(a) == 0:
				n, err := theLab(*name)
				if err != nil {
					return err
				}
				names = []string{n}
			}
			var errs []error
			for _, n := range names {
				err := lab.Down(n)
				errs = append(errs, err)
				switch {
				case err != nil:
				case slices.Contains(there, n):
					cmd.Printf("lab %s is gone\n", n)
				default:
					cmd.Printf("there is no lab %s\n", n)
				}
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "every lab of this machine")
	return c
}

func execCommand(open func() (*lab.Lab, error)) *cobra.Command {
	c := &cobra.Command{
		Use: "exec HOST[/CONTAINER] COMMAND [ARGUMENT …]", Short: "run a command in a host or in one of its containers",
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			p, err := l.Place(a[0])
			if err != nil {
				return err
			}
			// An interrupt goes to the command by way of the terminal.
			run := p.Command(context.WithoutCancel(cmd.Context()), a[1:]...)
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
			err = p.StartCommand(run)
			if err == nil {
				err = run.Wait()
			}
			if e, ok := errors.AsType[*exec.ExitError](err); ok {
				return exitCode(max(e.ExitCode(), 1))
			}
			return err
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}

func captureCommand(open func() (*lab.Lab, error)) *cobra.Command {
	file := "-"
	c := &cobra.Command{
		Use: "capture [NETWORK]", Short: "record what hosts send, for tcpdump -r", Args: args(cobra.MaximumNArgs(1)),
		Long: "Writes every frame that a host hands to the network, or to any network, in pcap form until interrupted:\n\n  weft-lab capture lan | tcpdump -r - -n",
		RunE: func(cmd *cobra.Command, a []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if file != "-" {
				f, err := os.Create(file)
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }()
				w = f
			} else if st, err := os.Stdout.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
				return usagef("this is not for a terminal: -w FILE, or a pipe to tcpdump -r -")
			}
			c, err := l.Capture(strings.Join(a, ""), w)
			if err != nil {
				return err
			}
			<-cmd.Context().Done()
			if _, missed := c.Stop(); missed > 0 {
				return fmt.Errorf("%d frames were missed", missed)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "write", "w", file, "file to write, - for standard output")
	return c
}

func cutCommand(open func() (*lab.Lab, error)) *cobra.Command {
	oneWay, percent := false, 100.0
	c := &cobra.Command{
		Use: "cut HOST [HOST]", Short: "lose everything, or a share, of what a host or a pair of hosts exchanges",
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return l.SetFault(cmd.Context(), faults(append(a, "")[0], append(a, "")[1], oneWay, percent)...)
		},
	}
	c.Flags().BoolVar(&oneWay, "one-way", false, "only what the first host sends")
	c.Flags().Float64Var(&percent, "loss", percent, "percent of the packets")
	return c
}

func faults(a, b string, oneWay bool, percent float64) []lab.Fault {
	f := []lab.Fault{{From: a, To: b, Percent: percent}}
	if !oneWay {
		f = append(f, lab.Fault{From: b, To: a, Percent: percent})
	}
	return f
}

func healCommand(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{
		Use: "heal [HOST [HOST]]", Short: "undo a cut, or all of them", Args: args(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			if len(a) == 0 {
				return l.HealAll(cmd.Context())
			}
			return l.SetFault(cmd.Context(), faults(append(a, "")[0], append(a, "")[1], false, 0)...)
		},
	}
}

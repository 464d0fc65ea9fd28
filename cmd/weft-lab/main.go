// Command weft-lab makes hosts on this one machine and lets people and scripts
// use them: the demo, experiments, and the QEMU guest of the kernel tests. What
// a lab is lives in package lab; this is its command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

func main() {
	lab.Init()
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if usage, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(os.Stderr, "weft-lab: %s (see %s --help)\n", usage.error, cmd.CommandPath())
		return 2
	}
	fmt.Fprintf(os.Stderr, "weft-lab: %s\n", err)
	return 1
}

// exitCode is how a command that ran in the lab ended; it has said why itself.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError says that the command line is wrong.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// args makes cobra's checks of the number of arguments usage errors.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usageError{err}
		}
		return nil
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "weft-lab",
		Short:         "hosts on one machine",
		Long:          "weft-lab makes hosts on this one machine, each with its own network, processes, /run, /etc and\n/var/lib, and networks between them that exist nowhere else.",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, a []string) error {
			if len(a) > 0 {
				return usagef("unknown command %q", a[0])
			}
			return cmd.Help()
		},
		Args: cobra.ArbitraryArgs,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	name := root.PersistentFlags().String("lab", "", "the lab to use; may be left out while there is only one")
	open := func() (*lab.Lab, error) {
		n, err := theLab(*name)
		if err != nil {
			return nil, err
		}
		return lab.Open(n)
	}
	root.AddCommand(
		upCommand(), listCommand(), downCommand(name), execCommand(open), captureCommand(open),
		cutCommand(open), healCommand(open), drawCommand(open), demoCommand(name), forwardCommand(open), guestCommand(), benchCommand(),
	)
	return root
}

// theLab returns the lab that is meant when only one can be.
func theLab(name string) (string, error) {
	if name != "" {
		return name, nil
	}
	names, err := lab.Kept() // those of tests are not for hands
	switch {
	case err != nil:
		return "", err
	case len(names) == 0:
		return "", errors.New("no lab is up; 'make demo' starts one with three hosts, 'weft-lab up' any other")
	case len(names) > 1:
		return "", usagef("there are several labs (%v): name one with --lab", names)
	}
	return names[0], nil
}

// Command weftd is the daemon: one per host, made of the packages below it.
//
// This package owns the wiring and the process: settings, signals, exit codes
// and the log file. Everything else is decided elsewhere.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/api"
)

// Exit codes, the same as weft's.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRunning = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "weftd:", err)
	switch {
	case errors.Is(err, api.ErrUsage):
		os.Exit(exitUsage)
	case errors.Is(err, errRunning):
		os.Exit(exitRunning)
	}
	os.Exit(exitFailed)
}

func command() *cobra.Command {
	var printName bool
	root := &cobra.Command{
		Use:           "weftd [flags] [peer ...]",
		Short:         "Join this host's containers to the switch",
		Version:       settings.Version,
		Args:          cobra.ArbitraryArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, peers []string) error {
			s, err := load(cmd, settings.Daemon, peers)
			if err != nil {
				return err
			}
			if printName {
				return printPeerName(s)
			}
			return serve(cmd.Context(), s)
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(usageError)
	settings.AddFlags(root.Flags(), settings.Daemon)
	root.Flags().BoolVar(&printName, "print-peer-name", false, "print this host's name and exit")

	var force bool
	reset := &cobra.Command{
		Use:   "reset [--force]",
		Short: "Remove everything that weft made on this host; the daemon must not run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := load(cmd, settings.Reset, nil)
			if err != nil {
				return err
			}
			return reset(cmd.Context(), s, force)
		},
	}
	settings.AddFlags(reset.Flags(), settings.Reset)
	reset.Flags().BoolVar(&force, "force", false, "go on although former settings of the host cannot be read")
	root.AddCommand(reset)
	return root
}

func load(cmd *cobra.Command, p settings.Program, peers []string) (settings.Settings, error) {
	return settings.Load(p, settings.Source{Flags: cmd.Flags(), Environ: os.Environ(), Stdin: os.Stdin}, peers)
}

func usageError(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", api.ErrUsage, err) }

// printPeerName makes the identity when there is none: seed= lists are written
// before hosts start.
func printPeerName(s settings.Settings) error {
	state, err := crypto.OpenState(s.StateDir, machineID())
	if err != nil {
		return err
	}
	fmt.Println(state.Name)
	return nil
}

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
	switch code, ended, err := enterHost(os.Environ()); {
	case err != nil:
		fmt.Fprintln(os.Stderr, "weftd:", err)
		os.Exit(exitFailed)
	case ended:
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "weftd:", err)
	switch {
	case errors.Is(err, api.ErrUsage):
		os.Exit(usageCode(os.Getenv))
	case errors.Is(err, errRunning):
		os.Exit(exitRunning)
	}
	os.Exit(exitFailed)
}

func command() *cobra.Command {
	var printName, checkOnly bool
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
			switch {
			case checkOnly:
				_, err := s.CheckSecret()
				return err
			case printName:
				return printPeerName(s)
			}
			return serve(cmd.Context(), s)
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(usageError)
	settings.AddFlags(root.Flags(), settings.Daemon)
	root.Flags().BoolVar(&printName, "print-peer-name", false, "print this host's name and exit")
	root.Flags().BoolVar(&checkOnly, "check-config", false, "check the settings and exit")

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
	root.AddCommand(reset, keepSecretCommand(), keeperCommand(), doctorCommand())
	return root
}

// keepSecretCommand is how a container gets its secret: what is in its arguments
// and environment can be read as long as there is the container.
func keepSecretCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "keep-secret --secret-fd=0",
		Short:  "Keep the cluster secret that the descriptor gives, and exit",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := load(cmd, settings.Daemon, nil)
			if err != nil {
				return err
			}
			if s.Secret.IsZero() {
				return fmt.Errorf("%w: keep-secret takes a secret from --secret-fd", api.ErrUsage)
			}
			secret, _, err := s.Secret.Derive(s.Cluster, s.WeakPassword)
			if err != nil {
				return err
			}
			if _, err := crypto.OpenState(s.StateDir, machineID()); err != nil { // it makes the directory
				return err
			}
			_, err = crypto.SaveSecret(s.StateDir, secret, s.Cluster)
			return err
		},
	}
	settings.AddFlags(cmd.Flags(), settings.Daemon)
	return cmd
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

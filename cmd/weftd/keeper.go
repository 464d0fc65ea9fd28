package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/docker/plugin"
)

const (
	// keeperName is what the keeper's process is called, so that who ends weftd
	// by name does not end it, too.
	keeperName = "weft-plugin"
	// keeperLimit is how long one may take to begin.
	keeperLimit = 5 * time.Second
	keeperPoll  = 10 * time.Millisecond
	// keeperTend is how often it is looked whether its socket is still there.
	keeperTend = 10 * time.Second
)

// keeperCommand is the process that holds Docker's socket, see [plugin.Keeper].
// Nobody types it.
func keeperCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "plugin",
		Short:  "Hold the socket on which Docker finds weft, whether or not weftd runs",
		Args:   cobra.NoArgs,
		Hidden: true,
	}
	format := cmd.Flags().String("log-format", "text", "log in the form `text|json`")
	settings.AddFlags(cmd.Flags(), settings.Reset)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		// Before everything that can fail: while systemd listens for us, whoever
		// asks waits for an answer.
		ln, err := givenListener()
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		if *format == "json" {
			log = slog.New(slog.NewJSONHandler(os.Stderr, nil))
		}
		log = log.With("part", "plugin")
		s, err := keeperSettings(cmd, ln != nil, log)
		if err != nil {
			return err
		}
		return keepPlugin(cmd.Context(), s, ln, log)
	}
	return cmd
}

// keeperSettings returns those of a keeper. With a socket that was given to it,
// settings that are wrong, or are another user's to read, are no reason to let
// Docker wait: the daemon is where it is by default, or not there at all.
func keeperSettings(cmd *cobra.Command, given bool, log *slog.Logger) (settings.Settings, error) {
	s, err := load(cmd, settings.Reset, nil)
	if err == nil || !given {
		return s, err
	}
	log.Error("settings are wrong; Docker is answered as if there were none", "err", err)
	if cmd.Flags().Set("config", os.DevNull) == nil {
		s, err = load(cmd, settings.Reset, nil) // flags and variables count
	}
	if err != nil {
		s = settings.Settings{Socket: settings.DefaultSocket, PluginSocket: settings.DefaultPluginSocket}
	}
	return s, nil
}

// keepPlugin holds the socket that was given; nil: it takes it itself.
func keepPlugin(ctx context.Context, s settings.Settings, ln net.Listener, log *slog.Logger) error {
	_ = os.WriteFile("/proc/self/comm", []byte(keeperName), 0) // a name for people
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)             // whoever began it, and reads its log, may be gone
	given := ln != nil
	if !given {
		var err error
		if ln, err = plugin.TakeOver(ctx, s.PluginSocket); err != nil {
			return err
		}
	}
	log.Info("Docker's socket is held", "socket", s.PluginSocket, "version", settings.Version)
	k := plugin.NewKeeper(plugin.Info{Version: settings.Version, Door: s.PluginDoor(), Given: given, PID: os.Getpid()}, log)
	err := k.Serve(ctx, ln)
	log.Info("Docker's socket is given up", "socket", s.PluginSocket)
	return err
}

// givenListener returns the socket that systemd listens on for us; nil when it
// does not.
func givenListener() (net.Listener, error) {
	list, err := activation.Listeners()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	ln, ok := list[0].(*net.UnixListener)
	if !ok {
		return nil, errors.New("what systemd gives weftd plugin to listen on is no unix socket")
	}
	ln.SetUnlinkOnClose(false) // it stays systemd's
	return ln, nil
}

// ensureKeeper starts a keeper when there is none of our version.
func (d *daemon) ensureKeeper(ctx context.Context) error {
	s := d.settings
	fits := func() (bool, error) {
		is, err := plugin.Find(ctx, s.PluginSocket)
		switch {
		case errors.Is(err, plugin.ErrNobody):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("find what keeps %s: %w", s.PluginSocket, err)
		case is.Given && is.Door != s.PluginDoor():
			return false, fmt.Errorf("the unit that keeps %s asks a weftd at %s, and this one is at %s: give both the same --socket", s.PluginSocket, is.Door, s.PluginDoor())
		}
		return is.Door == s.PluginDoor() && (is.Given || is.Version == settings.Version), nil
	}
	ok, err := fits()
	if ok || err != nil {
		return err
	}
	ended, err := startKeeper(s)
	if err != nil {
		return fmt.Errorf("start what keeps %s: %w", s.PluginSocket, err)
	}
	limit := time.After(keeperLimit)
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("what keeps %s ended: %w; it says why in the log", s.PluginSocket, err)
		case <-limit:
			return fmt.Errorf("what keeps %s has not begun after %s", s.PluginSocket, keeperLimit)
		case <-ctx.Done():
			return nil
		case <-time.After(keeperPoll):
		}
		if ok, err := fits(); ok {
			return err
		}
	}
}

// startKeeper starts this program again, in a session of its own: it outlives
// us.
func startKeeper(s settings.Settings) (ended <-chan error, err error) {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", "plugin",
		"--plugin-socket="+s.PluginSocket, "--socket="+s.Socket, "--log-format="+s.LogFormat)
	if s.Sources["config"] != "" {
		cmd.Args = append(cmd.Args, "--config="+s.Config)
	}
	cmd.Args[0] = "weftd"
	cmd.Dir = "/"
	cmd.Env = settings.ChildEnviron(os.Environ())
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end := make(chan error, 1)
	go func() {
		_ = cmd.Wait() // the state says it
		end <- errors.New(cmd.ProcessState.String())
	}()
	return end, nil
}

// tendKeeper replaces a keeper that somebody ended, or whose socket somebody
// removed, until ctx ends.
func (d *daemon) tendKeeper(ctx context.Context) {
	failed := false
	for ctx.Err() == nil {
		watching, stop := context.WithTimeout(ctx, keeperTend)
		plugin.Watch(watching, d.settings.PluginSocket)
		if failed {
			<-watching.Done() // it did not help to be quick
		}
		stop()
		err := d.ensureKeeper(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			d.log.Error("Docker cannot use weft's networks any more; tried again", "part", "plugin", "err", err)
		}
		failed = err != nil
	}
}

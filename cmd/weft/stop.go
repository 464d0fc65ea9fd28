package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
)

// stopLimit is how long a daemon may take to end.
const stopLimit = 30 * time.Second

func (p *program) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the daemon; switch, containers and addresses stay",
		Args:  noArgs,
		RunE: p.withDaemon(func(ctx context.Context, d daemon, _ []string) error {
			was, err := p.stop(ctx, d)
			if err == nil && !was {
				p.say("weftd is not running")
			}
			return err
		}),
	}
}

func (p *program) resetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset [--force]",
		Short: "Stop the daemon and remove everything it made on this host",
		Long: `Stop the daemon and remove everything it made on this host: every interface, rule and file, the identity too.

The address space of this host is handed over to another host first. When none is in reach nothing is done; --force goes on
without, and other hosts get the space with 'weft rmpeer'.`,
		Args: noArgs,
	}
	force := cmd.Flags().Bool("force", false, "do not hand the address space over to another host first")
	settings.AddFlags(cmd.Flags(), settings.Reset)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := settings.Load(settings.Reset, p.source(cmd), nil)
		if err != nil {
			return err
		}
		if err := p.needRoot("reset", "removes network interfaces"); err != nil {
			return err
		}
		path, err := p.findDaemon()
		if err != nil {
			return err
		}
		d := p.dial(s.Socket)
		if !*force {
			if err := p.handOver(cmd.Context(), d, s.StateDir); err != nil {
				return err
			}
		}
		if _, err := p.stop(cmd.Context(), d); err != nil {
			return err
		}
		return p.resetHost(cmd.Context(), path, *force, settings.DaemonArgs(cmd.Flags(), settings.Reset))
	}
	return cmd
}

// handOver gives the address space to another host before this one leaves.
// Only a daemon can; without one it is said that there is space left.
func (p *program) handOver(ctx context.Context, d daemon, stateDir string) error {
	to, err := waiting(ctx, p, d.HandOver)
	switch {
	case errors.Is(err, api.ErrUnreachable):
		if _, err := os.Stat(filepath.Join(stateDir, "ipam.db")); err == nil {
			p.say("weftd is not running: the address space of this host was not handed over; other hosts take it over with 'weft rmpeer'")
		}
		return nil
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return fmt.Errorf("reset: the address space of this host was not handed over: %w; nothing was removed; 'weft reset --force' goes on without that", err)
	case to.Name != "":
		p.say("%d IPs handed over to %s", to.IPs, fullName(to.Name, to.Nickname))
	}
	return nil
}

// resetHost runs `weftd reset`, which says itself what went wrong.
func (p *program) resetHost(ctx context.Context, path string, force bool, flags []string) error {
	args := []string{"reset"}
	if force {
		args = append(args, "--force")
	}
	c := exec.CommandContext(ctx, path, append(args, flags...)...)
	c.Env = settings.ChildEnviron(p.environ)
	c.Stdout, c.Stderr = p.stdout, p.stderr
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	c.WaitDelay = killGrace
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return &exitError{code: exit.ExitCode()}
	}
	return fmt.Errorf("weftd reset: %w", err)
}

// stop asks the daemon to end and waits until it is gone. It reports whether
// there was one.
func (p *program) stop(ctx context.Context, d daemon) (bool, error) {
	pid, err := d.Pid(ctx)
	if errors.Is(err, api.ErrUnreachable) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ended, release := watchProcess(pid)
	defer release()
	if err := d.Stop(ctx); err != nil && !errors.Is(err, api.ErrUnreachable) && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		return true, err
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	patient := time.NewTimer(p.patience)
	defer patient.Stop()
	for {
		if _, err := d.Pid(ctx); errors.Is(err, api.ErrUnreachable) && ended() {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-limit.C:
			return true, fmt.Errorf("weftd (process %d) was asked to stop and has not ended after %s; see 'weft logs'", pid, stopLimit)
		case <-patient.C:
			p.say("waiting for weftd (process %d) to end", pid)
		case <-poll.C:
		}
	}
}

// watchProcess returns a function that reports whether a process has ended.
// Without a process, or on a kernel that cannot say, it has.
func watchProcess(pid int) (ended func() bool, release func()) {
	if pid <= 0 {
		return func() bool { return true }, func() {}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return func() bool { return true }, func() {}
	}
	return func() bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	}, func() { _ = unix.Close(fd) }
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
)

const (
	pollInterval = 25 * time.Millisecond
	// launchLimit is for slow machines; a daemon that hangs is ended.
	launchLimit = 2 * time.Minute
	// killGrace is how long a daemon that was asked to end may take.
	killGrace = 10 * time.Second
	// askLimit bounds one question to a daemon that is just starting.
	askLimit = 5 * time.Second
)

func (p *program) launchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "launch [flags] [PEER …]",
		Short: "Start the daemon in the background and wait until it is ready",
		Long: `Start the daemon in the background and wait until it is ready. A PEER is IP-OR-NAME[:PORT].

Every flag can also be given as a variable (--log-level as WEFT_LOG_LEVEL) or as a key of the configuration
file (log-level: debug). Flags beat variables, which beat the file.`,
		Example: "  weft launch\n  weft launch --token weft1.… 192.0.2.12",
	}
	settings.AddFlags(cmd.Flags(), settings.Launch)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := settings.Load(settings.Launch, p.source(cmd), args)
		if err != nil {
			return err
		}
		return p.launch(cmd.Context(), s, settings.DaemonArgs(cmd.Flags(), settings.Daemon))
	}
	return cmd
}

func (p *program) needRoot(command, why string) error {
	if p.euid == 0 {
		return nil
	}
	return fmt.Errorf("%s needs root: it %s; try 'sudo weft %s'", command, why, command)
}

func (p *program) launch(ctx context.Context, s settings.Settings, flags []string) error {
	if err := p.needRoot("launch", "makes network interfaces"); err != nil {
		return err
	}
	d := p.dial(s.Socket)
	switch pid, err := d.Pid(ctx); {
	case err == nil:
		return &exitError{exitUnreachable, fmt.Errorf("weftd is already running (process %d); 'weft stop' ends it", pid)}
	case !errors.Is(err, api.ErrUnreachable):
		return err
	}
	made, err := s.CheckSecret()
	if err != nil {
		return err
	}
	c, err := p.start(s, flags)
	if err != nil {
		return fmt.Errorf("start weftd: %w", err)
	}
	status, err := p.waitReady(ctx, d, c)
	if err != nil {
		return err
	}
	for _, w := range status.Warnings {
		p.say("warning: %s", w)
	}
	if made {
		p.sayJoin(ctx, d, s.Cluster)
	}
	return nil
}

// sayJoin tells how others join a cluster that has just been made.
func (p *program) sayJoin(ctx context.Context, d daemon, cluster string) {
	t, err := d.Token(ctx)
	if err != nil || t.Join == "" {
		p.say("a secret was made for cluster %s; 'weft token' prints it and how other hosts join", cluster)
		return
	}
	p.say("a secret was made for cluster %s; other hosts join with what 'weft token' prints again:", cluster)
	fmt.Fprintf(p.stderr, "  %s\n", t.Join)
}

// child is a daemon that was started.
type child struct {
	cmd    *exec.Cmd
	log    string
	offset int64         // of what it logged
	done   chan struct{} // closed when it has ended; cmd.ProcessState is then set
}

// findDaemon looks next to ourselves, then in PATH.
func (p *program) findDaemon() (string, error) {
	dir := filepath.Dir(p.executable)
	path := filepath.Join(dir, "weftd")
	if isProgram(path) {
		return path, nil
	}
	for _, kv := range p.environ {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			if path := filepath.Join(dir, "weftd"); filepath.IsAbs(path) && isProgram(path) {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("weftd is neither in %s nor in PATH; install it, or build it with 'make build'", dir)
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// start runs the daemon in a session of its own. The secret goes through a
// pipe: arguments and environment of a process can be read by others.
func (p *program) start(s settings.Settings, flags []string) (*child, error) {
	path, err := p.findDaemon()
	if err != nil {
		return nil, err
	}
	if err := api.RuntimeDir(s.Socket); err != nil {
		return nil, err
	}
	logFile, err := openLog(s)
	if err != nil {
		return nil, fmt.Errorf("open its log: %w", err)
	}
	defer logFile.Close()
	info, err := logFile.Stat()
	if err != nil {
		return nil, fmt.Errorf("open its log: %w", err)
	}
	// The daemon outlives this command.
	cmd := exec.CommandContext(context.Background(), path, flags...)
	cmd.Dir = "/"
	cmd.Env = settings.ChildEnviron(p.environ)
	cmd.Stderr = logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !s.Secret.IsZero() {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		defer w.Close()
		if err := settings.WriteSecret(w, s.Secret); err != nil { // it fits into the pipe
			return nil, err
		}
		cmd.ExtraFiles = []*os.File{r}
		cmd.Args = append(cmd.Args, "--secret-fd=3")
	}
	if len(s.Targets) > 0 && !s.Resume { // then they are those of the file, which the daemon reads, too
		cmd.Args = append(append(cmd.Args, "--"), s.Targets...)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, log: logFile.Name(), offset: info.Size(), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		_ = cmd.Wait() // the state says it
	}()
	return c, nil
}

// openLog opens the log for appending, readable by the group weft because the
// directory is.
func openLog(s settings.Settings) (*os.File, error) {
	f, err := os.OpenFile(s.LogFile(), os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return nil, err
	}
	if err := api.Share(f, 0o640); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// waitReady waits until the daemon answers that it is ready. When it does not
// come to that, no daemon is left behind.
func (p *program) waitReady(ctx context.Context, d daemon, c *child) (api.Status, error) {
	limit := time.NewTimer(launchLimit)
	defer limit.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	progress := time.NewTicker(p.patience)
	defer progress.Stop()
	reason, said := "", ""
	for {
		select {
		case <-c.done:
			return api.Status{}, c.failure()
		case <-ctx.Done():
			c.end()
			return api.Status{}, fmt.Errorf("launch: %w", ctx.Err())
		case <-limit.C:
			c.end()
			return api.Status{}, fmt.Errorf("weftd was not ready after %s and was ended: %s; its log is %s", launchLimit, reason, c.log)
		case <-progress.C:
			if reason != said {
				p.say("waiting for weftd: %s", reason)
				said = reason
			}
		case <-poll.C:
			s, err := c.ask(ctx, d)
			switch {
			case err == nil && s.Ready:
				return s, nil
			case err == nil && s.Waiting != "":
				reason = s.Waiting
			default:
				if reason = c.lastMessage(); reason == "" {
					reason = "it does not answer yet"
				}
			}
		}
	}
}

// ask returns the status of our child; the answer of another daemon, which
// was launched at the same moment, is not for us.
func (c *child) ask(ctx context.Context, d daemon) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	pid, err := d.Pid(ctx)
	if err != nil {
		return api.Status{}, err
	}
	if pid != 0 && pid != c.cmd.Process.Pid {
		return api.Status{}, fmt.Errorf("process %d answers instead: %w", pid, api.ErrConflict)
	}
	return d.Status(ctx)
}

// end ends the daemon and waits for it.
func (c *child) end() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-c.done:
	case <-time.After(killGrace):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// failure says why the daemon ended. Its exit codes mean what ours mean.
func (c *child) failure() error {
	text := c.lastError()
	if text == "" {
		text = "weftd ended without a word: " + c.cmd.ProcessState.String()
	}
	code := c.cmd.ProcessState.ExitCode()
	if code != exitUsage && code != exitUnreachable {
		code = exitFailed
		text += "; its log is " + c.log
	}
	return &exitError{code, errors.New(text)}
}

// logged returns what the daemon has logged, at most the last 64 KiB.
func (c *child) logged() []string {
	const most = 64 << 10
	f, err := os.Open(c.log)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	from := c.offset
	if info.Size() < from { // it was cut meanwhile
		from = 0
	}
	from = max(from, info.Size()-most)
	b := make([]byte, info.Size()-from)
	n, err := f.ReadAt(b, from)
	if err != nil && !errors.Is(err, fs.ErrClosed) && n == 0 {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b[:n])), "\n")
}

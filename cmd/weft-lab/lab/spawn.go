package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// spawn starts a first process in new namespaces, inside the namespaces of in
// (nil: those of the caller), and waits until it is ready. owner, when not nil,
// is the reading end of the pipe that keeps it alive.
func spawn(ctx context.Context, in *Place, name string, flags uintptr, cfg initConfig, owner *os.File) (*Place, error) {
	// Not its path: a host may have another file system.
	const exe = "/proc/self/exe"
	config, configW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	readyR, ready, err := os.Pipe()
	if err != nil {
		_ = errors.Join(config.Close(), configW.Close())
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer func() { _ = readyR.Close() }()
	cfg.Owned = owner != nil
	cmd := &exec.Cmd{
		Path: exe, Args: []string{initName, name}, Dir: "/", Env: []string{"GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=16MiB"},
		ExtraFiles:  []*os.File{config, ready},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags, Setsid: true},
	}
	if owner != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, owner)
	}
	if in == nil {
		err = cmd.Start()
	} else {
		err = in.StartCommand(cmd)
	}
	_ = errors.Join(config.Close(), ready.Close())
	if err != nil {
		_ = configW.Close()
		return nil, fmt.Errorf("%s: start its first process: %w", name, err)
	}
	go func() { _ = cmd.Wait() }()
	fail := func(err error) (*Place, error) {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	err = json.NewEncoder(configW).Encode(cfg)
	if err := errors.Join(err, configW.Close()); err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = readyR.SetReadDeadline(time.Now()) })
	defer stop()
	text, err := io.ReadAll(readyR)
	if err != nil {
		return fail(fmt.Errorf("wait for its first process: %w", errors.Join(ctx.Err(), err)))
	}
	if len(text) > 0 {
		return fail(errors.New(string(text)))
	}
	p, err := newPlace(name, cmd.Process.Pid)
	if err != nil {
		return fail(err)
	}
	return p, nil
}

// kill ends the place's first process, and with it everything in its PID
// namespace, and waits until it is gone.
func (p *Place) kill() error {
	if err := killWait(p.pidfd); err != nil {
		return fmt.Errorf("end %s: %w", p.name, err)
	}
	return nil
}

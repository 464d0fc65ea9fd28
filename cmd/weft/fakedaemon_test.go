package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
)

// fakeDaemon is the weftd of the scripts: it takes the arguments that the real
// one takes and puts a fakeBackend behind the real API. FAKE chooses how it
// misbehaves.
func fakeDaemon() {
	if err := runFakeDaemon(); err != nil {
		fmt.Fprintln(os.Stderr, "weftd:", err)
		code, _ := strconv.Atoi(os.Getenv("FAKE_EXIT"))
		os.Exit(max(code, 1))
	}
}

func runFakeDaemon() error {
	args, program := os.Args[1:], settings.Daemon
	flags := pflag.NewFlagSet("weftd", pflag.ContinueOnError)
	if len(args) > 0 && args[0] == "reset" {
		args, program = args[1:], settings.Reset
		flags.Bool("force", false, "")
	}
	settings.AddFlags(flags, program)
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := settings.Load(program, settings.Source{Flags: flags, Environ: os.Environ(), Stdin: os.Stdin}, flags.Args())
	if err != nil {
		return err
	}
	if err := dump(s); err != nil {
		return err
	}
	if program == settings.Reset {
		if os.Getenv("FAKE") == "fail" {
			return fmt.Errorf("remove weft-wg: device or resource busy")
		}
		return os.RemoveAll(s.StateDir)
	}
	return serveFake(s)
}

// dump writes what could be seen of the daemon from outside, and the secret it
// got, for the script to look at.
func dump(s settings.Settings) error {
	path := os.Getenv("FAKE_DUMP")
	if path == "" {
		return nil
	}
	link := func(fd string) string { l, _ := os.Readlink("/proc/self/fd/" + fd); return l }
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	cwd, _ := os.Getwd()
	b, err := json.MarshalIndent(map[string]any{
		"args": os.Args[1:], "environ": os.Environ(), "secret": s.Secret, "targets": s.Targets,
		"stdin": link("0"), "stdout": link("1"), "cwd": cwd, "leader": sessionLeader(string(stat)),
	}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}

func sessionLeader(stat string) bool {
	var name, state string
	var pid, ppid, pgrp, session int
	if _, err := fmt.Sscan(stat, &pid, &name, &state, &ppid, &pgrp, &session); err != nil {
		return false
	}
	return session == pid
}

func serveFake(s settings.Settings) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f := newFakeBackend()
	f.stopped = stop
	f.logFile = func() []byte { b, _ := os.ReadFile(s.LogFile()); return b }
	f.status.Targets = s.Targets
	if s.NoDNS {
		f.status.DNS = nil
	}
	log.Info("weftd starts", "pid", os.Getpid())
	switch os.Getenv("FAKE") {
	case "fail":
		log.Error("start", "err", "no such device")
		return fmt.Errorf("open weft-wg: create TUN: /dev/net/tun: no such device")
	case "crash":
		fmt.Fprintln(os.Stderr, "panic: index out of range")
		fmt.Fprintln(os.Stderr, "goroutine 1 [running]:")
		os.Exit(2)
	case "silent":
		os.Exit(1)
	case "log-only":
		log.Error("start", "err", "no such device")
		os.Exit(1)
	case "slow":
		f.status.Ready, f.status.Waiting = false, "the name server"
		f.ready = func() bool { _, err := os.Stat(s.StateDir + ".ready"); return err == nil }
	case "ipam":
		f.status.IPAM = fakeIPAM()
	case "alone":
		f.status.IPAM, f.waits = fakeIPAM(), []string{"asking host3 to take the address space"}
	case "never":
		f.status.Ready, f.status.Waiting = false, "the name server"
	}
	if err := os.WriteFile(s.StateDir+".pid", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	ln, err := api.Listen(s.Socket)
	if err != nil {
		return err
	}
	return api.NewServer(f, log).Serve(ctx, ln)
}

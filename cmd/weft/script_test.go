package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weftnet/weft/router/api"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weft": patientWeft, "weftd": fakeDaemon})
}

// patientWeft says nothing about waiting, however slow the machine is, unless
// PATIENCE is set.
func patientWeft() {
	patience, err := time.ParseDuration(os.Getenv("PATIENCE"))
	if err != nil {
		patience = time.Hour
	}
	os.Exit(run(patience))
}

// TestScripts runs the scripts in testdata/script, one per command; they also
// show how the command is used. A script begins without a daemon. `daemon`
// starts one inside the test, which knows the containers web and db; `weft
// launch` starts one as a process.
func TestScripts(t *testing.T) {
	launcher, err := filepath.Abs("../../scripts/weft")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			work := env.WorkDir
			if err := os.WriteFile(work+"/weft.yaml", []byte("# nothing\n"), 0o600); err != nil {
				return err
			}
			env.Setenv("WEFT_CONFIG", work+"/weft.yaml")
			env.Setenv("WEFT_SOCKET", work+"/run/weft.sock")
			env.Setenv("WEFT_STATE_DIR", work+"/state")
			env.Setenv("LAUNCHER", launcher)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each program otherwise
			env.Defer(func() { endFake(work + "/state.pid") })
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			if os.Geteuid() != 0 && os.Getenv("CI") == "true" {
				return false, fmt.Errorf("needs root, which CI=true promises")
			}
			return os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": startDaemon, "exits": exitsWith, "line": oneLine, "gone": gone, "proxy": startProxy,
		},
	})
}

// endFake ends the daemon that a failed script left.
func endFake(pidFile string) {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		return
	}
	if name, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Base(name) == "weftd" {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// startDaemon puts a fake backend behind the script's socket.
// Usage: daemon [notready] [nodns] [joins=N] [ipam] [twins] [waits=reason …] [met] [troubled]
func startDaemon(ts *testscript.TestScript, neg bool, args []string) {
	f := newFakeBackend()
	for _, arg := range args {
		n, joins := strings.CutPrefix(arg, "joins=")
		reason, waits := strings.CutPrefix(arg, "waits=")
		switch {
		case joins:
			var err error
			f.joined, err = strconv.Atoi(n)
			ts.Check(err)
		case arg == "notready":
			f.status.Ready, f.status.Waiting = false, "the name server"
		case arg == "nodns":
			f.status.DNS = nil
		case arg == "ipam":
			f.status.IPAM = fakeIPAM()
		case arg == "twins":
			f.status.IPAM.Entries[2].Nickname = "host3"
		case waits:
			f.waits = append(f.waits, reason)
		case arg == "met":
			f.status.Connections = host1().Connections
		case arg == "ill":
			f.status.Findings = []api.Finding{
				{ID: "clock", Severity: api.Problem, Subject: "host2", What: "the clock of host2 is 1h0m0s behind ours", Remedy: "'timedatectl set-ntp true'"},
				{ID: "disk", Severity: api.Problem, What: "the disk is full"},
				{ID: "mtu", Severity: api.Warning, What: "the path is narrow"},
				{ID: "port-closed", Severity: api.Warning, What: "the port is closed"},
			}
		case arg == "troubled":
			trouble(&f.status)
		default:
			ts.Fatalf("daemon: %q?", arg)
		}
	}
	ln, err := api.Listen(ts.Getenv("WEFT_SOCKET"))
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.NewServer(f, nil).Serve(ctx, ln) }()
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			ts.Logf("serve: %v", err)
		}
	})
}

// startProxy lets somebody listen where the proxy does.
// Usage: proxy
func startProxy(ts *testscript.TestScript, neg bool, args []string) {
	ln, err := net.Listen("unix", filepath.Join(filepath.Dir(ts.Getenv("WEFT_SOCKET")), "docker.sock"))
	ts.Check(err)
	ts.Defer(func() { _ = ln.Close() })
}

// exitsWith runs a program and checks its exit code.
// Usage: exits N program args…
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits N program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// oneLine checks that the last program said exactly this line on stderr, and
// nothing on stdout. Single quotes are left out of the comparison, because the
// script takes them away.
// Usage: line text
func oneLine(ts *testscript.TestScript, neg bool, args []string) {
	got := strings.ReplaceAll(ts.ReadFile("stderr"), "'", "")
	want := strings.NewReplacer("$WORK", ts.Getenv("WORK")).Replace(strings.Join(args, " ")) + "\n"
	if got != want {
		ts.Fatalf("stderr %q\nwant   %q", got, want)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("stdout %q, want nothing", out)
	}
}

// gone checks that the process that wrote a pid file has ended.
// Usage: gone file
func gone(ts *testscript.TestScript, neg bool, args []string) {
	pid := strings.TrimSpace(ts.ReadFile(args[0]))
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if ended := err != nil || strings.Contains(string(stat), ") Z "); ended == neg {
		ts.Fatalf("process %s: ended %t", pid, ended)
	}
}

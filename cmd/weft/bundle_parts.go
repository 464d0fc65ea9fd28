package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
)

// bundler makes the parts of a bundle. Its methods are called at the same time.
type bundler struct {
	p      *program
	cmd    *cobra.Command
	daemon daemon
	s      settings.Settings
	config []byte // without what is secret
}

// parts is the table of contents, in the order of the archive.
func (b bundler) parts() []bundlePart {
	parts := []bundlePart{
		{name: "version.txt", make: b.version},
		{name: "report.json", make: b.report},
		{name: "status.txt", make: b.status},
		{name: "why.txt", make: b.why},
		{name: "ps.json", make: b.containers},
		{name: "doctor.json", make: b.doctor, long: bundleSlow},
		{name: "events.jsonl", make: b.events},
		{name: "log.txt", make: b.log},
		{name: "weft.yaml", make: func(_ context.Context, w io.Writer) error { _, err := w.Write(b.config); return err }},
		{name: "command-line.txt", make: b.commandLine},
	}
	for _, args := range bundleCommands() {
		parts = append(parts, bundlePart{
			name: "host/" + strings.ReplaceAll(strings.Join(args, "_"), "/", "_") + ".txt",
			make: func(ctx context.Context, w io.Writer) error { return runInto(ctx, w, args[0], args[1:]...) },
		})
	}
	return parts
}

func (b bundler) version(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "weft %s, %s, made %s\n", settings.Version, settings.Protocol, time.Now().UTC().Format(time.RFC3339))
	return runInto(ctx, w, "uname", "-a")
}

func (b bundler) report(ctx context.Context, w io.Writer) error {
	st, err := b.daemon.Status(ctx)
	sortStatus(&st)
	return writeJSON(w, reportOf(st), err)
}

// status shows all sections, each as its command does.
func (b bundler) status(ctx context.Context, w io.Writer) error {
	st, err := b.daemon.Status(ctx)
	if err != nil {
		return err
	}
	sortStatus(&st)
	for _, name := range []string{"", "targets", "connections", "peers", "ipam", "dns"} {
		show := section(wholeStatus)
		if name != "" {
			show = sectionOf(name)
		}
		_, table := show(st)
		fmt.Fprintf(w, "# weft status %s\n%s", name, table)
		for _, line := range remarksOf(st, name, time.Now()) {
			fmt.Fprintln(w, "weft: "+line)
		}
	}
	return nil
}

func (b bundler) why(ctx context.Context, w io.Writer) error {
	st, err := b.daemon.Status(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, c := range st.Connections {
		if c.Name == "" || n == bundleWhys {
			continue
		}
		n++
		why, err := b.daemon.Why(ctx, c.Name)
		if err != nil {
			return err
		}
		if _, err := w.Write(whyTable(why, time.Now().UTC())); err != nil {
			return err
		}
	}
	return nil
}

func (b bundler) containers(ctx context.Context, w io.Writer) error {
	list, err := b.daemon.PS(ctx, nil)
	return writeJSON(w, list, err)
}

func (b bundler) doctor(ctx context.Context, w io.Writer) error {
	found, err := b.p.diagnose(ctx, b.cmd, b.daemon, api.DoctorRequest{})
	return writeJSON(w, found, err)
}

func (b bundler) events(ctx context.Context, w io.Writer) error {
	for e, err := range b.daemon.Events(ctx, api.EventRequest{Last: bundleEvent}) {
		if err != nil {
			return err
		}
		if err := json.NewEncoder(w).Encode(e); err != nil {
			return err
		}
	}
	return nil
}

// log is what the daemon tells, or its file when there is no daemon.
func (b bundler) log(ctx context.Context, w io.Writer) error {
	err := b.daemon.Logs(ctx, false, w)
	if err == nil {
		return nil
	}
	text, ferr := os.ReadFile(b.s.LogFile())
	if ferr != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

func (b bundler) commandLine(ctx context.Context, w io.Writer) error {
	pid, err := b.daemon.Pid(ctx)
	if err != nil {
		return err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	_, _ = w.Write(append(bytes.ReplaceAll(line, []byte{0}, []byte(" ")), '\n'))
	return err
}

// writeJSON writes what was answered, unless that is an error.
func writeJSON(w io.Writer, v any, err error) error {
	if err != nil {
		return err
	}
	text, err := marshalJSON(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// bundleCommands are asked of the host. None of them prints a key: wg would,
// and is asked for nothing that has one.
func bundleCommands() [][]string {
	return [][]string{
		{"ip", "-d", "-s", "link"},
		{"ip", "addr"},
		{"ip", "rule"},
		{"ip", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
		{"bridge", "fdb", "show", "br", "weft"},
		{"nft", "list", "ruleset"},
		{"wg", "show", "all", "latest-handshakes"},
		{"wg", "show", "all", "transfer"},
		{"ss", "-lntu"},
		{"df", "-h"},
		{"sysctl", "net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"},
	}
}

// runInto runs a program of the host; its messages come below its output.
func runInto(ctx context.Context, w io.Writer, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	var said limitedText
	c.Stdout, c.Stderr = w, &said
	c.WaitDelay = time.Second
	if err := c.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// limitedText keeps the first kilobyte of what a program complains of.
type limitedText struct{ strings.Builder }

func (l *limitedText) Write(b []byte) (int, error) {
	l.Builder.Write(b[:min(len(b), max(0, 1024-l.Len()))])
	return len(b), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// guestCommand runs the end-to-end tests under Debian's kernel, whose WireGuard
// this machine need not have.
func guestCommand() *cobra.Command {
	o := guest{timeout: 1800}
	c := &cobra.Command{
		Use: "guest [-- TEST-FLAG …]", Short: "run the end-to-end tests with the kernel data path, in a virtual machine",
		Long: "Boots Debian's kernel under QEMU without hardware acceleration and runs bin/e2e.test -datapath kernel in it.\n" +
			"The console is shown; the exit code is that of the tests. Files that failed tests leave come as guest.tar\n" +
			"into the directory that ARTEFACTS names. Variables WEFT_… reach the tests.",
		RunE: func(cmd *cobra.Command, a []string) error {
			o.flags = a
			return o.run(cmd.Context())
		},
	}
	c.Flags().StringVar(&o.append, "append", "", "more for the kernel's command line, e.g. ipv6.disable=1")
	c.Flags().StringVar(&o.program, "program", "", "another static program to run, with the arguments as they are")
	c.Flags().IntVar(&o.timeout, "timeout", o.timeout, "seconds after which the machine is stopped")
	return c
}

type guest struct {
	append, program string
	timeout         int
	flags           []string
}

func (g guest) run(ctx context.Context) error {
	bin := binDir()
	script := filepath.Join(filepath.Dir(bin), "scripts/kernel-guest/run")
	if _, err := os.Stat(script); err != nil {
		return fmt.Errorf("guest: this needs a checkout around bin/weft-lab: %w", err)
	}
	a := []string{"--timeout", strconv.Itoa(g.timeout), "--bin", bin}
	// The kernel makes what it does not know the environment of its first process.
	words := strings.Fields(g.append)
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "WEFT_") && !strings.ContainsAny(v, " \t\n\"") {
			words = append(words, v)
		}
	}
	if len(words) > 0 {
		a = append(a, "--append", strings.Join(words, " "))
	}
	if dir := os.Getenv("ARTEFACTS"); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		a = append(a, "--artifacts", filepath.Join(dir, "guest.tar"))
	}
	if g.program != "" {
		a = append(append(a, g.program), g.flags...)
	} else {
		a = append(a, filepath.Join(bin, "e2e.test"), "-weft-bin", "/opt/weft", "-datapath", "kernel", "-artefacts", "/artifacts")
		// Sooner than the machine is stopped: who hangs says where.
		a = append(append(a, "-test.timeout", fmt.Sprintf("%ds", max(g.timeout-30, g.timeout/2))), g.flags...)
	}
	cmd := exec.CommandContext(ctx, script, a...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return exitCode(max(e.ExitCode(), 1))
	}
	return err
}

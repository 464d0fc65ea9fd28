package main

import (
	"context"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/router/api"
)

// browserTime is how long a browser may take to read the file that leads it to
// the page.
const browserTime = 10 * time.Second

func (p *program) uiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ui",
		Short: "Show the hosts, their paths and what happens, as a picture in a browser",
		Long: `Turn the picture on and print an address that opens it, in a browser of this host: once, within ten minutes. Where there is a
display, a browser is started, too. The picture shows the hosts and the paths between them, why a path is as it is, containers,
addresses, names, and events as they happen; nothing can be changed there.

It is served at the status address, on loopback only. From another machine, let ssh lead there, and open the same address:

  ssh -L 6782:127.0.0.1:6782 HOST weft ui

It stays on until 'weft ui --off' or the daemon ends; a browser that was let in can look for 12 hours. 'weft launch --ui' turns it on from the start.`,
		Example: "  weft ui\n  weft ui --open=false\n  weft ui --off",
		Args:    noArgs,
	}
	open := cmd.Flags().Bool("open", true, "start a browser when there is a display")
	off := cmd.Flags().Bool("off", false, "turn the picture off, also for browsers that show it")
	cmd.RunE = p.withDaemon(func(ctx context.Context, d daemon, _ []string) error {
		u, err := d.UI(ctx, api.UIRequest{Off: *off})
		if err != nil || *off {
			return err
		}
		if err := p.print([]byte(u.URL + "\n")); err != nil {
			return err
		}
		if !*open || !p.hasDisplay() {
			return nil
		}
		if err := p.openBrowser(ctx, u.URL); err != nil {
			p.say("cannot start a browser: %v; open the address yourself", err)
		}
		return nil
	})
	return cmd
}

func (p *program) hasDisplay() bool {
	return slices.ContainsFunc(p.environ, func(kv string) bool {
		key, value, _ := strings.Cut(kv, "=")
		return (key == "DISPLAY" || key == "WAYLAND_DISPLAY") && value != ""
	})
}

// openBrowser hands the address over in a file that nobody else can read:
// arguments can be read by everybody.
func (p *program) openBrowser(ctx context.Context, url string) error {
	opener, err := exec.LookPath("xdg-open")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "weft-ui-") // 0700
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "weft.html")
	text := fmt.Sprintf("<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\"><meta http-equiv=\"refresh\" content=\"0;url=%[1]s\"><a href=\"%[1]s\">weft</a>\n", html.EscapeString(url))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, opener, file)
	cmd.Env, cmd.Stderr = p.environ, p.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("xdg-open: %w", err)
	}
	p.say("a browser was started")
	select {
	case <-ctx.Done():
	case <-time.After(browserTime):
	}
	return nil
}

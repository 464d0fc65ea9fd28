package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"

	"github.com/weftnet/weft/router/api"
)

// exitConfig is what systemd's units call a wrong configuration, see
// systemd.exec(5). There 2 would be ambiguous: a Go program that panics, or is
// aborted by the watchdog, ends with it, too, and is to be started again.
const exitConfig = 78

// usageCode is the exit code for a wrong setting.
func usageCode(getenv func(string) string) int {
	if getenv("NOTIFY_SOCKET") != "" {
		return exitConfig
	}
	return exitUsage
}

// systemd is the service manager that started us, see sd_notify(3).
type systemd struct {
	send     func(state string) error
	watchdog time.Duration // it kills us when it hears nothing for so long; zero: never
	log      *slog.Logger
	status   string // that was sent last; owned by the goroutine that watches
}

// openSystemd returns nil when somebody else started us.
func openSystemd(log *slog.Logger) *systemd {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	s := &systemd{log: log, send: func(state string) error {
		_, err := sdnotify.SdNotify(false, state)
		return err
	}}
	var err error
	if s.watchdog, err = sdnotify.SdWatchdogEnabled(false); err != nil {
		log.Warn("systemd's watchdog is not fed", "err", err)
	}
	return s
}

// tell sends a message; there is nobody to tell when that fails.
func (s *systemd) tell(states ...string) {
	if err := s.send(strings.Join(states, "\n")); err != nil {
		s.log.Debug("systemd not told", "err", err)
	}
}

// say sets the line that `systemctl status` shows.
func (s *systemd) say(status string) {
	if status != s.status {
		s.status = status
		s.tell("STATUS=" + status)
	}
}

// statusLine is the daemon in one line for people.
func statusLine(s api.Status) string {
	if !s.Ready {
		return "Starting: " + s.Waiting
	}
	var peers, direct, relayed int
	for _, p := range s.Peers {
		if !p.Self {
			peers++
		}
	}
	for _, c := range s.Connections {
		switch c.State {
		case api.Established:
			direct++
		case api.Relayed:
			relayed++
		case api.Pending, api.Connecting, api.Retrying, api.Failed:
		}
	}
	line := fmt.Sprintf("%s: connected to %d of %d peers", s.Nickname, direct+relayed, peers)
	if relayed > 0 {
		line += fmt.Sprintf(", %d of them through relays", relayed)
	}
	n := len(s.Findings)
	for _, w := range s.Warnings {
		if !api.Held(s.Findings, w) {
			n++
		}
	}
	switch {
	case n == 1:
		line += "; 1 warning, see 'weft status'"
	case n > 1:
		line += fmt.Sprintf("; %d warnings, see 'weft status'", n)
	}
	return line
}

// runSystemd tells systemd how the daemon is, until ctx ends: that it is ready
// when everybody who is asked answers, that it is alive for as long as they do,
// and that it ends when it was asked to.
func (d *daemon) runSystemd(ctx, asked context.Context) {
	s := openSystemd(d.log.With("part", "systemd"))
	if s == nil {
		return
	}
	stop := context.AfterFunc(asked, func() { s.tell("STOPPING=1", "STATUS=Stopping; the switch stays") })
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(asked, cancel)()
	client := api.NewClient(d.settings.Socket).WithPatience(max(s.watchdog, statusTime)) // who asks gives up first
	s.watch(ctx, d.questions(), client.Status)
}

// questions are what the daemon must answer to count as alive, besides those
// for its status.
func (d *daemon) questions() []question {
	list := []question{
		{part: "mesh", ask: d.mesh.Alive},
		{part: "tunnels", ask: d.tunnels.Alive},
		{part: "router", ask: d.watched.alive, slow: true},
	}
	if d.space != nil {
		list = append(list, question{part: "addresses", slow: true, ask: func(ctx context.Context) error {
			_, err := d.space.Allocator.Release(ctx, "weft:alive", nil) // nobody has anything under this key
			if ctx.Err() == nil {
				err = nil // an answer, even if the disk is full
			}
			return err
		}})
	}
	return list
}

var errSilent = errors.New("no answer")

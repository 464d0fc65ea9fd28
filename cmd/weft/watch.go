package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/api"
)

// The rhythm of --watch. A status costs the daemon about a millisecond.
const (
	watchInterval = 2 * time.Second
	minInterval   = 100 * time.Millisecond
)

// watching is what the flags of --watch say.
type watching struct {
	on       bool
	interval time.Duration
}

func (w *watching) addFlags(flags *pflag.FlagSet) {
	flags.BoolVarP(&w.on, "watch", "w", false, "go on showing it, until interrupted: in place on a terminal, else one below the other")
	flags.DurationVar(&w.interval, "interval", watchInterval, "with --watch, look every `TIME`")
}

func (w *watching) check(flags *pflag.FlagSet) error {
	switch {
	case !w.on && flags.Changed("interval"):
		return usagef("--interval needs --watch")
	case w.interval < minInterval:
		return usagef("--interval=%s: want %s or more", w.interval, minInterval)
	}
	return nil
}

// view is what is shown again and again.
type view struct {
	section  section
	name     string // empty: the whole status
	json     bool
	interval time.Duration
}

// watchStatus shows s and what follows it until ctx ends, which is no error. A
// daemon that goes away is said and waited for.
func (p *program) watchStatus(ctx context.Context, d daemon, s api.Status, v view) error {
	tick := time.NewTicker(v.interval)
	defer tick.Stop()
	screen, said := p.terminal(), ""
	for {
		now := time.Now()
		body, remarks := v.frame(s, now)
		var err error
		switch {
		case v.json:
			err = p.print(body)
		case screen != nil:
			title := fmt.Sprintf("weft status %s  every %s, %s; ^C ends it", v.name, v.interval, now.Format(time.TimeOnly))
			err = p.print(screen.frame(strings.Join(strings.Fields(title), " "), body, remarks))
		default:
			err = p.append(body, remarks, &said)
		}
		if err != nil {
			return err
		}
		for asked := false; !asked; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			s, err = d.Status(ctx)
			switch {
			case err == nil:
				asked = true
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, os.ErrPermission):
				return err
			case screen != nil && !v.json:
				if err := p.print(screen.frame("weft status", nil, []string{err.Error()})); err != nil {
					return err
				}
			case err.Error() != said:
				said = err.Error()
				p.say("%s", said)
			}
		}
	}
}

// frame is what is shown of one status.
func (v view) frame(s api.Status, now time.Time) (body []byte, remarks []string) {
	sortStatus(&s)
	value, table := v.section(s)
	if v.json {
		b, err := json.Marshal(value)
		if err != nil {
			return nil, []string{err.Error()}
		}
		return append(b, '\n'), nil
	}
	remarks = remarksOf(s, v.name, now)
	if err := notReady(s); err != nil {
		remarks = append(remarks, err.Error())
	}
	return table, remarks
}

// append puts a frame below the last one. Remarks that have not changed are not
// said again.
func (p *program) append(body []byte, remarks []string, said *string) error {
	if !bytes.HasPrefix(body, []byte("\n")) {
		body = append([]byte("\n"), body...)
	}
	if err := p.print(body); err != nil {
		return err
	}
	if text := strings.Join(remarks, "\n"); text != *said {
		for _, line := range remarks {
			p.say("%s", line)
		}
		*said = text
	}
	return nil
}

// screen is a terminal that frames are drawn on.
type screen struct {
	size  func() (columns, rows int)
	drawn bool
}

// terminal is nil when data goes elsewhere.
func (p *program) terminal() *screen {
	f, ok := p.stdout.(*os.File)
	if !ok {
		return nil
	}
	size := func() (int, int) {
		w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err != nil || w.Col == 0 || w.Row == 0 {
			return 80, 24
		}
		return int(w.Col), int(w.Row)
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return &screen{size: size}
}

// frame draws over the last frame, in one piece: each line erases what was
// right of it, the last one what was below, and nothing is ever empty between.
// What does not fit is left out, because a terminal that scrolls has no fixed
// place.
func (s *screen) frame(title string, body []byte, remarks []string) []byte {
	columns, rows := s.size()
	lines := append([]string{title}, strings.Split(strings.TrimRight(string(body), "\n"), "\n")...)
	if len(remarks) > 0 {
		lines = append(lines, "")
	}
	for _, r := range remarks {
		lines = append(lines, "weft: "+r)
	}
	if room := max(1, rows-1); len(lines) > room {
		left := len(lines) - room + 1
		lines = append(lines[:room-1], fmt.Sprintf("… %d more lines", left))
	}
	var b bytes.Buffer
	if !s.drawn {
		b.WriteString("\x1b[2J")
		s.drawn = true
	}
	b.WriteString("\x1b[H")
	for _, line := range lines {
		b.WriteString(clipTo(oneLineOf(line), columns) + "\x1b[K\r\n")
	}
	b.WriteString("\x1b[J")
	return b.Bytes()
}

// clipTo cuts a line to so many characters.
func clipTo(line string, columns int) string {
	if utf8.RuneCountInString(line) <= columns {
		return line
	}
	runes := []rune(line)
	return string(runes[:max(0, columns-1)]) + "…"
}

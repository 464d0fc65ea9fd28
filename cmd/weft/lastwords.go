package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
)

// lastError picks out of the log what the daemon died of: what it said itself,
// a panic, its last line of level ERROR, or its last line.
func (c *child) lastError() string { return lastError(c.logged()) }

// lastMessage is the newest thing that the daemon said of itself.
func (c *child) lastMessage() string {
	lines := c.logged()
	if len(lines) == 0 {
		return ""
	}
	return message(lines[len(lines)-1])
}

func lastError(lines []string) string {
	lines = slices.Clone(lines)
	slices.Reverse(lines)
	for _, line := range lines {
		if own, ok := strings.CutPrefix(line, "weftd: "); ok {
			return own
		}
	}
	for _, line := range lines {
		for _, start := range []string{"panic: ", "fatal error: "} {
			if strings.HasPrefix(line, start) {
				return "weftd crashed: " + line
			}
		}
	}
	for _, line := range lines {
		if level := field(line, "level"); level == "ERROR" {
			return message(line)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return message(lines[0])
}

// ended adds to the error that there is no daemon what the last one died of, when
// that is the last in its log.
func (p *program) ended(cmd *cobra.Command, err error) error {
	if !errors.Is(err, api.ErrUnreachable) {
		return err
	}
	s, broken := settings.Load(settings.Client, p.source(cmd), nil)
	if broken != nil {
		return err
	}
	lines := (&child{log: s.LogFile()}).logged()
	if len(lines) == 0 {
		return err
	}
	words, ok := strings.CutPrefix(lines[len(lines)-1], "weftd: ")
	if !ok {
		return err
	}
	return fmt.Errorf("%w; the last one ended with: %s", err, words)
}

// message is the message of a log line with the error, if it has one.
func message(line string) string {
	msg := field(line, "msg")
	if msg == "" {
		return line
	}
	for _, key := range []string{"err", "error"} {
		if e := field(line, key); e != "" {
			return msg + ": " + e
		}
	}
	return msg
}

// field reads one value out of a line of slog's text or JSON handler.
func field(line, key string) string {
	if strings.HasPrefix(line, "{") {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) != nil {
			return ""
		}
		s, _ := m[key].(string)
		return s
	}
	rest := " " + line
	for {
		i := strings.IndexByte(rest, '=')
		if i < 0 {
			return ""
		}
		name := rest[strings.LastIndexByte(rest[:i], ' ')+1 : i]
		value := rest[i+1:]
		if quoted, err := strconv.QuotedPrefix(value); err == nil {
			rest = value[len(quoted):]
			if value, err = strconv.Unquote(quoted); err != nil {
				return ""
			}
		} else {
			value, rest, _ = strings.Cut(value, " ")
			rest = " " + rest
		}
		if name == key {
			return value
		}
	}
}

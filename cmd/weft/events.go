package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/router/api"
)

func (p *program) eventsCommand() *cobra.Command {
	var r api.EventRequest
	o := eventForm("json")
	cmd := &cobra.Command{
		Use:   "events [-f] [-n N]",
		Short: "Print what happened last, as lines of JSON",
		Long: `Print what happened last, each event as a line of JSON, the oldest first: what the daemon's log says, from the level info on.
About a thousand are kept while the daemon runs. With -f it goes on with what comes; a line whose field missed is not zero says
how many were lost before it because they were not read in time.`,
		Example: "  weft events -n 20 -o text\n  weft events -f | jq -r 'select(.level != \"info\") | .message'",
		Args:    noArgs,
	}
	cmd.Flags().BoolVarP(&r.Follow, "follow", "f", false, "go on with what comes, until interrupted")
	cmd.Flags().IntVarP(&r.Last, "last", "n", 0, "begin with the last `N` only (default all that are kept)")
	cmd.Flags().VarP(&o, "output", "o", "print as `json|text`")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "text"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = p.withDaemon(func(ctx context.Context, d daemon, _ []string) error {
		switch {
		case r.Last < 0:
			return usagef("-n %d: want how many events to begin with", r.Last)
		case r.Last == 0 && cmd.Flags().Changed("last"):
			r.Last = -1 // none of those that were
		}
		for e, err := range d.Events(ctx, r) {
			if err != nil {
				return err
			}
			line, err := o.line(e, time.Local)
			if err != nil {
				return err
			}
			if err := p.print(line); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

// eventForm is the value of -o of `weft events`.
type eventForm string

func (o *eventForm) String() string { return string(*o) }

func (o *eventForm) Type() string { return "format" }

func (o *eventForm) Set(v string) error {
	if v != "json" && v != "text" {
		return errors.New("want json or text")
	}
	*o = eventForm(v)
	return nil
}

// line is one event with its end of line; times of day are those of zone.
func (o *eventForm) line(e api.Event, zone *time.Location) ([]byte, error) {
	if *o == "text" {
		return eventText(e, zone), nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return b.Bytes(), nil
}

// eventText is an event for people, in one line.
func eventText(e api.Event, zone *time.Location) []byte {
	var b bytes.Buffer
	if e.Missed > 0 {
		fmt.Fprintf(&b, "(%d events before this one were not read in time)\n", e.Missed)
	}
	fmt.Fprintf(&b, "%s %-7s %-9s %s", e.Time.In(zone).Format(time.DateTime), e.Level, cmp.Or(e.Part, "weftd"), oneLineOf(e.Message))
	if peer := eventPeer(e); peer != "" {
		fmt.Fprintf(&b, " peer=%s", oneLineOf(peer))
	}
	for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
		v := e.Fields[k]
		if v == "" || strings.ContainsAny(v, " \"=\n\t") {
			v = strconv.Quote(v)
		}
		fmt.Fprintf(&b, " %s=%s", oneLineOf(k), oneLineOf(v))
	}
	b.WriteByte('\n')
	return b.Bytes()
}

func eventPeer(e api.Event) string {
	if e.Peer == "" {
		return e.Nickname
	}
	return api.PeerID{Name: e.Peer, Nickname: e.Nickname}.String()
}

// oneLineOf keeps what another host or program said from steering the terminal.
func oneLineOf(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

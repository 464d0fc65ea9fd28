package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

func fakeEvents() []api.Event {
	at := time.Date(2026, 11, 20, 18, 55, 38, 123456789, time.UTC)
	return []api.Event{
		{Seq: 1, Time: at, Level: api.LevelInfo, Message: "ready", Fields: map[string]string{"datapath": "userspace"}},
		{Seq: 2, Time: at.Add(time.Second), Level: api.LevelInfo, Part: "mesh", Message: "peer joined", Peer: "f6:42:1d:0a:5e:01", Nickname: "host2"},
		{
			Seq: 4, Time: at.Add(time.Minute), Level: api.LevelWarning, Part: "router", Message: "tunnel lost", Peer: "f6:42:1d:0a:5e:01", Nickname: "host2", Missed: 1,
			Fields: map[string]string{"route": "192.0.2.12:6784", "err": "a <\"line\">\nbreak \x1b[31m"},
		},
	}
}

func TestEventLines(t *testing.T) {
	const json = `{"seq":1,"time":"2026-11-20T18:55:38.123456789Z","level":"info","part":"","message":"ready","fields":{"datapath":"userspace"}}
{"seq":2,"time":"2026-11-20T18:55:39.123456789Z","level":"info","part":"mesh","message":"peer joined","peer":"f6:42:1d:0a:5e:01","nickname":"host2"}
{"seq":4,"time":"2026-11-20T18:56:38.123456789Z","level":"warning","part":"router","message":"tunnel lost","peer":"f6:42:1d:0a:5e:01","nickname":"host2","fields":{"err":"a <\"line\">\nbreak \u001b[31m","route":"192.0.2.12:6784"},"missed":1}
`
	const text = `2026-11-20 18:55:38 info    weftd     ready datapath=userspace
2026-11-20 18:55:39 info    mesh      peer joined peer=f6:42:1d:0a:5e:01(host2)
(1 events before this one were not read in time)
2026-11-20 18:56:38 warning router    tunnel lost peer=f6:42:1d:0a:5e:01(host2) err="a <\"line\">\nbreak \x1b[31m" route=192.0.2.12:6784
`
	for form, want := range map[eventForm]string{"json": json, "text": text} {
		var got strings.Builder
		for _, e := range fakeEvents() {
			line, err := form.line(e, time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			got.Write(line)
		}
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Errorf("%s:\n%s", form, diff)
		}
	}
}

// TestEventTextSteersNoTerminal: what another host calls itself is text.
func TestEventTextSteersNoTerminal(t *testing.T) {
	e := api.Event{Message: "a\x1b]0;b\ac", Nickname: "\x1b[2Jhost\n2", Fields: map[string]string{"k\r": "\x1b[1m", "u": "\u009b31m"}}
	line := strings.TrimSuffix(string(eventText(e, time.UTC)), "\n")
	for _, r := range line {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			t.Fatalf("%q carries %q", line, r)
		}
	}
}

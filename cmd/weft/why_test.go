package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// noon is when whyTable is asked for; everything else is told from it.
func noon() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }

// relayedWhy is a peer behind a NAT that lets nothing in.
func relayedWhy() api.Why {
	before := func(d time.Duration) time.Time { return noon().Add(-d) }
	return api.Why{
		Name: "02:9c:11:ab:7d:66", Nickname: "host3", Identity: strings.Repeat("02", 32), Overlay: netip.MustParseAddr("fd77:6566:7400::3"),
		State: api.Relayed, Address: "198.51.100.7:6783", Via: []string{"host2"}, Since: before(192 * time.Second), Decider: true,
		RTT: 1100 * time.Microsecond, Loss: 2.0 / 64, MTU: 1370, PathMTU: 1500, Handshake: before(47 * time.Second), RxBytes: 123456, TxBytes: 7,
		Reason: "192.0.2.13:6784 does not answer", Help: "let UDP 6784 in at host3, or forward it there and launch host3 with --host=ADDRESS",
		Candidates: []api.WhyCandidate{
			{Address: "192.0.2.13:6784", State: api.CandidateSilent, Asked: before(2 * time.Second), Answered: before(200 * time.Second)},
			{Address: "[2001:db8:1234:5678::13]:6784", State: api.CandidateSilent, Asked: before(31 * time.Second)},
			{Address: "10.0.0.3:6784", State: api.CandidateAnswers, RTT: 400 * time.Microsecond, Asked: before(3 * time.Second), Answered: before(3 * time.Second)},
			{Address: "10.0.0.4:6784", State: api.CandidateNotAsked},
		},
		Relays: []api.WhyRelay{
			{Via: []string{"host2"}, RTT: 1100 * time.Microsecond, MTU: 1500, InUse: true},
			{Via: []string{"host4", "host5"}, RTT: 31 * time.Millisecond, MTU: 1280},
			{Via: []string{"host6"}},
		},
		Changes: 14,
		History: []api.WhyChange{
			{At: before(26 * time.Hour), To: "192.0.2.13:6784", Why: "direct path answers"},
			{At: before(3 * time.Hour), From: "192.0.2.13:6784", To: "192.0.2.13:6784", Why: "no answer for 2.1s"},
			{At: before(192 * time.Second), From: "192.0.2.13:6784", To: "via host2", Why: "no answer for 2.1s"},
			{At: before(190 * time.Second), From: "via host2"},
		},
	}
}

func TestWhyTable(t *testing.T) {
	direct := api.Why{
		Name: "f6:42:1d:0a:5e:01", Nickname: "host2", Overlay: netip.MustParseAddr("fd77:6566:7400::2"),
		State: api.Established, Address: "192.0.2.12:6784", Since: noon().Add(-49 * time.Hour), RTT: 412 * time.Microsecond,
		MTU: 1338, PathMTU: 1480, Fragmented: 42, Handshake: noon().Add(time.Second), Info: "said of no connection that stands",
		Help:       "nothing is needed", // and without a reason not printed
		Candidates: []api.WhyCandidate{{Address: "192.0.2.12:6784", State: api.CandidateInUse, RTT: 412 * time.Microsecond, Answered: noon().Add(-time.Minute)}},
		Changes:    1, History: []api.WhyChange{{At: noon().Add(-49 * time.Hour), To: "192.0.2.12:6784", Why: "first handshake"}},
	}
	lost := api.Why{
		Name: "02:00:00:00:00:17", State: api.Retrying, Overlay: netip.MustParseAddr("fd77:6566:7400::17"), Address: "192.0.2.17:6784", Since: noon().Add(-12 * time.Second),
		Loss: 1, Info: "no answer to WireGuard handshakes for 12s", Reason: "nobody between here and there relays",
	}
	tests := []struct {
		name, want string
		why        api.Why
	}{
		{"relayed", `

           Peer: 02:9c:11:ab:7d:66(host3)
        Overlay: fd77:6566:7400::3
          State: relayed for 3m12s
           Path: via host2 (198.51.100.7:6783)
        Decider: this host
            RTT: 1.1ms
           Loss: 3.1%
            MTU: 1370 bytes
        PathMTU: 1500 bytes
      Handshake: 47s ago
       Received: 123456 bytes
           Sent: 7 bytes

         Reason: 192.0.2.13:6784 does not answer
           Help: let UDP 6784 in at host3, or forward it there and launch host3 with --host=ADDRESS

     Candidates: 192.0.2.13:6784       no answer asked 2s ago, answered 3m20s ago
                 [2001:db8:1234:5678::13]:6784 no answer asked 31s ago, never answered
                 10.0.0.3:6784         answers   rtt=0.4ms, asked 3s ago, answered 3s ago
                 10.0.0.4:6784         not asked
         Relays: host2                 in use    rtt=1.1ms, mtu=1500
                 host4,host5           usable    rtt=31.0ms, mtu=1280
                 host6                 usable

        Changes: 14
        History: 2026-11-19 10:00:00  no path -> 192.0.2.13:6784: direct path answers
                 2026-11-20 09:00:00  192.0.2.13:6784: no answer for 2.1s
                 2026-11-20 11:56:48  192.0.2.13:6784 -> via host2: no answer for 2.1s
                 2026-11-20 11:56:50  via host2 -> no path

`, relayedWhy()},
		{"direct", `

           Peer: f6:42:1d:0a:5e:01(host2)
        Overlay: fd77:6566:7400::2
          State: established for 2d1h
           Path: direct (192.0.2.12:6784)
        Decider: the peer
            RTT: 0.4ms
           Loss: 0.0%
            MTU: 1338 bytes
        PathMTU: 1480 bytes
      Handshake: 0s ago
       Received: 0 bytes
           Sent: 0 bytes
     Fragmented: 42 packets

     Candidates: 192.0.2.12:6784       in use    rtt=0.4ms, answered 1m0s ago
         Relays: none

        Changes: 1
        History: 2026-11-18 11:00:00  no path -> 192.0.2.12:6784: first handshake

`, direct},
		{"lost", `

           Peer: 02:00:00:00:00:17()
        Overlay: fd77:6566:7400::17
          State: retrying for 12s: no answer to WireGuard handshakes for 12s
           Path: trying direct (192.0.2.17:6784)
        Decider: the peer
            RTT: not measured
           Loss: 100.0%
            MTU: unknown
        PathMTU: unknown
      Handshake: never
       Received: 0 bytes
           Sent: 0 bytes

         Reason: nobody between here and there relays

     Candidates: none
         Relays: none

        Changes: 0
        History: none

`, lost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := string(whyTable(tt.why, noon()))
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), got); diff != "" {
				t.Error(diff)
			}
			for line := range strings.Lines(got) {
				if strings.TrimRight(line, " \n")+"\n" != line {
					t.Errorf("blanks at the end of %q", line)
				}
			}
		})
	}
}

// TestWhyInTheREADME: what the README shows is what the command prints.
func TestWhyInTheREADME(t *testing.T) {
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	w := relayedWhy()
	w.Reason = "none of its addresses answers"
	w.Help = "let UDP port 6784 of one of the two hosts be reached from outside, and name that address there with --host"
	w.Candidates, w.Relays, w.History = w.Candidates[:1], w.Relays[:2], []api.WhyChange{w.History[0], w.History[2]}
	want := "```" + strings.TrimSuffix(string(whyTable(w, noon())), "\n") + "```\n"
	if !strings.Contains(string(page), want) {
		t.Errorf("README.md does not show\n%s", want)
	}
}

// TestWhyPaths: what is said of where packets go, by state.
func TestWhyPaths(t *testing.T) {
	tests := []struct {
		want string
		why  api.Why
	}{
		{"none", api.Why{State: api.Connecting}},
		{"direct (192.0.2.1:1)", api.Why{State: api.Pending, Address: "192.0.2.1:1"}},
		{"trying direct (192.0.2.1:1)", api.Why{State: api.Failed, Address: "192.0.2.1:1"}},
		{"trying via host2,host4 (192.0.2.1:1)", api.Why{State: api.Connecting, Address: "192.0.2.1:1", Via: []string{"host2", "host4"}}},
		{"via host2,host4 (192.0.2.1:1)", api.Why{State: api.Relayed, Address: "192.0.2.1:1", Via: []string{"host2", "host4"}}},
	}
	for _, tt := range tests {
		if got := whyPath(tt.why); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.why, got, tt.want)
		}
	}
	if got := whyState(api.Why{State: api.Pending}, noon()); got != "pending" {
		t.Errorf("a state whose age nobody knows: %q", got)
	}
}

// TestWhyZone: the times of the history are those of the reader's clock.
func TestWhyZone(t *testing.T) {
	w := api.Why{History: []api.WhyChange{{At: noon(), To: "192.0.2.1:1"}}}
	got := string(whyTable(w, noon().In(time.FixedZone("east", 2*3600))))
	if want := "History: 2026-11-20 14:00:00  no path -> 192.0.2.1:1\n"; !strings.Contains(got, want) {
		t.Errorf("no %q in\n%s", want, got)
	}
}

// TestWhyJSON: what the table shows is all there, and lists are never null.
func TestWhyJSON(t *testing.T) {
	b, err := marshalJSON(fullWhy(relayedWhy()))
	if err != nil {
		t.Fatal(err)
	}
	var again api.Why
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	want := relayedWhy()
	if diff := cmp.Diff(want, again, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	empty := api.Why{Relays: []api.WhyRelay{{}}}
	b, err = marshalJSON(fullWhy(empty))
	if err != nil || strings.Contains(string(b), "null") {
		t.Errorf("%v: %s", err, b)
	}
	if empty.Relays[0].Via != nil {
		t.Error("fullWhy has changed what it was given")
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 999 * time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m0s",
		time.Hour - 1: "59m59s", 24*time.Hour - 1: "23h59m", 24 * time.Hour: "1d0h", 1000 * time.Hour: "41d16h",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %s, want %s", d, got, want)
		}
	}
}

func TestCallNames(t *testing.T) {
	got := callNames([]api.PeerID{{Name: "a", Nickname: "x"}, {Name: "b", Nickname: "twin"}, {Name: "c"}, {Name: "d", Nickname: "twin"}, {Name: "a", Nickname: "x"}})
	if diff := cmp.Diff([]string{"x", "b", "c", "d", "x"}, got); diff != "" {
		t.Error(diff)
	}
}

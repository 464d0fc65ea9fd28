package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
)

// refusal is one way of not getting in.
type refusal struct {
	name   string
	by     *node  // who dials
	target string // as typed
	addr   string // as resolved, in the status
	state  string
	why    string // the error
	retry  string // as the status prints it; empty: not at all
	// heard is what the daemon that was dialled logs, and as whose address;
	// without one there is no daemon there.
	heard  *node
	remote string
	says   string // empty: the same as why
}

const (
	later = "later" // a time about a minute ahead
	never = "never"
)

// Everything that can be wrong with a peer has its own message, at both ends
// where there are two, and nothing is joined. What can heal is tried again.
func TestRefusalMessages(t *testing.T) {
	parallelAs(t, calm, 15*time.Second) // it waits for ten seconds of silence
	c := newCluster(t, 6)
	host, wrong, other, namesake, seeker, place := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3], c.nodes[4], c.nodes[5]
	strangers := inviteStrangers(t, place)
	secret, err := crypto.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	at := func(n *node) string { return n.Addr().String() }
	underlay, err := c.Capture("", nil)
	if err != nil {
		t.Fatal(err)
	}
	host.launch()
	wrong.must("launch", "--token", crypto.Token{Secret: secret}.String(), "--datapath", run.datapath, at(host))
	other.launch("--cluster", "other", at(host))
	namesake.launch("--name", host.identity().Name, at(host))
	seeker.launch()

	taken := fmt.Sprintf("peer name %s is known as that of %s and cannot be that of %s too; give one of the two another with --name",
		host.identity().Name, host.identity().fingerprint(), namesake.identity().fingerprint())
	const self, strange = "cannot connect to ourself", "something else than weft is listening there: "
	tests := []refusal{
		{"wrong secret", wrong, at(host), at(host) + ":6783", "failed", "wrong password", later, host, at(wrong), ""},
		{
			"other cluster", other, at(host), at(host) + ":6783", "failed",
			"it belongs to a cluster of another name (see --cluster)", later, host, at(other), "",
		},
		{
			"name of another", namesake, at(host), at(host) + ":6783", "failed",
			"introduction refused by the peer: " + taken, later, host, at(namesake), "introduction refused: " + taken,
		},
		{"ourself", seeker, at(seeker), at(seeker) + ":6783", "failed", self, never, seeker, at(seeker), ""},
		{"ourself at loopback", seeker, "127.0.0.1", "127.0.0.1:6783", "failed", self, never, seeker, "127.0.0.1", ""},
		{
			"ourself by IPv6", seeker, fmt.Sprintf("[%s]:6783", seeker.Addr6()), fmt.Sprintf("[%s]:6783", seeker.Addr6()),
			"failed", self, never, seeker, seeker.Addr6().String(), "",
		},
		{"ourself by IPv6 at loopback", seeker, "::1", "[::1]:6783", "failed", self, never, seeker, "::1", ""},
		// What a name stands for may change.
		{"ourself by name", seeker, "me.example", "127.0.0.77:6783", "failed", self, later, seeker, "127.0.0.1", ""},
		{"no such address", seeker, "192.0.2.99", "192.0.2.99:6783", "retrying", "dial tcp 192.0.2.99:6783: connect: no route to host", "", nil, "", ""},
		{"no route", seeker, "203.0.113.1", "203.0.113.1:6783", "retrying", "dial tcp 203.0.113.1:6783: connect: network is unreachable", "", nil, "", ""},
		{
			"no such name", seeker, "nobody.example", "nobody.example", "retrying",
			"look up nobody.example: lookup nobody.example on 127.0.0.1:53: no such host", "", nil, "", "",
		},
	}
	for _, s := range strangers {
		r := refusal{name: s.name, by: seeker, target: s.addr.String(), addr: s.addr.String(), state: "failed", why: s.why, retry: later}
		if s.reached {
			r.why = strange + s.why
		}
		if s.state != "" {
			r.state, r.retry = s.state, ""
		}
		tests = append(tests, r)
	}

	answerNobody(t, seeker)
	seeker.sh("echo 127.0.0.77 me.example >> /etc/hosts")
	for _, r := range tests {
		if r.by == seeker {
			seeker.must("connect", r.target)
		}
	}
	for _, r := range tests {
		t.Run(r.name, func(t *testing.T) { r.check(t) })
	}
	t.Run("stranger calls", func(t *testing.T) { strangersCall(t, host, place) })
	t.Run("attempts", func(t *testing.T) {
		// What was not reached is tried again soon, then less and less often.
		refused := netip.AddrPortFrom(place.Addr(), silentPort+1)
		wait(t, "four attempts at what is not reached", 3*time.Second, func() error {
			return backsOff(attempts(underlay.Frames(), seeker.Addr(), refused), 4)
		})
		// What was refused, about a minute later.
		n := attempts(underlay.Frames(), wrong.Addr(), netip.AddrPortFrom(host.Addr(), 6783))
		for i := range n[min(len(n), 1):] {
			if gap := n[i+1].Sub(n[i]); gap < 40*time.Second {
				t.Errorf("an attempt with the wrong secret came %s after the last", gap)
			}
		}
		if len(n) == 0 {
			t.Error("no attempt with the wrong secret was seen")
		}
	})
	for _, n := range c.nodes[:5] {
		if met := n.acquaintances(); met != "" {
			t.Errorf("%s has met somebody:\n%s", n.Name(), met)
		}
	}

	// Corrected, they join.
	wrong.must("stop")
	wrong.launch(at(host))
	other.must("stop")
	other.launch(at(host))
	c.waitMesh(host, wrong, other)
	if met := host.acquaintances(); !strings.Contains(met, "dst fd") || !strings.Contains(met, "metric") {
		t.Errorf("this would not have shown that somebody was met:\n%s", met)
	}
}

// What was refused heals by itself once the reason is gone: something else has
// the port, or the host that is dialled has the wrong secret.
func TestRefusedHeals(t *testing.T) {
	parallelAs(t, idle, 75*time.Second) // the next attempt comes after a minute
	c := newCluster(t, 4)
	busy, one, wrong, two := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	l := listener(t, busy, netip.AddrPortFrom(busy.Addr(), 6783))
	go serveEach(l, speakSSH)
	secret, err := crypto.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	wrong.must("launch", "--token", crypto.Token{Secret: secret}.String(), "--datapath", run.datapath)
	one.launch(busy.Addr().String())
	two.launch(wrong.Addr().String())
	wait(t, "both are refused", time.Second, func() error {
		for _, n := range []*node{one, two} {
			if count, text, err := n.connections(); err != nil || count["failed"] != 1 {
				return fmt.Errorf("%w: connections of %s:\n%s", err, n.Name(), text)
			}
		}
		return nil
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	busy.launch()
	wrong.must("stop")
	wrong.launch()
	wait(t, "both are connected", 75*time.Second, func() error {
		return errors.Join(c.isMesh(busy, one), c.isMesh(wrong, two))
	})
}

// check waits until the message is there, at both ends.
func (r refusal) check(t *testing.T) {
	info := r.why
	switch r.retry {
	case never:
		info += ", retry: never"
	case later:
		info += ", retry: LATER"
	}
	want := fmt.Sprintf("-> %-21v %-11v %s", r.addr, r.state, info)
	wait(t, "the status says so", 2*time.Second, func() error {
		_, text, err := r.by.connections()
		if err != nil {
			return err
		}
		if lines := strings.Split(maskRetry(text), "\n"); !slices.Contains(lines, want) {
			return fmt.Errorf("there is no line %q in\n%s", want, text)
		}
		return nil
	})
	wantLog(t, r.by, fmt.Sprintf("level=WARN msg=%q part=mesh target=%s address=%s err=%q retry=%t",
		"target not connected", quoted(r.target), quoted(resolved(r)), r.why, r.retry != never))
	if r.heard == nil {
		return
	}
	says := r.says
	if says == "" {
		says = r.why
	}
	wantLog(t, r.heard, fmt.Sprintf("level=WARN msg=%q part=hello remote=%s err=%q", "introduction failed", r.remote, says))
}

// resolved is the address that the log shows: none before a name was found.
func resolved(r refusal) string {
	if !strings.Contains(r.addr, ":") {
		return ""
	}
	return r.addr
}

// quoted is how the log writes a value.
func quoted(s string) string {
	if s == "" || strings.ContainsAny(s, " \"=") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// wantLog waits until the daemon has logged the line, and wants it once: a
// change of state is told once.
func wantLog(t *testing.T, n *node, line string) {
	t.Helper()
	wait(t, n.Name()+" logs it", time.Second, func() error {
		count := 0
		for got := range strings.Lines(n.log()) {
			_, rest, _ := strings.Cut(strings.TrimSpace(got), " ") // the time
			if rest == line {
				count++
			}
		}
		switch count {
		case 1:
			return nil
		case 0:
			return fmt.Errorf("%s has not logged\n%s\nbut\n%s", n.Name(), line, n.log())
		}
		return fmt.Errorf("%s has logged %d times: %s", n.Name(), count, line)
	})
}

// maskRetry replaces times of the next attempt that are about a minute ahead.
func maskRetry(text string) string {
	stamp := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC`)
	return stamp.ReplaceAllStringFunc(text, func(s string) string {
		at, err := time.Parse("2006-01-02 15:04:05 -0700 MST", s)
		if ahead := time.Until(at); err != nil || ahead < -time.Minute || ahead > 80*time.Second {
			return s
		}
		return "LATER"
	})
}

// acquaintances is what a host shows of others that it has met.
func (n *node) acquaintances() string {
	n.c.t.Helper()
	_, peers, _ := strings.Cut(n.must("status", "peers"), "\n") // the first line is the host itself
	// Where this process forwards, the kernel knows nobody.
	if m, err := n.metrics(); err == nil && m["weft_switch_remotes"] > 0 {
		peers += fmt.Sprintln("dst fd", m["weft_switch_remotes"])
	}
	return peers + n.sh("bridge fdb show dev weft-vx | grep dst; ip -6 route show dev weft-wg | grep -v 'proto kernel'; true")
}

// identity is who a host is.
type identity struct{ Name, Identity string }

func (i identity) fingerprint() string { return i.Identity[:16] }

// identity returns it from the status.
func (n *node) identity() identity {
	n.c.t.Helper()
	var i identity
	unmarshal(n.c.t, n.must("status", "-o", "json"), &i)
	if len(i.Identity) != 64 {
		n.c.t.Fatalf("identity of %s: %+v", n.Name(), i)
	}
	return i
}

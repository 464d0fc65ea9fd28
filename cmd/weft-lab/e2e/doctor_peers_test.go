package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	program "github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
)

// elsewhere is where no host is.
const elsewhere = "192.0.2.199"

// peerAilments are those of hosts that meet: host1, host2 and host3 are connected,
// host2 over a narrow link, host3 with a card that loses what is sent in one piece;
// host4 and host5 are not launched yet.
func peerAilments(c *cluster) [][]ailment {
	a, b, other, stranger, twin := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3], c.nodes[4]
	warning, problem, note := api.Warning, api.Problem, api.Note
	return [][]ailment{
		{ // There from the start: see TestFindingsBetweenHosts.
			{id: "mtu", at: a, severity: warning, subject: "host2", says: "the switch of 1370", lasts: "a path is looked at again for more after some minutes"},
			{
				id: "single-sends", at: other, severity: warning, only: "userspace", says: "sent one by one",
				lasts: "it is tried again when a path moves, which TestCoalescedLost is about",
			},
		},
		{
			{
				id: "wrong-password", at: stranger, severity: problem, says: "another cluster secret",
				do: func() error {
					return stranger.script("weft launch --password 'another password of ours' --datapath " + stranger.datapath() + " " + a.Addr().String())()
				},
				remedy: "weft stop", // then the command that is printed there
				mend: func() error {
					_, join, found := strings.Cut(a.weft("token").Stderr, "weft launch ")
					if !found {
						return errors.New("'weft token' prints no command")
					}
					line, _, _ := strings.Cut(join, "\n")
					return stranger.script("weft launch --datapath " + stranger.datapath() + " " + line)()
				},
			},
			{
				id: "target", at: b, severity: problem, says: elsewhere,
				do: b.script("weft connect " + elsewhere), remedy: "weft forget",
			},
			{
				id: "target-self", at: b, severity: note, says: "is this host",
				do: func() error { return b.script("weft connect " + b.Addr().String())() }, remedy: "weft forget",
			},
			{
				id: "clone", at: twin, severity: problem, says: "two hosts have one identity",
				do: func() error { return twin.copies(b) }, remedy: "weft reset --force",
				mend: func() error { // and launched again: as another release, of which UDP reaches nobody
					if err := twin.script("nft 'table inet deaf { chain in { type filter hook input priority 0; udp dport { 6783, 6784 } drop; }; }'")(); err != nil {
						return err
					}
					return twin.launchRelease("0.1.9", "--mtu=1300", a.Addr().String())
				},
			},
		},
		{
			{id: "peer-connecting", at: twin, severity: note, subject: "host1", mend: twin.script("nft delete table inet deaf")},
			{
				id: "attention", at: stranger, severity: warning, says: "the cluster secret that was kept here was replaced",
				mend: func() error {
					stranger.must("stop")
					stranger.relaunch("--resume")
					return nil
				},
			},
		},
		{
			{
				id: "version", at: a, severity: note, subject: "host5", says: "runs weft 0.1.9",
				mend: func() error { // a version everywhere, and an MTU
					twin.must("stop")
					twin.relaunch("--resume")
					return nil
				},
			},
			{id: "attention", at: a, severity: warning, says: "the switch of host5 has an MTU of 1300", mend: a.script("true # with version")},
			{
				id: "relayed", at: b, severity: warning, subject: "host3", says: "host1 only",
				do:   func() error { return c.CutPair(c.t.Context(), b.Name(), other.Name()) },
				mend: func() error { return c.HealPair(c.t.Context(), b.Name(), other.Name()) },
			},
		},
		{
			{id: "peer-lost", at: a, severity: problem, subject: "host3", do: other.script("weft stop"), remedy: "weft rmpeer"},
			{id: "addresses-out-of-reach", at: a, severity: warning, mend: a.script("true # with peer-lost")},
		},
	}
}

// copies makes a host a copy of another one: the same disk, the same machine id.
func (n *node) copies(of *node) error {
	if err := n.WriteFile("/etc/machine-id", of.sh("cat /etc/machine-id")); err != nil {
		return err
	}
	n.sh("mkdir -p /var/lib/weft && chmod 700 /var/lib/weft")
	for _, name := range []string{"identity", "secret"} {
		file, err := os.ReadFile(filepath.Join(of.Root(), "/var/lib/weft", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(n.Root(), "/var/lib/weft", name), file, 0o600); err != nil {
			return err
		}
	}
	n.relaunch(of.Addr().String())
	return nil
}

// launchRelease launches the programs of this release under another number, which
// has as many letters.
func (n *node) launchRelease(number string, args ...string) error {
	dir := n.c.t.TempDir()
	for _, p := range []string{"weft", "weftd"} {
		b, err := os.ReadFile(filepath.Join(run.bin, p))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, p), bytes.ReplaceAll(b, []byte(program.Version), []byte(number)), 0o755); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(n.c.t.Context(), time.Minute*run.slow())
	defer cancel()
	r := n.Run(ctx, append([]string{filepath.Join(dir, "weft"), "launch", "--token", n.c.token, "--datapath", n.datapath()}, args...)...)
	if r.Err != nil {
		return fmt.Errorf("%s: %v", n.Name(), r)
	}
	return nil
}

// TestFindingsBetweenHosts provokes what can be wrong where hosts meet.
func TestFindingsBetweenHosts(t *testing.T) {
	parallelAs(t, ordinary, 40*time.Second)
	skipHere(t)
	c := newCluster(t, 5)
	a, b, other := c.nodes[0], c.nodes[1], c.nodes[2]
	b.sh("ip link set eth0 mtu 1300")
	other.sh(`nft 'table netdev card { chain out { type filter hook egress device eth0 priority 0; udp dport 6784 meta length > 1600 drop; }; }'`)
	a.launch()
	b.launch(a.Addr().String())
	other.launch(a.Addr().String())
	c.waitMesh(a, b, other)
	for _, n := range []*node{a, other} {
		n.give(fmt.Sprintf("c%d", n.number)) // both have address space
	}
	rounds := peerAilments(c)
	first := c.make(rounds[0]...)
	for i, list := range rounds[1:] {
		c.make(list...).find(2 * time.Second).heal().gone(2 * time.Second)
		if i == 1 {
			first.find(3 * time.Second)
		}
	}
}

// spaceAilments are those of the address space: host1 and host2 gave addresses
// before they met, and host3 waits for a host that is not there.
func spaceAilments(c *cluster) [][]ailment {
	a, b, alone := c.nodes[0], c.nodes[1], c.nodes[2]
	problem, warning := api.Problem, api.Warning
	var kept, waits *box
	return [][]ailment{
		{{
			id: "address-awaited", at: alone, severity: warning, says: "awaiting consensus",
			do: func() error {
				waits = alone.start("waits")
				return alone.script("weft attach " + waits.Ref() + " >/dev/null 2>&1 &")()
			},
			mend: func() error { return waits.Kill() },
		}},
		{
			{
				id: "address-twice", at: a, severity: problem, says: "10.32.0.1 is held more than once",
				do: func() error {
					a.give("first")
					kept = b.give("kept")
					return b.script("weft connect " + a.Addr().String())()
				},
				mend: func() error { return b.script("weft detach " + kept.Ref())() },
			},
			{id: "addresses", at: a, severity: warning, says: "host2", mend: a.script("true # with address-twice")},
		},
	}
}

// TestFindingsOfAddressSpace provokes what can be wrong with addresses.
func TestFindingsOfAddressSpace(t *testing.T) {
	parallel(t)
	skipHere(t)
	c := newCluster(t, 3)
	for _, n := range c.nodes[:2] {
		n.launch()
	}
	c.nodes[2].launch(elsewhere)
	for _, list := range spaceAilments(c) {
		c.make(list...).find(2 * time.Second).heal().gone(3 * time.Second)
	}
}

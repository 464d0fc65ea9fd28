package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Programs run when somebody else changed the firewall, and for nothing else.
func TestLooksAtWhatOthersChanged(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, program := range []string{"nft", "iptables", "ip6tables"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Skip("SKIPPED, NOT TESTED: ", err)
		}
		script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>%s\nexec %s \"$@\"\n", program, log, path)
		ok(t, os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	k := freshIn(t)
	b := New(Deps{Kernel: k, Journal: memory{}})
	ok(t, b.Set(t.Context(), testConfig(1)))
	runs := func(what string, do func()) (lines []string) {
		t.Helper()
		ok(t, os.WriteFile(log, nil, 0o644))
		do()
		text, err := os.ReadFile(log)
		ok(t, err)
		t.Logf("%s:\n%s", what, text)
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	check := func(want ...string) func() {
		return func() {
			t.Helper()
			repaired, err := b.Check(t.Context())
			ok(t, err)
			if len(repaired) != len(want) || len(want) > 0 && repaired[0] != want[0] {
				t.Errorf("repaired %q, want %q", repaired, want)
			}
		}
	}
	none := func(what string, do func()) {
		t.Helper()
		if got := runs(what, do); len(got) != 1 || got[0] != "" {
			t.Errorf("%s: %d programs ran, want none", what, len(got))
		}
	}
	other := func(script string) {
		t.Helper()
		if out, err := shell(k, script); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
	}
	none("a look at what was just set", check())
	none("the same settings again", func() { ok(t, b.Set(t.Context(), testConfig(1))) })
	got := runs("an address that is to be quiet", func() {
		ok(t, quieten(t, b, netip.MustParseAddrPort("192.0.2.7:6784"), time.Minute))
	})
	if len(got) != 1 {
		t.Errorf("an address that is to be quiet: %q, want one program", got)
	}
	none("a look after that", check())
	other("nft add table inet stranger")
	if got := runs("a table of others", check()); len(got) < len(places) {
		t.Errorf("a table of others: %q, want a look at each of ours", got)
	}
	none("a look after that", check())
	other("nft delete table inet weft")
	runs("our table is gone", check("nftables rules of weft were changed or gone"))
	check()()
	none("a look after the repair", check())
	other("iptables -P FORWARD DROP")
	got = runs("Docker's policy", func() {
		repaired, err := b.Check(t.Context())
		ok(t, err)
		if legacy := strings.Contains(shellOut(t, k, "iptables --version"), "legacy"); len(repaired) != 1 && !legacy {
			t.Errorf("repaired %q, want the accept", repaired)
		}
	})
	if len(got) < 4 {
		t.Errorf("Docker's policy: %q", got)
	}
}

func shellOut(t *testing.T, k interface{ Do(func() error) error }, script string) string {
	t.Helper()
	out, err := shell(k, script)
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return out
}

// Whatever happens in whatever order: when two points are the same, nobody else
// has changed anything in between.
func TestCommits(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	rapid.Check(t, func(t *rapid.T) {
		generation := rapid.Uint32().Draw(t, "generation")
		blind := false
		c := &commits{generation: func() (uint32, error) {
			if blind {
				return 0, broken
			}
			return generation, nil
		}}
		others := 0
		type look struct {
			point
			others int
		}
		looks := []look{{}}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0: // somebody else
				generation++
				others++
			case 1: // we
				if c.write(func() error { generation++; return nil }) != nil {
					t.Fatal("no error was made")
				}
			case 2: // we in vain
				if c.write(func() error { return broken }) == nil {
					t.Fatal("the error is lost")
				}
			case 3: // both at once
				ours := rapid.Bool().Draw(t, "ours succeeds")
				_ = c.write(func() error {
					generation++
					others++
					if !ours {
						return broken
					}
					generation++
					return nil
				})
			case 4:
				blind = !blind
			case 5:
				p := c.now()
				for _, l := range looks[1:] {
					if p.same(l.point) && l.others != others {
						t.Fatalf("%+v is the same as %+v, though others did %d things since", p, l.point, others-l.others)
					}
				}
				if p.same(looks[0].point) {
					t.Fatal("the same as none")
				}
				looks = append(looks, look{p, others})
			}
		}
	})
}

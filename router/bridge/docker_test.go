package bridge

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

const accepted = "-m mark --mark 0x57000000/0xff000000 -m comment --comment weft -j ACCEPT"

// Both kinds of iptables, from nothing to Docker and back. It sets PATH, so it
// does not run beside others.
func TestDockerAccept(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			kerneltest.NeedRoot(t)
			path := t.TempDir()
			for _, program := range []string{"iptables", "ip6tables"} {
				binary, err := exec.LookPath(program + "-" + kind)
				if err != nil {
					t.Skip("SKIPPED:", err)
				}
				ok(t, os.Symlink(binary, filepath.Join(path, program)))
			}
			t.Setenv("PATH", path+":"+os.Getenv("PATH"))
			k := kerneltest.Fresh(t)
			b := New(Deps{Kernel: k})
			ok(t, b.Set(t.Context(), testConfig(1)))

			// A host without iptables stays one.
			if got := tablesOf(t, k); got != "" {
				t.Errorf("iptables tables were made: %s", got)
			}
			steps := []struct {
				name     string
				commands string
				repaired int
				chain    string // where the accept is afterwards
				rules    []string
			}{
				{"policy ACCEPT", "-P FORWARD ACCEPT", 0, "FORWARD", []string{"-P FORWARD ACCEPT"}},
				{"policy DROP", "-P FORWARD DROP", 2, "FORWARD", []string{"-P FORWARD DROP", "-A FORWARD " + accepted}},
				{"again", "-A FORWARD -i lo -j DROP", 0, "FORWARD", []string{"-P FORWARD DROP", "-A FORWARD " + accepted, "-A FORWARD -i lo -j DROP"}},
				{"flushed", "-F FORWARD", 2, "FORWARD", []string{"-P FORWARD DROP", "-A FORWARD " + accepted}},
				{"policy ACCEPT again", "-P FORWARD ACCEPT", 0, "FORWARD", []string{"-P FORWARD ACCEPT"}},
				{"Docker", "-N DOCKER-USER;-A DOCKER-USER -j RETURN;-I FORWARD -j DOCKER-USER;-P FORWARD DROP", 2, "DOCKER-USER", []string{"-N DOCKER-USER", "-A DOCKER-USER " + accepted, "-A DOCKER-USER -j RETURN"}},
				{"not in FORWARD", "-A DOCKER-USER -i lo -j DROP", 0, "FORWARD", []string{"-P FORWARD DROP", "-A FORWARD -j DOCKER-USER"}},
				{"user's own rule first", "-I DOCKER-USER -i lo -j DROP", 0, "DOCKER-USER", []string{
					"-N DOCKER-USER", "-A DOCKER-USER -i lo -j DROP", "-A DOCKER-USER " + accepted, "-A DOCKER-USER -j RETURN", "-A DOCKER-USER -i lo -j DROP",
				}},
				{"Docker restarted", "-F DOCKER-USER;-A DOCKER-USER -j RETURN", 2, "DOCKER-USER", []string{"-N DOCKER-USER", "-A DOCKER-USER " + accepted, "-A DOCKER-USER -j RETURN"}},
				{"out of reach", "-I DOCKER-USER -j RETURN", 2, "DOCKER-USER", []string{"-N DOCKER-USER", "-A DOCKER-USER " + accepted, "-A DOCKER-USER -j RETURN", "-A DOCKER-USER -j RETURN"}},
				{"twice", "-I DOCKER-USER " + accepted, 2, "DOCKER-USER", []string{"-N DOCKER-USER", "-A DOCKER-USER " + accepted, "-A DOCKER-USER -j RETURN", "-A DOCKER-USER -j RETURN"}},
			}
			both := func(commands string) {
				for _, program := range []string{"iptables", "ip6tables"} {
					for c := range strings.SplitSeq(commands, ";") {
						if out, err := shell(k, program+" "+c); err != nil {
							t.Fatalf("%s %s: %v\n%s", program, c, err, out)
						}
					}
				}
			}
			check := func(chain string, want []string) {
				t.Helper()
				for _, program := range []string{"iptables", "ip6tables"} {
					out, err := shell(k, program+" -S "+chain)
					ok(t, err)
					if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(out), "\n")); diff != "" {
						t.Errorf("%s (-want +got):\n%s", program, diff)
					}
				}
			}
			for _, s := range steps {
				t.Log(s.name)
				both(s.commands)
				repaired, err := b.Check(t.Context())
				ok(t, err)
				if len(repaired) != s.repaired {
					t.Errorf("repaired %q", repaired)
				}
				check(s.chain, s.rules)
			}
			// A successor that was never set removes it, twice.
			for range 2 {
				ok(t, New(Deps{Kernel: k}).Remove(t.Context()))
				check("DOCKER-USER", []string{"-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-A DOCKER-USER -j RETURN"})
			}
		})
	}
}

// tablesOf lists the tables of iptables that exist in a namespace.
func tablesOf(t *testing.T, k *kernel.Kernel) string {
	t.Helper()
	out, err := shell(k, `cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names 2>/dev/null
		nft list tables | grep -v ' weft$' || true`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// A host without iptables has nothing to be accepted.
func TestWithoutIptables(t *testing.T) {
	kerneltest.NeedRoot(t)
	nft, err := exec.LookPath("nft")
	ok(t, err)
	path := t.TempDir()
	ok(t, os.Symlink(nft, filepath.Join(path, "nft")))
	t.Setenv("PATH", path)
	b := New(Deps{Kernel: kerneltest.Fresh(t)})
	ok(t, b.Set(t.Context(), testConfig(1)))
	ok(t, b.Remove(t.Context()))
}

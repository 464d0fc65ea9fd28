package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/crypto"
)

// Nothing that is secret is in what a host prints, serves or packs: the token,
// the password in the configuration, what is derived and kept, the keys.
func TestNoSecretLeaves(t *testing.T) {
	parallel(t)
	c := newCluster(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	const password = "correct-horse-battery-7"
	a.sh("mkdir -p /etc/weft && umask 077 && printf 'password: " + password + "\\nlog-level: debug\\n' >/etc/weft/weft.yaml")
	a.must("launch", "--datapath", a.datapath())
	join := strings.TrimSpace(a.must("token"))
	b.must("launch", "--token", join, "--datapath", b.datapath(), a.Addr().String())
	c.waitMesh()
	// Somebody writes the token and the password where they do not belong.
	a.sh("echo 'level=INFO msg=\"" + join + " and " + password + "\"' >>/run/weft/weftd.log")

	secrets := map[string]string{"the token": join, "the password": password}
	token, err := crypto.ParseToken(join)
	if err != nil {
		t.Fatal(err)
	}
	public := strings.TrimSpace(a.must("report", "-f", "{{.Router.Identity}}"))
	keys := token.Secret.Keys("weft")
	for name, key := range map[string][]byte{"the gossip key": keys.Gossip[:], "the introduction's key": keys.Introduction[:]} {
		secrets[name], secrets[name+", base64"] = hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key)
	}
	for _, name := range []string{"identity", "secret"} {
		raw, err := os.ReadFile(filepath.Join(a.Root(), "/var/lib/weft", name))
		if err != nil {
			t.Fatal(err)
		}
		for i, word := range strings.FieldsFunc(string(raw), func(r rune) bool { return strings.ContainsRune(" \t\n\",:{}", r) }) {
			if len(word) >= 32 && word != public {
				secrets[name+", word "+string(rune('0'+i))] = word
			}
		}
		secrets[name+", hexadecimal"], secrets[name+", base64"] = hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw)
	}
	a.must("report", "--bundle", "/root/report.tar.gz")
	if mode := strings.TrimSpace(a.sh("stat -c %a /root/report.tar.gz")); mode != "600" {
		t.Errorf("the bundle has mode %s", mode)
	}
	unpacked := func(name string) string {
		return a.sh(`cd /root && mkdir -p ` + name + ` && tar xzf ` + name + `.tar.gz -C ` + name + ` && find ` + name + ` -type f | sort | while read f; do echo "== $f"; cat $f; done`)
	}
	shown := map[string]string{
		"bundle": unpacked("report"),
		"status": a.must("status", "-o", "json"), "report": a.must("report"), "events": a.must("events"), "doctor": a.weft("doctor", "-o", "json").Stdout,
		"why": a.must("why", "host2", "-o", "json"), "arguments": a.sh(`for p in $(pidof weftd); do tr '\0' ' ' </proc/$p/cmdline; tr '\0' ' ' </proc/$p/environ; done`),
	}
	for _, want := range []string{"report.json", "doctor.json", "events.jsonl", "why.txt", "log.txt", "weft.yaml", "host/nft_list_ruleset.txt", "host/ip_addr.txt"} {
		if !strings.Contains(shown["bundle"], "/"+want+"\n") {
			t.Errorf("%s is not in the bundle", want)
		}
	}
	if !strings.Contains(shown["bundle"], "level=INFO") || !strings.Contains(shown["bundle"], "table inet weft") {
		t.Error("the bundle says nothing of the log or the firewall")
	}
	// Who has a broken configuration needs help most.
	a.sh(`printf '\tmtu: [\n' >>/etc/weft/weft.yaml`)
	broken := a.weft("report", "--bundle", "/root/broken.tar.gz")
	if broken.Err != nil || !strings.Contains(broken.Stderr, "made without it") {
		t.Errorf("a bundle with a broken configuration: %v", broken)
	}
	shown["bundle of a broken configuration"], shown["words about it"] = unpacked("broken"), broken.Stderr
	for where, text := range shown {
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in the %s", what, where)
			}
		}
	}
}

// The commands of docs/troubleshooting.md work as they stand there.
func TestTroubleshootingCommands(t *testing.T) {
	parallel(t)
	skipHere(t)
	text, err := os.ReadFile("../../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	a := joined(t, 2).nodes[0]
	ran := 0
	for _, line := range shellLines(string(text)) {
		ran++
		if r := a.Run(t.Context(), "sh", "-c", "cd /root && "+line); r.Err != nil || r.Stdout == "" && !strings.Contains(line, "--bundle") {
			t.Errorf("%s: %v", line, r)
		}
	}
	if ran < 4 {
		t.Errorf("only %d commands were found", ran)
	}
}

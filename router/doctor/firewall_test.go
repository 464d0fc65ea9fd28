package doctor

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func nftRules(text string) Ruleset { r, _ := parseNFT(text); return r }

func legacyRules(text string) Ruleset { r, _ := parseIPTables(text); return r }

// TestFirewall: what a ruleset does with our ports. want names those that are
// closed.
func TestFirewall(t *testing.T) {
	in := func(policy string, rules ...string) string {
		return "table inet guard {\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 192.0.2.1 }\n\t}\n\n\tchain in {\n\t\ttype filter hook input priority filter; policy " + policy +
			";\n\t\t" + strings.Join(rules, "\n\t\t") + "\n\t}\n\n\tchain ours {\n\t\tudp dport 6783-6784 accept\n\t\ttcp dport 6783 accept\n\t}\n}\n"
	}
	const all = "TCP 6783, UDP 6783, UDP 6784"
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"policy accept", in("accept", "ct state invalid drop"), ""},
		{"policy drop", in("drop", `iifname "lo" accept`, "ct state established,related accept", "tcp dport 22 accept"), all},
		{"opened", in("drop", "tcp dport { 22, 6783 } accept", "udp dport 6783-6784 accept"), ""},
		{"opened in part", in("drop", "tcp dport 6783 accept", "udp dport 6784 accept"), "UDP 6783"},
		{"opened by protocol", in("drop", "meta l4proto { tcp, udp } accept"), ""},
		{"icmp only", in("drop", "ip protocol icmp accept", "meta l4proto ipv6-icmp accept"), all},
		{"all open", in("drop", "accept"), ""},
		{"one closed", in("accept", "udp dport 6784 counter packets 0 bytes 0 drop"), "UDP 6784"},
		{"one refused", in("accept", "tcp dport 6783 reject with tcp reset"), "TCP 6783"},
		{"the last one", in("accept", "tcp dport 22 accept", "counter drop"), all},
		{"by a chain", in("drop", "jump ours"), ""},
		{"by a chain, sometimes", in("drop", "ip saddr @s jump ours"), ""},
		{"some sources", in("accept", "ip saddr @s drop"), ""},
		{"all but ours", in("accept", "tcp dport != 6783 drop"), ""},
		{"all but another", in("accept", "tcp dport != 22 drop"), "TCP 6783"},
		{"our own", strings.ReplaceAll(in("drop"), "inet guard", "inet weft"), ""},
		{"nat", "table ip nat {\n chain PREROUTING {\n type nat hook input priority dstnat; policy drop;\n }\n}\n", ""},
		{"garbage", "table {{{\n}}}\nchain x {\n", ""},
	} {
		f := findings{}
		checkFirewall(&f, Facts{Port: 6783, Firewall: Firewall{Rules: nftRules(tt.text)}})
		got := ""
		for _, x := range f.list {
			if x.Severity == "problem" {
				_, rest, _ := strings.Cut(x.What, " drops ")
				got, _, _ = strings.Cut(rest, " (")
			}
		}
		if got != tt.want {
			t.Errorf("%s: closed %q, want %q\n%s", tt.name, got, tt.want, tt.text)
		}
	}
}

func TestForward(t *testing.T) {
	drop := func(rules ...string) string {
		return "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\t" + strings.Join(rules, "\n\t\t") +
			"\n\t}\n\tchain DOCKER-USER {\n\t\tiifname \"weft\" accept\n\t}\n}\n"
	}
	for _, tt := range []struct {
		text, calls string
		exposed     bool
		want        int
	}{
		{drop(), "1", false, 1},
		{drop(), "0", false, 0},
		{drop(), "0", true, 1},
		{drop(`iifname "weft" counter accept`), "1", true, 0},
		{drop("counter jump DOCKER-USER"), "1", true, 0},
		{strings.ReplaceAll(drop(), "policy drop", "policy accept"), "1", true, 0},
	} {
		f := findings{}
		checkForward(&f, Facts{Exposed: tt.exposed, Sysctls: map[string]string{bridgeCalls: tt.calls}, Firewall: Firewall{Rules: nftRules(tt.text)}})
		if len(f.list) != tt.want {
			t.Errorf("calls %s, exposed %t: %+v\n%s", tt.calls, tt.exposed, f.list, tt.text)
		}
	}
}

func TestIPTables(t *testing.T) {
	const text = `# Generated
*nat
:PREROUTING ACCEPT [0:0]
COMMIT
*filter
:INPUT DROP [0:0]
:OWN - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m multiport --dports 22,6783 -j ACCEPT
-A INPUT -p udp -m udp --dport 6783:6784 -j OWN
-A OWN -j DROP
COMMIT
`
	got, _ := parseIPTables(text)
	want := Ruleset{
		{Table: "iptables nat", Name: "PREROUTING", Policy: "accept"},
		{Table: "iptables filter", Name: "INPUT", Hook: "input", Policy: "drop", Rules: []string{
			"iifname lo accept", "ip protocol tcp tcp dport { 22, 6783 } accept", "ip protocol udp udp dport { 6783-6784 } own",
		}},
		{Table: "iptables filter", Name: "OWN", Policy: "-", Rules: []string{"drop"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i, closed := range []bool{false, true, true} {
		if drops, rule := got.fate(got[1], wantedPorts(6783)[i]); drops != closed {
			t.Errorf("%s: drops %t by %q", wantedPorts(6783)[i], drops, rule)
		}
	}
}

// FuzzRules: no text of rules makes the doctor fail or say what nobody asked.
func FuzzRules(f *testing.F) {
	f.Add("table inet x {\n chain y {\n type filter hook input priority 0; policy drop;\n tcp dport { 1-2, 6783 } accept\n jump z\n }\n}\n")
	f.Add("*filter\n:INPUT DROP\n-A INPUT -p tcp --dport 6783 -j ACCEPT\n-A INPUT -j\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, rules := range []Ruleset{nftRules(text), legacyRules(text)} {
			x := findings{}
			checkFirewall(&x, Facts{Port: 6783, Firewall: Firewall{Rules: rules}})
			if len(x.list) > len(rules)+1 {
				t.Fatalf("%d findings of %d chains", len(x.list), len(rules))
			}
		}
	})
}

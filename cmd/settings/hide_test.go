package settings

import (
	"slices"
	"strings"
	"testing"
)

// TestHideSecrets: in whatever way YAML writes a secret, the whole of it is left
// out and known, and what stands around it stays.
func TestHideSecrets(t *testing.T) {
	for _, tt := range []struct{ name, text, secret string }{
		{"plain", "password: a long phrase that nobody guesses\n", "a long phrase that nobody guesses"},
		{"with a comma", "password: long, longer} longest\n", "long, longer} longest"},
		{"single quotes", "password: 'it''s a long phrase'\n", "it's a long phrase"},
		{"double quotes", `password: "a \"long\" phrase\x21"` + "\n", `a "long" phrase!`},
		{"two lines, quoted", "password: \"a long\n  phrase of two\"\n", "a long phrase of two"},
		{"two lines, plain", "password: a long\n  phrase of two\n", "a long phrase of two"},
		{"literal block", "password: |-\n  a long\n  phrase of two\n", "a long\nphrase of two"},
		{"folded block", "password: >2-\n  a long\n  phrase of two\n", "a long phrase of two"},
		{"below", "password: # a phrase, of course\n  a long phrase\n", "a long phrase"},
		{"short", "password: phrase\n", "phrase"},
		{"number", "token: 0x10abcdef\n", "279694831"},
		{"by another name", "nickname: &n longphrase\npassword: *n\n", "longphrase"},
		{"capitals", "Password: a long phrase\n", "a long phrase"},
		{"explicit", "? password\n: a long phrase\n", "a long phrase"},
		{"list", "password:\n- a long phrase\n", "a long phrase"},
		{"flow", "{password: a long phrase, mtu: 1400}", "a long phrase"},
	} {
		text := "port: 7000\n" + tt.text + "dns-domain: example.\n"
		if tt.name == "flow" {
			text = tt.text
		}
		clean, secrets := HideSecrets([]byte(text), "(left out)")
		if !slices.Contains(secrets, tt.secret) {
			t.Errorf("%s: %q is not known: %q", tt.name, tt.secret, secrets)
		}
		if leaked(string(clean)) || !strings.Contains(string(clean), "(left out)") {
			t.Errorf("%s: %s", tt.name, clean)
		}
		if tt.name != "flow" && (!strings.Contains(string(clean), "port: 7000") || !strings.Contains(string(clean), "dns-domain: example.")) {
			t.Errorf("%s: more was left out: %s", tt.name, clean)
		}
	}
}

func leaked(text string) bool {
	return strings.Contains(text, "long") || strings.Contains(text, "phrase") || strings.Contains(text, "0x10ab")
}

// TestHideSecretsOfNoYAML: what cannot be understood loses everything that may
// belong to a secret.
func TestHideSecretsOfNoYAML(t *testing.T) {
	for _, text := range []string{
		"port: 7000\n\tbroken\npassword: a long phrase\n\n  of two lines, phrase\nphrase at the margin\ndns-domain: example.\n",
		"port: 7000\npassword: \"a long phrase\n  phrase\ndns-domain: example.\n",
		"port: 7000\n\"token\" : 'a long\n phrase\ndns-domain: example.\n",
		"port: 7000\n{x: ]\n{mtu: 1, password: long\n phrase\ndns-domain: example.\n",
	} {
		clean, secrets := HideSecrets([]byte(text), "(left out)")
		if len(secrets) > 0 {
			t.Errorf("%q was understood", text)
		}
		if got := string(clean); leaked(got) || !strings.Contains(got, "(left out)") || !strings.Contains(got, "port: 7000") || !strings.HasSuffix(got, "dns-domain: example.\n") {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// TestHideSecretsLeavesTheRest: a file without a secret is as it was.
func TestHideSecretsLeavesTheRest(t *testing.T) {
	for _, text := range []string{"", "# a comment\nport:   7000\n\npassword-file: /etc/weft/password\n", "password:\n", sample()} {
		if clean, secrets := HideSecrets([]byte(text), "(left out)"); string(clean) != text || len(secrets) > 0 {
			t.Errorf("%q became %q", text, clean)
		}
	}
}

package settings

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write packaging/weft.yaml anew")

const samplePath = "../../packaging/weft.yaml"

// sections begin before these keys.
var sections = map[string]string{
	"cluster":       "The cluster, and how others are met. Secrets: one at most; 'weft token' prints one on a host of the cluster.",
	"datapath":      "Packets.",
	"no-dns":        "Names.",
	"ipalloc-range": "Addresses: the same on every host.",
	"state-dir":     "Files, and what is served on this host.",
	"plugin":        "Docker.",
	"proxy":         "Docker's API for 'weft env'.",
}

// examples are values for keys that have no default.
var examples = map[string]string{
	"password": "'a long phrase that nobody guesses'", "password-file": "/etc/weft/password",
	"token": "weft1.…", "token-file": "/etc/weft/token", "peers": "[]",
	"host": "[]", "proxy-listen": "[]",
}

// sample is the configuration file of the package: every key with its default.
func sample() string {
	var b strings.Builder
	b.WriteString(`# Settings of weftd: every key, with its default. See weft.yaml(5).
#
# A flag of 'weft launch' or weftd beats the variable (WEFT_LOG_LEVEL), which
# beats this file. An unknown key is an error: 'weftd --check-config' finds it.
# This file may hold a secret: keep it 0600.
`)
	for _, k := range Keys() {
		if text := sections[k.Name]; text != "" {
			fmt.Fprintf(&b, "\n## %s\n", text)
		}
		value := k.Default
		if e, ok := examples[k.Name]; ok {
			value = e
		} else if value == "" {
			value = "''"
		}
		fmt.Fprintf(&b, "\n# %s.\n#%s: %s\n", strings.ToUpper(k.Help[:1])+k.Help[1:], k.Name, value)
	}
	return b.String()
}

// The file that the package brings documents the table, all of it.
func TestSample(t *testing.T) {
	want := sample()
	if *update {
		if err := os.WriteFile(samplePath, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what the table says; 'go test ./cmd/settings -update' writes it (-want +got):\n%s", samplePath, diff)
	}
	for name := range sections {
		if !strings.Contains(want, "\n#"+name+":") {
			t.Errorf("a section begins before %q, which is no key", name)
		}
	}
}

// What the file calls defaults are the defaults: with every key but the secrets
// and the examples taken in, the settings are those of an empty file.
func TestSampleIsDefaults(t *testing.T) {
	text := regexp.MustCompile(`(?m)^#([a-z-]+: )`).ReplaceAllString(sample(), "$1")
	var secrets []string
	for _, k := range Keys() {
		if k.Secret {
			secrets = append(secrets, k.Name)
			text = regexp.MustCompile(`(?m)^`+k.Name+`: .*$`).ReplaceAllString(text, "")
		}
	}
	// What the host is called is no constant.
	text = strings.Replace(text, "nickname: ''", "", 1)
	if len(secrets) != 4 {
		t.Errorf("secrets: %q, want four", secrets)
	}
	got, err := input{program: Daemon, yaml: text}.load(t)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Sources); n < len(Keys())-len(secrets)-1 {
		t.Errorf("the file sets %d keys of %d", n, len(Keys()))
	}
	want := defaults(t)
	want.Config, want.Sources, got.Sources = "DIR/weft.yaml", nil, nil
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(want.DNSListen, want.Range, want.DNSListen.Addr())); diff != "" {
		t.Error(diff)
	}
}

// A file that everybody can read may not hold a secret, but may name another
// file that does.
func TestSecretInOpenFile(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "weft.yaml")
	load := func(text string, mode os.FileMode) error {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(config, mode); err != nil {
			t.Fatal(err)
		}
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		AddFlags(flags, Daemon)
		_, err := Load(Daemon, Source{Flags: flags, Environ: []string{"WEFT_CONFIG=" + config}}, nil)
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("a long enough password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{"password: a long enough password", 0o600, ""},
		{"password: a long enough password", 0o640, ""},
		{"port: 7000\npassword: a long enough password", 0o644, config + ":2: password: everybody on this host can open the secret: run 'chmod 600 " + config + "'"},
		{"password-file: " + dir + "/password", 0o644, ""},
	} {
		err := load(tt.text, tt.mode)
		if err == nil && tt.want != "" || err != nil && err.Error() != tt.want {
			t.Errorf("%q with %o: %v, want %q", tt.text, tt.mode, err, tt.want)
		}
	}
}

func TestKeys(t *testing.T) {
	keys := Keys()
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == "log-level" })
	want := Key{Name: "log-level", Variable: "WEFT_LOG_LEVEL", Default: "info", Value: "debug|info|warning|error", Help: "log what is at least debug|info|warning|error", Flag: true}
	if i < 0 || keys[i] != want {
		t.Errorf("log-level is %+v", keys[max(i, 0)])
	}
	if slices.ContainsFunc(keys, func(k Key) bool { return k.Name == "config" }) {
		t.Error("config is a key of the file that it names")
	}
}

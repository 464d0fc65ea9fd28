package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

// TestBundleOfBrokenConfig: who has a broken configuration needs help, gets a
// bundle, and tells no secret by it, nor by what is said on the way.
func TestBundleOfBrokenConfig(t *testing.T) {
	for name, config := range map[string]string{
		"no YAML":          "port: 7000\npassword: Tr0ub4dor&3-horse\n  mtu: [\n",
		"no mapping":       "password Tr0ub4dor&3-horse\npassword: Tr0ub4dor&3-horse\n",
		"a secret in two":  "token: \"Tr0ub4dor&3-horse\nport: 7000\n",
		"an alias":         "password: *Tr0ub4dor\n",
		"a tab":            "\tpassword: Tr0ub4dor&3-horse\n",
		"a wrong socket":   "socket: weft.sock\npassword: Tr0ub4dor&3-horse\n",
		"a list of values": "socket: [a, b]\npassword: Tr0ub4dor&3-horse\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir+"/weft.yaml", config)
			backend := newFakeBackend()
			backend.logFile = func() []byte { return []byte("level=ERROR msg=\"cannot read\" text=Tr0ub4dor&3-horse\n") }
			var out, said bytes.Buffer
			p := &program{
				stdin: strings.NewReader(""), stdout: &out, stderr: &said, executable: dir + "/weft", environ: []string{"WEFT_CONFIG=" + dir + "/weft.yaml"},
				dial: func(string) daemon { return fakeClient{backend} }, patience: time.Hour,
			}
			if code := p.run(t.Context(), []string{"report", "--bundle", dir + "/report.tar.gz"}); code != 0 {
				t.Fatalf("exit %d: %s", code, said.String())
			}
			b, err := os.ReadFile(dir + "/report.tar.gz")
			if err != nil {
				t.Fatal(err)
			}
			files := unpack(t, b)
			for name, text := range files {
				if name != "weft-report/log.txt" && secret(text) {
					t.Errorf("%s: %s", name, text)
				}
			}
			if secret(said.String()) || out.Len() > 0 {
				t.Errorf("it prints %q and says %q", out.String(), said.String())
			}
			if !strings.Contains(said.String(), "the bundle is made without it") || !strings.Contains(said.String(), dir+"/weft.yaml") {
				t.Errorf("it does not say what is broken: %q", said.String())
			}
			if text := files["weft-report/weft.yaml"]; !strings.HasPrefix(text, "# ") || !strings.Contains(text, leftOut) {
				t.Errorf("the configuration: %q", text)
			}
			if !strings.Contains(files["weft-report/report.json"], `"host1"`) {
				t.Error("the daemon was not asked")
			}
		})
	}
	// A mistake on the command line is none of the file.
	var said bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &said, stderr: &said, dial: dialSocket}
	if code := p.run(t.Context(), []string{"report", "--bundle", t.TempDir() + "/x", "--socket=weft.sock"}); code != exitUsage {
		t.Errorf("exit %d: %s", code, said.String())
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

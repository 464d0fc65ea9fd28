package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/router/api"
)

// TestStatusSaysWhyItEnded: where no daemon is, the status says what the last one
// died of, and nothing of one that was stopped.
func TestStatusSaysWhyItEnded(t *testing.T) {
	for _, tt := range []struct{ log, want string }{
		{"", "start it with 'weft launch'\n"},
		{"time=1 level=INFO msg=ended\n", "start it with 'weft launch'\n"},
		{"weftd: an old one\ntime=1 level=INFO msg=ended\n", "start it with 'weft launch'\n"},
		{"time=1 level=INFO msg=starting\nweftd: open device weft-wg: no TUN\n", "start it with 'weft launch'; the last one ended with: open device weft-wg: no TUN\n"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "weftd.log"), []byte(tt.log), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		p := &program{
			stdin: strings.NewReader(""), stdout: &out, stderr: &errs, executable: filepath.Join(dir, "weft"),
			environ: []string{"PATH=" + os.Getenv("PATH")}, dial: dialSocket, patience: time.Hour,
		}
		code := p.run(t.Context(), []string{"--socket", filepath.Join(dir, "weft.sock"), "status"})
		if code != exitUnreachable || !strings.HasSuffix(errs.String(), tt.want) {
			t.Errorf("log %q: code %d, %q", tt.log, code, errs.String())
		}
	}
}

// A warning that a finding holds is not said twice.
func TestWarningsAreSaidOnce(t *testing.T) {
	s := api.Status{Warnings: []string{"a copy", "another"}, Findings: []api.Finding{{ID: "clone", Severity: api.Problem, What: "two hosts: a copy"}}}
	got := strings.Join(remarksOf(s, "", time.Now()), "\n")
	if want := "warning: another\nproblem: two hosts: a copy; see 'weft doctor'"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

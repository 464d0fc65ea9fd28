package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A purge takes the state only when the reset says that nothing of weft is left,
// and never fails because something is.
func TestPurge(t *testing.T) {
	script, err := os.ReadFile("../../packaging/deb/postrm")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name               string
		reset              string // what the program that was put aside does
		rm                 string // what else rm does
		said               string
		state, runs, aside bool // is left
	}{
		{name: "all goes", reset: "exit 0"},
		{name: "a mount point", reset: "exit 0", rm: "[ $1 != -rf ] || exit 1", said: "stays"},
		{name: "a weftd runs", reset: "exit 3", said: "a weftd runs", state: true, runs: true},
		{name: "it fails", reset: "exit 1", said: "purge/weftd reset --force --config=/dev/null && rm -rf", state: true, runs: true, aside: true},
		{name: "nothing was put aside", state: true, runs: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			put := func(path, text string) {
				t.Helper()
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o700); err != nil { //nolint:gosec // programs
					t.Fatal(err)
				}
			}
			put("bin/deb-systemd-helper", "#!/bin/sh\n")
			put("bin/rm", "#!/bin/sh\n/bin/rm \"$@\"\n"+tt.rm+"\n")
			put("var/lib/weft/secret", "")
			put("run/weft/weft.sock", "")
			put("etc/weft/token", "")
			if tt.reset != "" {
				put("var/lib/weft/purge/weftd", "#!/bin/sh\n"+tt.reset+"\n")
			}
			here := strings.NewReplacer("/var/lib/", root+"/var/lib/", "/run/", root+"/run/", "/etc/", root+"/etc/").Replace(string(script))
			cmd := exec.CommandContext(t.Context(), "sh", "-c", here, "postrm", "purge")
			cmd.Env = []string{"PATH=" + root + "/bin:/usr/bin:/bin"}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), tt.said) || (tt.said == "") != (len(out) == 0) {
				t.Errorf("%v: %s", err, out)
			}
			for path, want := range map[string]bool{"var/lib/weft/secret": tt.state, "run/weft/weft.sock": tt.runs, "var/lib/weft/purge": tt.aside, "etc/weft": false} {
				if _, err := os.Stat(filepath.Join(root, path)); (err == nil) != want {
					t.Errorf("%s: %v, want it left: %t", path, err, want)
				}
			}
		})
	}
}

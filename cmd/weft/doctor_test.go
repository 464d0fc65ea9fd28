package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDoctorHandsFlagsOn: without a daemon `weftd doctor` looks with the settings
// that the command was given.
func TestDoctorHandsFlagsOn(t *testing.T) {
	dir := t.TempDir()
	config, socket, said := filepath.Join(dir, "other.yaml"), filepath.Join(dir, "none.sock"), filepath.Join(dir, "said")
	if err := os.WriteFile(config, []byte("port: 7000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\" >" + said + "\necho '{\"host\":\"x\"}'\n"
	if err := os.WriteFile(filepath.Join(dir, "weftd"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	p := &program{
		stdin: strings.NewReader(""), stdout: &out, stderr: &errs, executable: filepath.Join(dir, "weft"),
		environ: []string{"PATH=" + os.Getenv("PATH")}, dial: dialSocket, patience: time.Hour,
	}
	code := p.run(t.Context(), []string{"--config", config, "--socket", socket, "doctor", "-o", "json"})
	args, err := os.ReadFile(said)
	if err != nil || code != 0 || !json.Valid(out.Bytes()) {
		t.Fatalf("code %d, %v: %s%s", code, err, &out, &errs)
	}
	got := strings.Fields(string(args))
	if got[0] != "doctor" || !slices.Contains(got, "--config="+config) || !slices.Contains(got, "--socket="+socket) {
		t.Errorf("weftd %v", got)
	}
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCutLogKeepsTheLastWholeLines(t *testing.T) {
	for _, tc := range []struct {
		name, in, want string
		limit, keep    int64
	}{
		{"small", "one\ntwo\n", "one\ntwo\n", 100, 10},
		{"cut", "first\nsecond\nthird\n", "third\n", 10, 9},
		{"no line", "aaaaaaaaaaaaaaaa", "aaaa", 10, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(tc.in), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := cutLog(path, tc.limit, tc.keep); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != tc.want {
				t.Fatalf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
	if err := cutLog(filepath.Join(t.TempDir(), "none"), 1, 1); err != nil {
		t.Errorf("a missing log: %v", err)
	}
}

func TestCopyLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := strings.Repeat("line\n", 1000)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := (&logFile{path: path}).Copy(t.Context(), false, &b); err != nil || b.String() != text {
		t.Errorf("got %d bytes, %v", b.Len(), err)
	}
	if err := (*logFile)(nil).Copy(t.Context(), false, &b); err == nil {
		t.Error("no log file: want an error that names the journal")
	}
}

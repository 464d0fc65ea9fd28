package main

import (
	"os"
	"path/filepath"
	"testing"
)

// What a daemon leaves that was killed while it wrote is removed, what is not
// weft's stays.
func TestRemoveState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "weft")
	put := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put("identity", ".workloads.json7436527009615757852", "ipam.db.damaged-1", ".doctor", ".doctor-1234", "mine", ".workloads.json.mine")
	if err := removeState(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v %v", left, err)
	}
	for _, name := range []string{"mine", ".workloads.json.mine"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	put("secret")
	if err := removeState(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("an empty directory stays")
	}
}

package changes

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestTheFirstFormerValueIsKept(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"0", "1"} {
		if err := c.Record("net/ipv4/ip_forward", v); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(dir) // a daemon that was killed in between
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Recorded()
	if err != nil || !maps.Equal(got, map[string]string{"net/ipv4/ip_forward": "0"}) {
		t.Errorf("recorded %v, %v", got, err)
	}
	if err := again.Forget("net/ipv4/ip_forward"); err != nil {
		t.Error(err)
	}
	if err := again.Forget("never recorded"); err != nil {
		t.Error(err)
	}
	if got, _ := again.Recorded(); len(got) != 0 {
		t.Errorf("still recorded: %v", got)
	}
	info, err := os.Stat(filepath.Join(dir, "host.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("host.json: %v, %v", info.Mode(), err)
	}
}

func TestBrokenFileIsAnErrorAndStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "host.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("half a file was read without an error")
	}
	if b, _ := os.ReadFile(path); string(b) != "{" {
		t.Errorf("the broken file was changed to %q", b)
	}
}

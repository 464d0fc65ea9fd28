package api

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestGroup runs where a group weft exists: in a mount namespace with another
// /etc/group. Directory, socket and log belong to the group there.
func TestGroup(t *testing.T) {
	const gid, inside = 4242, "WEFT_TEST_GROUP_EXISTS"
	if os.Getenv(inside) == "" {
		if os.Geteuid() != 0 {
			if os.Getenv("CI") == "true" {
				t.Fatal("needs root")
			}
			t.Skip("SKIPPED: needs root, for a mount namespace")
		}
		group := filepath.Join(t.TempDir(), "group")
		if err := os.WriteFile(group, []byte("root:x:0:\nweft:x:4242:\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), "unshare", "-m", "--propagation", "private", "sh", "-c",
			`mount --bind "$1" /etc/group && exec "$0" -test.run='^TestGroup$'`, self, group)
		c.Env = append(os.Environ(), inside+"=yes")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := filepath.Join(t.TempDir(), "weft")
	ln, err := Listen(filepath.Join(dir, "weft.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	log, err := os.Create(filepath.Join(dir, "weftd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := Share(log, 0o640); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o750, ln.Addr().String(): 0o660, log.Name(): 0o640} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Gid != gid || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %+v; want group %d and mode %v", path, info.Mode(), info.Sys(), gid, mode)
		}
	}
}

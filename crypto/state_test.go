package crypto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestOpenState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lib", "weft")
	s, err := OpenState(dir, "m1")
	if err != nil {
		t.Fatal(err)
	}
	if !s.Created || s.Name != s.Key.Identity().Name() || s.MachineID != "m1" {
		t.Fatalf("first start: %+v", s)
	}
	wantModes(t, dir, map[string]fs.FileMode{".": 0o700, "identity": 0o600})

	again, err := OpenState(dir, "m1")
	if err != nil {
		t.Fatal(err)
	}
	if again.Created || again.Key.Seed() != s.Key.Seed() || again.Name != s.Name {
		t.Fatal("the second start is another host")
	}

	n := Name{0, 0, 0, 0, 0, 1}
	if err := again.SetName(n); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []Name{{}, {1}} {
		if err := again.SetName(bad); err == nil || again.Name != n {
			t.Fatalf("SetName(%s) = %v, name is now %s", bad, err, again.Name)
		}
	}
	if s, err = OpenState(dir, "m1"); err != nil || s.Name != n {
		t.Fatalf("the name was not kept: %v %v", s, err)
	}
	// The derived one is not written down.
	if err := s.SetName(s.Key.Identity().Name()); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, identityFile)); bytes.Contains(b, []byte("name")) {
		t.Fatalf("a derived name was written: %s", b)
	}
}

func TestOpenStateTightens(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenState(dir, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := SaveSecret(dir, Secret{1}, "weft"); err != nil {
		t.Fatal(err)
	}
	loosen := func() {
		for name, mode := range map[string]fs.FileMode{".": 0o777, identityFile: 0o644, secretFile: 0o666} {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	loosen()
	if _, err := OpenState(dir, ""); err != nil {
		t.Fatal(err)
	}
	wantModes(t, dir, map[string]fs.FileMode{".": 0o700, identityFile: 0o600, secretFile: 0o600})
	loosen()
	if _, err := LoadSecret(dir); err != nil {
		t.Fatal(err)
	}
	wantModes(t, dir, map[string]fs.FileMode{secretFile: 0o600})
	loosen()
	// A stricter one stays.
	if err := os.Chmod(filepath.Join(dir, identityFile), 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenState(dir, ""); err != nil {
		t.Fatal(err)
	}
	wantModes(t, dir, map[string]fs.FileMode{identityFile: 0o400})
}

func TestMachineID(t *testing.T) {
	for _, tt := range []struct {
		name, wrote, reads, want string
		refused                  bool
	}{
		{name: "same", wrote: "a", reads: "a", want: "a"},
		{name: "other", wrote: "a", reads: "b", refused: true},
		{name: "was unknown", wrote: "", reads: "b", want: "b"},
		{name: "is unknown", wrote: "a", reads: "", want: "a"},
		{name: "never known", wrote: "", reads: "", want: ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			first, err := OpenState(dir, tt.wrote)
			if err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, dir)
			s, err := OpenState(dir, tt.reads)
			if tt.refused {
				if !errors.Is(err, ErrOtherMachine) || !strings.Contains(err.Error(), "weft reset") {
					t.Fatalf("got %v", err)
				}
				if d := cmp.Diff(before, snapshot(t, dir)); d != "" {
					t.Fatalf("a refused directory was changed:\n%s", d)
				}
				return
			}
			if err != nil || s.MachineID != tt.want || s.Key.Seed() != first.Key.Seed() {
				t.Fatalf("got %+v, %v", s, err)
			}
			if tt.want != "" {
				if _, err := OpenState(dir, tt.want+"x"); !errors.Is(err, ErrOtherMachine) {
					t.Fatalf("machine %q was not remembered: %v", tt.want, err)
				}
			}
		})
	}
}

// What is broken stays as it is, and the message says what to do.
func TestBrokenState(t *testing.T) {
	good := identityState{seed: [32]byte{1}, machine: "m"}.encode()
	goodSecret := secretState{secret: Secret{1}, cluster: "weft"}.encode()
	for name, b := range map[string][]byte{
		"empty":          {},
		"blank":          []byte("\n \n"),
		"cut":            good[:len(good)/2],
		"trailing":       append(bytes.Clone(good), "{}"...),
		"not JSON":       []byte("seed=1"),
		"unknown key":    bytes.Replace(good, []byte(`"format"`), []byte(`"x": 1, "format"`), 1),
		"other format":   bytes.Replace(good, []byte(`: 1`), []byte(`: 2`), 1),
		"short seed":     bytes.Replace(good, []byte(`"01`), []byte(`"`), 1),
		"not hex":        bytes.Replace(good, []byte(`"01`), []byte(`"0g`), 1),
		"zero seed":      bytes.Replace(good, []byte(`"01`), []byte(`"00`), 1),
		"bad name":       bytes.Replace(good, []byte(`"machine"`), []byte(`"name": "host1", "machine"`), 1),
		"zeros on disk":  make([]byte, len(good)),
		"much too large": bytes.Repeat([]byte(" "), maxStateFile+1),
	} {
		t.Run("identity "+name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, identityFile), b)
			before := snapshot(t, dir)
			_, err := OpenState(dir, "m")
			if err == nil || !strings.Contains(err.Error(), "weft reset") || !strings.Contains(err.Error(), dir) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), strings.Repeat("0", 20)) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("not one line without secrets: %v", err)
			}
			if d := cmp.Diff(before, snapshot(t, dir)); d != "" {
				t.Fatalf("changed:\n%s", d)
			}
		})
	}
	for name, b := range map[string][]byte{
		"empty":        {},
		"cut":          goodSecret[:len(goodSecret)/2],
		"other format": bytes.Replace(goodSecret, []byte(`: 1`), []byte(`: 2`), 1),
		"not hex":      bytes.Replace(goodSecret, []byte(`"01`), []byte(`"0g`), 1),
		"zero":         bytes.Replace(goodSecret, []byte(`"01`), []byte(`"00`), 1),
	} {
		t.Run("secret "+name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, secretFile), b)
			before := snapshot(t, dir)
			_, err := LoadSecret(dir)
			if err == nil || !strings.Contains(err.Error(), "--password or --token") || errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("got %v", err)
			}
			if d := cmp.Diff(before, snapshot(t, dir)); d != "" {
				t.Fatalf("changed:\n%s", d)
			}
			// Giving it again is the way out.
			if replaced, err := SaveSecret(dir, Secret{2}, "weft"); err != nil || !replaced {
				t.Fatalf("SaveSecret = %v, %v", replaced, err)
			}
			if s, err := LoadSecret(dir); err != nil || s != (Secret{2}) {
				t.Fatal(err)
			}
		})
	}
}

// A pipe in place of the file must not hang the daemon, a link not be followed.
func TestStateFileKinds(t *testing.T) {
	for name, build := range map[string]func(path string) error{
		"pipe":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"link":      func(p string) error { return os.Symlink("/dev/zero", p) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		dir := t.TempDir()
		if err := build(filepath.Join(dir, identityFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenState(dir, ""); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStateDirErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	if _, err := OpenState(file, ""); err == nil {
		t.Error("a file was taken for the state directory")
	}
	if _, err := SaveSecret(file, Secret{1}, ""); err == nil {
		t.Error("a file was taken for the state directory")
	}
	if _, err := LoadSecret(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no secret: %v", err)
	}
	if _, err := LoadCluster(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no secret: %v", err)
	}
	// SetName that cannot write keeps the name it has.
	dir := t.TempDir()
	s, err := OpenState(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	was := s.Name
	if err := s.SetName(Name{2}); err == nil || s.Name != was {
		t.Errorf("SetName without a directory: %v, %s", err, s.Name)
	}
}

func TestSaveSecret(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	for _, tt := range []struct {
		s       Secret
		cluster string
		want    bool
	}{
		{Secret{1}, "weft", false},
		{Secret{1}, "weft", false},
		{Secret{2}, "weft", true},
		{Secret{2}, "other", true},
		{Secret{2}, "other", false},
	} {
		replaced, err := SaveSecret(dir, tt.s, tt.cluster)
		if err != nil || replaced != tt.want {
			t.Fatalf("SaveSecret(%x, %s) = %v, %v, want %v", tt.s[:1], tt.cluster, replaced, err, tt.want)
		}
		s, err := LoadSecret(dir)
		if err != nil || s != tt.s {
			t.Fatalf("read back: %v", err)
		}
		if c, err := LoadCluster(dir); err != nil || c != tt.cluster {
			t.Fatalf("read back: %q, %v", c, err)
		}
		wantModes(t, dir, map[string]fs.FileMode{".": 0o700, secretFile: 0o600})
	}
	if names := snapshot(t, dir); len(names) != 2 { // directory and file
		t.Fatalf("left over: %v", names)
	}
}

// Eight first starts at once make one host.
func TestOpenStateAtOnce(t *testing.T) {
	dir := t.TempDir()
	seeds := make([][32]byte, 8)
	var wg sync.WaitGroup
	for i := range seeds {
		wg.Go(func() {
			s, err := OpenState(dir, "m")
			if err != nil {
				t.Error(err)
				return
			}
			seeds[i] = s.Key.Seed()
		})
	}
	wg.Wait()
	for _, s := range seeds {
		if s != seeds[0] {
			t.Fatal("two identities were made")
		}
	}
}

func TestStateFilesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
		seed[0] |= 1
		in := identityState{
			seed:    [32]byte(seed),
			name:    Name(rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "name")),
			machine: rapid.String().Draw(t, "machine"),
		}
		if out, err := parseIdentity(in.encode()); err != nil || out != in {
			t.Fatalf("%s: %v", in.encode(), err)
		}
		sec := secretState{Secret(seed), rapid.String().Draw(t, "cluster")}
		if out, err := parseSecret(sec.encode()); err != nil || out != sec {
			t.Fatal(err)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	f.Add(identityState{seed: [32]byte{1}, name: Name{2}, machine: "m"}.encode())
	f.Add(secretState{secret: Secret{1}, cluster: "weft"}.encode())
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseIdentity(b); err == nil {
			if again, err := parseIdentity(s.encode()); err != nil || again != s {
				t.Fatalf("%q does not survive: %v", b, err)
			}
		} else if strings.Contains(err.Error(), "\n") {
			t.Fatalf("not one line: %q", err)
		}
		if s, err := parseSecret(b); err == nil {
			if again, err := parseSecret(s.encode()); err != nil || again != s {
				t.Fatalf("%q does not survive: %v", b, err)
			}
		}
	})
}

// The exact file, which later versions must read.
func TestStateFileText(t *testing.T) {
	seed := [32]byte(bytes.Repeat([]byte{0xab}, 32))
	got := string(identityState{seed: seed, name: Name{0, 0, 0, 0, 0, 1}, machine: "m1"}.encode())
	want := `{
  "format": 1,
  "seed": "` + hex.EncodeToString(seed[:]) + `",
  "name": "00:00:00:00:00:01",
  "machine": "m1"
}
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got = string(secretState{secret: seed, cluster: "weft"}.encode())
	want = `{
  "format": 1,
  "secret": "` + hex.EncodeToString(seed[:]) + `",
  "cluster": "weft"
}
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantModes(t *testing.T, dir string, want map[string]fs.FileMode) {
	t.Helper()
	for name, mode := range want {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != mode {
			t.Errorf("%s: mode %o, want %o", name, fi.Mode().Perm(), mode)
		}
	}
}

// snapshot is every path below dir with its mode and content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		out[path] = fi.Mode().String()
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out[path] += " " + string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

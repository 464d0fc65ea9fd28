package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// What is no file, or cannot be written, is nobody's damage: it is an error
// that says so, at once, and everything stays where it is.
func TestStoreRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"directory", func(p string) error { return os.Mkdir(p, dirMode) }, "not a file"},
		{"pipe", func(p string) error { return syscall.Mkfifo(p, fileMode) }, "not a file"},
		{"link to nothing", func(p string) error { return os.Symlink("nothing", p) }, "link to nothing"},
		{"link to itself", func(p string) error { return os.Symlink("ipam.db", p) }, "too many levels"},
	} {
		p := newPlace(t)
		if err := tt.make(p.db); err != nil {
			t.Fatal(err)
		}
		_, err := Open(p.db, p.mark, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), p.db) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if names, err := filepath.Glob(p.db + "*"); err != nil || len(names) != 1 {
			t.Errorf("%s: %v, %v", tt.name, names, err)
		}
	}
	p := newPlace(t)
	p.db = filepath.Join(p.db, "ipam.db")
	if _, err := Open(p.db, p.mark, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

func TestStoreNewer(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	if err := s.db.Update(func(tx *bolt.Tx) error {
		b := s.head.marshal()
		b[0] = headFormat + 1
		b = resum(b)
		return tx.Bucket([]byte(bucketHead)).Put([]byte(bucketHead), b)
	}); err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	before := contents(t, p.db)
	if _, err := Open(p.db, p.mark, nil); err == nil || !strings.Contains(err.Error(), "newer weftd") {
		t.Errorf("newer: %v", err)
	}
	if !bytes.Equal(before, contents(t, p.db)) {
		t.Error("the file was changed")
	}
}

// Without the right to write, the file is left alone. Root's rights are put
// off by this thread, which ends with the test.
func TestStoreReadOnly(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	saved(t, s, Write{"a", []byte("1")})
	closed(t, s)
	if err := errors.Join(os.Chmod(p.db, 0o444), os.Chmod(filepath.Dir(p.db), 0o755)); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(filepath.Dir(p.db)); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	before := contents(t, p.db)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := syscall.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		_, err := Open(p.db, p.mark, nil)
		done <- err
	}()
	if err := <-done; !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), p.db) {
		t.Errorf("read-only: %v", err)
	}
	if !bytes.Equal(before, contents(t, p.db)) {
		t.Error("the file was changed")
	}
}

// Somebody cuts the file while it is open: errors, no crash, no hang, and the
// next start sets it aside.
func TestStoreCutWhileOpen(t *testing.T) {
	sm := newSample(t)
	for _, pages := range []int{0, 1, 2, 3, 5} {
		p := newPlace(t)
		replace(t, p.db, sm.file)
		s := p.open(t)
		if err := os.Truncate(p.db, int64(pages*os.Getpagesize())); err != nil {
			t.Fatal(err)
		}
		_, err := s.Load()
		if err == nil || !strings.Contains(err.Error(), p.db) {
			t.Errorf("%d pages left: load: %v", pages, err)
		}
		if errors.Is(err, errBroken) {
			if err := s.Save([]Write{{"a", []byte("1")}}); !errors.Is(err, errBroken) {
				t.Errorf("%d pages left: save: %v", pages, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("%d pages left: close: %v", pages, err)
		}
		s = p.open(t)
		if s.damage == "" || s.proven {
			t.Errorf("%d pages left: opened again: damage %q, proven %v", pages, s.damage, s.proven)
		}
		closed(t, s)
	}
}

// On a disk that is full a save fails as a whole, and later ones work again.
func TestStoreDiskFull(t *testing.T) {
	dir := t.TempDir()
	cannot := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the mount ends with the thread
		err := syscall.Unshare(syscall.CLONE_NEWNS)
		if err == nil {
			err = errors.Join(
				syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
				syscall.Mount("none", dir, "tmpfs", 0, "size=512k"),
			)
		}
		if err == nil {
			testDiskFull(t, dir)
		}
		cannot <- err
	}()
	if err := <-cannot; err != nil {
		t.Skip("a small disk cannot be mounted:", err)
	}
}

func testDiskFull(t *testing.T, dir string) {
	s, err := Open(filepath.Join(dir, "ipam.db"), filepath.Join(dir, "mark"), nil)
	if err != nil {
		t.Error(err)
		return
	}
	values := make(map[string][]byte)
	full := 0
	for i := 0; i < 200 && full < 5; i++ {
		w := Write{fmt.Sprintf("l/%d", i), bytes.Repeat([]byte{byte(i)}, 9_000)}
		err := s.Save([]Write{w, {"last", []byte{byte(i)}}})
		switch {
		case err == nil:
			values[w.Key], values["last"] = w.Value, []byte{byte(i)}
		case errors.Is(err, syscall.ENOSPC) && !errors.Is(err, errBroken):
			full++
		default:
			t.Errorf("save %d: %v", i, err)
			return
		}
		got, err := s.Load()
		if err != nil || !maps.EqualFunc(values, got, bytes.Equal) {
			t.Errorf("after save %d, %d of them failed: %d values, want %d; %v", i, full, len(got), len(values), err)
			return
		}
	}
	if full == 0 {
		t.Error("the disk was never full")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s, err = Open(filepath.Join(dir, "ipam.db"), filepath.Join(dir, "mark"), nil)
	if err != nil {
		t.Error(err)
		return
	}
	got, err := s.Load()
	if err != nil || !maps.EqualFunc(values, got, bytes.Equal) || !s.proven {
		t.Errorf("opened again: proven %v, %d values, want %d; %v", s.proven, len(got), len(values), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// resum corrects the checksum of a head.
func resum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b[:len(b)-4], crc32.ChecksumIEEE(b[:len(b)-4]))
}

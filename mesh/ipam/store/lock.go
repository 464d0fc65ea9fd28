package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const lockRetry = 20 * time.Millisecond

// lockFile opens the file and takes the lock on it, made being true when
// there was none.
func lockFile(path string) (f *os.File, made bool, err error) {
	deadline := time.Now().Add(lockTimeout)
	for {
		made = false
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			made = true
			f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
			if errors.Is(err, fs.ErrExist) {
				return nil, false, errors.New("it is a symbolic link to nothing: remove it")
			}
		case err == nil && !info.Mode().IsRegular():
			return nil, false, fmt.Errorf("it is not a file (%s): move it away", info.Mode().Type())
		case err == nil:
			f, err = os.OpenFile(path, os.O_RDWR, 0)
		}
		if err != nil {
			return nil, false, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && isFile(f, path) {
			return f, made, nil
		}
		// Held by another, or renamed by another before we had the lock.
		if err := f.Close(); err != nil {
			return nil, false, err
		}
		switch {
		case err != nil && !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, false, fmt.Errorf("lock: %w", err)
		case time.Now().After(deadline):
			return nil, false, fmt.Errorf("%w: stop that one, or give this one a state directory of its own", ErrHeld)
		}
		time.Sleep(lockRetry)
	}
}

// isFile reports whether f is what path names.
func isFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

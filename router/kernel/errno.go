package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often an interrupted dump is asked for again. A dump is
// interrupted by a change of what it lists, so more than a few in a row mean
// that somebody changes things all the time.
const dumpTries = 10

// fault is an errno of the kernel that a caller can test for by the standard
// errors, and still by its own number.
type fault struct {
	err  error
	like error
}

func (f fault) Error() string        { return f.err.Error() }
func (f fault) Unwrap() error        { return f.err }
func (f fault) Is(target error) bool { return target == f.like }

// translate makes an error of the kernel that means "there is none" an
// [fs.ErrNotExist]. ENOENT and EEXIST, EPERM and EOPNOTSUPP already are what
// their names say, by the standard library.
func translate(err error) error {
	var missing netlink.LinkNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing),
		errors.Is(err, unix.ENODEV),
		errors.Is(err, unix.ENXIO),
		errors.Is(err, unix.ESRCH):
		return fault{err, fs.ErrNotExist}
	}
	return err
}

// dump asks until it got a consistent answer. Unlike most users of netlink it
// fails rather than return a list with holes: the caller would remove or
// recreate what is merely missing from it.
func dump[T any](ask func() ([]T, error)) ([]T, error) {
	for range dumpTries {
		list, err := ask()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, translate(err)
		}
	}
	return nil, fmt.Errorf("the list changed %d times while it was read: %w", dumpTries, netlink.ErrDumpInterrupted)
}

func trimNewline(s string) string { return strings.TrimSuffix(s, "\n") }

// sysctlPath refuses what would lead out of /proc/sys/net: keys are made of
// interface names.
func sysctlPath(key string) (string, error) {
	if !strings.HasPrefix(key, "net/") || !fs.ValidPath(key) {
		return "", fmt.Errorf("sysctl %q: %w", key, fs.ErrInvalid)
	}
	return "/proc/sys/" + key, nil
}

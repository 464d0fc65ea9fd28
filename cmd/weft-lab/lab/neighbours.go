package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// All namespaces of a machine share one table of neighbours for each protocol,
// and of 1,024 entries, which is Linux's default, 25 hosts that all talk to each
// other need more: beyond that packets are dropped, and the kernel looks for
// entries to free for every one of them.
const (
	manyHosts    = 8 // with fewer, the machine's settings are left alone
	neighbours   = 1 << 15
	neighRoot    = "/proc/sys/net"
	neighDefault = "neigh/default"
)

// roomForNeighbours raises the machine's limits of neighbours below root where
// they are lower. They stay so until the machine starts again: labs come and go,
// and whoever lowered them could do so under another.
func roomForNeighbours(root string) error {
	var errs []error
	for _, protocol := range []string{"ipv4", "ipv6"} {
		// From which on nothing is freed, old ones are, and none is added; the
		// last first, so that they are never out of order.
		for i, limit := range []int{neighbours, neighbours / 2, neighbours / 4} {
			errs = append(errs, raise(filepath.Join(root, protocol, neighDefault, fmt.Sprintf("gc_thresh%d", 3-i)), limit))
		}
	}
	return errors.Join(errs...)
}

// raise writes a number into a file that has a smaller one. A protocol that is
// not there needs none.
func raise(file string, to int) error {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if is, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && is >= to {
		return nil
	}
	return os.WriteFile(file, []byte(strconv.Itoa(to)), 0o644)
}

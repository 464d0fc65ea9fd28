// Package port is what both switch ports (router/vxlan and router/tap) do with
// their device, whichever moves its frames: it becomes a port of the bridge. It
// does not make or remove the device, and does not know where frames go.
package port

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
)

const (
	// DefaultName is the device of a switch port that nobody named.
	DefaultName = "weft-vx"

	// MulticastName is the device by which multicast groups leave that not all
	// hosts want, where the kernel forwards. It is no port of the bridge.
	MulticastName = "weft-mc"
)

// Kernel is what this package needs of a network namespace.
type Kernel interface {
	Link(name string) (kernel.Link, error)
	SetUp(name string, up bool) error
	SetMTU(name string, mtu int) error
	SetMaster(name, master string) error
	Sysctl(key string) (string, error)
	SetSysctl(key, value string) error
	Neighbours(link string) ([]kernel.Neighbour, error)
	DelNeighbour(link string, a netip.Addr) error
}

// Fit makes the device l what c says of a port of the bridge, and says in words
// what was wrong. Joined: it was no port of that bridge, so the bridge knows
// nothing of it. On error the rest is still done.
func Fit(k Kernel, l kernel.Link, c fdb.Config) (repaired []string, joined bool, err error) {
	var errs []error
	try := func(err error, format string, args ...any) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		repaired = append(repaired, fmt.Sprintf(format, args...))
	}
	if l.MTU != c.MTU {
		try(k.SetMTU(c.Name, c.MTU), "mtu of %s was %d", c.Name, l.MTU)
	}
	// Before it is up: an interface that comes up with IPv6 on has an address
	// that any container can talk to.
	key := "net/ipv6/conf/" + c.Name + "/disable_ipv6"
	switch v, err := k.Sysctl(key); {
	case errors.Is(err, fs.ErrNotExist): // a kernel without IPv6
	case err != nil:
		errs = append(errs, err)
	case v != "1":
		try(k.SetSysctl(key, "1"), "IPv6 was on at %s", c.Name)
	}
	b, err := k.Link(c.Bridge)
	if err != nil {
		errs = append(errs, err)
	} else if joined = l.Master != b.Index; joined {
		try(k.SetMaster(c.Name, c.Bridge), "%s was no port of %s", c.Name, c.Bridge)
	}
	if !l.Up {
		try(k.SetUp(c.Name, true), "%s was down", c.Name)
	}
	return repaired, joined, errors.Join(errs...)
}

// Forget takes away what a bridge was told of the neighbours behind a port, which
// outlives the port; nil when there is no such bridge.
func Forget(k Kernel, bridge string) error {
	list, err := k.Neighbours(bridge)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs Failures
	for _, n := range list {
		errs.OK(k.DelNeighbour(bridge, n.Addr))
	}
	return errs.Err()
}

// Failures keeps the first of many errors alike, and counts the others. The zero
// value is ready.
type Failures struct {
	first error
	more  int
}

// OK keeps err, and reports whether there is none.
func (f *Failures) OK(err error) bool {
	switch {
	case err == nil:
		return true
	case f.first == nil:
		f.first = err
	default:
		f.more++
	}
	return false
}

// Err returns the first; nil when there was none.
func (f *Failures) Err() error {
	if f.more > 0 {
		return fmt.Errorf("%w (and %d more)", f.first, f.more)
	}
	return f.first
}

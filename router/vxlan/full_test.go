package vxlan_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/vxlan"
)

// full is a kernel whose forwarding table has no room for addresses.
type full struct {
	host
	tried int
}

func (f *full) AddFDB(link string, e kernel.FDB) error {
	if e.MAC == (kernel.MAC{}) {
		return f.host.AddFDB(link, e)
	}
	f.tried++
	return fmt.Errorf("add a forwarding entry: %w", syscall.ENOSPC)
}

// A container that invents addresses fills the table of every host. That must
// not keep the port from being set: what is not told is flooded.
func TestFullTable(t *testing.T) {
	twins(t, func(t *testing.T, h host) {
		f := &full{host: h}
		p := vxlan.New(f, nil)
		ok(t, p.Set(knowing(attached(1, 2, "10.32.0.1"))))
		if f.tried == 0 {
			t.Fatal("nothing was tried")
		}
		ok(t, p.Set(knowing(attached(1, 2, "10.32.0.1"), attached(2, 3, "10.32.0.2"))))
		_, err := p.Check()
		ok(t, err)
	})
}

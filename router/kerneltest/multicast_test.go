package kerneltest_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// A VXLAN device that drops what comes, and its multicast database, on the fake
// and where Linux has that.
func TestMulticastTwins(t *testing.T) {
	const want = `
		ip link add weft-mc address 02:01:02:03:04:05 mtu 1370 type vxlan id 8 dstport 6785 srcport 512 1023 local fd77:6566:7400::1 nolearning udp6zerocsumtx udp6zerocsumrx
		ip link set weft-mc xdpgeneric object drop.o
		bridge fdb append 00:00:00:00:00:00 dev weft-mc dst fd77:6566:7400::2 vni 7
		bridge mdb replace dev weft-mc port weft-mc grp 239.1.2.3 permanent dst fd77:6566:7400::2 vni 7
		bridge mdb replace dev weft-mc port weft-mc grp 239.1.2.3 permanent dst fd77:6566:7400::3 vni 9
		bridge mdb replace dev weft-mc port weft-mc grp ff05::7 permanent dst fd77:6566:7400::3`
	four, six := netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff05::7")
	for name, newHost := range map[string]func() namespace{
		"fake":  func() namespace { return kerneltest.New("host") },
		"linux": func() namespace { return kerneltest.Fresh(t) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost()
			is(t, h.Deafen("weft-mc"), fs.ErrNotExist)
			is(t, h.AddMDB("weft-mc", kernel.MDB{Group: four, Dst: peer}), fs.ErrNotExist)
			_, err := h.MDB("weft-mc")
			is(t, err, fs.ErrNotExist)
			_, err = h.Divert("weft-mc", "weft-mc", nil)
			is(t, err, fs.ErrNotExist)
			_, err = h.Overhear("weft-mc", 0, nil)
			is(t, err, fs.ErrNotExist)
			ok(t, h.AddVXLAN("weft-mc", kernel.VXLAN{VNI: 8, Port: 6785, PortLow: 512, PortHigh: 1023, Local: any6.Addr(), MTU: 1370}))
			ok(t, h.SetMAC("weft-mc", mac))
			err = h.AddMDB("weft-mc", kernel.MDB{Group: four, Dst: peer, VNI: 7})
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skipf("SKIPPED, NOT TESTED: %v", err)
			}
			ok(t, err)
			ok(t, h.Deafen("weft-mc"))
			ok(t, h.AddFDB("weft-mc", kernel.FDB{Dst: peer, Permanent: true, VNI: 7}))
			ok(t, h.AddMDB("weft-mc", kernel.MDB{Group: four, Dst: peer2, VNI: 7}))
			ok(t, h.AddMDB("weft-mc", kernel.MDB{Group: four, Dst: peer2, VNI: 9}))
			ok(t, h.AddMDB("weft-mc", kernel.MDB{Group: six, Dst: peer}))
			ok(t, h.AddMDB("weft-mc", kernel.MDB{Group: six, Dst: peer2}))
			ok(t, h.DelMDB("weft-mc", kernel.MDB{Group: six, Dst: peer}))
			ok(t, h.DelMDB("weft-mc", kernel.MDB{Group: six, Dst: peer}))
			ok(t, h.DelMDB("weft-mc", kernel.MDB{Group: netip.MustParseAddr("ff05::8"), Dst: peer}))
			got, err := kerneltest.Print(h)
			ok(t, err)
			if diff := cmp.Diff(lines(want), lines(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			// What is diverted, for as long as the interface is there.
			ok(t, h.AddBridge("weft", macA, 1370))
			d, err := h.Divert("weft", "weft-mc", []netip.Addr{four})
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skipf("SKIPPED, NOT TESTED: %v", err)
			}
			ok(t, err)
			ok(t, d.Except(six, true))
			ok(t, d.Except(six, true))
			ok(t, d.Except(four, false))
			ok(t, d.Except(four, false))
			if !d.Stands() {
				t.Error("it does not stand")
			}
			ok(t, h.DelLink("weft"))
			if d.Stands() {
				t.Error("it stands without the interface")
			}
			ok(t, d.Close())
		})
	}
}

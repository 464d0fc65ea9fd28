package kerneltest_test

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
)

// told are the cases of what the kernel is told instead of learning it.
func told() []twin {
	return []twin{
		{
			name: "fixed forwarding entries",
			do: func(t *testing.T, host, _ namespace) {
				ok(t, host.AddVXLAN("weft-vx", kernel.VXLAN{
					VNI: 7, Port: 6785, PortLow: 512, PortHigh: 1023, Local: any6.Addr(), MTU: 1370, Learning: true,
				}))
				ok(t, host.SetMAC("weft-vx", mac))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{MAC: mac, Dst: peer}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{MAC: mac, Dst: peer2, Fixed: true}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{MAC: macA, Dst: peer2, Fixed: true}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{MAC: macA, Dst: peer2}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{MAC: macB, Dst: peer, Fixed: true}))
				ok(t, host.DelFDB("weft-vx", kernel.FDB{MAC: macB, Dst: peer, Fixed: true}))
			},
			host: `
				ip link add weft-vx address 02:01:02:03:04:05 mtu 1370 type vxlan id 7 dstport 6785 srcport 512 1023 local fd77:6566:7400::1 udp6zerocsumtx udp6zerocsumrx
				bridge fdb append 02:01:02:03:04:05 dev weft-vx dst fd77:6566:7400::3 static
				bridge fdb append 02:aa:00:00:00:01 dev weft-vx dst fd77:6566:7400::3 dynamic`,
		},
		{
			name: "addresses behind bridge ports",
			do: func(t *testing.T, host, guest namespace) {
				_, err := host.BridgeFDB("weft")
				is(t, err, fs.ErrNotExist)
				is(t, host.AddBridgeFDB("wv1", macB), fs.ErrNotExist)
				is(t, host.SetProxyARP("wv1", true), fs.ErrNotExist)
				_, err = host.ProxyARP("wv1")
				is(t, err, fs.ErrNotExist)
				ok(t, host.AddBridge("weft", mac, 1370))
				for _, name := range []string{"wv1", "wv2", "wv3"} {
					ok(t, host.AddVeth(name, 1370, guest, "in-"+name, macA))
					ok(t, host.SetMAC(name, kernel.MAC{2, 2, name[2]}))
					_, err = host.ProxyARP(name)
					is(t, err, fs.ErrInvalid)
					if host.AddBridgeFDB(name, macB) == nil || host.SetProxyARP(name, true) == nil {
						t.Errorf("%s is no port", name)
					}
					ok(t, host.SetMaster(name, "weft"))
					ok(t, host.SetProxyARP(name, true))
					ok(t, host.SetUp(name, true))
				}
				ok(t, host.SetProxyARP("wv2", false))
				for n := range byte(3) {
					ok(t, host.AddBridgeFDB("wv1", kernel.MAC{2, n}))
				}
				ok(t, host.AddBridgeFDB("wv1", kernel.MAC{2, 0}))
				ok(t, host.AddBridgeFDB("wv2", kernel.MAC{2, 1})) // moves
				ok(t, host.DelBridgeFDB("wv1", kernel.MAC{2, 1})) // not there
				ok(t, host.DelBridgeFDB("wv1", kernel.MAC{2, 2}))
				ok(t, host.AddBridgeFDB("wv3", kernel.MAC{2, 3}))
				ok(t, host.SetMaster("wv3", ""))
				ok(t, host.SetMaster("wv3", "weft"))
				ok(t, host.SetUp("wv1", false))
				ok(t, host.SetUp("wv1", true))
				entries, err := host.BridgeFDB("weft")
				ok(t, err)
				var got []string
				for _, e := range entries {
					for _, name := range []string{"wv1", "wv2", "wv3"} {
						if l, err := host.Link(name); err == nil && l.Index == e.Port {
							got = append(got, fmt.Sprintf("%s at %s, told %v", e.MAC, name, e.Told))
						}
					}
				}
				slices.Sort(got)
				if diff := cmp.Diff([]string{"02:00:00:00:00:00 at wv1, told true", "02:01:00:00:00:00 at wv2, told true"}, got); diff != "" {
					t.Errorf("addresses (-want +got):\n%s", diff)
				}
				for name, want := range map[string]bool{"wv1": true, "wv2": false, "wv3": false} {
					if on, err := host.ProxyARP(name); err != nil || on != want {
						t.Errorf("%s: %v, %v", name, on, err)
					}
				}
				for _, name := range []string{"in-wv1", "in-wv2", "in-wv3"} {
					ok(t, guest.DelLink(name))
				}
			},
			host: `ip link add weft address 02:01:02:03:04:05 mtu 1370 type bridge`,
		},
		{
			name: "neighbours",
			do: func(t *testing.T, host, guest namespace) {
				_, err := host.Neighbours("weft")
				is(t, err, fs.ErrNotExist)
				n := func(m kernel.MAC, a string) kernel.Neighbour {
					return kernel.Neighbour{Addr: netip.MustParseAddr(a), MAC: m}
				}
				is(t, host.AddNeighbour("weft", n(macA, "10.32.0.9")), fs.ErrNotExist)
				is(t, host.DelNeighbour("weft", netip.MustParseAddr("10.32.0.9")), fs.ErrNotExist)
				ok(t, host.AddBridge("weft", mac, 1370))
				ok(t, host.SetUp("weft", true))
				ok(t, host.AddNeighbour("weft", n(macA, "10.32.0.9")))
				ok(t, host.SetUp("weft", false))
				ok(t, host.SetUp("weft", true))
				ok(t, host.AddNeighbour("weft", n(macA, "10.32.0.10")))
				ok(t, host.AddNeighbour("weft", n(macB, "10.32.0.10")))
				ok(t, host.AddNeighbour("weft", n(macB, "10.32.0.11")))
				for range 2 {
					ok(t, host.DelNeighbour("weft", netip.MustParseAddr("10.32.0.11")))
				}
				list, err := host.Neighbours("weft")
				ok(t, err)
				if !slices.Equal(list, []kernel.Neighbour{n(macB, "10.32.0.10")}) {
					t.Errorf("neighbours %v", list)
				}
			},
			host: `
				ip link add weft address 02:01:02:03:04:05 mtu 1370 type bridge
				ip link set weft up
				ip neigh replace 10.32.0.10 lladdr 02:bb:00:00:00:01 dev weft nud noarp extern_learn`,
		},
	}
}

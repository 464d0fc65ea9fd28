package vxlan_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
	"github.com/weftnet/weft/router/vxlan"
)

// host is a namespace, imagined or real, with a bridge.
type host interface {
	vxlan.Kernel
	kerneltest.World
	AddBridge(name string, mac kernel.MAC, mtu int) error
	SetMAC(name string, mac kernel.MAC) error
	AddAddr(link string, p netip.Prefix, nodad bool) error
}

var bridgeMAC = kernel.MAC{0x02, 0, 0, 0, 0, 1}

func remote(n byte) netip.Addr {
	a := netip.MustParseAddr("fd77:6566:7400::").As16()
	a[15] = n
	return netip.AddrFrom16(a)
}

func config(remotes ...byte) fdb.Config {
	c := fdb.Config{Name: "weft-vx", Bridge: "weft", VNI: 7, Port: 6785, Local: remote(1), MTU: 1370}
	for _, n := range remotes {
		c.Remotes = append(c.Remotes, fdb.Remote{Overlay: remote(n)})
	}
	return c
}

// twins runs a test on a fake and on Linux.
func twins(t *testing.T, f func(t *testing.T, h host)) {
	t.Run("fake", func(t *testing.T) {
		h := kerneltest.New("host")
		ok(t, h.AddBridge("weft", bridgeMAC, 1370))
		f(t, h)
	})
	t.Run("linux", func(t *testing.T) {
		h := kerneltest.Fresh(t)
		ok(t, h.AddBridge("weft", bridgeMAC, 1370))
		f(t, h)
	})
}

// looks compares the device, whatever address the kernel gave it.
func looks(t *testing.T, h host, want ...string) {
	t.Helper()
	if _, err := h.Link("weft-vx"); err == nil {
		ok(t, h.SetMAC("weft-vx", kernel.MAC{0x02, 0, 0, 0, 0, 2}))
	}
	all, err := kerneltest.Print(h)
	ok(t, err)
	var got []string
	for line := range strings.Lines(all) {
		if strings.Contains(line, "weft-vx") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

const (
	device = "ip link add weft-vx address 02:00:00:00:00:02 mtu 1370 type vxlan id 7 dstport 6785 srcport 512 1023 local fd77:6566:7400::1 udp6zerocsumtx udp6zerocsumrx maxaddress 65536"
	master = "ip link set weft-vx master weft"
	isUp   = "ip link set weft-vx up"
	flood2 = "bridge fdb append 00:00:00:00:00:00 dev weft-vx dst fd77:6566:7400::2"
	flood3 = "bridge fdb append 00:00:00:00:00:00 dev weft-vx dst fd77:6566:7400::3"

	answers = "ip link set weft-vx type bridge_slave proxy_arp_wifi on"
)

func TestSet(t *testing.T) {
	twins(t, func(t *testing.T, h host) {
		p := vxlan.New(h, nil)
		if repaired, err := p.Check(); repaired != nil || err != nil {
			t.Errorf("check before set: %q, %v", repaired, err)
		}
		ok(t, p.Remove())
		ok(t, p.Set(config(2, 3)))
		looks(t, h, device, master, isUp, flood2, flood3, answers)
		if v, err := h.Sysctl("net/ipv6/conf/weft-vx/disable_ipv6"); v != "1" || err != nil {
			t.Errorf("disable_ipv6 = %s, %v", v, err)
		}
		if f, isFake := h.(*kerneltest.Fake); isFake {
			f.TakeChanges()
			ok(t, p.Set(config(2, 3)))
			if changes := f.TakeChanges(); len(changes) != 0 {
				t.Errorf("setting the same again: %q", changes)
			}
		}
		if repaired, err := p.Check(); len(repaired) != 0 || err != nil {
			t.Errorf("check after set: %q, %v", repaired, err)
		}
		// A successor adopts it; a remote goes with what was learnt about it.
		learnt := kernel.FDB{MAC: kernel.MAC{0x02, 5, 5, 5, 5, 5}, Dst: remote(3)}
		stays := kernel.FDB{MAC: kernel.MAC{0x02, 5, 5, 5, 5, 6}, Dst: remote(2)}
		ok(t, h.AddFDB("weft-vx", learnt))
		ok(t, h.AddFDB("weft-vx", stays))
		before, err := h.Link("weft-vx")
		ok(t, err)
		p = vxlan.New(h, nil)
		ok(t, p.Set(config(2)))
		looks(t, h, device, master, isUp, flood2, "bridge fdb append 02:05:05:05:05:06 dev weft-vx dst fd77:6566:7400::2 dynamic", answers)
		if after, err := h.Link("weft-vx"); err != nil || after.Index != before.Index {
			t.Errorf("made again instead of adopted: %v", err)
		}
		// Another that was never set removes it.
		for range 2 {
			ok(t, vxlan.New(h, nil).Remove())
			looks(t, h)
		}
	})
}

// What cannot be changed is made again.
func TestRecreate(t *testing.T) {
	good := kernel.VXLAN{
		VNI: 7, Port: 6785, PortLow: 512, PortHigh: 1023, Local: remote(1), MTU: 1370, Learning: true, Limit: 1 << 16,
	}
	tests := map[string]func(*kernel.VXLAN){
		"vni":      func(v *kernel.VXLAN) { v.VNI = 8 },
		"port":     func(v *kernel.VXLAN) { v.Port = 4789 },
		"sources":  func(v *kernel.VXLAN) { v.PortLow, v.PortHigh = 0, 0 },
		"local":    func(v *kernel.VXLAN) { v.Local = remote(9) },
		"learning": func(v *kernel.VXLAN) { v.Learning = false },
		"limit":    func(v *kernel.VXLAN) { v.Limit = 0 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			twins(t, func(t *testing.T, h host) {
				v := good
				change(&v)
				ok(t, h.AddVXLAN("weft-vx", v))
				ok(t, h.AddFDB("weft-vx", kernel.FDB{Dst: remote(8), Permanent: true}))
				ok(t, vxlan.New(h, nil).Set(config(2)))
				looks(t, h, device, master, isUp, flood2, answers)
			})
		})
	}
}

func TestRepair(t *testing.T) {
	tests := []struct {
		name string
		do   func(h host) error
		want []string
	}{
		{"deleted", func(h host) error { return h.DelLink("weft-vx") }, []string{"device weft-vx was gone"}},
		{"down", func(h host) error { return h.SetUp("weft-vx", false) }, []string{"weft-vx was down"}},
		{"unplugged", func(h host) error { return h.SetMaster("weft-vx", "") }, []string{"weft-vx was no port of weft"}},
		{"mtu", func(h host) error { return h.SetMTU("weft-vx", 1300) }, []string{"mtu of weft-vx was 1300"}},
		{"ipv6", func(h host) error { return h.SetSysctl("net/ipv6/conf/weft-vx/disable_ipv6", "0") }, []string{"IPv6 was on at weft-vx"}},
		{"remote", func(h host) error { return h.DelFDB("weft-vx", kernel.FDB{Dst: remote(2)}) }, []string{"1 remotes were missing from weft-vx"}},
		{"bridge", func(h host) error {
			return errors.Join(h.DelLink("weft"), h.AddBridge("weft", bridgeMAC, 1370))
		}, []string{"weft-vx was no port of weft"}},
		{"strangers", func(h host) error {
			return errors.Join(
				h.AddFDB("weft-vx", kernel.FDB{Dst: remote(66), Permanent: true}),
				h.AddFDB("weft-vx", kernel.FDB{MAC: kernel.MAC{0x02, 6}, Dst: remote(66), Permanent: true}))
		}, []string{"2 forwarding entries of weft-vx led to hosts that are no remotes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			twins(t, func(t *testing.T, h host) {
				p := vxlan.New(h, nil)
				ok(t, p.Set(config(2)))
				ok(t, tt.do(h))
				repaired, err := p.Check()
				ok(t, err)
				if diff := cmp.Diff(tt.want, repaired); diff != "" {
					t.Errorf("repaired (-want +got):\n%s", diff)
				}
				looks(t, h, device, master, isUp, flood2, answers)
				if repaired, err := p.Check(); len(repaired) != 0 || err != nil {
					t.Errorf("not all at once: %q, %v", repaired, err)
				}
			})
		})
	}
}

func TestInTheWay(t *testing.T) {
	twins(t, func(t *testing.T, h host) {
		ok(t, h.AddBridge("weft-vx", bridgeMAC, 1500))
		p := vxlan.New(h, nil)
		if err := p.Set(config(2)); err == nil || !strings.Contains(err.Error(), "rename or remove it") {
			t.Errorf("error %v", err)
		}
		ok(t, p.Remove())
		if _, err := h.Link("weft-vx"); err != nil {
			t.Errorf("somebody else's interface is gone: %v", err)
		}
	})
}

func TestBadConfig(t *testing.T) {
	for name, change := range map[string]func(*fdb.Config){
		"name":    func(c *fdb.Config) { c.Name = "" },
		"bridge":  func(c *fdb.Config) { c.Bridge = "" },
		"vni":     func(c *fdb.Config) { c.VNI = 1 << 24 },
		"no vni":  func(c *fdb.Config) { c.VNI = 0 },
		"port":    func(c *fdb.Config) { c.Port = 0 },
		"overlay": func(c *fdb.Config) { c.Local = netip.MustParseAddr("10.0.0.1") },
	} {
		f := kerneltest.New("host")
		c := config(2)
		change(&c)
		if err := vxlan.New(f, nil).Set(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if f.Calls() != 0 {
			t.Errorf("%s: the kernel was asked", name)
		}
	}
}

// Whatever call fails, Set says so, and the next Check finishes the work.
func TestEveryFailure(t *testing.T) {
	broken := errors.New("broken")
	for n := 1; ; n++ {
		f := kerneltest.New("host")
		ok(t, f.AddBridge("weft", bridgeMAC, 1370))
		p := vxlan.New(f, nil)
		f.FailCall(n, broken)
		before := f.Calls()
		err := p.Set(config(2, 3))
		if f.Calls()-before < n {
			if n < 8 {
				t.Errorf("only %d calls", n)
			}
			return
		}
		if !errors.Is(err, broken) {
			t.Errorf("call %d: error %v", n, err)
		}
		if _, err := p.Check(); err != nil {
			t.Errorf("call %d: check: %v", n, err)
		}
		looks(t, f, device, master, isUp, flood2, flood3, answers)
	}
}

// Any sequence of configurations and meddling ends as the last one says, and
// no remote that stays is ever without its entry.
func TestAnySequence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := kerneltest.New("host")
		if err := f.AddBridge("weft", bridgeMAC, 1370); err != nil {
			t.Fatal(err)
		}
		p := vxlan.New(f, nil)
		var last []byte
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				last = rapid.SliceOfNDistinct(rapid.ByteRange(2, 9), 0, 6, rapid.ID[byte]).Draw(t, "remotes")
				if err := p.Set(config(last...)); err != nil {
					t.Fatal(err)
				}
			},
			"learn": func(t *rapid.T) {
				e := kernel.FDB{MAC: kernel.MAC{0x02, rapid.Byte().Draw(t, "mac")}, Dst: remote(rapid.ByteRange(2, 9).Draw(t, "remote"))}
				_ = f.AddFDB("weft-vx", e) // there may be no device yet
			},
			"lose": func(t *rapid.T) {
				_ = f.DelFDB("weft-vx", kernel.FDB{Dst: remote(rapid.ByteRange(2, 9).Draw(t, "remote"))})
			},
			"": func(t *rapid.T) {
				if _, err := p.Check(); err != nil {
					t.Fatal(err)
				}
				entries, err := f.FDB("weft-vx")
				if err != nil {
					if last == nil {
						return
					}
					t.Fatal(err)
				}
				var flood []byte
				for _, e := range entries {
					n := e.Dst.As16()[15]
					if !slices.Contains(last, n) {
						t.Fatalf("entry %v leads to no remote of %v", e, last)
					}
					if e.MAC == (kernel.MAC{}) {
						flood = append(flood, n)
					}
				}
				slices.Sort(flood)
				want := slices.Sorted(slices.Values(last))
				if !slices.Equal(flood, want) {
					t.Fatalf("remotes %v, want %v", flood, want)
				}
			},
		})
	})
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

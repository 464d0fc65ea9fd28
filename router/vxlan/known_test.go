package vxlan_test

import (
	"errors"
	"fmt"
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

func mac(n byte) kernel.MAC { return kernel.MAC{2, 0xbb, 0, 0, 0, n} }

// attached is an attachment n at a remote.
func attached(n, at byte, addrs ...string) fdb.Known {
	k := fdb.Known{MAC: fdb.MAC(mac(n)), At: remote(at)}
	for _, a := range addrs {
		k.Addrs = append(k.Addrs, netip.MustParseAddr(a))
	}
	return k
}

func knowing(known ...fdb.Known) fdb.Config {
	c := config(2, 3)
	c.Known = known
	return c
}

// isTold compares what the kernel was told, as commands without their verbs.
func isTold(t testing.TB, h host, want ...string) {
	t.Helper()
	if got := whatIsTold(t, h); !slices.Equal(want, got) {
		t.Errorf("told (-want +got):\n%s", cmp.Diff(want, got))
	}
}

// failing is a test of either kind.
type failing interface {
	Helper()
	Fatal(args ...any)
}

func whatIsTold(t failing, h host) (got []string) {
	t.Helper()
	all, err := kerneltest.Print(h)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(all) {
		line = strings.TrimSpace(line)
		for _, cut := range []string{"bridge fdb append ", "bridge fdb replace ", "ip neigh replace "} {
			if rest, ok := strings.CutPrefix(line, cut); ok && !strings.HasPrefix(rest, "00:00:00:00:00:00") {
				rest = strings.TrimPrefix(rest, "fd77:6566:7400::")
				rest = strings.NewReplacer(" dev weft-vx", "", " dev weft", "", "fd77:6566:7400::", "", " dynamic extern_learn", "", " nud noarp extern_learn", "").Replace(rest)
				got = append(got, rest)
			}
		}
	}
	slices.Sort(got)
	return got
}

func TestKnown(t *testing.T) {
	twins(t, func(t *testing.T, h host) {
		fake, isFake := h.(*kerneltest.Fake)
		changes := func(want ...string) {
			t.Helper()
			if !isFake {
				return
			}
			got := fake.TakeChanges()
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("changes (-want +got):\n%s", cmp.Diff(want, got))
			}
		}
		p := vxlan.New(h, nil)
		ok(t, p.Set(knowing(attached(1, 2, "10.32.0.1", "fd00::1"))))
		isTold(t, h, "02:bb:00:00:00:01 dst 2 static", "02:bb:00:00:00:01 master", "10.32.0.1 lladdr 02:bb:00:00:00:01")
		// What comes, moves and goes costs what it is, and no more.
		if isFake {
			fake.TakeChanges()
		}
		ok(t, p.Set(knowing(attached(1, 3, "10.32.0.1"), attached(2, 2))))
		changes(
			"bridge fdb append 02:bb:00:00:00:01 dev weft-vx dst fd77:6566:7400::3 static",
			"bridge fdb append 02:bb:00:00:00:02 dev weft-vx dst fd77:6566:7400::2 static",
			"bridge fdb replace 02:bb:00:00:00:02 dev weft-vx master dynamic extern_learn")
		ok(t, p.Set(knowing(attached(1, 3, "10.32.0.7"), attached(2, 2, "10.32.0.1"))))
		changes(
			"ip neigh replace 10.32.0.1 lladdr 02:bb:00:00:00:02 dev weft nud noarp extern_learn",
			"ip neigh replace 10.32.0.7 lladdr 02:bb:00:00:00:01 dev weft nud noarp extern_learn")
		ok(t, p.Set(knowing(attached(2, 2))))
		changes(
			"bridge fdb del 02:bb:00:00:00:01 dev weft-vx dst fd77:6566:7400::3 static",
			"bridge fdb del 02:bb:00:00:00:01 dev weft-vx master dynamic extern_learn",
			"ip neigh del 10.32.0.1 dev weft", "ip neigh del 10.32.0.7 dev weft")
		isTold(t, h, "02:bb:00:00:00:02 dst 2 static", "02:bb:00:00:00:02 master")
		if repaired, err := p.Check(); len(repaired) != 0 || err != nil {
			t.Errorf("check after set: %q, %v", repaired, err)
		}
		// A successor that knows another one. What was learnt stays.
		ok(t, h.AddFDB("weft-vx", kernel.FDB{MAC: mac(9), Dst: remote(3)}))
		p = vxlan.New(h, nil)
		ok(t, p.Set(knowing(attached(3, 3, "10.32.0.3"))))
		isTold(t, h, "02:bb:00:00:00:03 dst 3 static", "02:bb:00:00:00:03 master", "02:bb:00:00:00:09 dst 3 dynamic", "10.32.0.3 lladdr 02:bb:00:00:00:03")
		// What was learnt becomes known; a remote goes with what is known there.
		c := knowing(attached(3, 3, "10.32.0.3"), attached(9, 2))
		ok(t, p.Set(c))
		c.Remotes = c.Remotes[:1]
		ok(t, p.Set(c))
		isTold(t, h, "02:bb:00:00:00:09 dst 2 static", "02:bb:00:00:00:09 master")
		ok(t, p.Set(knowing(attached(3, 3, "10.32.0.3"))))
		ok(t, vxlan.New(h, nil).Remove())
		isTold(t, h)
	})
}

// What is not beyond doubt is not told, nor what nobody but the host itself
// may answer for.
func TestNotTold(t *testing.T) {
	twins(t, func(t *testing.T, h host) {
		ok(t, h.SetUp("weft", true))
		ok(t, h.AddAddr("weft", netip.MustParsePrefix("10.32.0.254/12"), true))
		p := vxlan.New(h, nil)
		ok(t, p.Set(config(2)))
		ok(t, h.SetMAC("weft-vx", kernel.MAC{2, 9}))
		l, err := h.Link("weft-vx")
		ok(t, err)
		group := attached(8, 2, "10.32.0.8")
		group.MAC[0] |= 1
		ok(t, p.Set(knowing(
			attached(1, 2, "169.254.67.83", "10.32.0.254", "fe80::1", "fd00::1", "224.0.0.5", "127.0.0.1", "255.255.255.255", "0.0.0.0", "::ffff:10.32.0.1"),
			attached(2, 2), attached(2, 3, "10.32.0.2"),
			attached(3, 9, "10.32.0.3"),
			attached(4, 2, "10.32.0.5"), attached(5, 3, "10.32.0.5"),
			fdb.Known{At: remote(2)}, group,
			fdb.Known{MAC: fdb.MAC(bridgeMAC), At: remote(2)}, fdb.Known{MAC: fdb.MAC(l.MAC), At: remote(2)},
		)))
		isTold(t, h,
			"02:bb:00:00:00:01 dst 2 static", "02:bb:00:00:00:01 master",
			"02:bb:00:00:00:04 dst 2 static", "02:bb:00:00:00:04 master",
			"02:bb:00:00:00:05 dst 3 static", "02:bb:00:00:00:05 master",
			"10.32.0.1 lladdr 02:bb:00:00:00:01")
		// An address that the bridge is given later.
		ok(t, h.AddAddr("weft", netip.MustParsePrefix("10.32.0.1/12"), true))
		if _, err := p.Check(); err != nil {
			t.Error(err)
		}
		if got := whatIsTold(t, h); slices.Contains(got, "10.32.0.1 lladdr 02:bb:00:00:00:01") {
			t.Error("our own address has another owner")
		}
	})
}

func TestRepairKnown(t *testing.T) {
	const was, stray = "1 entries of known attachments were missing at weft-vx", "1 entries at weft-vx were of no known attachment"
	tests := map[string]struct {
		do   func(h host) error
		want []string
	}{
		"no answers": {func(h host) error { return h.SetProxyARP("weft-vx", false) }, []string{"questions about known addresses were not answered at weft-vx"}},
		"entry":      {func(h host) error { return h.DelFDB("weft-vx", kernel.FDB{MAC: mac(1), Dst: remote(2)}) }, []string{was}},
		"elsewhere": {func(h host) error {
			return h.AddFDB("weft-vx", kernel.FDB{MAC: mac(1), Dst: remote(3), Fixed: true})
		}, []string{was}},
		"learnt":          {func(h host) error { return h.AddFDB("weft-vx", kernel.FDB{MAC: mac(1), Dst: remote(3)}) }, []string{was}},
		"address":         {func(h host) error { return h.DelBridgeFDB("weft-vx", mac(1)) }, []string{was}},
		"neighbour":       {func(h host) error { return h.DelNeighbour("weft", netip.MustParseAddr("10.32.0.1")) }, []string{was}},
		"other neighbour": {func(h host) error { return h.AddNeighbour("weft", neighbour(7, "10.32.0.1")) }, []string{was}},
		"stray neighbour": {func(h host) error { return h.AddNeighbour("weft", neighbour(7, "10.32.0.7")) }, []string{stray}},
		"stray address":   {func(h host) error { return h.AddBridgeFDB("weft-vx", mac(7)) }, []string{stray}},
		"stray entry":     {func(h host) error { return h.AddFDB("weft-vx", kernel.FDB{MAC: mac(7), Dst: remote(2), Fixed: true}) }, []string{stray}},
		"device":          {func(h host) error { return h.DelLink("weft-vx") }, []string{"device weft-vx was gone"}},
		"bridge down":     {func(h host) error { return errors.Join(h.SetUp("weft", false), h.SetUp("weft", true)) }, []string{was}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			twins(t, func(t *testing.T, h host) {
				ok(t, h.SetUp("weft", true))
				p := vxlan.New(h, nil)
				ok(t, p.Set(knowing(attached(1, 2, "10.32.0.1"))))
				ok(t, tt.do(h))
				repaired, err := p.Check()
				ok(t, err)
				if diff := cmp.Diff(tt.want, repaired); diff != "" {
					t.Errorf("repaired (-want +got):\n%s", diff)
				}
				isTold(t, h, "02:bb:00:00:00:01 dst 2 static", "02:bb:00:00:00:01 master", "10.32.0.1 lladdr 02:bb:00:00:00:01")
				if repaired, err := p.Check(); len(repaired) != 0 || err != nil {
					t.Errorf("not all at once: %q, %v", repaired, err)
				}
			})
		})
	}
}

func neighbour(n byte, a string) kernel.Neighbour {
	return kernel.Neighbour{Addr: netip.MustParseAddr(a), MAC: mac(n)}
}

// Any sequence of configurations, meddling and failures ends as the last one
// says.
func TestAnyKnown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := kerneltest.New("host")
		if err := f.AddBridge("weft", bridgeMAC, 1370); err != nil {
			t.Fatal(err)
		}
		p := vxlan.New(f, nil)
		var last fdb.Config
		draw := func(t *rapid.T) (n, at byte, a string) {
			return rapid.ByteRange(1, 5).Draw(t, "n"), rapid.ByteRange(2, 5).Draw(t, "at"),
				fmt.Sprintf("10.32.0.%d", rapid.IntRange(1, 6).Draw(t, "address"))
		}
		set := func(t *rapid.T) {
			remotes := rapid.SliceOfNDistinct(rapid.ByteRange(2, 5), 0, 4, rapid.ID[byte]).Draw(t, "remotes")
			slices.Sort(remotes)
			if rapid.Bool().Draw(t, "same remotes") {
				remotes = []byte{2, 3, 4}
			}
			last = config(remotes...)
			for range rapid.IntRange(0, 6).Draw(t, "known") {
				n, at, a := draw(t)
				last.Known = append(last.Known, attached(n, at, a))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				set(t)
				if err := p.Set(last); err != nil {
					t.Fatal(err)
				}
			},
			"fail": func(t *rapid.T) {
				set(t)
				f.FailCall(rapid.IntRange(1, 30).Draw(t, "call"), errors.New("broken"))
				_ = p.Set(last)
				f.FailCall(0, nil)
			},
			"meddle": func(t *rapid.T) {
				n, at, a := draw(t)
				_ = f.AddFDB("weft-vx", kernel.FDB{MAC: mac(n), Dst: remote(at), Fixed: rapid.Bool().Draw(t, "fixed")})
				_ = f.DelBridgeFDB("weft-vx", mac(at))
				_ = f.AddNeighbour("weft", neighbour(n, a))
				_ = f.DelNeighbour("weft", netip.MustParseAddr(fmt.Sprintf("10.32.0.%d", at)))
			},
			"lose": func(t *rapid.T) { _ = f.DelLink("weft-vx") },
			"": func(t *rapid.T) {
				if last.Name == "" {
					return
				}
				if _, err := p.Check(); err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, s := range whatIsTold(t, f) {
					if !strings.HasSuffix(s, " dynamic") {
						got = append(got, s)
					}
				}
				if want := expected(last); !slices.Equal(want, got) {
					t.Fatalf("told (-want +got):\n%s", cmp.Diff(want, got))
				}
			},
		})
	})
}

// expected is what a configuration should tell, the long way.
func expected(c fdb.Config) (want []string) {
	live := func(k fdb.Known) bool {
		return slices.ContainsFunc(c.Remotes, func(r fdb.Remote) bool { return r.Overlay == k.At })
	}
	sure := func(k fdb.Known) bool {
		return live(k) && !slices.ContainsFunc(c.Known, func(l fdb.Known) bool { return live(l) && l.MAC == k.MAC && l.At != k.At })
	}
	for _, k := range c.Known {
		if !sure(k) {
			continue
		}
		want = append(want, fmt.Sprintf("%s dst %d static", k.MAC, k.At.As16()[15]), k.MAC.String()+" master")
		for _, a := range k.Addrs {
			if !slices.ContainsFunc(c.Known, func(l fdb.Known) bool { return sure(l) && l.MAC != k.MAC && slices.Contains(l.Addrs, a) }) {
				want = append(want, fmt.Sprintf("%s lladdr %s", a, k.MAC))
			}
		}
	}
	slices.Sort(want)
	return slices.Compact(want)
}

// A container of ours that was known to be elsewhere is not drawn back there.
func TestSeenHere(t *testing.T) {
	f := kerneltest.New("host")
	ok(t, f.AddBridge("weft", bridgeMAC, 1370))
	ok(t, f.AddVeth("wv1", 1370, f.Namespace("guest"), "weft0", mac(1)))
	ok(t, f.SetMaster("wv1", "weft"))
	p := vxlan.New(f, nil)
	ok(t, p.Set(knowing(attached(1, 2, "10.32.0.1"))))
	ok(t, f.LearnBridgeFDB("wv1", mac(1)))
	if repaired, err := p.Check(); len(repaired) != 0 || err != nil {
		t.Errorf("check: %q, %v", repaired, err)
	}
	list, err := f.BridgeFDB("weft")
	ok(t, err)
	if l, err := f.Link("wv1"); err != nil || len(list) != 1 || list[0].Port != l.Index {
		t.Errorf("addresses %v", list)
	}
	ok(t, p.Set(knowing()))
	isTold(t, f)
}

package bridge

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// memory is a journal.
type memory map[string]string

func (m memory) Record(key, former string) error {
	if _, kept := m[key]; !kept {
		m[key] = former
	}
	return nil
}
func (m memory) Recorded() (map[string]string, error) { return m, nil }
func (m memory) Forget(key string) error              { delete(m, key); return nil }

// world is everything that a bridge could have changed, handles of nftables
// included: rules that were written again have other ones.
func world(t *testing.T, k *kernel.Kernel) string {
	t.Helper()
	out, err := shell(k, `ip -d link | sed 's|gc_timer *[0-9.]*||'; ip addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all
		iptables -S; ip6tables -S; nft -a list ruleset; sysctl -a 2>/dev/null | grep '^net' | grep -v conntrack_`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func exposedConfig() Config {
	c := testConfig(1)
	c.Exposed = []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12"), netip.MustParsePrefix("10.32.0.2/12"), netip.MustParsePrefix("10.99.0.1/24")}
	c.Masquerade = c.Exposed
	return c
}

func TestLife(t *testing.T) {
	t.Parallel()
	k := kerneltest.Fresh(t)
	ok(t, k.SetSysctl(acceptRedirects, "0")) // what turning forwarding off would undo
	before := world(t, k)
	kept := memory{}
	b := New(Deps{Kernel: k, Journal: kept})
	c := exposedConfig()
	c.Told, c.Cuts = 1216, map[netip.AddrPort]int{netip.MustParseAddrPort("192.0.2.2:6784"): 1280}

	ok(t, b.Remove(t.Context())) // nothing there
	if diff := cmp.Diff(before, world(t, k)); diff != "" {
		t.Errorf("removing nothing:\n%s", diff)
	}
	if repaired, err := b.Check(t.Context()); len(repaired) != 0 || err != nil {
		t.Errorf("check before set: %q, %v", repaired, err)
	}

	ok(t, b.Set(t.Context(), c))
	set := world(t, k)
	if !strings.Contains(set, "10.99.0.1/24") {
		t.Fatalf("nothing was set:\n%s", set)
	}
	ok(t, b.Set(t.Context(), c))
	if diff := cmp.Diff(set, world(t, k)); diff != "" {
		t.Errorf("setting the same again:\n%s", diff)
	}
	if repaired, err := b.Check(t.Context()); len(repaired) != 0 || err != nil {
		t.Errorf("check after set: %q, %v", repaired, err)
	}
	if diff := cmp.Diff(set, world(t, k)); diff != "" {
		t.Errorf("checking:\n%s", diff)
	}

	// A successor, after a crash, adopts it and changes its mind.
	b = New(Deps{Kernel: k, Journal: kept})
	c.Exposed, c.Masquerade, c.DNS = c.Exposed[1:2], nil, netip.Addr{}
	ok(t, b.Set(t.Context(), c))
	if got := addrs(t, k); !slices.Equal(got, c.Exposed) {
		t.Errorf("addresses %v, want %v", got, c.Exposed)
	}
	if after := world(t, k); strings.Contains(after, "lookup 6783") || strings.Contains(after, "masquerade") {
		t.Errorf("leftovers:\n%s", after)
	}

	// Another successor knows nothing, and leaves nothing.
	for range 2 {
		ok(t, New(Deps{Kernel: k, Journal: kept}).Remove(t.Context()))
		if diff := cmp.Diff(before, world(t, k)); diff != "" {
			t.Errorf("after remove (-before +after):\n%s", diff)
		}
	}
	if len(kept) != 0 {
		t.Errorf("still in the journal: %v", kept)
	}
}

func addrs(t *testing.T, k *kernel.Kernel) []netip.Prefix {
	t.Helper()
	a, err := k.Addrs("weft")
	ok(t, err)
	return a
}

// Whatever is done to what we own is found, named and repaired.
func TestRepair(t *testing.T) {
	t.Parallel()
	tests := []struct {
		command string
		want    string // one of the lines
		kind    kernel.Event
	}{
		{"ip link set weft down", "bridge weft was down", kernel.LinkChanged},
		{"ip link del weft", "bridge weft was gone", kernel.LinkChanged},
		{"ip link set weft address 02:00:00:00:00:77", "address of bridge weft was 02:00:00:00:00:77", kernel.LinkChanged},
		{"ip link set weft mtu 1280", "mtu of bridge weft was 1280", kernel.LinkChanged},
		{"sysctl -w net.ipv6.conf.weft.disable_ipv6=0", "IPv6 was on at weft", kernel.LinkChanged},
		{"sysctl -w net.ipv6.conf.wv1.disable_ipv6=0", "IPv6 was on at wv1", kernel.LinkChanged},
		{"sysctl -w net.ipv4.conf.weft.arp_ignore=0", "bridge weft answered for other addresses of the host", kernel.LinkChanged},
		{"ip addr flush dev weft", "address 169.254.67.83/32 was missing from bridge weft", kernel.AddrChanged},
		{"ip addr del 10.32.0.1/12 dev weft", "address 10.32.0.1/12 was missing from bridge weft", kernel.AddrChanged},
		{"ip addr add 10.1.2.3/24 dev weft", "address 10.1.2.3/24 was left on bridge weft", kernel.AddrChanged},
		{"ip route flush table 6783", "the route of the name server's answers was missing", kernel.RouteChanged},
		{"ip rule del priority 783", "routing rule 783 was missing", kernel.RuleChanged},
		{"ip rule del priority 784", "routing rule 784 was missing", kernel.RuleChanged},
		{"ip rule add from 169.254.67.84 lookup 6783 priority 784", "routing rule 784 was left", kernel.RuleChanged},
		{"sysctl -w net.ipv4.ip_forward=0", "forwarding of IPv4 was off", kernel.RouteChanged},
		{"nft flush ruleset", "nftables rules of weft were changed or gone", kernel.FirewallChanged},
		{"nft delete table inet weft", "nftables rules of weft were changed or gone", kernel.FirewallChanged},
		{"nft delete table bridge weft", "nftables rules of weft were changed or gone", kernel.FirewallChanged},
		{"nft flush chain inet weft weft-raw", "nftables rules of weft were changed or gone", kernel.FirewallChanged},
		{"nft insert rule inet weft weft-input accept", "nftables rules of weft were changed or gone", kernel.FirewallChanged},
		{"nft add chain inet weft x", "nftables rules of weft were changed or gone", kernel.FirewallChanged},
		{"nft 'add chain inet weft weft-input { policy drop; }'", "nftables rules of weft were changed or gone", kernel.FirewallChanged},
		{"nft 'add table inet weft { flags dormant; }'", "nftables rules of weft were changed or gone", kernel.FirewallChanged},
		{"iptables -P FORWARD DROP", "the accept in chain FORWARD of iptables was missing", kernel.FirewallChanged},
	}
	for _, tt := range tests {
		t.Run(tt.command, func(t *testing.T) {
			t.Parallel()
			k := kerneltest.Fresh(t)
			b := New(Deps{Kernel: k})
			ok(t, b.Set(t.Context(), exposedConfig()))
			port := kerneltest.Fresh(t)
			plug := func() {
				ok(t, k.SetMaster("wv1", "weft"))
				ok(t, k.SetUp("wv1", true))
			}
			ok(t, k.AddVeth("wv1", 1370, port, "weft0", kernel.MAC{}))
			ok(t, k.SetSysctl("net/ipv6/conf/wv1/disable_ipv6", "1"))
			plug()
			before := alike(t, k)
			if out, err := shell(k, tt.command); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, e := range []kernel.Event{kernel.LinkChanged, kernel.AddrChanged, kernel.RouteChanged, kernel.RuleChanged, kernel.FirewallChanged} {
				repaired, err := b.CheckAfter(t.Context(), e)
				ok(t, err)
				if len(repaired) == 0 {
					continue
				}
				if !slices.Contains(repaired, tt.want) {
					t.Errorf("repaired %q, want %q", repaired, tt.want)
				}
				break
			}
			repaired, err := b.Check(t.Context())
			ok(t, err)
			if len(repaired) != 0 {
				t.Errorf("not all at once: %q", repaired)
			}
			if strings.Contains(tt.command, "link del") {
				plug() // not the bridge's business
			}
			if strings.Contains(tt.command, "FORWARD DROP") {
				return // is as it was, and one accept
			}
			if diff := cmp.Diff(before, alike(t, k)); diff != "" {
				t.Errorf("not as before (-before +after):\n%s", diff)
			}
		})
	}
}

// alike is the world without what differs between equal worlds: indices,
// handles, the order in which addresses came, states that settle by themselves.
func alike(t *testing.T, k *kernel.Kernel) string {
	t.Helper()
	printed, err := kerneltest.Print(k)
	ok(t, err)
	out, err := shell(k, `nft list tables | sort | while read -r t; do nft list $t; done; iptables -S; sysctl net.ipv4.ip_forward net.ipv6.conf.weft.disable_ipv6 net.ipv6.conf.wv1.disable_ipv6 net.ipv4.conf.weft.arp_ignore`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return printed + out
}

// Other things of our name are not ours.
func TestInTheWay(t *testing.T) {
	t.Parallel()
	k := kerneltest.Fresh(t)
	ok(t, k.AddVeth("weft", 1500, k, "x", kernel.MAC{}))
	b := New(Deps{Kernel: k})
	err := b.Set(t.Context(), testConfig(1))
	if err == nil || !strings.Contains(err.Error(), "rename or remove it") {
		t.Errorf("error %v", err)
	}
	ok(t, b.Remove(t.Context()))
	if _, err := k.Link("weft"); err != nil {
		t.Errorf("removed somebody else's interface: %v", err)
	}
}

func TestWithoutNft(t *testing.T) {
	k := kerneltest.Fresh(t)
	t.Setenv("PATH", t.TempDir())
	b := New(Deps{Kernel: k})
	err := b.Set(t.Context(), testConfig(1))
	if err == nil || !strings.Contains(err.Error(), "install the package nftables") {
		t.Errorf("error %v", err)
	}
	if _, err := k.Link("weft"); err == nil {
		t.Error("set up without walls")
	}
	ok(t, b.Remove(t.Context()))
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"no name":        func(c *Config) { c.Name = "" },
		"nft in a name":  func(c *Config) { c.WireGuard = `x" accept #` },
		"IPv6 exposed":   func(c *Config) { c.Exposed = []netip.Prefix{netip.MustParsePrefix("fd00::1/64")} },
		"IPv6 for names": func(c *Config) { c.DNS = netip.MustParseAddr("fd00::1") },
		"IPv4 overlay":   func(c *Config) { c.Overlay = netip.MustParseAddr("10.0.0.1") },
		"no MTU":         func(c *Config) { c.MTU = 0 },
	} {
		f := kerneltest.New("host")
		c := testConfig(1)
		change(&c)
		if err := New(Deps{Kernel: f}).Set(t.Context(), c); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if n := f.Calls(); n != 0 {
			t.Errorf("%s: %d calls made", name, n)
		}
	}
}

// standing are walls that stand, and fail when told.
type standing struct {
	err     error
	removed bool
}

func (s *standing) set(context.Context, ruleset) ([]string, error) { return nil, s.err }
func (s *standing) quiet(context.Context, []quiet) error           { return s.err }
func (s *standing) counts(context.Context) (map[netip.AddrPort]uint64, error) {
	return nil, s.err
}
func (s *standing) remove(context.Context) error { s.removed = true; return s.err }

type unneeded struct{}

func (unneeded) set(context.Context) ([]string, error) { return nil, nil }
func (unneeded) remove(context.Context) error          { return nil }

// Whatever call fails, Set says so, and the next Check finishes the work.
func TestEveryFailure(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for n := 1; ; n++ {
		f := kerneltest.New("host")
		b := New(Deps{Kernel: f, Journal: memory{}})
		b.walls, b.accept = &standing{}, unneeded{}
		f.FailCall(n, broken)
		err := b.Set(t.Context(), exposedConfig())
		if f.Calls() < n {
			if n < 20 {
				t.Errorf("only %d calls", n)
			}
			return
		}
		if !errors.Is(err, broken) && !strings.Contains(f.String(), "10.32.0.1/12") { // announcing may fail
			t.Errorf("call %d: error %v", n, err)
		}
		if _, err := b.Check(t.Context()); err != nil {
			t.Errorf("call %d: check: %v", n, err)
		}
		want := []string{
			"ip link add weft address 02:00:00:00:00:01 mtu 1370 type bridge",
			"ip link set weft up",
			"ip addr add 10.32.0.1/12 dev weft",
			"ip addr add 10.32.0.2/12 dev weft",
			"ip addr add 10.99.0.1/24 dev weft",
			"ip addr add 169.254.67.83/32 dev weft",
			"ip rule add priority 783 from 169.254.67.83/32 lookup main suppress_prefixlength 0",
			"ip rule add priority 784 from 169.254.67.83/32 lookup 6783",
			"ip route add 0.0.0.0/0 dev weft table 6783 scope link",
		}
		if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(f.String()), "\n")); diff != "" {
			t.Errorf("call %d (-want +got):\n%s", n, diff)
		}
	}
}

// Nothing is put up while the walls are not those wanted, whatever event
// comes.
func TestWallsFirst(t *testing.T) {
	t.Parallel()
	f := kerneltest.New("host")
	b := New(Deps{Kernel: f})
	w := &standing{err: errors.New("broken")}
	b.walls, b.accept = w, unneeded{}
	if err := b.Set(t.Context(), exposedConfig()); err == nil {
		t.Error("no error")
	}
	if _, err := b.CheckAfter(t.Context(), kernel.LinkChanged); err == nil {
		t.Error("no error")
	}
	if got := f.String(); got != "" {
		t.Errorf("put up without walls:\n%s", got)
	}
	w.err = nil
	if _, err := b.CheckAfter(t.Context(), kernel.LinkChanged); err != nil {
		t.Error(err)
	}
	if got := f.String(); got == "" {
		t.Error("not put up")
	}
}

// The ruleset as nft gets it, for reviewers.
func TestRuleset(t *testing.T) {
	t.Parallel()
	narrow := testConfig(1)
	narrow.MSS, narrow.Told = 1326, 1216
	narrow.Cuts = map[netip.AddrPort]int{
		netip.MustParseAddrPort("192.0.2.2:6784"):     1280,
		netip.MustParseAddrPort("192.0.2.3:6783"):     1000,
		netip.MustParseAddrPort("[2001:db8::2]:6784"): 1400,
	}
	for name, c := range map[string]Config{"hidden": testConfig(1), "exposed": exposedConfig(), "narrow": narrow} {
		var b strings.Builder
		rules := makeRuleset(c, []string{"br0"}, nil)
		for _, x := range rules.sets {
			b.WriteString("set " + string(x.family) + " weft " + x.name + " { type " + x.kind + "; flags timeout; }\n")
		}
		for _, ch := range rules.chains {
			b.WriteString("chain " + string(ch.family) + " " + ch.id().name + " " + ch.name)
			if ch.hook != "" {
				b.WriteString(" { type " + string(ch.kind) + " hook " + string(ch.hook) + " priority " + ch.priority + "; }")
			}
			b.WriteString("\n")
			for _, r := range ch.rules {
				b.WriteString("\t" + r.text + " comment " + r.comment + "\n")
			}
		}
		path := filepath.Join("testdata", name+".nft")
		if os.Getenv("UPDATE") != "" {
			ok(t, os.WriteFile(path, []byte(b.String()), 0o644))
		}
		want, err := os.ReadFile(path)
		ok(t, err)
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (UPDATE=1 rewrites it; -want +got):\n%s", name, diff)
		}
	}
}

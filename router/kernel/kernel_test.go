package kernel_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// Most of this package is tested by kerneltest's table, together with the fake.

var testMAC = kernel.MAC{0x02, 0, 0, 0, 0, 1}

func here(t *testing.T) string {
	t.Helper()
	k, err := kernel.New()
	ok(t, err)
	defer func() { _ = k.Close() }()
	return k.ID()
}

func TestDo(t *testing.T) {
	outside := here(t)
	k := kerneltest.Fresh(t)
	if k.ID() == outside {
		t.Fatal("not a fresh namespace")
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			var inside string
			err := k.Do(func() error {
				var st unix.Stat_t
				err := unix.Stat("/proc/thread-self/ns/net", &st)
				inside = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
				return err
			})
			if err != nil || inside != k.ID() {
				t.Errorf("inside: %s, want %s (%v)", inside, k.ID(), err)
			}
		})
	}
	wg.Wait()
	if now := here(t); now != outside {
		t.Errorf("we are in %s now", now)
	}
	want := errors.New("its own error")
	if err := k.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("error %v", err)
	}
	if err := k.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("no error from a function that did not return")
	}
	// A process started inside is inside.
	ok(t, k.AddBridge("only-here", testMAC, 1500))
	ok(t, k.Do(func() error { return exec.Command("ip", "link", "show", "only-here").Run() }))
}

func TestOpen(t *testing.T) {
	kerneltest.NeedRoot(t)
	dir := t.TempDir()
	plain, fifo := filepath.Join(dir, "plain"), filepath.Join(dir, "fifo")
	ok(t, os.WriteFile(plain, nil, 0o600))
	ok(t, unix.Mkfifo(fifo, 0o600))
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		plain:                      "not a namespace",
		fifo:                       "not a namespace",
		"/proc/self/ns/uts":        "not a network namespace",
		dir:                        "not a namespace",
	} {
		k, err := kernel.Open(path)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", path, err, want)
		}
		if err == nil {
			_ = k.Close()
		}
	}
	if _, err := kernel.Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	k, err := kernel.Open("/proc/self/ns/net")
	ok(t, err)
	if k.ID() != here(t) {
		t.Errorf("id %s, want %s", k.ID(), here(t))
	}
	ok(t, k.Close())
}

// The descriptors of a namespace go with it: a daemon opens one per container.
func TestClose(t *testing.T) {
	kerneltest.NeedRoot(t)
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		ok(t, err)
		return len(list)
	}
	before := count()
	for range 20 {
		k, err := kernel.New()
		ok(t, err)
		_, err = k.Links()
		ok(t, err)
		ok(t, k.Close())
	}
	if after := count(); after > before+1 {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func TestSysctl(t *testing.T) {
	k := kerneltest.Fresh(t)
	for _, key := range []string{"", "kernel/hostname", "net/../kernel/hostname", "/net/ipv4/ip_forward", "net//ipv4", "net/ipv4/conf/../ip_forward"} {
		if _, err := k.Sysctl(key); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("read %q: error %v", key, err)
		}
		if err := k.SetSysctl(key, "1"); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("write %q: error %v", key, err)
		}
	}
	outside, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	ok(t, err)
	inside := "1"
	if strings.TrimSpace(string(outside)) == "1" {
		inside = "0"
	}
	ok(t, k.SetSysctl("net/ipv4/ip_forward", inside))
	if v, err := k.Sysctl("net/ipv4/ip_forward"); v != inside || err != nil {
		t.Errorf("inside: %q, %v", v, err)
	}
	if now, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); string(now) != string(outside) {
		t.Errorf("outside it is %q now", now)
	}
	if err := k.SetSysctl("net/ipv4/ip_forward", "nonsense"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("error %v", err)
	}
}

// What a bridge learns is bounded where the kernel can bound it.
func TestBridgeLimit(t *testing.T) {
	k := kerneltest.Fresh(t)
	ok(t, k.AddBridge("weft", testMAC, 1370))
	var limit []byte
	ok(t, k.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("weft")))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, 0)
		if err != nil {
			return err
		}
		attrs, err := nl.ParseRouteAttrAsMap(msgs[0][unix.SizeofIfInfomsg:])
		if err != nil {
			return err
		}
		for _, nested := range []uint16{unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA} {
			if attrs, err = nl.ParseRouteAttrAsMap(attrs[nested].Value); err != nil {
				return err
			}
		}
		limit = attrs[49].Value
		return nil
	}))
	if limit == nil {
		t.Skip("SKIPPED: this kernel cannot bound what a bridge learns (Linux 6.7 can)")
	}
	if n := binary.NativeEndian.Uint32(limit); n != 1<<16 {
		t.Errorf("limit %d", n)
	}
}

// events collects what Watch reports.
type events struct {
	mu   sync.Mutex
	seen kernel.Event
	all  int // how often everything was reported
	some chan struct{}
}

func (e *events) add(k kernel.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if k == kernel.AllChanged {
		e.all++
	} else {
		e.seen |= k
	}
	select {
	case e.some <- struct{}{}:
	default:
	}
}

// await waits until f is true.
func (e *events) await(t *testing.T, what string, f func() bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		e.mu.Lock()
		done := f()
		e.mu.Unlock()
		if done {
			return
		}
		select {
		case <-e.some:
		case <-timeout:
			t.Fatalf("%s: not reported", what)
		}
	}
}

// await asks again and again until the answer is yes.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !f(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestWatch(t *testing.T) {
	defer goleak.VerifyNone(t)
	k := kerneltest.Fresh(t)
	e := &events{some: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Watch(ctx, e.add) }()
	e.await(t, "the start", func() bool { return e.all == 1 })

	steps := []struct {
		what string
		want kernel.Event
		do   func() error
	}{
		{"bridge", kernel.LinkChanged, func() error { return k.AddBridge("weft", testMAC, 1370) }},
		{"up", kernel.LinkChanged, func() error { return k.SetUp("weft", true) }},
		{"address", kernel.AddrChanged, func() error { return k.AddAddr("weft", netip.MustParsePrefix("10.32.0.1/12"), false) }},
		{"route", kernel.RouteChanged, func() error {
			return k.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("192.0.2.0/24"), Link: "weft"})
		}},
		{"rule", kernel.RuleChanged, func() error { return k.AddRule(kernel.Rule{Priority: 700, SuppressPrefix: -1}) }},
		{"IPv6 rule", kernel.RuleChanged, func() error { return k.AddRule(kernel.Rule{Priority: 700, SuppressPrefix: -1, IPv6: true}) }},
		{"vxlan", kernel.LinkChanged, func() error {
			return k.AddVXLAN("weft-vx", kernel.VXLAN{VNI: 7, Port: 6785, PortLow: 512, PortHigh: 1023, Local: netip.MustParseAddr("fd77:6566:7400::1"), MTU: 1370, Learning: true})
		}},
		{"forwarding entry", kernel.NeighChanged, func() error {
			return k.AddFDB("weft-vx", kernel.FDB{Dst: netip.MustParseAddr("fd77:6566:7400::2"), Permanent: true})
		}},
		{"nftables", kernel.FirewallChanged, func() error {
			return k.Do(func() error { return exec.Command("nft", "add", "table", "inet", "somebody").Run() })
		}},
		{"flush", kernel.FirewallChanged, func() error {
			return k.Do(func() error { return exec.Command("nft", "flush", "ruleset").Run() })
		}},
		{"deletion", kernel.LinkChanged, func() error { return k.DelLink("weft") }},
	}
	for _, s := range steps {
		e.mu.Lock()
		e.seen = 0
		e.mu.Unlock()
		ok(t, s.do())
		e.await(t, s.what, func() bool { return e.seen&s.want != 0 })
	}

	// What is learnt is no event: traffic makes it, as much as it likes. Nor is
	// what the kernel was told of attachments, which come and go all the time.
	ok(t, k.AddBridge("weft", testMAC, 1370))
	ok(t, k.SetMaster("weft-vx", "weft"))
	ok(t, k.AddRule(kernel.Rule{Priority: 702, SuppressPrefix: -1})) // comes after
	e.await(t, "port", func() bool { return e.seen&kernel.RuleChanged != 0 })
	e.mu.Lock()
	e.seen = 0
	e.mu.Unlock()
	for i := range 100 {
		ok(t, k.AddFDB("weft-vx", kernel.FDB{MAC: kernel.MAC{0x02, byte(i)}, Dst: netip.MustParseAddr("fd77:6566:7400::2"), Fixed: i%2 == 0}))
		ok(t, k.AddBridgeFDB("weft-vx", kernel.MAC{0x02, byte(i)}))
		ok(t, k.AddNeighbour("weft", kernel.Neighbour{Addr: netip.AddrFrom4([4]byte{10, 32, 0, byte(i)}), MAC: kernel.MAC{0x02, byte(i)}}))
	}
	ok(t, k.AddRule(kernel.Rule{Priority: 701, SuppressPrefix: -1})) // comes after
	e.await(t, "fence", func() bool { return e.seen&kernel.RuleChanged != 0 })
	e.mu.Lock()
	if e.seen&kernel.NeighChanged != 0 {
		t.Error("learnt entries were reported")
	}
	e.mu.Unlock()

	stop()
	if err := <-done; err != nil {
		t.Errorf("watch ended with %v", err)
	}
}

// Whoever reads too slowly is told that everything changed.
func TestWatchOverrun(t *testing.T) {
	k := kerneltest.Fresh(t)
	e := &events{some: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	var gate sync.Mutex // closed: f breaks its promise not to block
	done := make(chan error)
	go func() {
		done <- k.Watch(ctx, func(x kernel.Event) {
			gate.Lock()
			defer gate.Unlock()
			e.add(x)
		})
	}()
	e.await(t, "the start", func() bool { return e.all == 1 })
	gate.Lock()
	// 8 MiB of notifications, each of some hundred bytes.
	batch := filepath.Join(t.TempDir(), "batch")
	var b strings.Builder
	b.WriteString("link add weft type bridge\n")
	for range 12000 {
		b.WriteString("link set weft mtu 1300\nlink set weft mtu 1400\n")
	}
	ok(t, os.WriteFile(batch, []byte(b.String()), 0o600))
	ok(t, k.Do(func() error { return exec.Command("ip", "-batch", batch).Run() }))
	gate.Unlock()
	e.await(t, "the loss", func() bool { return e.all == 2 })
	stop()
	if err := <-done; err != nil {
		t.Errorf("watch ended with %v", err)
	}
}

// What is announced arrives at the other end.
func TestAnnounce(t *testing.T) {
	k, guest := kerneltest.Fresh(t), kerneltest.Fresh(t)
	ok(t, k.AddVeth("wv1", 1370, guest, "weft0", testMAC))
	ok(t, k.SetUp("wv1", true))
	ok(t, guest.SetUp("weft0", true))
	// The receiver has a stale idea of who has the addresses.
	ok(t, k.AddAddr("wv1", netip.MustParsePrefix("10.32.0.1/12"), false))
	ok(t, k.AddAddr("wv1", netip.MustParsePrefix("fd00::1/64"), true))
	tests := []string{"10.32.0.9", "fd00::9"}
	for _, a := range tests {
		ok(t, k.Do(func() error {
			return exec.Command("ip", "neigh", "replace", a, "dev", "wv1", "lladdr", "02:66:66:66:66:66", "nud", "stale").Run()
		}))
	}
	for _, a := range tests {
		await(t, a+": the neighbour to take notice", func() bool { // a link needs a moment after it was set up
			ok(t, guest.Announce("weft0", netip.MustParseAddr(a)))
			var out []byte
			ok(t, k.Do(func() (err error) {
				out, err = exec.Command("ip", "neigh", "show", a, "dev", "wv1").Output()
				return err
			}))
			return strings.Contains(string(out), testMAC.String())
		})
	}
}

// No way, a way that is forbidden and one to ourselves are all no way; and one
// by policy is one.
func TestRouteTo(t *testing.T) {
	k, guest := kerneltest.Fresh(t), kerneltest.Fresh(t)
	ok(t, k.AddVeth("eth0", 1500, guest, "eth0", kernel.MAC{}))
	for _, n := range []*kernel.Kernel{k, guest} {
		ok(t, n.SetUp("eth0", true))
	}
	ok(t, k.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24"), true))
	ok(t, k.AddAddr("eth0", netip.MustParsePrefix("2001:db8::1/64"), true))
	for _, route := range []string{
		"blackhole 203.0.113.1", "unreachable 203.0.113.2", "prohibit 203.0.113.3", "throw 203.0.113.4",
		"203.0.113.5 via inet6 2001:db8::fe dev eth0", // of another family: nobody needs it
		"203.0.113.7 via 192.0.2.254 dev eth0 table 77",
		"blackhole 2001:db8:7::1", "unreachable 2001:db8:7::2", "prohibit 2001:db8:7::3", "throw 2001:db8:7::4",
	} {
		args := append([]string{"route", "add"}, strings.Fields(route)...)
		ok(t, k.Do(func() error { return exec.Command("ip", args...).Run() }))
	}
	ok(t, k.AddRule(kernel.Rule{Priority: 100, Table: 77, SuppressPrefix: -1}))
	// The kernel takes an IPv6 address for its own a moment after it has it.
	await(t, "the address to be ours", func() bool {
		_, err := k.RouteTo(netip.MustParseAddr("2001:db8::1"))
		return errors.Is(err, fs.ErrNotExist)
	})
	for _, dst := range []string{
		"203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5", "203.0.113.6", "192.0.2.1", "255.255.255.255",
		"2001:db8:7::1", "2001:db8:7::2", "2001:db8:7::3", "2001:db8:7::4", "2001:db8:7::5", "2001:db8::1",
	} {
		if r, err := k.RouteTo(netip.MustParseAddr(dst)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("route to %s: %+v, %v", dst, r, err)
		}
	}
	r, err := k.RouteTo(netip.MustParseAddr("203.0.113.7"))
	ok(t, err)
	if r.Via != netip.MustParseAddr("192.0.2.254") || r.Table != 0 {
		t.Errorf("by policy: %+v", r)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

var (
	_ Host  = (*kernel.Kernel)(nil)
	_ Guest = (*kernel.Kernel)(nil)
	_ Host  = (*kerneltest.Fake)(nil)
	_ Guest = (*kerneltest.Fake)(nil)
)

// world is a host with a switch, and containers by path.
type world struct {
	*Attacher
	host   *kerneltest.Fake
	guests map[string]*kerneltest.Fake
	mtu    int
}

func newWorld(t *testing.T, paths ...string) *world {
	t.Helper()
	w := &world{host: kerneltest.New("4:1"), guests: map[string]*kerneltest.Fake{}, mtu: 1370}
	check(t, w.host.AddBridge("weft", kernel.MAC{2, 0, 0, 0, 0, 1}, 1370))
	check(t, w.host.SetUp("weft", true))
	for i, p := range paths {
		w.guests[p] = w.host.Namespace(fmt.Sprintf("4:%d", 100+i))
	}
	w.guests["/host"] = w.host
	open := func(path string) (Guest, error) {
		g, ok := w.guests[path]
		if !ok {
			return nil, fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
		}
		return g, nil
	}
	w.Attacher = New(w.host, open, Config{MTU: func() int { return w.mtu }, DNS: prefix("169.254.67.83/32").Addr()})
	w.host.TakeChanges()
	return w
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) identify(t *testing.T, path string) Namespace {
	t.Helper()
	ns, err := w.Identify(path)
	check(t, err)
	return ns
}

// print returns everything that both sides hold.
func (w *world) print() string {
	var b strings.Builder
	paths := []string{}
	for p := range w.guests {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		fmt.Fprintf(&b, "== %s\n%s\n", p, w.guests[p])
	}
	return b.String()
}

func TestSet(t *testing.T) {
	w := newWorld(t, "/a")
	ns := w.identify(t, "/a")
	spec := Spec{Label: "web", MAC: kernel.MAC{2, 1, 1, 1, 1, 1}, Addresses: prefixes("10.32.0.1/12"), Multicast: true}
	st, err := w.Set("/a", ns, spec)
	check(t, err)
	if st.Interface != "weft0" || st.MAC != spec.MAC || !st.Made || len(st.Changed) == 0 {
		t.Errorf("Set = %+v", st)
	}
	links, err := w.Links()
	check(t, err)
	if !w.Sound(links, ns) {
		t.Error("not sound after Set")
	}
	if got, want := w.guests["/a"].Announced(), []string{"10.32.0.1 dev weft0"}; !slices.Equal(got, want) {
		t.Errorf("announced %v, want %v", got, want)
	}

	before := w.print()
	again, err := w.Set("/a", ns, spec)
	check(t, err)
	if diff := cmp.Diff(before, w.print()); diff != "" {
		t.Errorf("asking twice changed something:\n%s", diff)
	}
	if want := (State{Interface: "weft0", MAC: spec.MAC}); !cmp.Equal(again, want) {
		t.Errorf("Set again = %+v, want %+v", again, want)
	}

	// A MAC address is for a new interface only.
	st, err = w.Set("/a", ns, Spec{MAC: kernel.MAC{2, 2, 2, 2, 2, 2}, Addresses: prefixes("10.32.0.1/12", "10.32.0.2/12")})
	check(t, err)
	if st.MAC != spec.MAC || st.Made {
		t.Errorf("Set with one address more = %+v", st)
	}
	check(t, w.Remove(ns))
	check(t, w.Remove(ns))
	if links, _ := w.guests["/a"].Links(); len(links) != 0 {
		t.Errorf("left inside: %v", links)
	}
}

func TestSetBesideForeignInterface(t *testing.T) {
	w := newWorld(t, "/a", "/other")
	check(t, w.host.AddVeth("veth1", 1500, w.guests["/a"], "weft0", kernel.MAC{}))
	ns := w.identify(t, "/a")
	for range 2 {
		st, err := w.Set("/a", ns, Spec{Addresses: prefixes("10.32.0.1/12")})
		check(t, err)
		if st.Interface != "weft1" {
			t.Errorf("interface %s, want weft1", st.Interface)
		}
	}
}

func TestRepair(t *testing.T) {
	spec := Spec{Label: "web", MAC: kernel.MAC{2, 1, 1, 1, 1, 1}, Addresses: prefixes("10.32.0.1/12"), Multicast: true}
	tests := []struct {
		name  string
		harm  func(w *world, end string) error
		sound bool // seen from outside
	}{
		{"taken from the bridge", func(w *world, end string) error { return w.host.SetMaster(end, "") }, false},
		{"set down", func(w *world, end string) error { return w.host.SetUp(end, false) }, false},
		{"deleted", func(w *world, end string) error { return w.host.DelLink(end) }, false},
		{"set down inside", func(w *world, _ string) error { return w.guests["/a"].SetUp("weft0", false) }, true},
		{"address deleted", func(w *world, _ string) error { return w.guests["/a"].DelAddr("weft0", prefix("10.32.0.1/12")) }, true},
		{"ipv6 switched", func(w *world, end string) error {
			return w.host.SetSysctl("net/ipv6/conf/"+end+"/disable_ipv6", "0")
		}, true},
		{"switch narrowed", func(w *world, _ string) error { w.mtu = 1350; return nil }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "/a")
			ns := w.identify(t, "/a")
			_, err := w.Set("/a", ns, spec)
			check(t, err)
			check(t, tt.harm(w, ns.HostEnd()))
			links, err := w.Links()
			check(t, err)
			if got := w.Sound(links, ns); got != tt.sound {
				t.Errorf("Sound = %v, want %v", got, tt.sound)
			}
			st, err := w.Set("/a", ns, spec)
			check(t, err)
			if len(st.Changed) == 0 || st.MAC != spec.MAC {
				t.Errorf("Set = %+v: want a repair that keeps the MAC address", st)
			}
			st, err = w.Set("/a", ns, spec)
			check(t, err)
			if len(st.Changed) != 0 {
				t.Errorf("not whole after one repair: %q", st.Changed)
			}
		})
	}
}

// TestFailure lets every single call fail, on either side, and wants the world
// as it was before.
func TestFailure(t *testing.T) {
	boom := errors.New("boom")
	for _, side := range []string{"/host", "/a"} {
		for _, fresh := range []bool{true, false} {
			for n := 1; ; n++ {
				w := newWorld(t, "/a")
				ns := w.identify(t, "/a")
				if !fresh {
					_, err := w.Set("/a", ns, Spec{Addresses: prefixes("10.32.0.1/12")})
					check(t, err)
				}
				before := w.print()
				kernel := w.guests[side]
				calls := kernel.Calls()
				kernel.FailCall(n, boom)
				_, err := w.Set("/a", ns, Spec{Label: "web", Multicast: true, Addresses: prefixes("10.32.0.1/12", "10.32.0.2/12")})
				if kernel.Calls()-calls < n {
					check(t, err)
					break // it made fewer calls than that
				}
				if err == nil {
					// It could do without that answer.
					st, err := w.Set("/a", ns, Spec{Label: "web", Multicast: true, Addresses: prefixes("10.32.0.1/12", "10.32.0.2/12")})
					check(t, err)
					if len(st.Changed) != 0 {
						t.Errorf("%s, call %d failed: said done, and was not: %q", side, n, st.Changed)
					}
					continue
				}
				if !errors.Is(err, boom) {
					t.Fatalf("%s, call %d: Set: %v", side, n, err)
				}
				// What was repaired on the way may stay: the label.
				after := w.print()
				if diff := cmp.Diff(plain(before), plain(after)); diff != "" {
					t.Errorf("fresh %v, %s, call %d failed: left behind (-before +after):\n%s", fresh, side, n, diff)
				}
			}
		}
	}
}

// plain takes out of a printed world what a failed Set may change: the alias,
// and the index that the next interface gets.
func plain(s string) string {
	var keep []string
	for line := range strings.Lines(s) {
		if !strings.Contains(line, "alias") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

func TestIdentify(t *testing.T) {
	w := newWorld(t, "/a", "/b")
	if _, err := w.Identify("/host"); !errors.Is(err, ErrHostNetwork) {
		t.Errorf("the host's own namespace: %v", err)
	}
	if _, err := w.Identify("/gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a path that is gone: %v", err)
	}
	a := w.identify(t, "/a")
	if a == w.identify(t, "/b") {
		t.Error("two namespaces look like one")
	}
	w.guests["/a"] = w.guests["/b"]
	if _, err := w.Set("/a", a, Spec{Addresses: prefixes("10.32.0.1/12")}); !errors.Is(err, ErrChanged) {
		t.Errorf("Set of a path that leads elsewhere now: %v", err)
	}
}

func TestSweep(t *testing.T) {
	w := newWorld(t, "/a", "/b")
	a, b := w.identify(t, "/a"), w.identify(t, "/b")
	for path, ns := range map[string]Namespace{"/a": a, "/b": b} {
		_, err := w.Set(path, ns, Spec{Addresses: prefixes("10.32.0.1/12")})
		check(t, err)
	}
	check(t, w.host.AddVeth("wvtest", 1500, w.guests["/a"], "eth9", kernel.MAC{}))
	swept, err := w.Sweep([]string{a.HostEnd()})
	check(t, err)
	if want := []string{b.HostEnd()}; !slices.Equal(swept, want) {
		t.Errorf("Sweep = %v, want %v", swept, want)
	}
	check(t, Reset(w.host))
	links, err := w.Links()
	check(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	if want := []string{"weft", "wvtest"}; !slices.Equal(names, want) {
		t.Errorf("after Reset: %v, want %v", names, want)
	}
}

func TestAnnounceAgain(t *testing.T) {
	w := newWorld(t, "/a", "/b")
	ns := w.identify(t, "/a")
	_, err := w.Set("/a", ns, Spec{Addresses: prefixes("10.32.0.1/12", "10.32.0.2/12")})
	check(t, err)
	before := len(w.guests["/a"].Announced())
	check(t, w.Announce("/a", ns, "weft0", prefixes("10.32.0.1/12", "10.32.0.2/12")))
	if got := w.guests["/a"].Announced()[before:]; !slices.Equal(got, []string{"10.32.0.1 dev weft0", "10.32.0.2 dev weft0"}) {
		t.Errorf("announced %v", got)
	}
	if err := w.Announce("/b", ns, "weft0", prefixes("10.32.0.1/12")); !errors.Is(err, ErrChanged) {
		t.Errorf("in another namespace: %v", err)
	}
}

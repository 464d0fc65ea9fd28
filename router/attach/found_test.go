package attach

import (
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
)

func TestLook(t *testing.T) {
	w := newWorld(t, "/a", "/b")
	a, b := w.identify(t, "/a"), w.identify(t, "/b")
	mac := kernel.MAC{2, 1, 1, 1, 1, 1}
	_, err := w.Set("/a", a, Spec{MAC: mac, Addresses: prefixes("10.32.0.1/12", "10.48.0.1/24"), Multicast: true})
	check(t, err)
	got, err := w.Look("/a", a)
	check(t, err)
	want := Sight{Interface: "weft0", MAC: mac, Addresses: prefixes("10.32.0.1/12", "10.48.0.1/24"), Multicast: true}
	same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Error(diff)
	}
	_, err = w.Set("/b", b, Spec{Addresses: prefixes("10.32.0.2/12")})
	check(t, err)
	if got, err := w.Look("/b", b); err != nil || got.Multicast {
		t.Errorf("without multicast: %+v, %v", got, err)
	}
	if _, err := w.Look("/a", b); !errors.Is(err, ErrChanged) {
		t.Errorf("another namespace: %v", err)
	}
	if _, err := w.Look("/none", a); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no namespace: %v", err)
	}
	check(t, w.Remove(a))
	if _, err := w.Look("/a", a); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no interface: %v", err)
	}
	// An end of that name that leads elsewhere is not this one's.
	check(t, w.host.AddVeth(a.HostEnd(), 1370, w.guests["/b"], "other", kernel.MAC{}))
	if _, err := w.Look("/a", a); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an interface of others: %v", err)
	}
}

func TestStrangers(t *testing.T) {
	w := newWorld(t, "/a", "/b")
	a, b := w.identify(t, "/a"), w.identify(t, "/b")
	for path, ns := range map[string]Namespace{"/a": a, "/b": b} {
		_, err := w.Set(path, ns, Spec{Label: path, Addresses: prefixes("10.32.0.1/12")})
		check(t, err)
	}
	check(t, w.host.AddVeth("veth1234", 1500, w.guests["/b"], "eth0", kernel.MAC{}))
	got, err := w.Strangers([]string{a.HostEnd()})
	check(t, err)
	if len(got) != 1 || got[0].Name != b.HostEnd() || got[0].Alias != "/b" {
		t.Errorf("%+v", got)
	}
}

func TestHostRoutes(t *testing.T) {
	w := newWorld(t)
	check(t, w.host.AddTUN("eth0", 1500))
	check(t, w.host.SetUp("eth0", true))
	for dst, link := range map[string]string{"192.0.2.0/24": "eth0", "10.32.0.0/12": "weft"} {
		check(t, w.host.ReplaceRoute(kernel.Route{Dst: prefix(dst), Link: link}))
	}
	got, err := w.HostRoutes()
	check(t, err)
	if len(got) != 1 || got[0].Dst != prefix("192.0.2.0/24") || got[0].Link != "eth0" {
		t.Errorf("%+v", got)
	}
}

package attach

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
)

var endpointMAC = kernel.MAC{2, 1, 1, 1, 1, 7}

// take does what an engine does with the interface of an endpoint.
func (w *world) take(t *testing.T, id, path string) {
	t.Helper()
	_, guest := EndpointEnds(id)
	check(t, w.host.MoveLink(guest, w.guests[path], "weft0"))
	check(t, w.guests[path].AddAddr("weft0", prefix("10.32.0.1/12"), true))
	check(t, w.guests[path].SetUp("weft0", true))
}

func TestEndpointSteps(t *testing.T) {
	w := newWorld(t, "/a")
	led := 0
	w.redirect = func(Guest, string) error { led++; return nil }
	id := strings.Repeat("e", 64)
	end, guest := EndpointEnds(id)
	if !isHostEnd(end) || isHostEnd(guest) || !strings.HasPrefix(guest, endPrefix) || len(guest) > 15 {
		t.Errorf("ends %q and %q", end, guest)
	}
	for range 2 {
		got, err := w.AddEndpoint(id, endpointMAC, true)
		if err != nil || got != guest {
			t.Fatalf("%q, %v", got, err)
		}
	}
	want := []string{
		"ip link add " + guest + " address 02:01:01:01:01:07 mtu 1370 type veth", "ip link add " + end + " address 02:00:00:00:00:03 mtu 1370 type veth",
		"sysctl -w net/ipv6/conf/" + end + "/disable_ipv6=1", "sysctl -w net/ipv6/conf/" + guest + "/disable_ipv6=1",
		"ip link set " + end + ` alias "endpoint ` + id + `"`, "ip link set " + end + " master weft", "ip link set " + end + " up",
	}
	if diff := cmp.Diff(want, w.host.TakeChanges()); diff != "" {
		t.Error(diff)
	}
	spec := Spec{Addresses: prefixes("10.32.0.1/12"), Multicast: true}
	more := prefixes("10.48.0.1/24")
	not := func(when, path string) {
		t.Helper()
		if _, _, err := w.SettleEndpoint(path, id, spec, more); !errors.Is(err, ErrNotReady) {
			t.Errorf("%s: %v", when, err)
		}
	}
	not("no namespace", "/nowhere")
	not("not moved", "/a")
	check(t, w.host.MoveLink(guest, w.guests["/a"], "weft0"))
	not("no address", "/a")
	check(t, w.guests["/a"].AddAddr("weft0", prefix("10.32.0.1/12"), true))
	not("down", "/a")
	check(t, w.guests["/a"].SetUp("weft0", true))
	check(t, w.guests["/a"].SetSysctl("net/ipv6/conf/weft0/disable_ipv6", "1")) // as Docker does
	w.guests["/a"].TakeChanges()
	ns, st, err := w.SettleEndpoint("/a", id, spec, more)
	check(t, err)
	if st.Interface != "weft0" || st.MAC != endpointMAC || ns != w.identify(t, "/a") || led != 1 {
		t.Errorf("%+v, %v, led %d times", st, ns, led)
	}
	want = []string{
		"sysctl -w net/ipv6/conf/weft0/disable_ipv6=0", "sysctl -w net/ipv4/conf/weft0/promote_secondaries=1",
		"ip addr add 10.48.0.1/24 dev weft0",
	}
	got := slices.DeleteFunc(w.guests["/a"].TakeChanges(), func(s string) bool { return strings.HasPrefix(s, "arping") })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff) // no routes: those are the engine's
	}
	if got := w.guests["/a"].Announced(); len(got) != 2 {
		t.Errorf("announced %q", got)
	}

	// Later, everything.
	spec.Addresses = append(spec.Addresses, more...)
	for i := range 2 {
		st, err := w.SetEndpoint("/a", ns, id, spec)
		if err != nil || i == 1 && len(st.Changed) != 0 {
			t.Errorf("%+v, %v", st, err)
		}
	}
	check(t, w.host.DelLink(end))
	st, err = w.SetEndpoint("/a", ns, id, spec)
	if err != nil || !st.Made || st.Interface != "weft0" {
		t.Errorf("made anew: %+v, %v", st, err)
	}
	if s, err := w.LookEndpoint("/a", ns, id); err != nil || len(s.Addresses) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	for range 2 {
		check(t, w.RemoveEndpoint(id))
	}
	if links, _ := w.guests["/a"].Links(); len(links) != 0 {
		t.Errorf("left inside: %+v", links)
	}
}

// TestEndpointAnew: what was moved is made again for who joins anew, and stays
// for who only looks.
func TestEndpointAnew(t *testing.T) {
	w := newWorld(t, "/a")
	id := "e"
	end, guest := EndpointEnds(id)
	_, err := w.AddEndpoint(id, endpointMAC, false)
	check(t, err)
	if _, err := w.host.Link(end); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made: %v", err)
	}
	_, err = w.AddEndpoint(id, endpointMAC, true)
	check(t, err)
	w.take(t, id, "/a")
	_, err = w.AddEndpoint(id, endpointMAC, false)
	check(t, err)
	if _, err := w.guests["/a"].Link("weft0"); err != nil {
		t.Errorf("taken from the container: %v", err)
	}
	_, err = w.AddEndpoint(id, endpointMAC, true)
	check(t, err)
	if _, err := w.guests["/a"].Link("weft0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old one is still there: %v", err)
	}
	if _, err := w.host.Link(guest); err != nil {
		t.Error(err)
	}
	links, err := w.Links()
	check(t, err)
	if there, sound := w.SoundEndpoint(links, id); !there || !sound {
		t.Errorf("there %v, sound %v", there, sound)
	}
	for _, l := range links {
		if want := map[string]string{end: id}[l.Name]; EndpointOf(l) != want {
			t.Errorf("%s is of endpoint %q", l.Name, EndpointOf(l))
		}
	}
}

// TestEndpointFails lets every call fail once: nothing is left behind.
func TestEndpointFails(t *testing.T) {
	boom := errors.New("boom")
	for n := 1; ; n++ {
		w := newWorld(t)
		w.host.FailCall(n, boom)
		calls := w.host.Calls()
		_, err := w.AddEndpoint("e", endpointMAC, true)
		made := w.host.Calls() - calls
		w.host.FailCall(0, nil)
		if err == nil {
			if n <= made {
				t.Errorf("call %d of %d failed, and nobody noticed", n, made)
			}
			return
		}
		if !errors.Is(err, boom) {
			t.Errorf("call %d: %v", n, err)
		}
		if links, _ := w.host.Links(); len(links) != 1 {
			t.Errorf("call %d left %+v", n, links)
		}
	}
}

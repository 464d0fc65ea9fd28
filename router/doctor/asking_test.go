package doctor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/path"
)

// TestKnocks: a member that tells addresses of others makes nobody dial them: only
// where its tunnel stands counts, and of a relayed one the first two.
func TestKnocks(t *testing.T) {
	at := netip.MustParseAddrPort
	var peer Peer
	peer.HelloPort = 22
	for _, a := range []string{"192.0.2.1:6784", "192.0.2.2:6784", "192.0.2.3:6784"} {
		peer.Endpoints = append(peer.Endpoints, at(a))
	}
	for _, tt := range []struct {
		name  string
		state path.State
		route path.Route
		want  []netip.AddrPort
	}{
		{"direct", path.Established, path.Route{Endpoint: at("[::ffff:198.51.100.7]:40000")}, []netip.AddrPort{at("198.51.100.7:22")}},
		{"relayed", path.Established, path.Route{Endpoint: at("198.51.100.9:6783"), Via: []crypto.Identity{{9}}}, []netip.AddrPort{at("192.0.2.1:22"), at("192.0.2.2:22")}},
		{"not there yet", path.Established + 1, path.Route{Endpoint: at("198.51.100.7:6784")}, nil},
		{"nothing tried", path.Established, path.Route{}, nil},
	} {
		peer.Path = path.Status{State: tt.state, Route: tt.route}
		if got := knocks(peer); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestReplies: one silence is no finding, two in a row are; news stay until there
// are others.
func TestReplies(t *testing.T) {
	now := time.Now()
	good := Checkup{Answered: true, Back: Closed, Names: Reached}
	var a reply
	a.take(good, now, true)
	a.take(Checkup{}, now, true)
	if a.said != good || a.silent != 1 {
		t.Errorf("after one silence: %+v", a)
	}
	a.take(Checkup{Answered: true}, now, false)
	if a.said != good || a.silent != 0 || a.news != now {
		t.Errorf("after an answer without news: %+v", a)
	}
	a.take(Checkup{}, now, false)
	a.take(Checkup{}, now, false)
	if a.said != (Checkup{}) || a.silent < silences {
		t.Errorf("after two silences: %+v", a)
	}
	later := now.Add(newsGap)
	a.take(Checkup{Answered: true, Back: Reached}, later, true)
	if a.said.Back != Reached || a.news != later {
		t.Errorf("after news: %+v", a)
	}
	// What did not come in time is asked for again soon, but not for ever.
	a.news = time.Time{}
	for i := range untolds {
		if !a.news.IsZero() {
			t.Errorf("%d times asked in vain, and it is left alone", i)
		}
		a.take(Checkup{Answered: true}, later, true)
	}
	if a.news != later || a.untold != 0 {
		t.Errorf("asked in vain %d times: %+v", untolds, a)
	}
}

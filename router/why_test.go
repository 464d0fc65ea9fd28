package router

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/tunnel"
)

// TestWhyFindsPeers: by name in any form, nickname or identity; neither
// ourselves nor one of two.
func TestWhyFindsPeers(t *testing.T) {
	self := host(1).Key.Identity()
	static := Static{Name: self.Name(), Nickname: "host1"}
	two, three, four := peerOf(t, 2, "host2"), peerOf(t, 3, "twin"), peerOf(t, 4, "twin")
	s := &tunnel.Snapshot{Peers: []tunnel.Peer{{Peer: two}, {Peer: three}, {Peer: four}}}
	for id, want := range map[string]string{
		"host2": two.Nickname, two.Name.String(): two.Nickname, two.Identity.String(): two.Nickname, four.Name.String(): four.Nickname,
	} {
		p, err := find(s, self, static, id)
		if err != nil || p.Nickname != want || id == four.Name.String() && p.Identity != four.Identity {
			t.Errorf("find %s: %s(%s), %v", id, p.Name, p.Nickname, err)
		}
	}
	for id, want := range map[string]error{"host9": api.ErrNotFound, "twin": api.ErrConflict, "": api.ErrUsage} {
		if _, err := find(s, self, static, id); !errors.Is(err, want) {
			t.Errorf("find %q: %v is not %v", id, err, want)
		}
	}
	if _, err := find(s, self, static, "host1"); err == nil || err.Error() != self.Name().String()+"(host1) is this host: name another one" {
		t.Errorf("find ourselves: %v", err)
	}
}

// TestWhys: one look tells of each what a look at it alone does, of the first of
// too many.
func TestWhys(t *testing.T) {
	w := newWorld()
	shown := &tunnel.Snapshot{Peers: []tunnel.Peer{{Peer: peerOf(t, 2, "host2")}, {Peer: peerOf(t, 3, "host3")}, {Peer: peerOf(t, 4, "host4")}}}
	r := New(Config{Observer: silent{}, Host: host(1), Mesh: fakeMesh{world: w}, Tunnels: shownTunnels{fakeTunnels{w}, shown}, Bridge: fakeBridge{w}})
	var want []api.Why
	for _, p := range shown.Peers {
		one, err := r.Why(t.Context(), p.Nickname)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, one)
	}
	for most := range 5 {
		if diff := cmp.Diff(want[:min(most, 3)], r.Whys(t.Context(), most), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("at most %d: %s", most, diff)
		}
	}
}

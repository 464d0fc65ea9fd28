package router

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/path"
)

func TestConnections(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	peer := peerOf(t, 2, "host2")
	dead := peer
	dead.Alive = false
	targeted := peer
	targeted.Target = "host2"
	targetedDead := dead
	targetedDead.Target = "host2"
	ep := peer.Candidates[0]
	at := netip.MustParseAddrPort("192.0.2.2:6783")
	for _, tc := range []struct {
		name    string
		tunnels []shownTunnel
		targets []mesh.Target
		want    []string
	}{
		{name: "nothing"},
		{
			name:    "met by gossip",
			tunnels: []shownTunnel{{peer: peer, state: path.Established, endpoint: ep, decider: true}},
			want:    []string{"-> 192.0.2.2:6784 established "},
		},
		{
			name:    "met by gossip, the other end decides",
			tunnels: []shownTunnel{{peer: peer, state: path.Established, endpoint: ep}},
			want:    []string{"<- 192.0.2.2:6784 established "},
		},
		{
			name:    "a target is shown as resolved",
			tunnels: []shownTunnel{{peer: targeted, state: path.Established, endpoint: ep}},
			targets: []mesh.Target{{Name: "host2", Address: at, State: mesh.Established, Peer: peer.Identity}},
			want:    []string{"-> 192.0.2.2:6783 established "},
		},
		{
			name:    "tunnel without gossip",
			tunnels: []shownTunnel{{peer: dead, state: path.Established, endpoint: ep}},
			want:    []string{"<- 192.0.2.2:6784 pending reached; waiting for its gossip"},
		},
		{
			name:    "silent",
			tunnels: []shownTunnel{{peer: dead, state: path.Established, endpoint: ep, silent: true, heard: now.Add(-time.Minute)}},
			want:    []string{"<- 192.0.2.2:6784 retrying nothing heard for 1m0s"},
		},
		{
			name:    "no answer",
			tunnels: []shownTunnel{{peer: dead, state: path.Connecting, endpoint: ep, handshake: now, since: now.Add(-time.Minute)}},
			want:    []string{"<- 192.0.2.2:6784 retrying no answer to WireGuard handshakes for 1m0s"},
		},
		{
			name:    "lost, and added to the device again",
			tunnels: []shownTunnel{{peer: dead, state: path.Connecting, endpoint: ep, stood: true, since: now}},
			want:    []string{"<- 192.0.2.2:6784 retrying no answer to WireGuard handshakes for 0s"},
		},
		{
			name:    "it has to call us",
			tunnels: []shownTunnel{{peer: dead, state: path.Pending}},
			want:    []string{"<- - retrying no address known; waiting for it to call"},
		},
		{
			name:    "refused target that was a peer",
			tunnels: []shownTunnel{{peer: targetedDead, state: path.Pending, endpoint: ep, handshake: now, since: now}},
			targets: []mesh.Target{{Name: "host2", Address: at, State: mesh.Failed, Err: "wrong password", Never: true, Peer: peer.Identity}},
			want:    []string{"-> 192.0.2.2:6783 failed wrong password, retry: never"},
		},
		{
			name: "targets that led to nobody",
			targets: []mesh.Target{
				{Name: "nowhere.example", State: mesh.Retrying, Err: "lookup nowhere.example: no such host"},
				{Name: "192.0.2.2", Address: at, State: mesh.Failed, Err: "cannot connect to ourself", Never: true},
			},
			want: []string{
				"-> nowhere.example retrying lookup nowhere.example: no such host",
				"-> 192.0.2.2:6783 failed cannot connect to ourself, retry: never",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := connections(tc.tunnels, tc.targets, 1370, "userspace", now)
			if len(got) != len(tc.want) {
				t.Fatalf("%d connections, want %d: %+v", len(got), len(tc.want), got)
			}
			for i, c := range got {
				arrow := "<-"
				if c.Outbound {
					arrow = "->"
				}
				line := strings.Join([]string{arrow, c.Address, string(c.State), strings.TrimPrefix(c.Info, peer.Name.String()+"(host2): ")}, " ")
				line = strings.Replace(line, peer.Name.String()+"(host2) is ", "", 1)
				if line != tc.want[i] {
					t.Errorf("got  %q\nwant %q", line, tc.want[i])
				}
			}
		})
	}
}

func TestLinkEntriesRoundTrip(t *testing.T) {
	id := host(3).Key.Identity()
	ep := netip.MustParseAddrPort("[2001:db8::1]:6784")
	e := mesh.Entry{Key: linkKeys + id.String(), Value: []byte(linkValue(api.Established, true, ep))}
	got, c, ok := parseLink(e)
	if !ok || got != id || c.State != api.Established || !c.Outbound || c.Address != ep.String() {
		t.Errorf("%v %+v %v", got, c, ok)
	}
	for _, bad := range []mesh.Entry{
		{Key: "n/" + id.String(), Value: e.Value},
		{Key: linkKeys + "xyz", Value: e.Value},
		{Key: e.Key, Value: []byte("established > nonsense")},
		{Key: e.Key, Value: []byte("failed > 192.0.2.1:1")},
		{Key: e.Key},
	} {
		if _, _, ok := parseLink(bad); ok {
			t.Errorf("%q %q was taken for a link", bad.Key, bad.Value)
		}
	}
}

func FuzzParseLink(f *testing.F) {
	id := host(3).Key.Identity()
	f.Add(linkKeys+id.String(), []byte("established > 192.0.2.1:6784"))
	f.Add(linkKeys+id.String(), []byte("pending < [::1]:1"))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		id, c, ok := parseLink(mesh.Entry{Key: key, Value: value})
		if !ok {
			return
		}
		ep := netip.MustParseAddrPort(c.Address)
		again, d, ok := parseLink(mesh.Entry{Key: linkKeys + id.String(), Value: []byte(linkValue(c.State, c.Outbound, ep))})
		if !ok || again != id || d.State != c.State || d.Outbound != c.Outbound || d.Address != c.Address {
			t.Errorf("%q %q does not come back", key, value)
		}
	})
}

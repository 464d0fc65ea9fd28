package router

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/tunnel"
	"github.com/weftnet/weft/router/wireguard"
)

func TestConnections(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	peer := peerOf(t, 2, "host2")
	dead := peer
	dead.Alive = false
	nowhere := dead
	nowhere.Candidates = nil
	targeted := peer
	targeted.Target = "host2"
	targetedDead := dead
	targetedDead.Target = "host2"
	ep := peer.Candidates[0]
	at := netip.MustParseAddrPort("192.0.2.2:6783")
	for _, tc := range []struct {
		name    string
		tunnels []tunnel.Peer
		targets []mesh.Target
		want    []string
	}{
		{name: "nothing"},
		{
			name:    "met by gossip",
			tunnels: []tunnel.Peer{{Peer: peer, Path: path.Status{State: path.Established, Route: path.Route{Endpoint: ep}}, Decider: true}},
			want:    []string{"-> 192.0.2.2:6784 established "},
		},
		{
			name:    "met by gossip, the other end decides",
			tunnels: []tunnel.Peer{{Peer: peer, Path: path.Status{State: path.Established, Route: path.Route{Endpoint: ep}}}},
			want:    []string{"<- 192.0.2.2:6784 established "},
		},
		{
			name:    "a target is shown as resolved",
			tunnels: []tunnel.Peer{{Peer: targeted, Path: path.Status{State: path.Established, Route: path.Route{Endpoint: ep}}}},
			targets: []mesh.Target{{Name: "host2", Address: at, State: mesh.Established, Peer: peer.Identity}},
			want:    []string{"-> 192.0.2.2:6783 established "},
		},
		{
			name:    "tunnel without gossip",
			tunnels: []tunnel.Peer{{Peer: dead, Path: path.Status{State: path.Established, Route: path.Route{Endpoint: ep}}}},
			want:    []string{"<- 192.0.2.2:6784 pending reached; waiting for its gossip"},
		},
		{
			name: "through a relay",
			tunnels: []tunnel.Peer{{Peer: peer, Path: path.Status{
				State: path.Established, Route: path.Route{Endpoint: at, Via: []crypto.Identity{peer.Identity}},
			}}},
			want: []string{"<- 192.0.2.2:6783 relayed "},
		},
		{
			name:    "silent",
			tunnels: []tunnel.Peer{{Peer: dead, Path: path.Status{State: path.Established, Route: path.Route{Endpoint: ep}}, Silent: true, Heard: now.Add(-time.Minute)}},
			want:    []string{"<- 192.0.2.2:6784 retrying nothing heard for 1m0s"},
		},
		{
			name:    "no answer",
			tunnels: []tunnel.Peer{{Peer: dead, Path: path.Status{State: path.Connecting, Since: now.Add(-time.Minute), Route: path.Route{Endpoint: ep}}, Device: wireguard.PeerStatus{LastHandshake: now}}},
			want:    []string{"<- 192.0.2.2:6784 retrying no answer to WireGuard handshakes for 1m0s"},
		},
		{
			name:    "lost, and added to the device again",
			tunnels: []tunnel.Peer{{Peer: dead, Path: path.Status{State: path.Connecting, Since: now, Route: path.Route{Endpoint: ep}}, Stood: true}},
			want:    []string{"<- 192.0.2.2:6784 retrying no answer to WireGuard handshakes for 0s"},
		},
		{
			name:    "it has to call us",
			tunnels: []tunnel.Peer{{Peer: nowhere, Path: path.Status{State: path.Pending}}},
			want:    []string{"<- - retrying no address known; waiting for it to call"},
		},
		{
			name:    "refused target that was a peer",
			tunnels: []tunnel.Peer{{Peer: targetedDead, Path: path.Status{State: path.Pending, Since: now, Route: path.Route{Endpoint: ep}}, Device: wireguard.PeerStatus{LastHandshake: now}}},
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
			got := connections(&tunnel.Snapshot{Peers: tc.tunnels}, tc.targets, "userspace", now)
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

// What the kernel's WireGuard does not count the firewall does; wireguard-go
// counts by itself.
func TestFragmentedByDataPath(t *testing.T) {
	peer := peerOf(t, 2, "host2")
	ep := peer.Candidates[0]
	shown := &tunnel.Snapshot{Peers: []tunnel.Peer{{
		Peer: peer, Path: path.Status{State: path.Established, Route: path.Route{Endpoint: ep}},
		Device: wireguard.PeerStatus{Fragmented: 3},
	}}}
	for _, tc := range []struct {
		name string
		cut  map[netip.AddrPort]uint64
		err  error
		want uint64
	}{
		{"kernel", map[netip.AddrPort]uint64{ep: 9}, nil, 9},
		{"userspace, or no narrow path", nil, nil, 3},
		{"nft fails", nil, errors.New("broken"), 3},
	} {
		w := newWorld()
		w.cut, w.cutErr = tc.cut, tc.err
		r := New(Config{Observer: silent{}, Host: host(1), Tunnels: shownTunnels{fakeTunnels{w}, shown}, Bridge: fakeBridge{w}})
		if got := r.snapshot(t.Context()).Peers[0].Device.Fragmented; got != tc.want {
			t.Errorf("%s: %d", tc.name, got)
		}
		if shown.Peers[0].Device.Fragmented != 3 {
			t.Fatal("a snapshot was changed")
		}
	}
}

// shownTunnels are tunnels with a snapshot.
type shownTunnels struct {
	fakeTunnels
	shown *tunnel.Snapshot
}

func (s shownTunnels) Snapshot() *tunnel.Snapshot { return s.shown }

package ui

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// cluster is host1 of three: host2 is direct, host3 relayed, all is well.
func cluster() api.Status {
	name := []string{"", "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"}
	link := func(i int, s api.State) api.PeerConnection {
		return api.PeerConnection{Name: name[i], Nickname: "host" + string(rune('0'+i)), State: s, RTT: time.Millisecond, MTU: 1500}
	}
	addr := netip.MustParseAddr
	return api.Status{
		Ready: true, Version: "0.1.0", Name: name[1], Nickname: "host1", Cluster: "weft", Datapath: "userspace", MTU: 1370,
		Connections: []api.Connection{
			{Name: name[2], Nickname: "host2", State: api.Established, Address: "192.0.2.2:6784", RTT: 400 * time.Microsecond, MTU: 1370, RxBytes: 5, TxBytes: 7},
			{Name: name[3], Nickname: "host3", State: api.Relayed, Via: []string{"host2"}, Loss: 0.01, MTU: 1370},
		},
		Peers: []api.Peer{
			{Name: name[1], Nickname: "host1", Self: true, Alive: true, Connections: []api.PeerConnection{link(2, api.Established), link(3, api.Relayed)}},
			{
				Name: name[2], Nickname: "host2", Alive: true, Connections: []api.PeerConnection{link(1, api.Established), link(3, api.Established)},
				Attached: []api.Attached{{MAC: "02:00:00:00:02:01", Addresses: []netip.Addr{addr("10.32.0.2")}}},
			},
			{Name: name[3], Nickname: "host3", Alive: true, Connections: []api.PeerConnection{link(1, api.Relayed), link(2, api.Established)}},
		},
		DNS: &api.DNS{Domain: "weft.internal.", Entries: []api.NameEntry{
			{Hostname: "web.weft.internal.", Origin: name[1], ContainerID: strings.Repeat("0123456789abcdef", 4), Address: addr("10.32.0.1")},
			{Hostname: "web.weft.internal.", Origin: name[1], ContainerID: strings.Repeat("0123456789abcdef", 4), Address: addr("10.32.0.9")},
			{Hostname: "db.weft.internal.", Origin: name[2], ContainerID: strings.Repeat("fedcba9876543210", 4), Address: addr("10.32.0.2")},
			{Hostname: "gone.weft.internal.", Origin: name[2], Address: addr("10.32.0.3"), Tombstone: true},
		}},
		IPAM: &api.IPAM{State: "ready", Range: netip.MustParsePrefix("10.32.0.0/12"), RangeIPs: 1 << 20, Entries: []api.IPAMEntry{
			{Name: name[1], Nickname: "host1", Token: addr("10.40.0.0"), IPs: 3, Active: 2, Self: true},
			{Name: name[2], Token: addr("10.32.0.0"), IPs: 4, Active: -1, Reachable: true},
		}},
	}
}

// TestDraw holds the picture of a cluster where all is well.
func TestDraw(t *testing.T) {
	now := time.UnixMilli(1763600000123)
	a, b, c := "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
	zero := "invalid IP"
	want := Picture{
		Now: 1763600000123, Self: a, Cluster: "weft", Version: "0.1.0", Datapath: "userspace", MTU: 1370, Names: 2, Domain: "weft.internal.",
		Say: []Say{{Well, "All is well: 3 hosts. This one reaches one directly and one through others.", ""}},
		Hosts: []Host{
			{ID: a, Nickname: "host1", Self: true, Alive: true, Overlay: zero},
			{ID: b, Nickname: "host2", Alive: true, State: Direct, Attached: 1, Overlay: zero},
			{ID: c, Nickname: "host3", Alive: true, State: Relayed, Overlay: zero},
		},
		Paths: []Path{
			{A: a, B: b, Own: true, State: Direct, RTT: 0.4, MTU: 1370, Address: "192.0.2.2:6784", Rx: 5, Tx: 7},
			{A: a, B: c, Own: true, State: Relayed, Loss: 0.01, MTU: 1370, Via: []string{"host2"}},
			{A: b, B: c, State: Direct, RTT: 1, MTU: 1500},
		},
		Space: &Space{Range: "10.32.0.0/12", State: "ready", IPs: 1 << 20, Owners: []Owner{
			{ID: b, Nickname: b, First: "10.32.0.0", IPs: 4, Active: -1, Reachable: true},
			{ID: a, Nickname: "host1", First: "10.40.0.0", IPs: 3, Active: 2, Reachable: true, Self: true},
		}},
	}
	if diff := cmp.Diff(want, Draw(cluster(), now)); diff != "" {
		t.Errorf("picture (-want +got):\n%s", diff)
	}
}

// TestSay holds the sentence on top, and what else is said.
func TestSay(t *testing.T) {
	dead := func(s *api.Status, i int, info string) {
		s.Connections[i-2].State, s.Connections[i-2].Info = api.Retrying, info
		name := s.Connections[i-2].Name
		s.Peers = slices.DeleteFunc(s.Peers, func(p api.Peer) bool { return p.Name == name })
	}
	for _, tt := range []struct {
		name   string
		change func(*api.Status)
		want   []Say
	}{
		{"two hosts", func(s *api.Status) {
			s.Connections, s.Peers = s.Connections[:1], s.Peers[:2]
			s.Peers[1].Connections = nil
		}, []Say{
			{Well, "All is well: two hosts, which reach each other directly.", ""},
		}},
		{"alone", func(s *api.Status) { s.Connections, s.Peers = nil, s.Peers[:1] }, []Say{
			{Well, "All is well. This host is alone: 'weft token' tells how others join.", ""},
		}},
		{"all direct", func(s *api.Status) {
			s.Connections[1].State, s.Peers[2].Connections[0].State = api.Established, api.Established
		}, []Say{{Well, "All is well: 3 hosts, and this one reaches all others directly.", ""}}},
		{"a host is gone for all", func(s *api.Status) {
			dead(s, 3, "02:00:00:00:00:03(host3): nothing heard for 12s")
			s.Peers[1].Connections[1].State = api.Pending
		}, []Say{{Bad, "No host has a path to host3: it is down, or cut off (nothing heard for 12s).", "02:00:00:00:00:03"}}},
		{"a host is gone for us", func(s *api.Status) { dead(s, 3, "") }, []Say{
			{Bad, "No path to host3 from this host; another one has one.", "02:00:00:00:00:03"},
		}},
		{"a target that nobody answers at", func(s *api.Status) {
			s.Connections = append(s.Connections, api.Connection{Address: "192.0.2.9:6783", State: api.Failed, Info: "wrong password, retry: later"})
		}, []Say{{Bad, "Nobody that belongs here answers at 192.0.2.9:6783 (wrong password, retry: later).", "192.0.2.9:6783"}}},
		{"ourselves as a target", func(s *api.Status) {
			s.Connections = append(s.Connections, api.Connection{Address: "192.0.2.1:6783", State: api.Failed, Info: "cannot connect to ourself, retry: never"})
		}, []Say{{Well, "All is well: 3 hosts. This one reaches one directly and one through others.", ""}}},
		{"a path in the making, and loss", func(s *api.Status) {
			s.Connections[0].Loss, s.Connections[1].State = 0.126, api.Connecting
		}, []Say{
			{Warning, "The path to host2 loses 13% of its packets. And one more.", "02:00:00:00:00:02"},
			{Warning, "The path to host2 loses 13% of its packets.", "02:00:00:00:00:02"},
			{Warning, "The path to host3 is being set up.", "02:00:00:00:00:03"},
		}},
		{"others do not reach each other", func(s *api.Status) { s.Peers[1].Connections[1].State = api.Pending }, []Say{
			{Warning, "host2 and host3 have no path to each other.", ""},
		}},
		{"the other end does not agree", func(s *api.Status) { s.Peers[1].Connections[0].State = api.Pending }, []Say{
			{Warning, "host2 says that it has no path to this host, although this host has one to it.", "02:00:00:00:00:02"},
		}},
		{"the worst first", func(s *api.Status) {
			s.Ready, s.Waiting = false, "containers are being restored"
			s.Warnings = []string{"the clock is wrong"}
			s.IPAM.State = "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
			s.IPAM.Duplicates = []api.IPAMDuplicate{{Address: netip.MustParseAddr("10.32.0.7"), Holders: []string{"host1: web", "host2: db"}}}
		}, []Say{
			{Bad, "Two hosts hold the address 10.32.0.7: host1: web, host2: db. And 3 more.", ""},
			{Bad, "Two hosts hold the address 10.32.0.7: host1: web, host2: db.", ""},
			{Bad, "Containers wait for addresses: all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead.", ""},
			{Warning, "This host is not ready yet: containers are being restored.", "02:00:00:00:00:01"},
			{Warning, "the clock is wrong", ""},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := cluster()
			tt.change(&s)
			if diff := cmp.Diff(tt.want, Draw(s, time.Now()).Say); diff != "" {
				t.Errorf("it says (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMany holds that the picture of a large cluster stays small: direct paths
// between others are counted, not listed.
func TestMany(t *testing.T) {
	const n = 300
	s := api.Status{Ready: true, Nickname: "self"}
	name := func(i int) string { return netip.AddrFrom4([4]byte{byte(i >> 8), byte(i)}).String() }
	for i := range n {
		p := api.Peer{Name: name(i), Nickname: "host", Self: i == 0, Alive: true}
		for j := range n {
			state := api.Established
			if i > 100 && j > 100 {
				state = api.Pending // a whole site
			}
			if j != i {
				p.Connections = append(p.Connections, api.PeerConnection{Name: name(j), State: state})
			}
		}
		if s.Peers = append(s.Peers, p); i > 0 {
			s.Connections = append(s.Connections, api.Connection{Name: name(i), State: api.Established})
		}
	}
	s.Name = name(0)
	p := Draw(s, time.Now())
	if len(p.Hosts) != n || len(p.Paths) != n-1+maxOther {
		t.Errorf("%d hosts and %d paths, want %d and %d", len(p.Hosts), len(p.Paths), n, n-1+maxOther)
	}
	if p.Left < 20000 || p.Left > n*n/2 {
		t.Errorf("%d paths are said to be left out", p.Left)
	}
	if text := p.Say[0].Text; len(text) > 400 {
		t.Errorf("the sentence has %d bytes: %s", len(text), text)
	}
}

// TestTable holds that text is not markup, whoever chose it.
func TestTable(t *testing.T) {
	s := cluster()
	s.Connections[0].Nickname, s.Peers[1].Nickname = "<script>", "<script>"
	s.Connections[0].Info, s.Connections[0].State = `"><img src=x onerror=alert(1)>`, api.Retrying
	u := New(Config{Backend: &fake{status: s}})
	cookie := enter(t, u)
	r := request("/ui/table")
	r.AddCookie(cookie)
	w := serve(u, r)
	text := w.Body.String()
	if w.Code != 200 || strings.Contains(text, "<script>") || strings.Contains(text, "<img src=x") {
		t.Errorf("%d: text is markup:\n%s", w.Code, text)
	}
	for _, has := range []string{"&lt;script&gt;", "through others", "no path", "10.32.0.0/12", "web.weft.internal."} {
		if !strings.Contains(text, has) {
			t.Errorf("the tables have no %q:\n%s", has, text)
		}
	}
}

func TestNatural(t *testing.T) {
	want := []string{"", "10.9.0.0", "10.32.0.0", "a", "host", "host1", "host02", "host9", "host10", "host10b", "hosts"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, natural)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

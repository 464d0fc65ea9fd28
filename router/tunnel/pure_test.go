package tunnel

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/path"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func identity(b byte) crypto.Identity { return crypto.KeyFromSeed([32]byte{b}).Identity() }

func TestPunchRoundTrip(t *testing.T) {
	list := []netip.AddrPort{addrPort("192.0.2.1:6784"), addrPort("[2001:db8::1]:7")}
	got, err := parsePunch(encodePunch(list))
	if err != nil || !slices.Equal(got, list) {
		t.Errorf("%v, %v", got, err)
	}
	many := slices.Repeat(list, advert.MaxEndpoints)
	if got, err := parsePunch(encodePunch(many)); err != nil || len(got) != advert.MaxEndpoints {
		t.Errorf("%d endpoints, %v", len(got), err)
	}
	for _, bad := range [][]byte{nil, {PunchByte}, {PunchByte, 2}, {PunchByte, 1, 0}, slices.Repeat([]byte{PunchByte, 1}, 1+18*5)} {
		if got, err := parsePunch(bad); err == nil {
			t.Errorf("% x is %v", bad, got)
		}
	}
}

func FuzzParsePunch(f *testing.F) {
	f.Add(encodePunch(nil))
	f.Add(encodePunch([]netip.AddrPort{addrPort("192.0.2.1:6784"), addrPort("[2001:db8::1]:7")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := parsePunch(b); err == nil && !bytes.Equal(encodePunch(list), b) {
			t.Errorf("% x became % x", b, encodePunch(list))
		}
	})
}

func TestObserved(t *testing.T) {
	now := time.Unix(1000, 0)
	own := []netip.AddrPort{addrPort("10.0.0.5:6784")}
	for _, tc := range []struct {
		name string
		seen []string // by peer 1, 2, …; "old " first: too long ago
		list []string
		kind topology.NATKind
	}{
		{"nobody told", nil, nil, topology.NATUnknown},
		{"no NAT", []string{"10.0.0.5:6784", "10.0.0.5:6784"}, nil, topology.NATNone},
		{
			"a NAT that keeps ports",
			[]string{"203.0.113.1:6784", "203.0.113.1:6784", "10.0.0.5:6784"},
			[]string{"203.0.113.1:6784"},
			topology.NATEndpointIndependent,
		},
		{
			"a symmetric NAT",
			[]string{"203.0.113.1:6784", "203.0.113.1:40000", "203.0.113.1:50000"},
			nil,
			topology.NATSymmetric,
		},
		{
			"two ways out",
			[]string{"203.0.113.1:6784", "198.51.100.1:6784"},
			[]string{"198.51.100.1:6784"},
			topology.NATEndpointIndependent,
		},
		{
			"one lies",
			[]string{"203.0.113.1:6784", "198.51.100.66:53", "203.0.113.1:6784"},
			[]string{"203.0.113.1:6784"},
			topology.NATEndpointIndependent,
		},
		{
			"one lies about the port",
			[]string{"203.0.113.1:6784", "203.0.113.1:6784", "203.0.113.1:1", "203.0.113.1:6784"},
			[]string{"203.0.113.1:6784"},
			topology.NATEndpointIndependent,
		},
		{
			"no more than three",
			[]string{
				"203.0.113.1:1", "203.0.113.2:1", "203.0.113.3:1", "203.0.113.4:1",
				"203.0.113.1:1", "203.0.113.2:1", "203.0.113.3:1", "203.0.113.4:1",
			},
			[]string{"203.0.113.1:1", "203.0.113.2:1", "203.0.113.3:1"},
			topology.NATEndpointIndependent,
		},
		{"long ago", []string{"old 203.0.113.1:6784"}, nil, topology.NATUnknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := newObserved()
			for i, s := range tc.seen {
				at := now
				if rest, ok := strings.CutPrefix(s, "old "); ok {
					s, at = rest, now.Add(-time.Hour)
				}
				o.observe(at, identity(byte(i+1)), addrPort(s))
			}
			if got := o.kind(now, own); got != tc.kind {
				t.Errorf("NAT: %s, want %s", got, tc.kind)
			}
			var got []string
			for _, ep := range o.list(now, own) {
				got = append(got, ep.String())
			}
			if d := cmp.Diff(tc.list, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	now := time.Unix(1000, 0)
	ep, other := addrPort("192.0.2.2:6784"), addrPort("[2001:db8::2]:6784")
	direct := path.Route{Endpoint: ep}
	relayed := path.Route{Endpoint: addrPort("192.0.2.9:6783"), Via: []crypto.Identity{identity(9)}}
	silent := []path.CandidateStatus{{Endpoint: ep, Asked: now}}
	view := mesh.View{Self: advert.Signed{Advert: advert.Advert{HelloPort: 6783, Endpoints: []netip.AddrPort{addrPort("192.0.2.1:6784")}}}}
	with := func(r path.Route, c []path.CandidateStatus, change func(*Peer)) Peer {
		p := Peer{Path: path.Status{State: path.Established, Route: r, Candidates: c}}
		p.Nickname, p.Alive = "host2", true
		if change != nil {
			change(&p)
		}
		return p
	}
	for _, tc := range []struct {
		name         string
		nat          topology.NATKind
		peer         Peer
		reason, help string // parts; empty: there is none
	}{
		{name: "direct", peer: with(direct, nil, nil)},
		{name: "direct with loss", peer: with(direct, nil, func(p *Peer) { p.Path.Loss = 0.3 }), reason: "30 %", help: "network"},
		{name: "one by one", peer: with(direct, nil, func(p *Peer) { p.Way.Single = true }), reason: "sent alone do", help: "ethtool"},
		{name: "no answer", peer: with(relayed, silent, nil), reason: "none of its addresses answers", help: "UDP port 6784"},
		{name: "answers now", peer: with(relayed, []path.CandidateStatus{{Endpoint: ep, Asked: now, Answered: now}}, nil), reason: "answers now"},
		{name: "not dialled", peer: with(relayed, nil, nil), reason: "may be dialled", help: "weft connect"},
		{name: "symmetric here", nat: topology.NATSymmetric, peer: with(relayed, silent, nil), reason: "this host is behind a NAT", help: "6784"},
		{name: "symmetric there", peer: with(relayed, silent, func(p *Peer) { p.Report.NAT = topology.NATSymmetric }), reason: "host2 is behind a NAT", help: "6784"},
		{name: "symmetric both", nat: topology.NATSymmetric, peer: with(relayed, silent, func(p *Peer) { p.Report.NAT = topology.NATSymmetric }), reason: "both hosts", help: "6784"},
		{name: "no protocol in common", peer: with(relayed, []path.CandidateStatus{{Endpoint: other, Asked: now}}, nil), reason: "no protocol in common", help: "address"},
		{name: "one way", peer: with(relayed, silent, func(p *Peer) { p.Path.OneWay = true }), reason: "one direction", help: "firewall"},
		{name: "no path", peer: with(path.Route{}, nil, func(p *Peer) { p.Path.State = path.Pending }), reason: "no address of it is known", help: "connect"},
		{
			name: "dead", peer: with(path.Route{}, silent, func(p *Peer) {
				p.Path.State, p.Alive, p.Candidates = path.Connecting, false, []netip.AddrPort{ep}
			}), reason: "does not answer", help: "rmpeer",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &Snapshot{View: view, NAT: tc.nat}
			reason, help := s.Explain(tc.peer, now)
			if !strings.Contains(reason, tc.reason) || (tc.reason == "") != (reason == "") {
				t.Errorf("reason: %q, want %q in it", reason, tc.reason)
			}
			if !strings.Contains(help, tc.help) || (tc.help == "") != (help == "") {
				t.Errorf("help: %q, want %q in it", help, tc.help)
			}
		})
	}
}

// A relay's number is told when it has stood still, and stays told until the next
// one has, or the path leads elsewhere.
func TestSteady(t *testing.T) {
	var s steady
	at, other := addrPort("192.0.2.1:6783"), addrPort("192.0.2.2:6783")
	begun := time.Unix(1000, 0)
	for _, step := range []struct {
		after    time.Duration
		endpoint netip.AddrPort
		mtu      int
		told     int
	}{
		{0, at, 576, 0},
		{10 * time.Second, at, 1000, 0},
		{16 * time.Second, at, 1280, 0},
		{30 * time.Second, at, 1280, 0},
		{31 * time.Second, at, 1280, 1280},
		{40 * time.Second, at, 576, 1280},
		{50 * time.Second, at, 900, 1280},
		{65 * time.Second, at, 900, 900},
		{66 * time.Second, other, 900, 0},
		{81 * time.Second, other, 900, 900},
	} {
		s.see(begun.Add(step.after), step.endpoint, step.mtu)
		if s.told != step.told {
			t.Errorf("after %s: told %d, want %d", step.after, s.told, step.told)
		}
	}
}

// A NAT is not forgotten because those who told of it are idle, and a host beside
// us sees none; when our addresses change, all is new.
func TestNATIsRemembered(t *testing.T) {
	now := time.Unix(1000, 0)
	own := []netip.AddrPort{addrPort("10.0.0.5:6784")}
	o := newObserved()
	want := func(when string, kind topology.NATKind) {
		t.Helper()
		if got := o.kind(now, own); got != kind {
			t.Errorf("%s: %s, want %s", when, got, kind)
		}
	}
	o.observe(now, identity(2), own[0])
	want("one beside us", topology.NATNone)
	now = now.Add(2 * observedAge)
	want("all are idle", topology.NATNone)
	o.observe(now, identity(1), addrPort("203.0.113.1:6784"))
	want("one far away", topology.NATEndpointIndependent)
	now = now.Add(2 * observedAge)
	o.observe(now, identity(2), own[0])
	want("that one is idle", topology.NATEndpointIndependent)
	now = now.Add(2 * observedAge)
	want("all are idle again", topology.NATEndpointIndependent)
	if list := o.list(now, own); len(list) > 0 {
		t.Errorf("an old address is told: %v", list)
	}
	o.forget()
	want("elsewhere", topology.NATUnknown)
}

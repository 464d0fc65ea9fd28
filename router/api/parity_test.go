package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func prefixes(list ...string) Addresses {
	var a Addresses
	for _, s := range list {
		a = append(a, netip.MustParsePrefix(s))
	}
	return a
}

func fullStatus() Status {
	return Status{
		Ready: true, Version: "0.1.0", Protocol: "weft 1", Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1",
		Identity: strings.Repeat("ab", 32), Overlay: netip.MustParseAddr("fd77:6566:7400::1"), Port: 6783,
		Cluster: "weft", Datapath: "userspace", MTU: 1370, PeerDiscovery: true,
		TrustedSubnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Targets:        []string{"host2", "192.0.2.12:7000"},
		Connections: []Connection{{
			Address: "192.0.2.12:6783", Outbound: true, State: Established, Name: "f6:42:1d:0a:5e:01", Nickname: "host2",
			Overlay: netip.MustParseAddr("fd77:6566:7400::2"), Encrypted: true, Datapath: "userspace", MTU: 1370,
			RTT: 412 * time.Microsecond, Loss: 1.0 / 64, Handshake: time.Unix(1763600000, 123456789), RxBytes: 1 << 60, TxBytes: 7, Changes: 3, Fragmented: 1 << 61,
		}, {
			Address: "198.51.100.7:6783", State: Relayed, Via: []string{"host2", "host4"}, Changes: 1<<64 - 1,
		}, {
			Address: "192.0.2.14:6783", State: Retrying, Info: "dial tcp: no route to host <ü> & \"quotes\"",
		}},
		Peers: []Peer{{
			Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1", Self: true, Alive: true, Boot: 1<<64 - 1, Version: 9,
			Connections: []PeerConnection{{Name: "f6:42:1d:0a:5e:01", Nickname: "host2", Address: "192.0.2.12:6783", Outbound: true, State: Established, RTT: 400 * time.Microsecond, MTU: 1500}},
			Attached:    []Attached{{MAC: "02:00:00:00:00:01", Addresses: []netip.Addr{netip.MustParseAddr("10.32.0.1")}}},
		}},
		DNS: &DNS{
			Domain: "weft.internal.", Upstream: []string{"192.0.2.53"}, Address: "169.254.67.83:53", TTL: 1,
			Entries: []NameEntry{{Hostname: "web.weft.internal.", Origin: "8a:3e:3e:3e:3e:3e", ContainerID: "abc", Address: netip.MustParseAddr("10.32.0.1"), Version: 3}},
		},
		IPAM:     fullIPAM(),
		Relay:    &RelayStatus{Packets: 1<<64 - 1, Bytes: 1 << 60, Sessions: 4, Bound: 2, Dropped: map[string]uint64{"replay": 1, "unknown_index": 9}},
		Warnings: []string{"one"}, Findings: fullDiagnosis().Findings,
	}
}

func fullWhy() Why {
	at := time.Unix(1763600000, 123456789)
	return Why{
		Name: "02:9c:11:ab:7d:66", Nickname: "host3", Identity: strings.Repeat("02", 32), Overlay: netip.MustParseAddr("fd77:6566:7400::3"),
		State: Relayed, Info: "<ü> & \"quotes\"", Address: "198.51.100.7:6783", Via: []string{"host2"}, Since: at, Decider: true,
		RTT: 1100 * time.Microsecond, Loss: 1.0 / 3, MTU: 1370, PathMTU: 1500, Handshake: at, RxBytes: 1<<64 - 1, TxBytes: 7, Fragmented: 5,
		Reason: "192.0.2.13:6784 does not answer", Help: "let UDP 6784 in at host3",
		Candidates: []WhyCandidate{{Address: "192.0.2.13:6784", State: CandidateSilent, Asked: at}, {Address: "[2001:db8::13]:6784", State: CandidateAnswers, RTT: 1, Asked: at, Answered: at}},
		Relays:     []WhyRelay{{Via: []string{"host2"}, RTT: time.Millisecond, MTU: 1500, InUse: true}, {Via: []string{"host4", "host5"}}},
		Changes:    1<<64 - 1, History: []WhyChange{{At: at, From: "192.0.2.13:6784", To: "via host2", Why: "no answer for 2.1s"}},
	}
}

func fullEndpoint() Endpoint {
	return Endpoint{
		ID: strings.Repeat("e", 64), MAC: "02:00:00:00:00:01", Addresses: prefixes("10.32.0.1/12", "fd00::1/64"),
		Interface: "wvg123456789ab", Prefix: "weft", DNS: netip.MustParseAddr("169.254.67.83"), Multicast: true,
	}
}

func fullIPAM() *IPAM {
	return &IPAM{
		State: "awaiting consensus (quorum: 2, known: 1)", Range: netip.MustParsePrefix("10.32.0.0/12"), DefaultSubnet: netip.MustParsePrefix("10.33.0.0/16"),
		RangeIPs: 1<<64 - 1, Active: 2, Ring: strings.Repeat("0f", 16),
		Entries: []IPAMEntry{
			{Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1", Identity: strings.Repeat("ab", 32), Token: netip.MustParseAddr("10.32.0.0"), IPs: 1 << 19, Blocks: 2048, Version: 3, Active: 2, Self: true, Known: true, Reachable: true},
			{Name: "02:00:00:00:00:09", Token: netip.MustParseAddr("10.40.0.0"), IPs: 1 << 19, Blocks: 2048, Active: -1},
		},
		Pending:    []IPAMPending{{Kind: "claim", Container: "web", What: "10.41.0.1/12", Why: "host2 is out of reach", Since: time.Unix(1763600000, 0)}},
		Duplicates: []IPAMDuplicate{{Address: netip.MustParseAddr("10.32.0.7"), Holders: []string{"host1: web (3f2a…)", "host2: db (77aa…)"}}},
		Warnings:   []string{"two"}, UnreachablePeers: 1, UnreachableIPs: 1 << 19,
	}
}

// TestBothSides drives the same cases through a Backend itself and through
// client and server in front of it: nobody can tell the difference.
func TestBothSides(t *testing.T) {
	noLeaks(t)
	type call func(context.Context, Backend) (any, error)
	onTheWay := reasonsOnTheWay()
	attach := func(ctx context.Context, b Backend) (any, error) {
		return b.Attach(ctx, AttachRequest{
			Container: "web", Addresses: []string{"10.32.0.1/12"}, WithoutDNS: true, RewriteHosts: true,
			AddHosts: []string{"db:10.32.0.2"}, NoMulticastRoute: true, MAC: "02:00:00:00:00:01",
		})
	}
	logs := func(follow bool) call {
		return func(ctx context.Context, b Backend) (any, error) {
			var out bytes.Buffer
			err := b.Logs(ctx, follow, &out)
			return out.String(), err
		}
	}
	tests := []struct {
		name string
		fake func() *fake
		call call
	}{
		{"status", func() *fake { return &fake{status: fullStatus()} }, func(ctx context.Context, b Backend) (any, error) { return b.Status(ctx) }},
		{"zero status", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return b.Status(ctx) }},
		{"status fails", func() *fake { return &fake{err: errors.New("no")} }, func(ctx context.Context, b Backend) (any, error) { return b.Status(ctx) }},
		{"why", func() *fake { return &fake{why: fullWhy()} }, func(ctx context.Context, b Backend) (any, error) { return b.Why(ctx, "host3") }},
		{"zero why", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return b.Why(ctx, "") }},
		{"why of an odd name", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Why(ctx, "a&peer=b +%41/ü\n")
		}},
		{"why of nobody", func() *fake { return &fake{err: fmt.Errorf("no peer is called host9: %w", ErrNotFound)} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Why(ctx, "host9")
		}},
		{"why of two", func() *fake { return &fake{err: fmt.Errorf("2 peers are called twin: %w", ErrConflict)} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Why(ctx, "twin")
		}},
		{"ui", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return b.UI(ctx, UIRequest{}) }},
		{"ui without a listener", func() *fake { return &fake{err: fmt.Errorf("there is no status address: %w", ErrConflict)} }, func(ctx context.Context, b Backend) (any, error) {
			return b.UI(ctx, UIRequest{})
		}},
		{"doctor", func() *fake { return &fake{diagnosis: fullDiagnosis()} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Doctor(ctx, DoctorRequest{})
		}},
		{"doctor of a peer", func() *fake { return &fake{err: fmt.Errorf("no peer is called a&b: %w", ErrNotFound)} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Doctor(ctx, DoctorRequest{Peer: "a&b=c"})
		}},
		{"connect", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) {
			return nil, b.Connect(ctx, ConnectRequest{Targets: []string{"host2", "[fd00::1]:7000"}, Replace: true})
		}},
		{"connect is wrong", func() *fake { return &fake{err: fmt.Errorf("peer %q: %w", "x y", ErrUsage)} }, func(ctx context.Context, b Backend) (any, error) {
			return nil, b.Connect(ctx, ConnectRequest{})
		}},
		{"forget", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) {
			return nil, b.Forget(ctx, []string{"host2"})
		}},
		{"forget nobody", func() *fake { return &fake{err: ErrNotFound} }, func(ctx context.Context, b Backend) (any, error) { return nil, b.Forget(ctx, nil) }},
		{"attach", func() *fake { return &fake{addresses: prefixes("10.32.0.1/12", "fd00::1/64")} }, attach},
		{"attach without addresses", func() *fake { return &fake{addresses: Addresses{}} }, attach},
		{"attach conflicts", func() *fake {
			return &fake{err: fmt.Errorf("attach web: 10.32.0.1/12 is held by db: %w", ErrConflict)}
		}, attach},
		{"attach finds nothing", func() *fake { return &fake{err: fmt.Errorf("attach web: %w", ErrNotFound)} }, attach},
		{"attach fails in two ways", func() *fake { return &fake{err: errors.Join(ErrConflict, ErrUsage)} }, attach},
		{"attach fails oddly", func() *fake { return &fake{err: errors.New("line\nbreak \x00 <&> \u2028")} }, attach},
		{"detach", func() *fake { return &fake{addresses: prefixes("10.32.0.1/12")} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Detach(ctx, DetachRequest{Container: "web", Addresses: []string{"10.32.0.1/12"}})
		}},
		{"reserve", func() *fake { return &fake{reserved: netip.MustParsePrefix("10.32.0.9/12")} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Reserve(ctx, ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12"), Within: netip.MustParsePrefix("10.32.4.0/24"), Address: netip.MustParseAddr("10.32.4.7"), Label: "net <1>"})
		}},
		{"reserve anything", func() *fake { return &fake{reserved: netip.MustParsePrefix("fd00::9/64")} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Reserve(ctx, ReserveRequest{Subnet: netip.MustParsePrefix("fd00::/64")})
		}},
		{"reserve nothing", func() *fake { return &fake{err: fmt.Errorf("subnet is full: %w", ErrConflict)} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Reserve(ctx, ReserveRequest{})
		}},
		{"unreserve", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) {
			return nil, b.Unreserve(ctx, netip.MustParseAddr("10.32.0.9"))
		}},
		{"unreserve fails", func() *fake { return &fake{err: errors.New("disk full")} }, func(ctx context.Context, b Backend) (any, error) {
			return nil, b.Unreserve(ctx, netip.Addr{})
		}},
		{"add endpoint", func() *fake { return &fake{endpoint: fullEndpoint()} }, func(ctx context.Context, b Backend) (any, error) {
			return b.AddEndpoint(ctx, EndpointRequest{
				ID: strings.Repeat("e", 64), Network: strings.Repeat("f", 64), MAC: "02:00:00:00:00:01", Addresses: prefixes("10.32.0.1/12", "fd00::1/64"),
				Container: strings.Repeat("c", 64), Extra: []string{"net:10.33.0.0/16"}, WithoutDNS: true, NoMulticastRoute: true,
			})
		}},
		{"add endpoint of nothing", func() *fake { return &fake{err: fmt.Errorf("no id: %w", ErrUsage)} }, func(ctx context.Context, b Backend) (any, error) {
			return b.AddEndpoint(ctx, EndpointRequest{})
		}},
		{"join endpoint", func() *fake { return &fake{endpoint: fullEndpoint()} }, func(ctx context.Context, b Backend) (any, error) {
			return b.JoinEndpoint(ctx, EndpointJoin{ID: "e", Sandbox: "/var/run/docker/netns/0123456789ab"})
		}},
		{"join no endpoint", func() *fake { return &fake{err: fmt.Errorf("endpoint e: %w", ErrNotFound)} }, func(ctx context.Context, b Backend) (any, error) {
			return b.JoinEndpoint(ctx, EndpointJoin{})
		}},
		{"leave endpoint", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return nil, b.LeaveEndpoint(ctx, "e\"/\n") }},
		{"remove endpoint", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return nil, b.RemoveEndpoint(ctx, "") }},
		{"expose", func() *fake { return &fake{addresses: prefixes("10.32.0.9/12")} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Expose(ctx, ExposeRequest{Addresses: []string{"10.32.0.9/12"}, FQDN: "gw.weft.internal.", WithoutMasquerade: true})
		}},
		{"hide", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return b.Hide(ctx, HideRequest{}) }},
		{"dns-add", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) {
			return nil, b.DNSAdd(ctx, NameRequest{Container: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.32.0.1")}, FQDN: "shop.weft.internal."})
		}},
		{"dns-remove", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) {
			return nil, b.DNSRemove(ctx, NameRequest{FQDN: "shop.weft.internal."})
		}},
		{"dns-lookup", func() *fake { return &fake{addresses: prefixes("10.32.0.1/32")} }, func(ctx context.Context, b Backend) (any, error) {
			return b.DNSLookup(ctx, "a name&=with everything?#")
		}},
		{"dns-lookup of nothing", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return b.DNSLookup(ctx, "") }},
		{"ps", func() *fake {
			return &fake{attachments: []Attachment{
				{Container: ExposeName, MAC: "02:00:00:00:00:01"},
				{Container: "0123456789ab", ID: strings.Repeat("0", 64), Interface: "weft0", MAC: "02:00:00:00:00:02", Addresses: prefixes("10.32.0.1/12"), Names: []string{"web.weft.internal."}},
			}}
		}, func(ctx context.Context, b Backend) (any, error) {
			return b.PS(ctx, []string{"web", "netns:/run/netns/blue"})
		}},
		{"ps of nothing", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return b.PS(ctx, nil) }},
		{"attach waits", func() *fake { return &fake{addresses: prefixes("10.32.0.1/12"), reasons: onTheWay} }, attach},
		{"attach waits in vain", func() *fake {
			return &fake{err: fmt.Errorf("attach web: no address: %w", ErrConflict), reasons: onTheWay}
		}, attach},
		{"expose waits", func() *fake { return &fake{addresses: prefixes("10.32.0.9/12"), reasons: onTheWay} }, func(ctx context.Context, b Backend) (any, error) {
			return b.Expose(ctx, ExposeRequest{})
		}},
		{"prime", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return nil, b.Prime(ctx) }},
		{"prime waits", func() *fake { return &fake{reasons: onTheWay} }, func(ctx context.Context, b Backend) (any, error) { return nil, b.Prime(ctx) }},
		{"prime fails", func() *fake { return &fake{err: errors.New("the address allocator is off")} }, func(ctx context.Context, b Backend) (any, error) { return nil, b.Prime(ctx) }},
		{"rmpeer", func() *fake {
			return &fake{reasons: onTheWay[:1], removed: []Removed{{Name: "02:00:00:00:00:09", Nickname: "host9", IPs: 1<<64 - 1}, {Name: "02:00:00:00:00:08", Released: 3}}}
		}, func(ctx context.Context, b Backend) (any, error) {
			return b.RemovePeers(ctx, RemoveRequest{Peers: []string{"host9", "::8"}, Force: true})
		}},
		{"rmpeer of nobody", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) {
			return b.RemovePeers(ctx, RemoveRequest{})
		}},
		{"rmpeer is refused", func() *fake { return &fake{reasons: onTheWay, err: errors.New("host2 answers; stop it first")} }, func(ctx context.Context, b Backend) (any, error) {
			return b.RemovePeers(ctx, RemoveRequest{Peers: []string{"host2"}})
		}},
		{"hand-over", func() *fake {
			return &fake{reasons: onTheWay, handOver: HandOver{Name: "02:00:00:00:00:09", Nickname: "host9", IPs: 1 << 20}}
		}, func(ctx context.Context, b Backend) (any, error) { return b.HandOver(ctx) }},
		{"hand-over of nothing", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return b.HandOver(ctx) }},
		{"hand-over to nobody", func() *fake { return &fake{err: errors.New("nobody is in reach")} }, func(ctx context.Context, b Backend) (any, error) { return b.HandOver(ctx) }},
		{"token", func() *fake { return &fake{token: Token{Token: "weft1.x", Join: "weft launch --token=weft1.x host1"}} }, func(ctx context.Context, b Backend) (any, error) { return b.Token(ctx) }},
		{"logs", func() *fake {
			return &fake{log: func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "a\nb\n"); return err }}
		}, logs(false)},
		{"empty logs", func() *fake { return &fake{} }, logs(false)},
		{"no logs", func() *fake { return &fake{err: fmt.Errorf("journal: %w", ErrNotFound)} }, logs(false)},
		{"no logs to follow", func() *fake { return &fake{err: fmt.Errorf("journal: %w", ErrNotFound)} }, logs(true)},
		{"logs break", func() *fake {
			return &fake{log: func(_ context.Context, w io.Writer) error {
				_, _ = io.WriteString(w, "a\n")
				return fmt.Errorf("read: disk\non fire: %w", ErrConflict)
			}}
		}, logs(false)},
		{"stop", func() *fake { return &fake{} }, func(ctx context.Context, b Backend) (any, error) { return nil, b.Stop(ctx) }},
		{"stop fails", func() *fake { return &fake{err: errors.New("never")} }, func(ctx context.Context, b Backend) (any, error) { return nil, b.Stop(ctx) }},
	}
	for _, tt := range tests {
		bothSides(t, tt.name, tt.fake, tt.call, false)
		bothSides(t, tt.name+", listening", tt.fake, tt.call, true)
	}
}

// reasonsOnTheWay are what a fake says on the way; one of them twice, which is heard
// once.
func reasonsOnTheWay() []string {
	return []string{"comparing addresses with host2", "a <\"line\">\nbreak \x00", "a <\"line\">\nbreak \x00", "comparing addresses with host2"}
}

// bothSides is one case, with somebody who listens to what it waits for, or
// without.
func bothSides(t *testing.T, name string, with func() *fake, call func(context.Context, Backend) (any, error), listens bool) {
	t.Run(name, func(t *testing.T) {
		direct, behind := with(), with()
		client := serve(t, behind)
		var wantHeard, gotHeard []string
		directly, through := t.Context(), t.Context()
		if listens {
			directly = WithProgress(directly, func(r string) { wantHeard = append(wantHeard, r) })
			through = WithProgress(through, func(r string) { gotHeard = append(gotHeard, r) })
		}
		want, wantErr := call(directly, direct)
		got, gotErr := call(through, client)
		if diff := cmp.Diff(wantHeard, gotHeard); diff != "" {
			t.Errorf("heard on the way, direct and through the socket:\n%s", diff)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("answer, direct and through the socket:\n%s", diff)
		}
		if fmt.Sprint(wantErr) != fmt.Sprint(gotErr) {
			t.Errorf("error through the socket %q, want %q", gotErr, wantErr)
		}
		if w, g := firstClass(wantErr), firstClass(gotErr); !errors.Is(g, w) {
			t.Errorf("class through the socket %v, want %v", g, w)
		}
		if diff := cmp.Diff(direct.asked(), behind.asked()); diff != "" {
			t.Errorf("asked, direct and through the socket:\n%s", diff)
		}
	})
}

// noLeaks looks for goroutines that are left after everything else that the
// test cleans up.
func noLeaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
}

// firstClass names the class that the exit code is made of.
func firstClass(err error) error {
	for _, c := range []error{ErrUsage, ErrNotFound, ErrConflict, ErrUnreachable} {
		if errors.Is(err, c) {
			return c
		}
	}
	return nil
}

// serve puts b behind a socket until the test ends.
func serve(t *testing.T, b Backend) *Client {
	t.Helper()
	socket := t.TempDir() + "/weft.sock"
	ln, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(b, nil).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return NewClient(socket)
}

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// host1 is the status of a host with a connection of every kind.
func host1() api.Status {
	return api.Status{
		Ready: true, Version: "0.1.0", Protocol: "weft 1", Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1",
		Identity: strings.Repeat("8a", 32), Overlay: netip.MustParseAddr("fd77:6566:7400::1"), Port: 6783, Cluster: "weft",
		Datapath: "userspace", MTU: 1370, PeerDiscovery: true, Targets: []string{"host2"},
		Connections: []api.Connection{
			{Address: "192.0.2.15:6783", Outbound: true, State: api.Failed, Info: "wrong password, retry: 2026-11-20 18:55:38 +0000 UTC"},
			{Address: "192.0.2.14:6783", Outbound: true, State: api.Retrying, Info: "dial tcp 192.0.2.14:6783: connect: no route to host"},
			{
				Address: "198.51.100.7:6784", State: api.Relayed, Name: "02:9c:11:ab:7d:66", Nickname: "host3", Encrypted: true,
				Datapath: "userspace", MTU: 1370, RTT: 1100 * time.Microsecond, Via: []string{"host2"},
			},
			{
				Address: "192.0.2.12:6783", Outbound: true, State: api.Established, Name: "f6:42:1d:0a:5e:01", Nickname: "host2",
				Encrypted: true, Datapath: "userspace", MTU: 1370, RTT: 412 * time.Microsecond,
				Handshake: time.Unix(1763600000, 0), RxBytes: 10, TxBytes: 20, Loss: 1.0 / 64, Changes: 4,
			},
			{Address: "[2001:db8::17]:6784", State: api.Pending, Name: "02:00:00:00:00:17", Nickname: "host4", Encrypted: true, Datapath: "userspace"},
			{Address: "192.0.2.18:6783", Outbound: true, State: api.Connecting},
			{Address: "192.0.2.19:6784", State: api.Established, Name: "02:00:00:00:00:19", Nickname: "host2", Datapath: "kernel"},
		},
		Peers: []api.Peer{
			{
				Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1", Self: true, Alive: true, Boot: 18446744073709551615, Version: 7,
				Identity: strings.Repeat("8a", 32), Overlay: netip.MustParseAddr("fd77:6566:7400::1"),
				Connections: []api.PeerConnection{
					{Name: "f6:42:1d:0a:5e:01", Nickname: "host2", Address: "192.0.2.12:6783", Outbound: true, State: api.Established},
					{Name: "02:9c:11:ab:7d:66", Nickname: "host3", Address: "198.51.100.7:6784", State: api.Relayed},
				},
			},
			{Name: "f6:42:1d:0a:5e:01", Nickname: "host2", Alive: true, Connections: []api.PeerConnection{
				{Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1", Address: "192.0.2.11:6783", State: api.Established},
				{Name: "02:9c:11:ab:7d:66", Nickname: "host3", Address: "192.0.2.13:6783", Outbound: true, State: api.Retrying},
			}},
			{Name: "02:9c:11:ab:7d:66", Nickname: "host3"},
		},
		TrustedSubnets: nil,
		Relay:          &api.RelayStatus{Packets: 5, Bytes: 6000, Sessions: 4, Bound: 2, Dropped: map[string]uint64{"unbound": 7}},
		IPAM:           fakeIPAM(),
		DNS: &api.DNS{
			Domain: "weft.internal.", Upstream: []string{"192.0.2.53", "2001:db8::53"}, Address: "169.254.67.83:53", TTL: 1,
			Entries: []api.NameEntry{
				{Hostname: "web.weft.internal.", Origin: "8a:3e:3e:3e:3e:3e", ContainerID: "0123456789abcdef", Address: netip.MustParseAddr("10.32.0.1"), Version: 3},
				{Hostname: "a-rather-long-name.weft.internal.", Origin: "f6:42:1d:0a:5e:01", ContainerID: "weft:expose", Address: netip.MustParseAddr("fd00::1234:5678"), Version: 1},
				{Hostname: "www.example.org.", Origin: "f6:42:1d:0a:5e:01", ContainerID: "", Address: netip.MustParseAddr("10.32.0.2")},
				{Hostname: "gone.weft.internal.", Origin: "f6:42:1d:0a:5e:01", ContainerID: "0123", Address: netip.MustParseAddr("10.32.0.3"), Version: 4, Tombstone: true},
			},
		},
	}
}

func TestTables(t *testing.T) {
	tests := []struct{ section, want string }{
		{"", `
        Version: 0.1.0

        Service: router
       Protocol: weft 1
           Name: 8a:3e:3e:3e:3e:3e(host1)
     Encryption: enabled
       Datapath: userspace
  PeerDiscovery: enabled
        Targets: 1
    Connections: 7 (2 established, 1 pending, 1 retrying, 1 failed, 1 connecting, 1 relayed)
          Peers: 3 (with 2 established, 1 pending, 1 relayed connections)
 TrustedSubnets: none

        Service: ipam
         Status: ready
          Range: 10.32.0.0/12
  DefaultSubnet: 10.32.0.0/12

        Service: dns
         Domain: weft.internal.
       Upstream: 192.0.2.53, 2001:db8::53
            TTL: 1
        Entries: 3

`},
		{"targets", "host2\n"},
		{"connections", `
<- 192.0.2.19:6784       established unencrypted kernel    02:00:00:00:00:19(host2)
-> 192.0.2.12:6783       established encrypted   userspace f6:42:1d:0a:5e:01(host2) mtu=1370 rtt=0.4ms
~> 198.51.100.7:6784     relayed     encrypted   userspace 02:9c:11:ab:7d:66(host3) mtu=1370 rtt=1.1ms via=host2
<- [2001:db8::17]:6784   pending     encrypted   userspace 02:00:00:00:00:17(host4)
-> 192.0.2.14:6783       retrying    dial tcp 192.0.2.14:6783: connect: no route to host
-> 192.0.2.15:6783       failed      wrong password, retry: 2026-11-20 18:55:38 +0000 UTC
-> 192.0.2.18:6783       connecting
`[1:]},
		{"peers", `
8a:3e:3e:3e:3e:3e(host1)
   -> 192.0.2.12:6783       f6:42:1d:0a:5e:01(host2)              established
   ~> 198.51.100.7:6784     02:9c:11:ab:7d:66(host3)              relayed
f6:42:1d:0a:5e:01(host2)
   <- 192.0.2.11:6783       8a:3e:3e:3e:3e:3e(host1)              established
   -> 192.0.2.13:6783       02:9c:11:ab:7d:66(host3)              pending
02:9c:11:ab:7d:66(host3)
`[1:]},
		{"ipam", `
8a:3e:3e:3e:3e:3e(host1)                786432 IPs (75.0% of total) (0 active)
02:00:00:00:00:09()                      65536 IPs (06.2% of total) (3 active) - unreachable!
f6:42:1d:0a:5e:01(host2)                131072 IPs (12.5% of total) (7 active)
02:9c:11:ab:7d:66(host3)                 65536 IPs (06.2% of total) - unreachable!
`[1:]},
		{"dns", `
web          10.32.0.1       0123456789ab 8a:3e:3e:3e:3e:3e
a-rather-long-name fd00::1234:5678  weft:expose f6:42:1d:0a:5e:01
www.example.org. 10.32.0.2                    f6:42:1d:0a:5e:01
`[1:]},
	}
	for _, tt := range tests {
		t.Run(tt.section, func(t *testing.T) {
			section := wholeStatus
			if tt.section != "" {
				section = sectionOf(tt.section)
			}
			s := host1()
			sortStatus(&s)
			_, got := section(s)
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestExamplesOfTheContract holds the lines that the command line's contract
// shows, byte for byte.
func TestExamplesOfTheContract(t *testing.T) {
	alone := api.Status{
		Ready: true, Version: "0.1.0", Protocol: "weft 1", Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1", Datapath: "userspace",
		PeerDiscovery: true, Targets: []string{"host2"},
		Connections: []api.Connection{
			{Address: "192.0.2.12:6783", Outbound: true, State: api.Established, Name: "f6:42:1d:0a:5e:01", Nickname: "host2"},
			{Address: "192.0.2.11:6783", Outbound: true, State: api.Retrying, Info: "cannot connect to ourself, retry: never"},
		},
		Peers: []api.Peer{
			{Connections: []api.PeerConnection{{State: api.Established}}},
			{Connections: []api.PeerConnection{{State: api.Established}}},
		},
	}
	_, got := wholeStatus(alone)
	for _, line := range []string{
		"    Connections: 2 (1 established, 1 retrying)\n",
		"          Peers: 2 (with 2 established connections)\n",
	} {
		if !strings.Contains(string(got), line) {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	via := connectionInfo(api.Connection{
		State: api.Relayed, Name: "02:9c:11:ab:7d:66", Nickname: "host3", Encrypted: true, Datapath: "userspace",
		MTU: 1370, RTT: 1100 * time.Microsecond, Via: []string{"host2", "host4"}, Info: "said of no connection that stands",
	})
	if want := "encrypted   userspace 02:9c:11:ab:7d:66(host3) mtu=1370 rtt=1.1ms via=host2,host4"; via != want {
		t.Errorf("a chain of relays: %q, want %q", via, want)
	}
	if strings.Contains(string(got), "dns") {
		t.Errorf("a section of a service that is off:\n%s", got)
	}
}

func TestReport(t *testing.T) {
	s := host1()
	s.IPAM.Pending = []api.IPAMPending{
		{Kind: "allocate", Container: "web", What: "10.2.2.0/24", Why: "host3 is out of reach", Since: time.Unix(1763600000, 0).UTC()},
		{Kind: "claim", Container: "db", What: "10.42.0.1/12"},
	}
	sortStatus(&s)
	b, err := marshalJSON(reportOf(s))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{
    "Ready": true,
    "Version": "0.1.0",
    "Router": {
        "Protocol": "weft 1",
        "Encryption": true,
        "PeerDiscovery": true,
        "Name": "8a:3e:3e:3e:3e:3e",
        "NickName": "host1",
        "Port": 6783,
        "Peers": [
            {
                "Name": "8a:3e:3e:3e:3e:3e",
                "NickName": "host1",
                "UID": 18446744073709551615,
                "Version": 7,
                "Connections": [
                    {
                        "Name": "f6:42:1d:0a:5e:01",
                        "NickName": "host2",
                        "Address": "192.0.2.12:6783",
                        "Outbound": true,
                        "Established": true
                    },
`, `            {
                "Address": "192.0.2.12:6783",
                "Outbound": true,
                "State": "established",
                "Info": "encrypted   userspace f6:42:1d:0a:5e:01(host2) mtu=1370 rtt=0.4ms",
                "Attrs": {
                    "changes": 4,
                    "encrypted": true,
                    "handshake": "2025-11-20T00:53:20Z",
                    "loss": 0.015625,
                    "mtu": 1370,
                    "name": "userspace",
                    "nickname": "host2",
                    "peer": "f6:42:1d:0a:5e:01",
                    "rtt": "0.4ms",
                    "rx_bytes": 10,
                    "tx_bytes": 20
                }
            },
`, `            {
                "Address": "192.0.2.18:6783",
                "Outbound": true,
                "State": "connecting",
                "Info": "",
                "Attrs": {}
            }
        ],
        "Targets": [
            "host2"
        ],
        "TrustedSubnets": [],
`, `        "MTU": 1370,
        "Relay": {
            "Packets": 5,
            "Bytes": 6000,
            "Dropped": {
                "unbound": 7
            },
            "Sessions": 4,
            "Bound": 2
        }
    },
`, `    "IPAM": {
        "Range": "10.32.0.0/12",
        "RangeNumIPs": 1048576,
        "ActiveIPs": 0,
        "DefaultSubnet": "10.32.0.0/12",
        "Entries": [
            {
                "Token": "10.32.0.0",
                "Size": 786432,
                "Peer": "8a:3e:3e:3e:3e:3e",
                "Nickname": "host1",
                "IsKnownPeer": true,
                "Version": 1,
                "Identity": "8a3e3e3e3e3e8a3e3e3e3e3e8a3e3e3e3e3e8a3e3e3e3e3e8a3e3e3e3e3e0000",
                "Blocks": 3072,
                "Active": 0,
                "Self": true
            },
`, `        "PendingClaims": [
            {
                "Ident": "db",
                "CIDR": "10.42.0.1/12"
            }
        ],
        "PendingAllocates": [
            "web"
        ],
        "Status": "ready",
        "Ring": "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
        "Pending": [
            {
                "Kind": "allocate",
                "Container": "web",
                "What": "10.2.2.0/24",
                "Why": "host3 is out of reach",
                "Since": "2025-11-20T00:53:20Z"
            },
`, `        "Duplicates": [],
        "Warnings": [],
        "UnreachablePeers": 2,
        "UnreachableIPs": 131072
    },
`, `    "DNS": {
        "Domain": "weft.internal.",
        "Upstream": [
            "192.0.2.53",
            "2001:db8::53"
        ],
        "Address": "169.254.67.83:53",
        "TTL": 1,
        "Entries": [
            {
                "Hostname": "web.weft.internal.",
                "Origin": "8a:3e:3e:3e:3e:3e",
                "ContainerID": "0123456789abcdef",
                "Address": "10.32.0.1",
                "Version": 3,
                "Tombstone": 0
            },
`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("report has no\n%s\nit is\n%s", want, b)
		}
	}
	render, err := templateOf(`{{range .DNS.Entries}}{{if eq .Tombstone 0}}{{.Hostname}} {{end}}{{end}}{{json .Router.TrustedSubnets}}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := render(reportOf(s))
	if want := "web.weft.internal. a-rather-long-name.weft.internal. www.example.org. []"; err != nil || string(got) != want {
		t.Errorf("template: %q, %v; want %q", got, err, want)
	}
}

func TestLastWords(t *testing.T) {
	tests := []struct{ log, want string }{
		{"", ""},
		{"time=x level=INFO msg=started\nweftd: open weft-wg: no device\n", "open weft-wg: no device"},
		{"weftd: first\nweftd: last\nlevel=INFO msg=end", "last"},
		{"panic: nil map\n\ngoroutine 1 [running]:\nmain.main()", "weftd crashed: panic: nil map"},
		{"fatal error: all goroutines are asleep", "weftd crashed: fatal error: all goroutines are asleep"},
		{`time=x level=ERROR msg="cannot start" peer="a b" err="listen tcp: address = \"in\" use"` + "\nlevel=INFO msg=end", `cannot start: listen tcp: address = "in" use`},
		{`{"level":"ERROR","msg":"cannot start","err":"in use"}`, "cannot start: in use"},
		{`{"level":"INFO","msg":"hello"}`, "hello"},
		{"exec format error", "exec format error"},
		{`level=ERROR msg="unterminated`, `"unterminated`},
	}
	for _, tt := range tests {
		var lines []string
		if tt.log != "" {
			lines = strings.Split(strings.TrimSpace(tt.log), "\n")
		}
		if got := lastError(lines); got != tt.want {
			t.Errorf("lastError(%q) = %q, want %q", tt.log, got, tt.want)
		}
	}
}

// FuzzLastWords: whatever a dying daemon leaves can be read.
func FuzzLastWords(f *testing.F) {
	f.Add(`time=x level=ERROR msg="a \"b\"" err=c`)
	f.Add(`{"level":"ERROR","msg":"cannot start","err":"in use"}`)
	f.Add("= =\"= a=\"b")
	f.Fuzz(func(t *testing.T, log string) {
		if got := lastError(strings.Split(log, "\n")); len(got) > 4*len(log)+64 {
			t.Fatalf("%d bytes out of %d", len(got), len(log))
		}
	})
}

func TestMillisecondsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{412 * time.Microsecond: "0.4ms", 1234567 * time.Microsecond: "1234.6ms", 20 * time.Microsecond: "0.0ms"} {
		if got := milliseconds(d); got != want {
			t.Errorf("milliseconds(%s) = %s, want %s", fmt.Sprint(d), got, want)
		}
	}
}

// TestIPAMTable: what an allocator may be like besides the usual.
func TestIPAMTable(t *testing.T) {
	tests := []struct {
		name, want string
		ipam       *api.IPAM
	}{
		{"off", "", nil},
		{"not divided yet", "", &api.IPAM{State: "idle", RangeIPs: 1 << 20}},
		{"large and small", `
8a:3e:3e:3e:3e:3e(host1)              18446744073709551615 IPs (100.0% of total) (100000 active)
a-name-that-is-longer-than-its-column-is(host2)        1 IPs (00.0% of total) (0 active)
`[1:], &api.IPAM{RangeIPs: 1<<64 - 1, Entries: []api.IPAMEntry{
			{Name: "a-name-that-is-longer-than-its-column-is", Nickname: "host2", IPs: 1, Reachable: true},
			{Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1", IPs: 1<<64 - 1, Active: 100000, Self: true},
		}}},
	}
	for _, tt := range tests {
		s := api.Status{IPAM: tt.ipam}
		sortStatus(&s)
		_, got := ipamStatus(s)
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	s := api.Status{IPAM: fakeIPAM()}
	first := s.IPAM.Entries[0].Name
	if sortStatus(&s); fakeIPAM().Entries[0].Name != first || s.IPAM.Entries[0].Name == first {
		t.Error("sortStatus has not sorted a copy")
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"text/template"
	"time"

	"github.com/weftnet/weft/router/api"
)

// report is what `weft report` prints. Its names are a promise: scripts and
// templates written for Weave use them. Additions come last.
type report struct {
	Ready   bool
	Version string
	Router  routerReport
	IPAM    *ipamReport `json:",omitempty"` // nil: no allocator runs
	DNS     *dnsReport  `json:",omitempty"` // nil: no name server runs

	Waiting  string   `json:",omitempty"`
	Warnings []string `json:",omitempty"`
}

type routerReport struct {
	Protocol       string
	Encryption     bool
	PeerDiscovery  bool
	Name           string
	NickName       string
	Port           uint16
	Peers          []peerReport
	Connections    []connectionReport
	Targets        []string
	TrustedSubnets []netip.Prefix

	Identity string
	Overlay  netip.Addr
	Cluster  string
	Datapath string
	MTU      int
	Relay    *api.RelayStatus  `json:",omitempty"` // nil: this host relays for nobody
	Switch   *api.SwitchStatus `json:",omitempty"` // nil: the kernel forwards
}

type peerReport struct {
	Name        string
	NickName    string
	UID         uint64
	Version     uint64
	Connections []peerConnectionReport

	Identity string
	Overlay  netip.Addr
	Alive    bool
}

type peerConnectionReport struct {
	Name        string
	NickName    string
	Address     string
	Outbound    bool
	Established bool
}

type connectionReport struct {
	Address  string
	Outbound bool
	State    api.State
	Info     string
	Attrs    attributes
}

// attributes are those of a connection that carries packets.
type attributes map[string]any

type dnsReport struct {
	Domain   string
	Upstream []string
	Address  string
	TTL      uint32
	Entries  []entryReport
}

type entryReport struct {
	Hostname    string
	Origin      string
	ContainerID string
	Address     netip.Addr
	Version     uint64
	Tombstone   int // 0 or 1
}

func reportOf(s api.Status) report {
	r := report{
		Ready: s.Ready, Version: s.Version, Waiting: s.Waiting, Warnings: s.Warnings,
		Router: routerReport{
			Protocol: s.Protocol, Encryption: true, PeerDiscovery: s.PeerDiscovery,
			Name: s.Name, NickName: s.Nickname, Port: s.Port,
			Peers: []peerReport{}, Connections: []connectionReport{},
			Targets: orEmpty(s.Targets), TrustedSubnets: orEmpty(s.TrustedSubnets),
			Identity: s.Identity, Overlay: s.Overlay, Cluster: s.Cluster, Datapath: s.Datapath, MTU: s.MTU, Relay: s.Relay, Switch: s.Switch,
		},
	}
	for _, p := range s.Peers {
		out := peerReport{
			Name: p.Name, NickName: p.Nickname, UID: p.Boot, Version: p.Version,
			Connections: []peerConnectionReport{},
			Identity:    p.Identity, Overlay: p.Overlay, Alive: p.Alive,
		}
		for _, c := range p.Connections {
			out.Connections = append(out.Connections, peerConnectionReport{
				Name: c.Name, NickName: c.Nickname, Address: c.Address, Outbound: c.Outbound, Established: c.State.Carries(),
			})
		}
		r.Router.Peers = append(r.Router.Peers, out)
	}
	for _, c := range s.Connections {
		r.Router.Connections = append(r.Router.Connections, connectionReport{
			Address: c.Address, Outbound: c.Outbound, State: c.State, Info: connectionInfo(c), Attrs: attributesOf(c),
		})
	}
	if s.IPAM != nil {
		r.IPAM = ipamReportOf(s.IPAM)
	}
	if s.DNS != nil {
		r.DNS = &dnsReport{
			Domain: s.DNS.Domain, Upstream: orEmpty(s.DNS.Upstream), Address: s.DNS.Address, TTL: s.DNS.TTL,
			Entries: []entryReport{},
		}
		for _, e := range s.DNS.Entries {
			tombstone := 0
			if e.Tombstone {
				tombstone = 1
			}
			r.DNS.Entries = append(r.DNS.Entries, entryReport{e.Hostname, e.Origin, e.ContainerID, e.Address, e.Version, tombstone})
		}
	}
	return r
}

func attributesOf(c api.Connection) attributes {
	if c.Name == "" {
		return attributes{}
	}
	a := attributes{"name": c.Datapath, "encrypted": c.Encrypted, "peer": c.Name, "nickname": c.Nickname}
	if !c.State.Carries() {
		return a
	}
	a["mtu"], a["rx_bytes"], a["tx_bytes"] = c.MTU, c.RxBytes, c.TxBytes
	a["changes"] = c.Changes
	if c.Fragmented > 0 {
		a["fragmented"] = c.Fragmented
	}
	if c.RTT > 0 {
		a["rtt"] = milliseconds(c.RTT)
	}
	if measured(c.RTT, c.Loss) {
		a["loss"] = c.Loss
	}
	if len(c.Via) > 0 {
		a["via"] = c.Via
	}
	if !c.Handshake.IsZero() {
		a["handshake"] = c.Handshake.UTC().Format(time.RFC3339)
	}
	return a
}

// templateOf parses a template and returns what renders it.
func templateOf(text string) (func(any) ([]byte, error), error) {
	t, err := template.New("report").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
	}).Parse(text)
	if err != nil {
		return nil, usagef("-f: %v", err)
	}
	return func(v any) ([]byte, error) {
		var b bytes.Buffer
		if err := t.Execute(&b, v); err != nil {
			return nil, fmt.Errorf("report -f: %w", err)
		}
		return b.Bytes(), nil
	}, nil
}

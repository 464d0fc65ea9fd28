package ui

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/router/api"
)

// With more hosts than this, paths between others that are direct, or lead to a
// host that this one does not reach, are left out: their number grows with the
// square.
const (
	fewHosts = 40
	maxOther = 500 // of the rest
)

// State is how one host reaches another, from best to worst.
type State string

// The states.
const (
	Direct  State = "direct"
	Relayed State = "relayed"
	Pending State = "pending"
	Failed  State = "failed"
)

// rank orders states; the greatest is the worst.
func (s State) rank() int { return slices.Index([]State{Direct, Relayed, Pending, Failed}, s) }

func stateOf(s api.State) State {
	switch s {
	case api.Established:
		return Direct
	case api.Relayed:
		return Relayed
	case api.Pending, api.Connecting:
		return Pending
	default:
		return Failed
	}
}

// Picture is what the page shows, drawn from one [api.Status].
type Picture struct {
	Now      int64  `json:"now"` // in milliseconds since 1970
	Self     string `json:"self"`
	Cluster  string `json:"cluster"`
	Version  string `json:"version"`
	Datapath string `json:"datapath"`
	MTU      int    `json:"mtu"`
	Say      []Say  `json:"say"`   // the first one for all
	Hosts    []Host `json:"hosts"` // this one first, then by name
	Paths    []Path `json:"paths"`
	Left     int    `json:"left"` // paths between other hosts that are not among Paths
	Space    *Space `json:"space,omitempty"`
	Names    int    `json:"names"`
	Domain   string `json:"domain,omitempty"`
}

// Host is a host of the cluster, or a target that has not led to one.
type Host struct {
	ID       string `json:"id"` // its name in six octets, or what was typed
	Nickname string `json:"nick"`
	Target   bool   `json:"target,omitempty"` // nobody has answered there yet
	Self     bool   `json:"self,omitempty"`
	Alive    bool   `json:"alive"`
	State    State  `json:"state,omitempty"` // of the path from here; empty for this host
	Attached int    `json:"attached"`        // interfaces on the switch; -1: not known
	Overlay  string `json:"overlay,omitempty"`
}

// Path is how two hosts reach each other. What is zero is not known: of paths
// between others only their state, round trip and MTU are told.
type Path struct {
	A         string   `json:"a"` // this host, if it is one of the two
	B         string   `json:"b"`
	Own       bool     `json:"own,omitempty"`
	State     State    `json:"state"` // the worse one, if the two do not agree
	Back      State    `json:"back,omitempty"`
	RTT       float64  `json:"rtt,omitempty"`  // in milliseconds
	Loss      float64  `json:"loss,omitempty"` // 0 to 1
	MTU       int      `json:"mtu,omitempty"`
	Via       []string `json:"via,omitempty"` // nicknames
	Address   string   `json:"address,omitempty"`
	Info      string   `json:"info,omitempty"`
	Rx        uint64   `json:"rx,omitempty"` // bytes
	Tx        uint64   `json:"tx,omitempty"`
	Handshake int64    `json:"handshake,omitempty"` // in milliseconds since 1970
}

// Space is the address range and its owners.
type Space struct {
	Range  string  `json:"range"`
	State  string  `json:"state"`
	IPs    uint64  `json:"ips"`
	Owners []Owner `json:"owners"`
}

// Owner owns a share of the range.
type Owner struct {
	ID        string `json:"id"`
	Nickname  string `json:"nick"`
	First     string `json:"first"`
	IPs       uint64 `json:"ips"`
	Active    int    `json:"active"` // -1: not known
	Reachable bool   `json:"reachable"`
	Self      bool   `json:"self,omitempty"`
}

// Draw makes the picture of a status.
func Draw(s api.Status, now time.Time) Picture {
	p := Picture{
		Now: now.UnixMilli(), Self: s.Name, Cluster: s.Cluster, Version: s.Version, Datapath: s.Datapath, MTU: s.MTU,
		Space: spaceOf(s.IPAM),
	}
	if s.DNS != nil {
		p.Names, p.Domain = len(namesOf(s)), s.DNS.Domain
	}
	p.Hosts = hostsOf(s)
	p.Paths, p.Left = pathsOf(s, len(p.Hosts))
	p.Say = say(s, p)
	return p
}

// hostsOf lists this host, every live one, and those that are sought.
func hostsOf(s api.Status) []Host {
	state := make(map[string]State, len(s.Connections))
	for _, c := range s.Connections {
		state[c.Name] = stateOf(c.State)
	}
	seen := make(map[string]bool, len(s.Peers))
	var hosts []Host
	for _, p := range s.Peers {
		seen[p.Name] = true
		h := Host{ID: p.Name, Nickname: p.Nickname, Self: p.Self, Alive: p.Alive, Attached: len(p.Attached), Overlay: p.Overlay.String()}
		if !p.Self {
			h.State = cmp.Or(state[p.Name], Failed)
		}
		hosts = append(hosts, h)
	}
	for _, c := range s.Connections {
		h := Host{ID: idOf(c), Nickname: cmp.Or(c.Nickname, c.Name, c.Address), Target: c.Name == "", State: stateOf(c.State), Attached: -1}
		if seen[h.ID] || c.Name == "" && strings.Contains(c.Info, "ourself") {
			continue
		}
		if seen[h.ID] = true; c.Overlay.IsValid() {
			h.Overlay = c.Overlay.String()
		}
		hosts = append(hosts, h)
	}
	slices.SortStableFunc(hosts, func(a, b Host) int {
		switch {
		case a.Self != b.Self && a.Self:
			return -1
		case a.Self != b.Self:
			return 1
		}
		return cmp.Or(natural(a.Nickname, b.Nickname), cmp.Compare(a.ID, b.ID))
	})
	return hosts
}

// idOf is what the host at the other end of a connection is called here.
func idOf(c api.Connection) string { return cmp.Or(c.Name, c.Address) }

// natural compares so that host9 comes before host10.
func natural(a, b string) int {
	digits := func(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }
	for a != "" && b != "" {
		n, m := digits(a), digits(b)
		if n > 0 && m > 0 {
			x, y := strings.TrimLeft(a[:n], "0"), strings.TrimLeft(b[:m], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[n:], b[m:]
			continue
		}
		if c := cmp.Compare(a[0], b[0]); c != 0 {
			return c
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// pathsOf lists the paths of this host, and those between others as they tell
// of them.
func pathsOf(s api.Status, hosts int) (paths []Path, left int) {
	own, gone := make(map[string]int), make(map[string]bool)
	for _, c := range s.Connections {
		if c.Name == "" && strings.Contains(c.Info, "ourself") {
			continue
		}
		p := Path{
			A: s.Name, B: idOf(c), Own: true, State: stateOf(c.State), RTT: float64(c.RTT) / float64(time.Millisecond),
			Loss: c.Loss, MTU: c.MTU, Via: c.Via, Address: c.Address, Info: strings.TrimPrefix(c.Info, c.Name+"("+c.Nickname+"): "), Rx: c.RxBytes, Tx: c.TxBytes,
		}
		if !c.Handshake.IsZero() {
			p.Handshake = c.Handshake.UnixMilli()
		}
		own[c.Name], gone[c.Name] = len(paths), p.State == Failed
		paths = append(paths, p)
	}
	type pair struct{ a, b string }
	others := make(map[pair]int)
	for _, peer := range s.Peers {
		for _, l := range peer.Connections {
			state := stateOf(l.State)
			switch i, ours := own[peer.Name]; {
			case peer.Self:
				continue
			case l.Name == s.Name:
				if ours && state != paths[i].State {
					paths[i].Back = state
				}
				continue
			}
			key := pair{min(peer.Name, l.Name), max(peer.Name, l.Name)}
			i, there := others[key]
			switch {
			case !there && hosts > fewHosts && (state == Direct || len(others) == maxOther || gone[l.Name]):
				left++ // mostly direct, and told by both ends
				continue
			case !there:
				others[key] = len(paths)
				paths = append(paths, Path{
					A: key.a, B: key.b, State: state, RTT: float64(l.RTT) / float64(time.Millisecond), MTU: l.MTU,
				})
				continue
			case state.rank() > paths[i].State.rank():
				paths[i].State, paths[i].Back = state, paths[i].State
			case state != paths[i].State:
				paths[i].Back = state
			}
			if rtt := float64(l.RTT) / float64(time.Millisecond); rtt > 0 && (paths[i].RTT == 0 || rtt < paths[i].RTT) {
				paths[i].RTT = rtt
			}
		}
	}
	return paths, left / 2
}

// spaceOf lists who owns the addresses, in the order of the range.
func spaceOf(i *api.IPAM) *Space {
	if i == nil {
		return nil
	}
	s := &Space{Range: i.Range.String(), State: i.State, IPs: i.RangeIPs, Owners: []Owner{}}
	for _, e := range i.Entries {
		s.Owners = append(s.Owners, Owner{
			ID: e.Name, Nickname: cmp.Or(e.Nickname, e.Name), First: e.Token.String(), IPs: e.IPs, Active: e.Active,
			Reachable: e.Reachable || e.Self, Self: e.Self,
		})
	}
	slices.SortStableFunc(s.Owners, func(a, b Owner) int { return natural(a.First, b.First) })
	return s
}

// liveNames are the entries that are answered for.
func liveNames(d *api.DNS) []api.NameEntry {
	return slices.DeleteFunc(slices.Clone(d.Entries), func(e api.NameEntry) bool { return e.Tombstone })
}

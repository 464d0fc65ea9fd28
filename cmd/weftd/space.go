package main

import (
	"slices"

	"github.com/weftnet/weft/mesh/ipam"
	"github.com/weftnet/weft/router/api"
)

// Status implements [router.Addresses].
func (a *addresses) Status() *api.IPAM {
	s := a.Allocator.Status()
	out := &api.IPAM{
		State: s.State, Range: s.Range, DefaultSubnet: s.Subnet, RangeIPs: s.RangeIPs, Active: s.Active,
		Warnings: s.Warnings, UnreachablePeers: s.UnreachablePeers, UnreachableIPs: s.UnreachableIPs,
	}
	if !s.Ring.IsZero() {
		out.Ring = s.Ring.String()
	}
	for _, h := range s.Shares {
		e := api.IPAMEntry{
			Name: h.Name.String(), Nickname: h.Nickname, Token: h.Token, IPs: h.IPs, Blocks: h.Blocks,
			Version: h.Version, Active: h.Active, Self: h.Self, Known: h.Known, Reachable: h.Reachable,
		}
		if h.Self {
			e.Nickname = a.nickname
		}
		if !h.ID.IsZero() {
			e.Identity = h.ID.String()
		}
		out.Entries = append(out.Entries, e)
	}
	for _, p := range s.Pending {
		kind := "allocate"
		if p.Claim {
			kind = "claim"
		}
		out.Pending = append(out.Pending, api.IPAMPending{
			Kind: kind, Container: p.Label, What: p.What.String(), Why: p.Why, Since: p.Since,
		})
	}
	for _, d := range s.Duplicates {
		twice := api.IPAMDuplicate{Address: d.Addr}
		for _, h := range d.Holders {
			twice.Holders = append(twice.Holders, h.Host+": "+h.Label)
		}
		out.Duplicates = append(out.Duplicates, twice)
	}
	return out
}

// knownPeers are those whose space a command can name: who owns some, whoever
// is a peer, and who was removed but may have left addresses behind. The
// identity of a host that was never met is a placeholder for its name.
func (a *addresses) knownPeers() []api.PeerID {
	s := a.Allocator.Status()
	var list []api.PeerID
	for _, h := range s.Shares {
		p := api.PeerID{Name: h.Name.String(), Nickname: h.Nickname}
		if h.Self {
			p.Nickname = a.nickname
		}
		p.Identity = h.Owner.String()
		list = append(list, p)
	}
	for _, p := range s.Others {
		list = append(list, peerID(p))
	}
	// Who was set up anew under an old name would be ambiguous for ever.
	for _, p := range s.Former {
		former := peerID(p)
		if !slices.ContainsFunc(list, func(o api.PeerID) bool {
			return o.Name == former.Name || o.Nickname != "" && o.Nickname == former.Nickname
		}) {
			list = append(list, former)
		}
	}
	return list
}

func peerID(p ipam.Peer) api.PeerID {
	return api.PeerID{Name: p.Name.String(), Nickname: p.Nickname, Identity: p.ID.String()}
}

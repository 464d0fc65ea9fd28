package main

import (
	"net/netip"

	"github.com/weftnet/weft/router/api"
)

type ipamReport struct {
	Range            netip.Prefix
	RangeNumIPs      uint64
	ActiveIPs        uint64
	DefaultSubnet    netip.Prefix
	Entries          []rangeReport
	PendingClaims    []claimReport
	PendingAllocates []string // identifiers of containers

	Status           string
	Ring             string
	Pending          []api.IPAMPending // both kinds, with the reason
	Duplicates       []api.IPAMDuplicate
	Warnings         []string
	UnreachablePeers int
	UnreachableIPs   uint64
}

// rangeReport is what one peer owns. What IsKnownPeer says is that the peer is
// in reach: Weave forgot who was not.
type rangeReport struct {
	Token       string
	Size        uint64
	Peer        string
	Nickname    string
	IsKnownPeer bool
	Version     uint64

	Identity string
	Blocks   int
	Active   int // -1: not known
	Self     bool
}

type claimReport struct {
	Ident string
	CIDR  string
}

func ipamReportOf(i *api.IPAM) *ipamReport {
	r := &ipamReport{
		Range: i.Range, RangeNumIPs: i.RangeIPs, ActiveIPs: i.Active, DefaultSubnet: i.DefaultSubnet,
		Entries: []rangeReport{}, PendingClaims: []claimReport{}, PendingAllocates: []string{},
		Status: i.State, Ring: i.Ring, Pending: orEmpty(i.Pending), Duplicates: orEmpty(i.Duplicates), Warnings: orEmpty(i.Warnings),
		UnreachablePeers: i.UnreachablePeers, UnreachableIPs: i.UnreachableIPs,
	}
	for _, e := range i.Entries {
		token := ""
		if e.Token.IsValid() {
			token = e.Token.String()
		}
		r.Entries = append(r.Entries, rangeReport{
			Token: token, Size: e.IPs, Peer: e.Name, Nickname: e.Nickname, IsKnownPeer: e.Reachable || e.Self, Version: e.Version,
			Identity: e.Identity, Blocks: e.Blocks, Active: e.Active, Self: e.Self,
		})
	}
	for _, w := range i.Pending {
		switch w.Kind {
		case "claim":
			r.PendingClaims = append(r.PendingClaims, claimReport{Ident: w.Container, CIDR: w.What})
		default:
			r.PendingAllocates = append(r.PendingAllocates, w.Container)
		}
	}
	return r
}

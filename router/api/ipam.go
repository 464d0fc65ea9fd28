package api

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
)

// IPAM is the state of the address allocator.
type IPAM struct {
	// State is idle, "awaiting consensus (quorum: Q, known: K)", priming,
	// ready, "waiting for IP(s) to become available", or "all IP ranges owned
	// by unreachable peers - use 'rmpeer' if they are dead".
	State            string
	Range            netip.Prefix
	DefaultSubnet    netip.Prefix
	RangeIPs         uint64 // addresses in Range; saturates
	Active           uint64 // of them, those that this host's containers hold
	Ring             string // hexadecimal; empty before the space was divided
	Entries          []IPAMEntry
	Pending          []IPAMPending   // requests of this host that wait, the oldest first
	Duplicates       []IPAMDuplicate // addresses that two hosts hold
	Warnings         []string        // for people
	UnreachablePeers int             // owners out of reach
	UnreachableIPs   uint64          // in the space of these; saturates
}

// IPAMEntry is what one peer owns of the range.
type IPAMEntry struct {
	Name      string
	Nickname  string     // empty when it is not known
	Identity  string     // hexadecimal; empty for a peer that is only a name in seed=
	Token     netip.Addr // the first address it owns
	IPs       uint64     // saturates
	Blocks    int
	Version   uint64 // the highest of its blocks
	Active    int    // addresses its containers hold; -1: not known
	Self      bool
	Known     bool // as a peer, in reach or not
	Reachable bool
}

// IPAMPending is a request that waits.
type IPAMPending struct {
	Kind      string // allocate | claim
	Container string
	What      string // the subnet, or the address claimed, as ADDRESS/LENGTH
	Why       string // what it waits for
	Since     time.Time
}

// IPAMDuplicate is an address that more than one host holds.
type IPAMDuplicate struct {
	Address netip.Addr
	Holders []string // "host1: web (3f2a…)"
}

// RemoveRequest names peers that are gone for good.
type RemoveRequest struct {
	Peers []string // names or nicknames, as typed
	Force bool     // although others that are out of reach may hold their space
}

// Removed says what was taken over from a peer.
type Removed struct {
	Name     string
	Nickname string
	IPs      uint64 // saturates
	Released int    // addresses of its containers that were let go, which takes force
}

// HandOver says who got this host's address space.
type HandOver struct {
	Name     string // empty: there was nothing to give
	Nickname string
	IPs      uint64 // saturates
}

// PeerID is how people and messages name a peer.
type PeerID struct {
	Name     string // six octets
	Nickname string // may be empty, and may be that of several peers
	Identity string // hexadecimal, or empty
}

// String returns name(nickname).
func (p PeerID) String() string {
	if p.Nickname == "" {
		return p.Name
	}
	return p.Name + "(" + p.Nickname + ")"
}

// FindPeers returns the peers of known that people call ids, in that order and
// each once: by name in any form that [crypto.ParseName] reads, by nickname, or
// by the whole identity. A nickname counts before a name that it is a short
// form of. A peer that is not there gives an error that wraps [ErrNotFound];
// what several are called, one that names them all and wraps [ErrConflict].
func FindPeers(known []PeerID, ids []string) ([]PeerID, error) {
	var found []PeerID
	for _, id := range ids {
		p, err := findPeer(known, id)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(found, p) {
			found = append(found, p)
		}
	}
	return found, nil
}

func findPeer(known []PeerID, id string) (PeerID, error) {
	if id == "" {
		return PeerID{}, usage("a peer is called by its name or its nickname, not by nothing")
	}
	want, bad := crypto.ParseName(id)
	var exact, nicknamed, named []PeerID
	for _, p := range known {
		name, err := crypto.ParseName(p.Name)
		switch {
		case slices.Contains(exact, p), slices.Contains(nicknamed, p), slices.Contains(named, p):
		case p.Name == id, p.Identity == strings.ToLower(id):
			exact = append(exact, p)
		case p.Nickname == id:
			nicknamed = append(nicknamed, p)
		case bad == nil && err == nil && name == want:
			named = append(named, p)
		}
	}
	all := exact
	if len(all) == 0 {
		all = nicknamed
	}
	if len(all) == 0 {
		all = named
	}
	switch len(all) {
	case 0:
		return PeerID{}, &problemError{class: ErrNotFound, text: fmt.Sprintf("no peer is called %s; see 'weft status ipam' and 'weft status peers'", id)}
	case 1:
		return all[0], nil
	}
	return PeerID{}, &problemError{class: ErrConflict, text: ambiguous(id, all)}
}

// ambiguous says how to tell peers apart: by their names, unless those are the
// same too.
func ambiguous(id string, all []PeerID) string {
	how, words := "name", make([]string, 0, len(all))
	for i, p := range all {
		if slices.ContainsFunc(all[:i], func(q PeerID) bool { return q.Name == p.Name }) {
			how = "identity"
		}
	}
	for _, p := range all {
		word := p.String()
		if how == "identity" {
			word += " " + p.Identity
		}
		words = append(words, word)
	}
	return fmt.Sprintf("%d peers are called %s: %s; use the %s of the one that is meant", len(all), id, strings.Join(words, ", "), how)
}

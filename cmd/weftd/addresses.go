package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/ipam"
	"github.com/weftnet/weft/mesh/ipam/wire"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/workload"
)

// addresses joins the allocator with the containers and the commands: it
// translates values, and errors into those that the API knows.
type addresses struct {
	*ipam.Allocator
	nickname string       // of this host
	unmet    atomic.Int64 // targets not met in the last view that the allocator got
}

// See shows the allocator who is there and what they say of their addresses.
func (a *addresses) See(v mesh.View) {
	peers := make([]ipam.Peer, len(v.Peers))
	for i, p := range v.Peers {
		peers[i] = ipam.Peer{ID: p.Identity, Name: p.Name, Nickname: p.Nickname, Alive: p.Alive}
	}
	entries := make([]ipam.Entry, 0, len(v.Entries))
	for _, e := range v.Entries {
		if e.Owner != v.Self.Identity && wire.IsEntry(e.Key) {
			entries = append(entries, ipam.Entry{Owner: e.Owner, Key: e.Key, Value: e.Value})
		}
	}
	a.Allocator.SetPeers(peers)
	a.unmet.Store(int64(v.UnmetTargets))
	a.Allocator.SetEntries(entries)
}

// unmetTargets returns how many hosts were named and not met. One that the
// mesh has met counts until the allocator knows it, too: an electorate must
// not be too small in between.
func (a *addresses) unmetTargets(m *mesh.Mesh) int { return max(m.UnmetTargets(), int(a.unmet.Load())) }

// Allocate implements [workload.Space].
func (a *addresses) Allocate(ctx context.Context, r workload.SpaceRequest) (netip.Prefix, error) {
	p, err := a.Allocator.Allocate(ctx, ipam.Request{Key: r.Key, Label: r.Label, Subnet: r.Subnet, Waiting: r.Waiting})
	return p, translated(err)
}

// Claim implements [workload.Space].
func (a *addresses) Claim(ctx context.Context, r workload.SpaceRequest, p netip.Prefix) error {
	return translated(a.Allocator.Claim(ctx, ipam.Request{Key: r.Key, Label: r.Label, Waiting: r.Waiting}, p.Addr()))
}

// Move implements [workload.Space].
func (a *addresses) Move(ctx context.Context, from string, r workload.SpaceRequest, addrs []netip.Addr) error {
	return translated(a.Allocator.Move(ctx, from, ipam.Request{Key: r.Key, Label: r.Label}, addrs))
}

// Release implements [workload.Space].
func (a *addresses) Release(ctx context.Context, key string, addrs []netip.Addr) error {
	_, err := a.Allocator.Release(ctx, key, addrs)
	return translated(err)
}

// Adopt implements [workload.Space].
func (a *addresses) Adopt(ctx context.Context, live []workload.SpaceHolder) error {
	found := make(map[string]ipam.Found, len(live))
	for _, h := range live {
		f := found[h.Key]
		f.Label = h.Label
		for _, p := range h.Addresses {
			f.Addrs = append(f.Addrs, p.Addr())
		}
		found[h.Key] = f
	}
	return translated(a.Allocator.Adopt(ctx, found))
}

// Prime implements [router.Addresses].
func (a *addresses) Prime(ctx context.Context) error {
	return translated(a.Allocator.Prime(ctx, progress(ctx)))
}

// RemovePeers implements [router.Addresses].
func (a *addresses) RemovePeers(ctx context.Context, r api.RemoveRequest) ([]api.Removed, error) {
	known := a.knownPeers()
	peers, err := api.FindPeers(known, r.Peers)
	if err != nil {
		return nil, err
	}
	gone := make([]crypto.Identity, len(peers))
	for i, p := range peers {
		if err := gone[i].UnmarshalText([]byte(p.Identity)); err != nil {
			return nil, fmt.Errorf("peer %s: %w", p, err)
		}
	}
	taken, err := a.Allocator.Remove(ctx, gone, r.Force, progress(ctx))
	if err != nil {
		return nil, translated(err)
	}
	out := make([]api.Removed, len(peers))
	for i, p := range peers {
		out[i] = api.Removed{Name: p.Name, Nickname: p.Nickname}
		if j := slices.IndexFunc(taken, func(t ipam.Taken) bool { return t.Peer == gone[i] }); j >= 0 {
			out[i].IPs, out[i].Released = taken[j].IPs, taken[j].Released
		}
	}
	return out, nil
}

// HandOver implements [router.Addresses].
func (a *addresses) HandOver(ctx context.Context) (api.HandOver, error) {
	to, ips, err := a.Allocator.HandOver(ctx, progress(ctx))
	if err != nil || to.IsZero() {
		return api.HandOver{}, translated(err)
	}
	h := api.HandOver{Name: to.Name().String(), IPs: ips}
	known := a.knownPeers()
	if i := slices.IndexFunc(known, func(p api.PeerID) bool { return p.Identity == to.String() }); i >= 0 {
		h.Name, h.Nickname = known[i].Name, known[i].Nickname
	}
	return h, nil
}

func progress(ctx context.Context) func(string) {
	return func(reason string) { api.Progress(ctx, reason) }
}

// translatedError is an error of the allocator with the class that the API
// gives it.
type translatedError struct{ error }

// Is implements the interface that errors.Is looks for.
func (e translatedError) Is(class error) bool {
	switch class {
	case api.ErrConflict:
		return errors.Is(e.error, ipam.ErrConflict)
	case api.ErrUsage:
		return errors.Is(e.error, ipam.ErrRange)
	}
	return false
}

// Unwrap returns the allocator's error.
func (e translatedError) Unwrap() error { return e.error }

func translated(err error) error {
	if err == nil {
		return nil
	}
	return translatedError{err}
}

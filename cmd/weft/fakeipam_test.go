package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weftnet/weft/router/api"
)

var errIPAMOff = errors.New("the address allocator is off: name an address, e.g. 10.32.0.1/12")

// fakeIPAM is the state of an allocator that knows host2, which answers, and
// two others that do not.
func fakeIPAM() *api.IPAM {
	entry := func(name, nickname, token string, blocks, active int, reachable bool) api.IPAMEntry {
		return api.IPAMEntry{
			Name: name, Nickname: nickname, Identity: strings.Repeat(strings.ReplaceAll(name, ":", ""), 5) + "0000", Token: netip.MustParseAddr(token),
			IPs: uint64(blocks) << 8, Blocks: blocks, Version: 1, Active: active, Known: true, Reachable: reachable,
		}
	}
	i := &api.IPAM{
		State: "ready", Range: netip.MustParsePrefix("10.32.0.0/12"), DefaultSubnet: netip.MustParsePrefix("10.32.0.0/12"),
		RangeIPs: 1 << 20, Ring: strings.Repeat("0f", 16), UnreachablePeers: 2, UnreachableIPs: 512 << 8,
		Entries: []api.IPAMEntry{
			entry("02:9c:11:ab:7d:66", "host3", "10.42.0.0", 256, -1, false),
			entry("f6:42:1d:0a:5e:01", "host2", "10.40.0.0", 512, 7, true),
			entry("02:00:00:00:00:09", "", "10.43.0.0", 256, 3, false),
			entry("8a:3e:3e:3e:3e:3e", "host1", "10.32.0.0", 3072, 0, true),
		},
	}
	i.Entries[3].Self = true
	return i
}

// trouble makes a status one of which people must be told something.
func trouble(s *api.Status) {
	const clone = "identity also used by 192.0.2.77: delete /var/lib/weft/identity there"
	s.Warnings = []string{clone, "two rings"}
	s.IPAM = fakeIPAM()
	s.IPAM.State = "waiting for IP(s) to become available"
	s.IPAM.Warnings = []string{"two rings", "host3 is out of reach since yesterday"}
	s.IPAM.Duplicates = []api.IPAMDuplicate{{Address: netip.MustParseAddr("10.32.0.7"), Holders: []string{"host1: web (3f2a…)", "host2: db (77aa…)"}}}
	s.IPAM.Pending = []api.IPAMPending{
		{Kind: "allocate", Container: "web", What: "10.2.2.0/24", Why: "host3 is out of reach"},
		{Kind: "claim", Container: "db", What: "10.42.0.1/12"},
	}
}

// full is a name as the daemon keeps it.
func full(name string) string {
	if name != "" && !strings.Contains(name, ".") {
		name += ".weft.internal"
	}
	if name != "" && !strings.HasSuffix(name, ".") {
		name += "."
	}
	return name
}

// parse reads addresses of which none is to be chosen.
func (f *fakeBackend) parse(addresses []string) (api.Addresses, error) {
	var list api.Addresses
	for _, s := range addresses {
		a, err := api.ParseAddress(s)
		if err != nil {
			return nil, err
		}
		if a.Allocate {
			return nil, fmt.Errorf("%s: %w", s, errIPAMOff)
		}
		list = append(list, a.Prefix)
	}
	return list, nil
}

// addresses reads what attach and expose take, and chooses: the lowest that
// nobody has. Our lock is held.
func (f *fakeBackend) addresses(ctx context.Context, texts []string) (api.Addresses, error) {
	if len(texts) == 0 {
		texts = []string{"net:default"}
		if f.status.IPAM == nil {
			return nil, errIPAMOff
		}
	}
	var list api.Addresses
	for _, s := range texts {
		a, err := api.ParseAddress(s)
		switch {
		case err != nil:
			return nil, err
		case a.Allocate && f.status.IPAM == nil:
			return nil, fmt.Errorf("%s: %w", s, errIPAMOff)
		case a.Allocate:
			if a.Prefix, err = f.choose(ctx, a.Prefix); err != nil {
				return nil, err
			}
		}
		list = append(list, a.Prefix)
	}
	return list, nil
}

func (f *fakeBackend) choose(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	if err := f.wait(ctx); err != nil {
		return subnet, err
	}
	if !subnet.IsValid() {
		subnet = f.status.IPAM.DefaultSubnet
	}
	if !f.status.IPAM.Range.Overlaps(subnet) {
		return subnet, usagef("subnet %s is not inside the range %s", subnet, f.status.IPAM.Range)
	}
	used := map[netip.Addr]bool{}
	for _, held := range f.attached {
		for _, p := range held {
			used[p.Addr()] = true
		}
	}
	for _, p := range f.exposed {
		used[p.Addr()] = true
	}
	a := subnet.Addr().Next()
	for used[a] {
		a = a.Next()
	}
	return netip.PrefixFrom(a, subnet.Bits()), nil
}

// wait says what it waits for; for ever when that is anything.
func (f *fakeBackend) wait(ctx context.Context) error {
	for _, reason := range f.waits {
		api.Progress(ctx, reason)
	}
	if len(f.waits) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return errors.New("a test left this waiting")
	}
}

func (f *fakeBackend) Prime(ctx context.Context) error {
	defer f.lock()()
	if f.status.IPAM == nil {
		return errors.New("the address allocator is off")
	}
	return f.wait(ctx)
}

func (f *fakeBackend) RemovePeers(ctx context.Context, r api.RemoveRequest) ([]api.Removed, error) {
	defer f.lock()()
	if f.status.IPAM == nil {
		return nil, errors.New("the address allocator is off")
	}
	var known []api.PeerID
	for _, e := range f.status.IPAM.Entries {
		known = append(known, api.PeerID{Name: e.Name, Nickname: e.Nickname, Identity: e.Identity})
	}
	list, err := api.FindPeers(known, r.Peers)
	if err != nil {
		return nil, fmt.Errorf("rmpeer: %w", err)
	}
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	var removed []api.Removed
	for _, p := range list {
		for i, e := range f.status.IPAM.Entries {
			if e.Identity != p.Identity {
				continue
			}
			if e.Reachable {
				return nil, fmt.Errorf("rmpeer: %s answers; stop it first", p)
			}
			o := api.Removed{Name: e.Name, Nickname: e.Nickname, IPs: e.IPs}
			if r.Force {
				o.Released = e.Active
			}
			removed = append(removed, o)
			f.status.IPAM.Entries[i].IPs = 0
		}
	}
	if len(list) == 1 && !r.Force {
		return nil, errors.New("rmpeer: 02:00:00:00:00:09() is out of reach and may hold space that host3 gave it: name it too if it is gone, or use --force (an address may then be given twice)")
	}
	return removed, nil
}

func (f *fakeBackend) HandOver(ctx context.Context) (api.HandOver, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.IPAM == nil {
		return api.HandOver{}, nil
	}
	if len(f.waits) > 0 {
		api.Progress(ctx, f.waits[0])
		return api.HandOver{}, errors.New("no other host with an allocator is in reach")
	}
	return api.HandOver{Name: "f6:42:1d:0a:5e:01", Nickname: "host2", IPs: 3072 << 8}, nil
}

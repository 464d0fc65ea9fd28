package ipam

import (
	"bytes"
	"cmp"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/record"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

const (
	putEvery  = time.Second      // own entries are put at most so often
	keepEvery = 10 * time.Second // and what others attached is written
)

// infos is what is known from entries, and what is published.
type infos struct {
	names   map[crypto.Name]crypto.Identity             // of peers that are listed
	byGroup map[netip.Addr]map[crypto.Identity]struct{} // peers with addresses in a group
	twice   map[netip.Addr]*duplicate

	look    map[netip.Addr]struct{} // groups in which duplicates came or went
	dirty   map[netip.Addr]struct{} // groups of ours that are to be put
	keep    map[knownKey]struct{}   // groups of others that are to be written
	changed bool                    // our Info is to be put
	putAt   time.Time
	keepAt  time.Time
	put     []byte // our Info as last put
}

type knownKey struct {
	peer crypto.Identity
	base netip.Addr
}

func (i *infos) init() {
	i.names = make(map[crypto.Name]crypto.Identity)
	i.byGroup = make(map[netip.Addr]map[crypto.Identity]struct{})
	i.twice = make(map[netip.Addr]*duplicate)
	i.look = make(map[netip.Addr]struct{})
	i.dirty = make(map[netip.Addr]struct{})
	i.keep = make(map[knownKey]struct{})
	i.changed = true
}

// touch notes that an address of this host came or went.
func (i *infos) touch(addr netip.Addr) {
	base := wire.GroupBase(addr)
	i.dirty[base] = struct{}{}
	i.look[base] = struct{}{}
	i.changed = true
}

// setEntries takes over the entries of others. Those of a host that is not in
// the list are remembered as they were.
func (c *core) setEntries(list []Entry) {
	byOwner := make(map[crypto.Identity][]Entry)
	for _, e := range list {
		if e.Owner != c.cfg.Self && (e.Key == wire.EntryInfo || strings.HasPrefix(e.Key, wire.EntryAttached)) {
			byOwner[e.Owner] = append(byOwner[e.Owner], e)
		}
	}
	for _, id := range sortedIDs(byOwner) {
		entries := byOwner[id]
		if slices.ContainsFunc(entries, func(e Entry) bool { return e.Key == wire.EntryInfo }) {
			c.setEntriesOf(c.peer(id), entries)
		}
	}
}

func (c *core) setEntriesOf(p *peer, entries []Entry) {
	now := make(map[string][]byte, len(entries))
	for _, e := range entries {
		now[e.Key] = e.Value
		if old, ok := p.raw[e.Key]; ok && bytes.Equal(old, e.Value) {
			continue
		}
		if e.Key == wire.EntryInfo {
			c.setInfo(p, e.Value)
			continue
		}
		if a, err := wire.ParseGroup(e.Key, e.Value); err == nil {
			c.setGroup(p, a.Base, a.Items)
		}
	}
	for _, base := range sortedAddrs(p.groups) {
		if _, ok := now[wire.AttachedKey(base)]; !ok {
			c.setGroup(p, base, nil)
		}
	}
	p.raw = now
}

func (c *core) setInfo(p *peer, value []byte) {
	info, err := wire.ParseInfo(value)
	if err != nil {
		return // of a newer version, perhaps
	}
	old := p.info
	p.info = &info
	c.sureness.look = true
	c.meeting.look = true
	if old == nil || info.Free > old.Free || info.FreeIPs > old.FreeIPs || info.Ring != old.Ring {
		c.requests.hurry = true
	}
}

// setGroup takes over what p uses in a group, nil: nothing.
func (c *core) setGroup(p *peer, base netip.Addr, items []wire.Item) {
	c.infos.look[base] = struct{}{}
	c.infos.keep[knownKey{p.ID, base}] = struct{}{}
	maps.DeleteFunc(p.dropped, func(a netip.Addr, _ bool) bool { return wire.GroupBase(a) == base })
	if len(items) == 0 {
		delete(p.groups, base)
		if delete(c.infos.byGroup[base], p.ID); len(c.infos.byGroup[base]) == 0 {
			delete(c.infos.byGroup, base)
		}
		return
	}
	p.groups[base] = items
	if c.infos.byGroup[base] == nil {
		c.infos.byGroup[base] = make(map[crypto.Identity]struct{})
	}
	c.infos.byGroup[base][p.ID] = struct{}{}
}

// loadKnown takes over a group from the store.
func (c *core) loadKnown(s record.Known) {
	c.setGroup(c.peer(s.Peer), s.Base, s.Items)
	delete(c.infos.keep, knownKey{s.Peer, s.Base})
}

// stepInfo finds duplicates and puts our entries.
func (c *core) stepInfo() {
	in := &c.infos
	if len(in.look) > 0 {
		for _, base := range sortedAddrs(in.look) {
			c.lookAt(base)
		}
		clear(in.look)
	}
	c.tellDuplicates()
	if (in.changed || len(in.dirty) > 0) && (in.putAt.IsZero() || c.due(in.putAt)) {
		in.putAt = c.now.Add(putEvery)
		c.putEntries()
	}
	if len(in.keep) > 0 {
		if in.keepAt.IsZero() {
			in.keepAt = c.now.Add(keepEvery)
		}
		if c.due(in.keepAt) {
			in.keepAt = time.Time{}
			c.keepKnown()
		}
	}
	c.remind()
}

// putEntries publishes what changed.
func (c *core) putEntries() {
	in := &c.infos
	if c.out.Puts == nil {
		c.out.Puts = make(map[string][]byte)
	}
	if b, err := c.ownInfo().Marshal(); err != nil {
		c.logf(slog.LevelError, "own info not published", "err", err)
	} else if !bytes.Equal(b, in.put) {
		in.put = b
		c.out.Puts[wire.EntryInfo] = b
	}
	for _, base := range sortedAddrs(in.dirty) {
		a := wire.Group{Base: base, Items: c.ownItems(base)}
		key := wire.AttachedKey(base)
		c.out.Puts[key] = nil
		if len(a.Items) > 0 {
			if _, b, err := a.Marshal(); err == nil {
				c.out.Puts[key] = b
			}
		}
	}
	clear(in.dirty)
	in.changed = false
}

// ownInfo returns what we say of ourselves.
func (c *core) ownInfo() wire.Info {
	info := wire.Info{Role: wire.RoleVoter, Range: c.geo.Range(), Local: uint64(len(c.local)), Leaving: c.handingOver()}
	if c.cfg.Mode.Kind == ModeObserver {
		info.Role = wire.RoleObserver
	}
	if c.ring == nil {
		return info
	}
	owned := c.ring.Owned(c.cfg.Self)
	free := c.used.WhollyFree(&owned, c.geo.Range())
	info.Ring, info.Blocks, info.Free = c.ring.ID(), owned.Len(), free.Len()
	for b := range owned.All() {
		if n := info.FreeIPs + c.geo.Size() - c.used.UsedIn(b); n >= info.FreeIPs {
			info.FreeIPs = n
		}
	}
	return info
}

// ownItems returns what this host uses in a group.
func (c *core) ownItems(base netip.Addr) []wire.Item {
	var items []wire.Item
	for i, addr := uint8(0), base; i < wire.GroupSize && addr.IsValid(); i, addr = i+1, addr.Next() {
		if h, ok := c.local[addr]; ok && !c.doubtful(addr) {
			items = append(items, wire.Item{Offset: i, Label: h.Label})
		}
	}
	return items
}

// keepKnown writes what others attached, in case that they die.
func (c *core) keepKnown() {
	byKey := func(a, b knownKey) int { return cmp.Or(a.peer.Compare(b.peer), a.base.Compare(b.base)) }
	for _, k := range sortedKeys(c.infos.keep, byKey) {
		s := &record.Known{Peer: k.peer, Group: wire.Group{Base: k.base}}
		if p := c.peers[k.peer]; p != nil && len(p.groups[k.base]) > 0 {
			s.Items = p.groups[k.base]
			c.put(s)
		} else {
			c.forget(s)
		}
	}
	clear(c.infos.keep)
}

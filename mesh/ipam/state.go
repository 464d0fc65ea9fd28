package ipam

import (
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/record"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/store"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// This file holds the only methods that change what is on the disk: each
// changes the memory, what follows from it, and adds the write.

// put adds the write that keeps s.
func (c *core) put(s record.Record) {
	value, err := record.Encode(s)
	if err != nil { // of what we made ourselves
		c.logf(slog.LevelError, "value not kept", "key", record.Key(s), "err", err)
		return
	}
	c.out.Writes = append(c.out.Writes, store.Write{Key: record.Key(s), Value: value})
}

// forget adds the write that deletes s.
func (c *core) forget(s record.Record) {
	c.out.Writes = append(c.out.Writes, store.Write{Key: record.Key(s)})
}

// load takes over what is stored. Of a store of another host or range nothing
// is kept, and what is not understood is left out: both make it unproven.
func (c *core) load(values map[string][]byte, proven bool) {
	parsed, meta, damaged := c.parse(values)
	if damaged > 0 {
		c.logf(slog.LevelError, "address database: values not understood were dropped", "count", damaged)
		proven = false
	}
	want := record.Meta{Self: c.cfg.Self, Name: c.cfg.Name, Range: c.geo.Range(), Boot: meta.Boot, Unsure: meta.Unsure}
	if len(parsed) > 0 && meta != want {
		c.logf(slog.LevelWarn, "address space forgotten: this host's name or the range changed",
			"range", c.geo.Range(), "formerly", meta.Range, "name", c.cfg.Name, "formerName", meta.Name)
		for _, s := range parsed {
			c.forget(s)
		}
		parsed, proven = nil, false
	}
	c.boot = meta.Boot + 1
	c.ring = c.loadRing(parsed)
	c.nameOwners()
	if c.ring == nil {
		// Leases are of blocks; whoever has one will say so.
		parsed = slices.DeleteFunc(parsed, func(s record.Record) bool {
			l, is := s.(*record.Lease)
			if is {
				c.forget(l)
			}
			return is
		})
	}
	for _, s := range parsed {
		switch s := s.(type) {
		case *record.Local:
			c.indexLocal(s.Addr, holder{s.Key, s.Label, s.Op})
			if s.Dying {
				c.holders.dying[s.Addr] = c.now.Add(grace)
			}
		case *record.Lease:
			c.indexLease(s.Addr, grant{s.Host, holder{s.Key, s.Label, s.Op}})
		case *record.Fence:
			c.loadFence(s.Fence)
		case *record.Removed:
			c.loadRemoved(*s)
		case *record.Vote:
			c.loadVote(*s)
		case *record.Known:
			c.loadKnown(*s)
		case *record.Op:
			p := c.peer(s.Host)
			p.lastOp = max(p.lastOp, s.Op)
		}
	}
	c.startSure(proven && !meta.Unsure, len(parsed) == 0)
	for addr := range c.holders.dying { // others were told that nobody has it
		if c.sureness.unproven {
			c.holders.doubtful[addr] = struct{}{}
		}
	}
	c.putMeta()
}

// parse returns what is stored, in order of keys, and how many values were
// dropped.
func (c *core) parse(values map[string][]byte) (list []record.Record, meta record.Meta, damaged int) {
	for _, key := range sortedStrings(values) {
		s, err := record.Parse(key, values[key])
		if err != nil {
			c.logf(slog.LevelDebug, "stored value dropped", "key", key, "err", err)
			c.out.Writes = append(c.out.Writes, store.Write{Key: key})
			damaged++
			continue
		}
		if m, ok := s.(*record.Meta); ok {
			meta = *m
		}
		list = append(list, s)
	}
	return list, meta, damaged
}

// loadRing returns the stored ring. It returns nil when there is none, or one
// with holes: others have it, or it is made anew.
func (c *core) loadRing(list []record.Record) *ring.Ring {
	var r *ring.Ring
	for _, s := range list {
		if s, ok := s.(*record.Ring); ok && s.Range == c.geo.Range() {
			r = ring.New(s.ID, c.geo)
		}
	}
	if r == nil {
		return nil
	}
	for _, s := range list {
		if s, ok := s.(*record.Block); ok && s.Block < c.geo.Blocks() {
			r.Merge(s.Block, s.Register)
		}
	}
	if !r.Complete() {
		return nil
	}
	return r
}

// putMeta keeps what the other values depend on.
func (c *core) putMeta() {
	c.put(&record.Meta{
		Self: c.cfg.Self, Name: c.cfg.Name, Range: c.geo.Range(),
		Boot: c.boot, Unsure: c.sureness.unproven,
	})
}

// adoptRing makes r our ring, in the place of one in which this host has no
// addresses, or of none.
func (c *core) adoptRing(r *ring.Ring, why string) {
	if c.ring != nil {
		for b := range c.geo.Blocks() {
			c.forget(&record.Block{Block: b})
		}
	}
	for _, addr := range sortedAddrs(c.leased) {
		c.dropLease(addr)
	}
	c.ring = r
	c.put(&record.Ring{ID: r.ID(), Range: c.geo.Range()})
	for b := range c.geo.Blocks() {
		if reg := r.Register(b); !reg.IsZero() {
			c.put(&record.Block{Block: b, Register: reg})
		}
	}
	c.changed = c.geo.All()
	c.ringChanged()
	c.logf(slog.LevelInfo, "address space divided", "ring", r.ID(), "how", why,
		"blocks", r.Count(c.cfg.Self), "of", c.geo.Blocks())
}

// ringChanged is called when there is another ring than before.
func (c *core) ringChanged() {
	c.nameOwners()
	s := &c.sureness
	s.fresh, s.look = space.BlockSet{}, true
	if s.unproven { // what was compared before was not this ring
		s.first = s.last + 1
		for _, p := range c.peers {
			p.met, p.asked = false, time.Time{}
		}
	}
	c.holders.unsettled, c.infos.changed = true, true
	c.retry()
}

// setRegister takes reg for a block if it beats what is known.
func (c *core) setRegister(block int, reg ring.Register) {
	before := c.ring.Owner(block)
	if !c.ring.Merge(block, reg) {
		return
	}
	c.put(&record.Block{Block: block, Register: reg})
	c.changed.Add(block)
	if after := reg.Owner; before != after {
		c.ownerChanged(block, before, after)
	}
}

func (c *core) ownerChanged(block int, before, after crypto.Identity) {
	c.ownerNamed(before, after)
	self := c.cfg.Self
	if before == self {
		// Its new owner learns from the holders themselves what is used.
		for _, addr := range c.leasedIn.sorted(block) {
			c.dropLease(addr)
		}
		c.sureness.fresh.Remove(block)
	}
	if after == self {
		c.retry()
	}
	if len(c.localIn[block]) > 0 {
		c.holders.unsettled = true
	}
	c.infos.changed = true
}

// mergeRuns merges registers that others sent, but for those that a pending
// fence keeps out.
func (c *core) mergeRuns(runs []ring.Run) {
	for _, run := range runs {
		if run.First < 0 || run.First >= c.geo.Blocks() || c.fenced(run.Register) {
			continue
		}
		for b := run.First; b-run.First < run.Count && b < c.geo.Blocks(); b++ {
			c.setRegister(b, run.Register)
		}
	}
}

// setLocal makes addr an address of this host's container.
func (c *core) setLocal(addr netip.Addr, h holder) {
	c.unindexLocal(addr)
	c.indexLocal(addr, h)
	c.putLocal(addr)
	c.infos.touch(addr)
}

// putLocal keeps a local address, and whether its holder is dying: when the
// core is made anew after a write failed, nobody says that again.
func (c *core) putLocal(addr netip.Addr) {
	h := c.local[addr]
	c.put(&record.Local{Lease: wire.Lease{Addr: addr, Op: h.Op, Key: h.Key, Label: h.Label}, Dying: c.dying(addr)})
}

// dropLocal frees an address of this host's container.
func (c *core) dropLocal(addr netip.Addr) {
	if !c.unindexLocal(addr) {
		return
	}
	delete(c.holders.dying, addr)
	delete(c.holders.doubtful, addr)
	delete(c.holders.told, addr)
	c.forget(&record.Local{Lease: wire.Lease{Addr: addr}})
	c.infos.touch(addr)
	c.retry()
}

// setLease makes addr, which is in a block of ours, another host's.
func (c *core) setLease(addr netip.Addr, g grant) {
	c.unindexLease(addr)
	c.indexLease(addr, g)
	c.put(&record.Lease{Granted: wire.Granted{Host: g.Host, Lease: wire.Lease{Addr: addr, Op: g.Op, Key: g.Key, Label: g.Label}}})
	c.infos.changed = true
}

// dropLease ends a lease.
func (c *core) dropLease(addr netip.Addr) {
	if !c.unindexLease(addr) {
		return
	}
	c.forget(&record.Lease{Granted: wire.Granted{Lease: wire.Lease{Addr: addr}}})
	c.infos.changed = true
	c.retry()
}

func (c *core) indexLocal(addr netip.Addr, h holder) {
	block, ok := c.geo.Block(addr)
	if !ok {
		return
	}
	c.local[addr] = h
	list := c.keys[h.Key]
	i, _ := slices.BinarySearchFunc(list, addr, netip.Addr.Compare)
	c.keys[h.Key] = slices.Insert(list, i, addr)
	c.localIn.add(block, addr)
	c.used.Use(addr)
}

func (c *core) unindexLocal(addr netip.Addr) bool {
	h, ok := c.local[addr]
	if !ok {
		return false
	}
	delete(c.local, addr)
	list := c.keys[h.Key]
	if i, found := slices.BinarySearchFunc(list, addr, netip.Addr.Compare); found {
		list = slices.Delete(list, i, i+1)
	}
	if c.keys[h.Key] = list; len(list) == 0 {
		delete(c.keys, h.Key)
	}
	block, _ := c.geo.Block(addr)
	c.localIn.remove(block, addr)
	if _, leased := c.leased[addr]; !leased {
		c.used.Free(addr)
	}
	return true
}

func (c *core) indexLease(addr netip.Addr, g grant) {
	block, ok := c.geo.Block(addr)
	if !ok {
		return
	}
	c.leased[addr] = g
	c.leasedIn.add(block, addr)
	c.leasedTo.add(g.Host, addr)
	c.used.Use(addr)
	// A holder that forgot this op must hear of it, or it could never end the lease.
	p := c.peer(g.Host)
	p.lastOp = max(p.lastOp, g.Op)
}

func (c *core) unindexLease(addr netip.Addr) bool {
	g, ok := c.leased[addr]
	if !ok {
		return false
	}
	delete(c.leased, addr)
	block, _ := c.geo.Block(addr)
	c.leasedIn.remove(block, addr)
	c.leasedTo.remove(g.Host, addr)
	if _, local := c.local[addr]; !local {
		c.used.Free(addr)
	}
	return true
}

// index finds addresses by something that they have in common.
type index[K comparable] map[K]map[netip.Addr]struct{}

func (x index[K]) add(k K, addr netip.Addr) {
	if x[k] == nil {
		x[k] = make(map[netip.Addr]struct{})
	}
	x[k][addr] = struct{}{}
}

func (x index[K]) remove(k K, addr netip.Addr) {
	if delete(x[k], addr); len(x[k]) == 0 {
		delete(x, k)
	}
}

// sorted returns the addresses of k, ascending.
func (x index[K]) sorted(k K) []netip.Addr { return sortedAddrs(x[k]) }

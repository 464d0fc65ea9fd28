package ipam

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

const (
	grace         = 30 * time.Second // for which one that died keeps its addresses
	confirmEvery  = time.Second
	confirmAtOnce = 64               // addresses that are being confirmed at a time
	disputedEvery = 30 * time.Second // an address that another one has is asked for again
)

// holders is what is going on with addresses that containers of this host
// have.
type holders struct {
	dying     map[netip.Addr]time.Time // of holders that died: when they become free
	doubtful  map[netip.Addr]struct{}  // of those, what only a database says that is not known to be the newest
	unsettled bool                     // owners changed: claims is to be made anew
	claims    map[netip.Addr]*request  // addresses that we have and that others must confirm
	claimAt   time.Time                // of the next look at claims
	told      map[netip.Addr]struct{}  // local addresses of which it is logged that they are lent to others
	heldAt    time.Time                // of the next Held to all
}

func (h *holders) init() {
	h.dying = make(map[netip.Addr]time.Time)
	h.doubtful = make(map[netip.Addr]struct{})
	h.claims = make(map[netip.Addr]*request)
	h.told = make(map[netip.Addr]struct{})
}

// release frees addresses of a key, nil: all.
func (c *core) release(e releaseEvent) {
	freed := c.free(e.Key, e.Addrs)
	c.finish(e.Ticket, result{Released: freed})
}

// free frees addresses of a key and tells the owners of their blocks.
func (c *core) free(key string, addrs []netip.Addr) []netip.Addr {
	freed := slices.Clone(c.keys[key])
	if addrs != nil {
		freed = slices.DeleteFunc(freed, func(a netip.Addr) bool { return !slices.Contains(addrs, a) })
	}
	owners := make(map[crypto.Identity][]netip.Addr)
	for _, addr := range freed {
		if owner, ok := c.ownerOf(addr); ok && owner != c.cfg.Self {
			owners[owner] = append(owners[owner], addr)
		}
		if r := c.holders.claims[addr]; r != nil {
			c.endClaim(r)
		}
		c.dropLocal(addr)
		c.inherit(addr)
	}
	for _, owner := range sortedIDs(owners) {
		c.sendHeld(c.peer(owner), owners[owner])
	}
	return freed
}

// move gives addresses of one key to another.
func (c *core) move(e moveEvent) {
	for _, addr := range e.Addrs {
		if h, ok := c.local[addr]; ok && h.Key == e.From {
			c.rename(addr, e.Key, e.Label)
		}
	}
	c.finish(e.Ticket, result{})
}

// rename gives an address of this host to another of its containers.
func (c *core) rename(addr netip.Addr, key, label string) {
	h := c.local[addr]
	h.Key, h.Label = key, label
	c.setLocal(addr, h)
	c.revive(addr)
	if r := c.holders.claims[addr]; r != nil {
		r.key, r.label = key, label
	}
}

// died frees the addresses of a key after the grace, save those that it is
// given again until then.
func (c *core) died(key string) {
	for _, addr := range c.keys[key] {
		c.dies(addr)
	}
}

func (c *core) dies(addr netip.Addr) {
	if !c.dying(addr) {
		c.holders.dying[addr] = c.now.Add(grace)
		c.putLocal(addr)
	}
}

func (c *core) dying(addr netip.Addr) bool {
	_, is := c.holders.dying[addr]
	return is
}

// revive ends the grace: somebody uses the address.
func (c *core) revive(addr netip.Addr) {
	if c.dying(addr) {
		delete(c.holders.dying, addr)
		c.putLocal(addr)
	}
	if c.doubtful(addr) {
		delete(c.holders.doubtful, addr)
		c.infos.touch(addr)
	}
}

func (c *core) doubtful(addr netip.Addr) bool {
	_, is := c.holders.doubtful[addr]
	return is
}

// endDoubt is called when everybody said what they know. What is in our own
// space is nobody else's then. Of the rest the owners were told that nobody
// here has it.
func (c *core) endDoubt() {
	for _, addr := range sortedAddrs(c.holders.doubtful) {
		if owner, ok := c.ownerOf(addr); ok && owner == c.cfg.Self {
			delete(c.holders.doubtful, addr)
			c.infos.touch(addr)
		} else {
			c.dropLocal(addr)
		}
	}
}

// dropDoubtful is called when addr turns out to be somebody's.
func (c *core) dropDoubtful(addr netip.Addr) {
	if c.doubtful(addr) {
		c.dropLocal(addr)
	}
}

// trusted reports whether a key that has an address by the database may go on
// using it. An old copy of it may say what was true once; then the address
// must be in our own space, and nobody must have said that it is theirs.
func (c *core) trusted(addr netip.Addr) bool {
	if !c.sureness.adopted {
		return false
	}
	owner, ok := c.ownerOf(addr)
	return !c.doubtful(addr) || ok && owner == c.cfg.Self && c.sure()
}

// reusable reports whether a dead container's address may be given again, to
// its old key or to whoever names it. That it was in use counts no more: it
// must be in our own space, and we sure of that, or the owner of its block must
// have said that it is ours.
func (c *core) reusable(addr netip.Addr) bool {
	if c.halted() != "" || c.holders.claims[addr] != nil {
		return false
	}
	owner, ok := c.ownerOf(addr)
	if !ok || owner != c.cfg.Self {
		return ok && c.local[addr].Op != 0
	}
	block, _ := c.geo.Block(addr)
	own := c.own()
	_, lent := c.leased[addr]
	return own.Has(block) && !lent
}

// adopt takes over what was found attached at the start. It is there whatever
// the database says, and what the database says beyond it counts as dead.
func (c *core) adopt(e adoptEvent) {
	found := make(map[netip.Addr]struct{})
	for _, key := range sortedStrings(e.Live) {
		for _, addr := range e.Live[key].Addrs {
			if _, twice := found[addr]; c.geo.Contains(addr) && !twice {
				found[addr] = struct{}{}
				c.adoptAddr(key, e.Live[key].Label, addr)
			}
		}
	}
	for _, addr := range sortedAddrs(c.local) {
		if _, ok := found[addr]; !ok {
			c.dies(addr)
			if c.sureness.unproven {
				c.holders.doubtful[addr] = struct{}{}
				c.infos.touch(addr)
			}
		}
	}
	s := &c.sureness
	if !s.adopted {
		s.adopted, s.look = true, true
	}
	c.holders.unsettled = true
	c.retry()
	if e.Ticket != 0 {
		c.finish(e.Ticket, result{})
	}
}

func (c *core) adoptAddr(key, label string, addr netip.Addr) {
	c.revive(addr)
	old, ok := c.local[addr]
	if ok && old.Key == key {
		return
	}
	if ok {
		c.rename(addr, key, label)
		return
	}
	if g, lent := c.leased[addr]; lent {
		c.logf(slog.LevelWarn, "address found attached that was lent to a peer", "address", addr, "by", label, "peer", c.title(g.Host), "there", g.Label)
	}
	c.setLocal(addr, holder{Key: key, Label: label})
}

// stepHolders ends the grace of the dead, and tells owners of blocks what this
// host has of them.
func (c *core) stepHolders() {
	h := &c.holders
	if len(h.dying) > 0 {
		c.bury()
	}
	if c.ring == nil {
		return
	}
	if h.unsettled {
		h.unsettled = false
		c.settle()
	}
	c.confirm()
	if h.heldAt.IsZero() {
		h.heldAt = c.now.Add(c.jitter(heldEvery))
	}
	if c.due(h.heldAt) {
		h.heldAt = c.now.Add(c.jitter(heldEvery))
		c.due(h.heldAt)
		c.tellHeld()
	}
}

// bury frees what belonged to the dead.
func (c *core) bury() {
	freed := make(map[string][]netip.Addr)
	for _, addr := range sortedAddrs(c.holders.dying) {
		if c.due(c.holders.dying[addr]) {
			key := c.local[addr].Key
			freed[key] = append(freed[key], addr)
		}
	}
	for _, key := range sortedStrings(freed) {
		c.logf(slog.LevelInfo, "addresses of a dead container are free", "key", key, "addresses", fmt.Sprint(freed[key]))
		c.free(key, freed[key])
	}
}

// tellHeld sends a full Held to whoever owns what we have, or might think so.
func (c *core) tellHeld() {
	owners := make(map[crypto.Identity]struct{})
	for b := range c.localIn {
		if owner, ok := c.resolve(c.ring.Owner(b)); ok {
			owners[owner] = struct{}{}
		}
	}
	for _, p := range c.mates() {
		if _, owns := owners[p.ID]; owns || p.wanted {
			c.sendHeld(p, nil)
		}
	}
}

// settle finds the addresses of this host of which the owners of their blocks
// did not say that they may stay: they were found attached, or their block was
// taken over. Each becomes a claim that waits until the owner says so.
func (c *core) settle() {
	h := &c.holders
	need := make(map[netip.Addr]struct{})
	for b := range c.localIn {
		if c.ring.Owner(b) == c.cfg.Self {
			continue
		}
		for addr := range c.localIn[b] {
			if c.local[addr].Op == 0 && !c.doubtful(addr) {
				need[addr] = struct{}{}
			}
		}
	}
	for _, addr := range sortedAddrs(h.claims) {
		if _, ok := need[addr]; !ok {
			c.endClaim(h.claims[addr])
		}
	}
	for _, addr := range sortedAddrs(need) {
		if h.claims[addr] == nil {
			l := c.local[addr]
			h.claims[addr] = &request{kind: wantThis, key: l.Key, label: l.Label, addr: addr, since: c.now}
		}
	}
	h.claimAt = c.now
}

// confirm asks for some of these addresses.
func (c *core) confirm() {
	h := &c.holders
	if len(h.claims) == 0 || !c.due(h.claimAt) {
		return
	}
	h.claimAt = c.now.Add(confirmEvery)
	c.due(h.claimAt)
	open := 0
	for _, addr := range sortedAddrs(h.claims) {
		r := h.claims[addr]
		if open < confirmAtOnce || r.ask != nil {
			c.confirmOne(r)
		}
		if r.ask != nil {
			open++
		}
	}
}

func (c *core) confirmOne(r *request) {
	owner, ok := c.ownerOf(r.addr)
	switch {
	case ok && owner == c.cfg.Self:
		c.endClaim(r)
	case !ok || !c.alive(owner):
		block, _ := c.geo.Block(r.addr)
		c.closeAsk(r.ask)
		r.reason = c.title(c.ring.Owner(block)) + ", which has the block, is out of reach"
	case c.halted() != "":
		r.reason = c.halted()
	case c.sureness.unproven && !c.peer(owner).met:
		r.reason = "comparing addresses with " + c.title(owner)
	default:
		c.askFor(r, owner)
	}
}

func (c *core) endClaim(r *request) {
	c.closeAsk(r.ask)
	delete(c.holders.claims, r.addr)
}

// confirmed is called when the owner of the block lets us have an address that
// we had already.
func (c *core) confirmed(r *request, op uint64) {
	c.endClaim(r)
	delete(c.holders.told, r.addr)
	if h, ok := c.local[r.addr]; ok {
		h.Op = op
		c.setLocal(r.addr, h)
		c.retry() // its key may wait for another one
	}
}

// disputed is called when the owner of the block says that an address of ours
// is somebody else's. Nobody is cut off: it is asked for again, and listed.
func (c *core) disputed(m wire.Conflict) {
	h, ok := c.local[m.Addr]
	if !ok {
		return
	}
	if m.Op == 0 && h.Op != 0 {
		h.Op = 0
		c.setLocal(m.Addr, h)
		c.holders.unsettled = true
	}
	if r := c.holders.claims[m.Addr]; r != nil {
		c.closeAsk(r.ask)
		r.again = c.now.Add(disputedEvery)
		r.reason = c.inUse(m)
		if _, told := c.holders.told[m.Addr]; !told {
			c.holders.told[m.Addr] = struct{}{}
			// Whether both use it, and it is to be warned of, tellDuplicates knows.
			c.logf(slog.LevelInfo, "an address of this host is lent to another one by the owner of its block", "address", m.Addr,
				"by", h.Label, "peer", c.title(m.Host), "there", m.Label)
		}
	}
}

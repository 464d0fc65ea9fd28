package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// host is a machine with a daemon and containers. The machine's disk and what
// the mesh remembers outlive the daemon, containers outlive it, too, but not a
// reboot.
type host struct {
	w    *world
	n    int // index in world.hosts
	id   crypto.Identity
	name crypto.Name
	nick string
	cfg  coreConfig

	on                        bool // the daemon runs
	life                      int  // counts starts and stops: what was planned in an earlier one is void
	disks                     int  // counts the times that the disk was replaced
	down                      bool // the machine is off, and not to be started by chance
	left                      bool // has handed over its space and left for good
	leaving, removed, adopted bool
	stale                     string        // why its disk may be older than what others know; empty: it is not
	lonely                    time.Duration // since when a stale host reaches nobody

	core    *core // nil after a save failed, until it is made anew
	open    map[ticket]bool
	died    []event       // not yet written
	renewed bool          // it has put its entries
	proven  bool          // the disk is the newest there ever was
	retryAt time.Duration // when the core is made anew
	disk    disk
	floor   int           // saves that no old copy lacks
	skew    time.Duration // of the clock
	frozen  time.Duration // the process does not run before
	inbox   []event
	busy    bool // a run is planned
	tick    time.Duration
	doom    doom

	calls map[ticket]*call
	pods  []*pod // alive
	dead  []*pod // may be started again

	targets  []int // hosts named at the launch
	advert   int   // grows with every start
	known    []int // by host: the newest advert, 0: unknown, gone
	expelled []int // by host: the advert that was forgotten
	alive    []bool
	seen     []bool        // was alive in this life, as far as the core was told
	began    time.Duration // when this life did
	skewed   time.Duration // the skew then
	own      entries
	copies   []entries // by host
	dirty    bool      // entries are to be handed to the core
	met      bool      // peers are to be handed to the core

	mine space.BlockSet // the blocks that are ours by what was last persisted
	ring ring.ID
	regs []ring.Register
	hash uint64
}

// entries are what a host publishes, at some version. The map is never
// changed, only replaced.
type entries struct {
	version int
	all     map[string][]byte
}

// Why a host is stale.
const (
	oldDisk      = "old copy"
	beingRemoved = "being removed"
	wasRemoved   = "removed"
)

// doom is where the next run ends in a crash.
type doom int

const (
	doomNone     doom = iota
	doomUnsaved       // before the save
	doomUnmarked      // after the save, before the mark
	doomUnsaid        // after the mark, before anything is said
	doomHalfSaid      // after some of it was said
	dooms
)

func (w *world) add() *host {
	n := len(w.hosts)
	h := &host{
		w:        w,
		n:        n,
		id:       w.identity(n),
		nick:     fmt.Sprintf("host%d", n),
		disk:     newDisk(),
		calls:    make(map[ticket]*call),
		open:     make(map[ticket]bool),
		known:    make([]int, len(w.net.cut)),
		expelled: make([]int, len(w.net.cut)),
		alive:    make([]bool, len(w.net.cut)),
		seen:     make([]bool, len(w.net.cut)),
		copies:   make([]entries, len(w.net.cut)),
		tick:     -1,
	}
	h.name = h.id.Name()
	h.disk.lose = w.loseWrite
	mode := w.mode
	h.cfg = coreConfig{Self: h.id, Name: h.name, Range: w.space, Seed: h.id, sabotage: w.sabotage}
	if w.tweak != nil {
		tweak := w.tweak(n)
		if tweak.mode != "" {
			mode = tweak.mode
		}
		if tweak.space.IsValid() {
			h.cfg.Range = tweak.space
		}
	}
	h.cfg.Mode = w.parseMode(mode)
	h.targets = w.launchList(n)
	w.hosts = append(w.hosts, h)
	w.byID[h.id] = h
	return h
}

// identity returns that of the n-th host.
func (w *world) identity(n int) crypto.Identity {
	var seed [16]byte
	binary.BigEndian.PutUint64(seed[:], w.seed)
	binary.BigEndian.PutUint64(seed[8:], uint64(n))
	return crypto.Identity(sha256.Sum256(seed[:]))
}

// launchList returns which hosts the n-th names: all of the first ones, also
// those that are added later.
func (w *world) launchList(n int) []int {
	if w.names != nil {
		return w.names(n)
	}
	var list []int
	for i := range w.rules.hosts {
		if i != n {
			list = append(list, i)
		}
	}
	return list
}

// now is what the host's clock says.
func (h *host) now() time.Time { return epoch().Add(h.w.now + h.skew) }

// start runs the daemon.
func (h *host) start() {
	if h.on || h.left || h.w.err != nil {
		return
	}
	w := h.w
	h.on, h.down, h.adopted, h.removed = true, false, false, false
	h.life++
	h.advert++
	h.lonely = w.now
	h.own = entries{version: h.own.version + 1}
	h.began, h.skewed = w.now, h.skew
	clear(h.alive)
	clear(h.seen)
	stored, proven := h.disk.load()
	proven = proven || h.life == 1 // a new identity cannot have forgotten anything
	w.note(h, "start, advert %d, proven %v, %d stored, %d containers", h.advert, proven, len(stored), len(h.pods))
	h.inbox, h.died, h.proven = nil, nil, proven
	clear(h.open)
	if !h.wake(stored, proven) {
		return
	}
	h.push(h.peersEvent())
	h.push(h.entriesEvent())
	h.adopt()
	w.net.notice()
	w.net.gossip(h)
	if h.stale != "" {
		h.watch()
	}
}

// wake makes the core from what is stored.
func (h *host) wake(stored map[string][]byte, proven bool) bool {
	h.cfg.Seed, h.cfg.Adopted = sha256.Sum256(h.cfg.Seed[:]), h.adopted
	c, err := newCore(h.cfg, stored, proven, h.now())
	if err != nil {
		h.w.fail(-1, "%s does not start: %v", h.nick, err)
		return false
	}
	if h.w.onStart != nil {
		h.core = c
		h.w.onStart(h)
	}
	h.core, h.tick, h.renewed = c, -1, false
	return true
}

// stop ends the daemon as kill -9 does.
func (h *host) stop(why string) {
	if !h.on {
		return
	}
	h.w.note(h, "stops: %s", why)
	h.on, h.busy, h.core, h.inbox, h.doom, h.frozen = false, false, nil, nil, doomNone, 0
	h.life++
	for _, t := range sortedKeys(h.calls, compareTickets) {
		h.calls[t].lost()
	}
	clear(h.calls)
	h.w.net.notice()
}

// reboot ends the daemon and all containers, and empties the runtime directory.
func (h *host) reboot(why string) {
	h.stop(why)
	h.disk.reboot()
	for _, p := range slices.Clone(h.pods) {
		p.end(true)
	}
}

// knows reports whether a peer is in h's list.
func (h *host) knows(b *host) bool { return h.known[b.n] > 0 && h.known[b.n] != gone }

// peersChanged and entriesChanged hand a new list to the core, once for
// several changes that come together.
func (h *host) peersChanged() {
	h.later(&h.met, 0, func() { h.push(h.peersEvent()) })
}

func (h *host) entriesChanged() {
	h.later(&h.dirty, h.w.between(50*time.Millisecond, 400*time.Millisecond), func() { h.push(h.entriesEvent()) })
}

func (h *host) later(planned *bool, d time.Duration, do func()) {
	if *planned || !h.on {
		return
	}
	*planned = true
	life := h.life
	h.w.after(d, func() {
		*planned = false
		if h.life == life {
			do()
		}
	})
}

func (h *host) peersEvent() peersEvent {
	var e peersEvent
	for _, b := range h.w.hosts {
		if b != h && h.knows(b) {
			e.Peers = append(e.Peers, Peer{ID: b.id, Name: b.name, Nickname: b.nick, Alive: h.alive[b.n]})
			h.seen[b.n] = h.seen[b.n] || h.alive[b.n]
		}
	}
	for _, i := range h.targets {
		if h.known[i] == 0 {
			e.Targets++
		}
	}
	return e
}

func (h *host) entriesEvent() entriesEvent {
	var e entriesEvent
	for _, b := range h.w.hosts {
		if b == h || !h.alive[b.n] || !h.knows(b) {
			continue
		}
		for _, k := range sortedStrings(h.copies[b.n].all) {
			e.Entries = append(e.Entries, Entry{Owner: b.id, Key: k, Value: h.copies[b.n].all[k]})
		}
	}
	return e
}

// adopt tells the core what is attached.
func (h *host) adopt() {
	h.ask(nil, func(t ticket) event { return adoptEvent{Ticket: t, Live: h.attached()} }, func(r result) {
		h.adopted = r.Err == nil
	})
}

// attached is what the daemon finds on the switch when it starts.
func (h *host) attached() map[string]Found {
	live := make(map[string]Found, len(h.pods))
	for _, p := range h.pods {
		if len(p.addrs) > 0 {
			live[p.key] = Found{Label: p.label, Addrs: slices.SortedFunc(slices.Values(p.addrs), netip.Addr.Compare)}
		}
	}
	return live
}

var errNoAnswer = errors.New("the daemon ended before it answered")

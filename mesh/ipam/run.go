package ipam

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/store"
)

const (
	batchMost  = 256         // events that are handled before one write
	storeAgain = time.Second // after a write failed
	lostEvery  = time.Minute // between two lines about messages that were dropped
)

// database keeps values by key, like [store.Store]. Save is all or nothing, and
// what it saved survives a power cut. Load returns copies. It is not safe for
// concurrent use.
type database interface {
	Load() (map[string][]byte, error)
	Save(batch []store.Write) error
	Close() error
}

// Allocator is the address allocator of one host. All its methods are safe
// for concurrent use.
//
// One goroutine, that of [Allocator.Run], owns the state. It takes what waits
// on the desk, steps through it, writes what changed, all at once, and only
// then says anything to anybody.
type Allocator struct {
	// Constant after Open.

	cfg  Config
	log  *slog.Logger
	desk *desk

	// Safe for concurrent use.

	published atomic.Pointer[Status]

	// Owned by Run.

	store   database
	damage  string // what happened to the database before; empty: nothing
	core    *core  // nil after a write failed, until it is loaded again
	failure error  // of that write
	unread  string // of the reading after it, as last logged; empty: it could be read
	retryAt time.Time
	proven  bool               // the database is the newest there ever was, but for what it says itself
	adopted bool               // what was found attached at the start is in it
	peers   *peersEvent        // the latest
	entries *entriesEvent      // the latest
	died    []event            // not yet written
	open    map[ticket]*client // requests that the core has
	put     map[string]bool    // entries of ours
	renew   bool               // the core is new: its first Puts are all there are
	putErr  bool               // the last Put failed; logged
	good    *Status            // as it was before a write failed
	lost    int                // messages that were dropped; not yet logged
	lostAt  time.Time          // when some last were logged
}

// Open opens the database. It fails with [store.ErrHeld] when another process
// has it open, and on a range or subnet that is none. A database that is damaged
// is set aside and another one begun, as [Status] says. Then [Allocator.Run]
// must be called, which closes it.
func Open(cfg Config) (*Allocator, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s, err := store.Open(cfg.Path, cfg.Mark, cfg.Log)
	if err != nil {
		return nil, err
	}
	a, err := open(cfg, s, s.Proven())
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	a.damage = s.Damage()
	return a, nil
}

// open makes an allocator with any store.
func open(cfg Config, s database, proven bool) (*Allocator, error) {
	geo, err := space.NewGeometry(cfg.Range)
	if err != nil {
		return nil, err
	}
	if !cfg.Subnet.IsValid() {
		cfg.Subnet = geo.Range()
	}
	cfg.Range, cfg.Subnet = geo.Range(), cfg.Subnet.Masked()
	a := &Allocator{
		cfg: cfg, log: cfg.Log, desk: newDesk(), store: s,
		proven: proven, open: make(map[ticket]*client), put: make(map[string]bool),
	}
	if err := a.load(); err != nil {
		return nil, err
	}
	if err := a.core.checkSubnet(cfg.Subnet); err != nil {
		return nil, fmt.Errorf("default subnet: %w", err)
	}
	a.publish()
	return a, nil
}

// load makes the core from the store.
func (a *Allocator) load() error {
	stored, err := a.store.Load()
	if err != nil {
		return err
	}
	cfg := coreConfig{
		Self: a.cfg.Self, Name: a.cfg.Name, Nickname: a.cfg.Nickname, Range: a.cfg.Range, Subnet: a.cfg.Subnet,
		Mode: a.cfg.Mode, ReclaimAfter: a.cfg.ReclaimAfter, Patience: patience, Adopted: a.adopted,
	}
	if _, err := rand.Read(cfg.Seed[:]); err != nil {
		return err
	}
	c, err := newCore(cfg, stored, a.proven || a.cfg.New && len(stored) == 0, time.Now())
	if err != nil {
		return err
	}
	a.core, a.renew = c, true
	return nil
}

// Run does the work until ctx ends; then requests that wait get [ErrClosed],
// and the database is closed. It is called once.
func (a *Allocator) Run(ctx context.Context) error {
	defer a.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wake := a.retryAt
		if a.core != nil {
			wake = a.core.wake()
		}
		timer.Reset(max(0, time.Until(wake)))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-a.desk.wake:
		}
		a.round(time.Now(), a.desk.take())
	}
}

func (a *Allocator) end() {
	for _, c := range a.desk.close() {
		c.answer(result{Err: ErrClosed})
	}
	for _, t := range sortedKeys(a.open, compareTicket) {
		a.open[t].answer(result{Err: ErrClosed})
	}
	if err := a.store.Close(); err != nil {
		a.log.Error("address database not closed", "err", err)
	}
}

// round handles what was on the desk, or a tick, and does what comes of it.
func (a *Allocator) round(now time.Time, in inbox) {
	a.sayLost(now, in.lost)
	if in.peers != nil {
		a.peers = in.peers
	}
	if in.entries != nil {
		a.entries = in.entries
	}
	for _, it := range in.items {
		if _, ok := it.event.(diedEvent); ok {
			a.died = append(a.died, it.event)
		}
	}
	if a.core == nil {
		// Somebody who asks is a reason to try at once: there may be room again.
		if now.Before(a.retryAt) && !in.asks() || !a.reload(now) {
			a.refuse(in)
			return
		}
	}
	a.step(now, in)
	out := a.core.take()
	if err := a.store.Save(out.Writes); err != nil {
		a.failed(now, in, err)
		return
	}
	a.written(out)
	a.carryOut(out)
}

// step shows the core what is new.
func (a *Allocator) step(now time.Time, in inbox) {
	if in.peers != nil || a.newTargets() {
		a.core.step(now, *a.peers)
	}
	if in.entries != nil {
		a.core.step(now, *in.entries)
	}
	for _, it := range in.items {
		if it.client != nil {
			a.open[it.client.ticket] = it.client
		}
		a.core.step(now, it.event)
	}
	if in.peers == nil && in.entries == nil && len(in.items) == 0 {
		a.core.step(now, tickEvent{})
	}
}

// newTargets looks whether more or fewer named peers are unknown than before.
// Only the first division wants to know.
func (a *Allocator) newTargets() bool {
	if a.peers == nil || a.cfg.Targets == nil || a.core.ring != nil {
		return false
	}
	n := a.cfg.Targets()
	if n == a.peers.Targets {
		return false
	}
	a.peers = &peersEvent{Peers: a.peers.Peers, Targets: n}
	return true
}

// written is called after a batch is on the disk.
func (a *Allocator) written(out effects) {
	if len(out.Writes) > 0 {
		a.proven = true // what is doubtful about it, it says itself
	}
	for _, r := range out.Answers {
		if c := a.open[r.Ticket]; c != nil {
			_, is := c.event.(adoptEvent)
			a.adopted = a.adopted || is
		}
	}
	a.died = nil
	if a.failure != nil {
		a.log.Info("address database is written again")
		a.failure = nil
	}
}

// failed goes back to what the disk says: nothing that came of this batch is
// known to anybody. Requests of the batch get the error; those that waited
// before go on waiting.
func (a *Allocator) failed(now time.Time, in inbox, err error) {
	if a.failure == nil {
		a.log.Error("address database not written", "err", err)
	}
	a.core, a.failure, a.retryAt = nil, err, now.Add(storeAgain)
	a.refuse(in)
	for _, t := range sortedKeys(a.open, compareTicket) {
		a.open[t].wait(err.Error())
	}
	a.publish()
}

// refuse answers the requests of a batch that came to nothing. What was found
// at the start stays on the desk, so to speak: it is true in any case.
func (a *Allocator) refuse(in inbox) {
	for _, it := range in.items {
		if it.client == nil {
			continue
		}
		if _, ok := it.event.(adoptEvent); ok {
			a.open[it.client.ticket] = it.client
			continue
		}
		delete(a.open, it.client.ticket)
		it.client.answer(result{Err: fmt.Errorf("%w: %w", ErrStore, a.failure)})
	}
	for _, it := range in.items {
		e, ok := it.event.(cancelEvent)
		if c := a.open[e.Ticket]; ok && c != nil {
			delete(a.open, e.Ticket)
			c.answer(result{Err: errCancelled})
		}
	}
}

// reload makes a core again and shows it everything that is known.
func (a *Allocator) reload(now time.Time) bool {
	if err := a.load(); err != nil {
		if what := err.Error(); what != a.unread {
			a.unread = what
			a.log.Error("address database not read", "err", err)
		}
		a.retryAt = now.Add(storeAgain)
		return false
	}
	a.unread = ""
	if a.peers != nil {
		a.core.step(now, *a.peers)
	}
	if a.entries != nil {
		a.core.step(now, *a.entries)
	}
	// What was found at the start is older than any death.
	late := make([]event, 0, len(a.open))
	for _, t := range sortedKeys(a.open, compareTicket) {
		if e, ok := a.open[t].event.(adoptEvent); ok {
			a.core.step(now, e)
		} else {
			late = append(late, a.open[t].event)
		}
	}
	for _, e := range slices.Concat(a.died, late) {
		a.core.step(now, e)
	}
	a.core.step(now, tickEvent{})
	return true
}

// carryOut does what the core wants, after its writes are on the disk.
func (a *Allocator) carryOut(out effects) {
	for _, l := range out.Logs {
		a.say(l)
	}
	for _, l := range out.Sends {
		a.cfg.Net.Send(l.To, l.Data)
	}
	for _, data := range out.Casts {
		a.cfg.Net.Broadcast(data)
	}
	a.putAll(out.Puts)
	for _, id := range out.Expels {
		a.cfg.Net.Expel(id)
	}
	a.publish()
	for _, w := range out.Waits {
		if c := a.open[w.Ticket]; c != nil {
			c.wait(w.Reason)
		}
	}
	for _, r := range out.Answers {
		if c := a.open[r.Ticket]; c != nil {
			delete(a.open, r.Ticket)
			c.answer(r.Result)
		}
	}
}

// sayLost logs that messages were dropped, seldom.
func (a *Allocator) sayLost(now time.Time, n int) {
	if a.lost += n; a.lost == 0 || !a.lostAt.IsZero() && now.Sub(a.lostAt) < lostEvery {
		return
	}
	a.log.Warn("messages about addresses dropped: too many at once", "count", a.lost)
	a.lost, a.lostAt = 0, now
}

// putAll brings our entries up to date.
func (a *Allocator) putAll(puts map[string][]byte) {
	if len(puts) == 0 {
		return
	}
	if a.renew {
		a.renew = false
		for key := range a.put {
			if _, ok := puts[key]; !ok {
				a.putOne(key, nil)
			}
		}
	}
	for _, key := range sortedStrings(puts) {
		a.putOne(key, puts[key])
	}
}

func (a *Allocator) putOne(key string, value []byte) {
	var err error
	if value == nil {
		err = a.cfg.Net.Delete(key)
		delete(a.put, key)
	} else {
		err = a.cfg.Net.Put(key, value)
		a.put[key] = true
	}
	if err != nil && !a.putErr {
		a.log.Error("own addresses not announced", "entry", key, "err", err)
	}
	a.putErr = err != nil
}

// publish makes the state new that others read. After a write failed it is
// what it was before, and why nothing can be changed.
func (a *Allocator) publish() {
	if a.core != nil {
		a.good = a.core.status()
		if a.damage != "" {
			a.good.Warnings = append(a.good.Warnings, a.damage)
		}
		a.published.Store(a.good)
		return
	}
	s := *a.good
	s.Warnings = append(slices.Clone(s.Warnings), a.failure.Error())
	a.published.Store(&s)
}

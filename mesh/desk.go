package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/replica"
	"github.com/weftnet/weft/router/bell"
)

const (
	maxTargets = 256
	maxIntros  = 256 // introductions that the loop has not taken yet
)

// errors of [desk.alive].
var (
	errNotPeer      = errors.New("name and address are not of one peer")
	errUnknown      = errors.New("no signed advert of it is known")
	errNotReachable = errors.New("no WireGuard handshake with it has completed yet")
)

// desk is where everybody leaves what the loop is to do. Nothing here waits
// for the loop, and nothing grows without bound: wishes replace each other,
// reports are kept per peer. Memberlist's callbacks touch nothing else but the
// queues.
type desk struct {
	// Constant after newDesk.
	wake     bell.Bell
	versions hello.Versions

	mu sync.Mutex // guards the fields below

	entries map[string][]byte   // our own entries as they are to be
	size    int                 // bytes of their keys and values
	changed map[string]struct{} // keys that the loop has not carried over

	targets    []targetSpec
	retargeted bool

	standing map[crypto.Identity]standing
	speaks   map[crypto.Identity]hello.Versions // what known peers said last
	spoke    map[crypto.Identity]hello.Versions // of that, what the loop has not seen
	haunted  map[crypto.Identity]time.Time      // expelled peers, and when gossip last had one alive
	joined   map[crypto.Identity]bool           // membership that the loop has not seen
	reached  map[crypto.Identity]netip.AddrPort // handshakes that the loop has not seen
	intros   []hello.Result
	lost     int // introductions that did not fit
	expelled []crypto.Identity

	posts     []post // payloads for others
	postBytes int
	farewell  []chan error // each hears when our last words are said

	overlay   bool
	endpoints bool
	pong      time.Time // when a probe of ours was answered last
}

// standing decides about a peer in [desk.alive].
type standing struct {
	known     bool // its signed advert is here
	reachable bool // a WireGuard handshake completed since we started
	member    bool
}

// inbox is what the loop takes from the desk at once.
type inbox struct {
	changed    map[string][]byte // nil: delete
	targets    []targetSpec
	retargeted bool
	joined     map[crypto.Identity]bool
	spoke      map[crypto.Identity]hello.Versions
	reached    map[crypto.Identity]netip.AddrPort
	intros     []hello.Result
	lost       int
	expelled   []crypto.Identity
	posts      []post
	farewell   []chan error
	overlay    bool
	endpoints  bool
}

func newDesk(v hello.Versions) *desk {
	return &desk{
		versions: v,
		wake:     bell.New(),
		speaks:   make(map[crypto.Identity]hello.Versions),
		spoke:    make(map[crypto.Identity]hello.Versions),
		entries:  make(map[string][]byte),
		changed:  make(map[string]struct{}),
		standing: make(map[crypto.Identity]standing),
		haunted:  make(map[crypto.Identity]time.Time),
		joined:   make(map[crypto.Identity]bool),
		reached:  make(map[crypto.Identity]netip.AddrPort),
	}
}

// take empties the desk.
func (d *desk) take() inbox {
	d.mu.Lock()
	defer d.mu.Unlock()
	in := inbox{
		retargeted: d.retargeted, intros: d.intros, lost: d.lost, overlay: d.overlay, endpoints: d.endpoints,
		expelled: d.expelled, posts: d.posts, farewell: d.farewell,
	}
	if d.retargeted {
		in.targets = slices.Clone(d.targets)
	}
	if len(d.changed) > 0 {
		in.changed = make(map[string][]byte, len(d.changed))
		for k := range d.changed {
			in.changed[k] = d.entries[k]
		}
		clear(d.changed)
	}
	if len(d.joined) > 0 {
		in.joined = d.joined
		d.joined = make(map[crypto.Identity]bool)
	}
	if len(d.spoke) > 0 {
		in.spoke = d.spoke
		d.spoke = make(map[crypto.Identity]hello.Versions)
	}
	if len(d.reached) > 0 {
		in.reached = d.reached
		d.reached = make(map[crypto.Identity]netip.AddrPort)
	}
	d.intros, d.lost, d.retargeted, d.endpoints = nil, 0, false, false
	d.expelled, d.posts, d.postBytes, d.farewell = nil, nil, 0, nil
	return in
}

func (d *desk) put(key string, value []byte) error {
	if err := replica.CheckEntry(key, value); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	old, ok := d.entries[key]
	if ok && string(old) == string(value) {
		return nil
	}
	n, size := len(d.entries)+1, d.size+len(key)+len(value)
	if ok {
		n, size = n-1, size-len(key)-len(old)
	}
	if n > replica.MaxEntries || size > replica.MaxLog {
		return fmt.Errorf("put %q: %w: this host has %d entries with %d bytes (at most %d with %d)",
			key, replica.ErrFull, len(d.entries), d.size, replica.MaxEntries, replica.MaxLog)
	}
	// An empty value is one too: nil would mean that the key is deleted.
	d.entries[key], d.size = append(make([]byte, 0, len(value)), value...), size
	d.changed[key] = struct{}{}
	d.wake.Ring()
	return nil
}

func (d *desk) del(key string) error {
	if err := replica.CheckEntry(key, nil); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, ok := d.entries[key]; ok {
		delete(d.entries, key)
		d.size -= len(key) + len(old)
		d.changed[key] = struct{}{}
		d.wake.Ring()
	}
	return nil
}

func (d *desk) connect(typed []string, replace bool, port uint16) error {
	specs, err := parseTargets(typed, port)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []targetSpec
	if !replace {
		all = slices.Clone(d.targets)
	}
	for _, s := range specs {
		if !slices.ContainsFunc(all, s.same) {
			all = append(all, s)
		}
	}
	if len(all) > maxTargets {
		return fmt.Errorf("connect: %d targets, at most %d are taken", len(all), maxTargets)
	}
	d.targets, d.retargeted = all, true
	d.wake.Ring()
	return nil
}

func (d *desk) forget(typed []string, port uint16) error {
	specs, err := parseTargets(typed, port)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.targets = slices.DeleteFunc(slices.Clone(d.targets), func(t targetSpec) bool {
		return slices.ContainsFunc(specs, t.same)
	})
	d.retargeted = true
	d.wake.Ring()
	return nil
}

// unmet counts the targets that are not among those met.
func (d *desk) unmet(met map[string]bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, t := range d.targets {
		if !met[targetKey(t)] {
			n++
		}
	}
	return n
}

func (d *desk) targetNames() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]string, len(d.targets))
	for i, t := range d.targets {
		out[i] = t.typed
	}
	return out
}

func (d *desk) introduce(r hello.Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.intros) >= maxIntros {
		d.lost++ // the peer comes again
	} else {
		d.intros = append(d.intros, r)
	}
	d.wake.Ring()
}

func (d *desk) overlayReady() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.overlay = true
	d.wake.Ring()
}

// expel notes a wish that the loop decides about.
func (d *desk) expel(id crypto.Identity) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.standing[id].known && !slices.Contains(d.expelled, id) {
		d.expelled = append(d.expelled, id)
		d.wake.Ring()
	}
}

// leave returns a channel on which the loop says how our last words went.
func (d *desk) leave() <-chan error {
	told := make(chan error, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.farewell = append(d.farewell, told)
	d.wake.Ring()
	return told
}

func (d *desk) lookAtEndpoints() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endpoints = true
	d.wake.Ring()
}

// setKnown is called by the loop when it has a peer's signed advert. It
// reports whether memberlist counts the peer as a member already: it may do so
// when the peer was forgotten in between.
func (d *desk) setKnown(id crypto.Identity) (member bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.standing[id]
	s.known = true
	d.standing[id] = s
	return s.member
}

// forgotten is called by the loop when it knows a peer no longer.
func (d *desk) forgotten(id crypto.Identity) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.reached, id)
	delete(d.speaks, id)
	delete(d.spoke, id)
	if s := d.standing[id]; s.member {
		d.standing[id] = standing{member: true} // memberlist finds out by itself
	} else {
		delete(d.standing, id)
	}
}

// haunt begins, or ends, to remember when an expelled peer was last said to be
// alive.
func (d *desk) haunt(id crypto.Identity, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.haunted, id); on {
		d.haunted[id] = time.Time{}
	}
}

// aliveAt returns when an expelled peer was last said to be alive; zero: never.
func (d *desk) aliveAt(id crypto.Identity) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.haunted[id]
}

func (d *desk) known(id crypto.Identity) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.standing[id].known
}

func (d *desk) reachable(id crypto.Identity, endpoint netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.standing[id]
	if !s.known {
		return
	}
	s.reachable = true
	d.standing[id] = s
	d.reached[id] = endpoint
	d.wake.Ring()
}

// ponged notes that a probe was answered, or that probing starts.
func (d *desk) ponged(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pong = now
}

func (d *desk) lastPong() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pong
}

// setMember is called by memberlist, which holds its lock.
func (d *desk) setMember(id crypto.Identity, member bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.standing[id]
	s.member = member
	if s == (standing{}) {
		delete(d.standing, id)
	} else {
		d.standing[id] = s
	}
	d.joined[id] = member
	d.wake.Ring()
}

// alive decides whether memberlist may take a node for alive. It is called by
// memberlist, which holds its lock, for every statement about a node: news of
// a member must pass, or its refutations of a suspicion would be lost.
func (d *desk) alive(self, id crypto.Identity, addr netip.AddrPort, speaks hello.Versions) error {
	if addr != netip.AddrPortFrom(id.Overlay(), GossipPort) {
		return errNotPeer
	}
	if id == self {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.standing[id]
	if s.known {
		d.hearLocked(id, speaks)
	}
	_, common := speaks.Common(d.versions)
	switch {
	case s.member:
		return nil
	case !s.known:
		if _, ok := d.haunted[id]; ok {
			d.haunted[id] = time.Now()
		}
		return errUnknown
	case !common:
		return hello.ErrVersion
	case !s.reachable:
		return errNotReachable
	}
	return nil
}

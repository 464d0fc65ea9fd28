package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/weftnet/weft/router/attach"
)

// journalFormat is refused when it is another one: half understood, it would
// make us remove what a newer weft attached.
const journalFormat = 1

// state is all that must outlive the daemon.
type state struct {
	Format     int        `json:"format"`
	Boot       string     `json:"boot"` // the boot of the machine in which containers were attached
	Containers []entry    `json:"containers,omitempty"`
	Exposed    []exposure `json:"exposed,omitempty"`
	ExposeName []name     `json:"expose_names,omitempty"`
	Extern     []name     `json:"extern_names,omitempty"` // by hand, of no container

	Reserved  []reservation `json:"reserved,omitempty"`  // addresses that engines asked for
	Endpoints []endpoint    `json:"endpoints,omitempty"` // containers on networks of engines

	exposing []netip.Prefix // asked for, not yet so; not kept
}

// entry is what one container has on the switch. Several containers may share
// a namespace and so an interface; each has an entry of its own.
type entry struct {
	Key       string           `json:"key"`            // "docker:" and the id, or "ns:" and the namespace
	Label     string           `json:"label"`          // as `weft ps` prints it
	ID        string           `json:"id,omitempty"`   // Docker's, full
	Name      string           `json:"name,omitempty"` // Docker's
	NS        attach.Namespace `json:"ns"`
	Path      string           `json:"path"`            // where NS was found
	PID       int              `json:"pid,omitempty"`   // that Path goes through
	Start     uint64           `json:"start,omitempty"` // of PID, in clock ticks since boot
	MAC       string           `json:"mac,omitempty"`
	Interface string           `json:"interface,omitempty"`
	Multicast bool             `json:"multicast,omitempty"`
	Addresses []netip.Prefix   `json:"addresses,omitempty"`
	Adding    []netip.Prefix   `json:"adding,omitempty"`   // intent; undone when found at a start
	Removing  []netip.Prefix   `json:"removing,omitempty"` // intent; done when found at a start
	Names     []name           `json:"names,omitempty"`
}

// name is one DNS record.
type name struct {
	Hostname string     `json:"hostname"` // full, with the final dot
	Addr     netip.Addr `json:"addr"`
	Auto     bool       `json:"auto,omitempty"` // follows the container's own name
}

// exposure is one address of the host on the switch.
type exposure struct {
	Address    netip.Prefix `json:"address"`
	Masquerade bool         `json:"masquerade,omitempty"`
}

// empty reports whether nothing would be lost with e.
func (e *entry) empty() bool {
	return len(e.Addresses)+len(e.Adding)+len(e.Removing)+len(e.Names) == 0
}

// held returns every address that e has or may have.
func (e *entry) held() []netip.Prefix {
	return union(union(e.Addresses, e.Adding), e.Removing)
}

// who names the container in messages.
func (e *entry) who() string {
	if e.Name != "" {
		return e.Name
	}
	return e.Label
}

// container names it in DNS records.
func (e *entry) container() string {
	if e.ID != "" {
		return e.ID
	}
	return e.Label
}

func (e *entry) clone() entry {
	c := *e
	c.Addresses, c.Adding, c.Removing = slices.Clone(e.Addresses), slices.Clone(e.Adding), slices.Clone(e.Removing)
	c.Names = slices.Clone(e.Names)
	return c
}

// find returns the entry with a key, or nil. It points into s.
func (s *state) find(key string) *entry {
	for i := range s.Containers {
		if s.Containers[i].Key == key {
			return &s.Containers[i]
		}
	}
	return nil
}

// drop removes the entry with a key.
func (s *state) drop(key string) {
	s.Containers = slices.DeleteFunc(s.Containers, func(e entry) bool { return e.Key == key })
}

// hostAddresses returns what the host has on the switch or is about to have.
func (s *state) hostAddresses() []netip.Prefix {
	list := slices.Clone(s.exposing)
	for _, e := range s.Exposed {
		list = append(list, e.Address)
	}
	return list
}

// in returns the entries of one namespace. They point into s.
func (s *state) in(ns attach.Namespace) []*entry {
	var list []*entry
	for i := range s.Containers {
		if s.Containers[i].NS == ns {
			list = append(list, &s.Containers[i])
		}
	}
	return list
}

func (s *state) clone() state {
	c := *s
	c.Containers = make([]entry, len(s.Containers))
	for i := range s.Containers {
		c.Containers[i] = s.Containers[i].clone()
	}
	c.Exposed, c.exposing = slices.Clone(s.Exposed), slices.Clone(s.exposing)
	c.ExposeName, c.Extern = slices.Clone(s.ExposeName), slices.Clone(s.Extern)
	c.Reserved, c.Endpoints = slices.Clone(s.Reserved), slices.Clone(s.Endpoints)
	for i := range c.Endpoints {
		c.Endpoints[i] = c.Endpoints[i].clone()
	}
	return c
}

// journal is the state and its file.
type journal struct {
	// Constant after open.
	path    string
	write   func(path string, data []byte) error
	changed func() // called after each update, by whoever made it; nil: nobody

	saving sync.Mutex // held while the file is written; before mu
	saved  uint64     // guarded by saving: the version in the file

	mu      sync.Mutex // guards what follows
	state   state
	version uint64 // of state
}

// openJournal reads the file; none is an empty journal.
func openJournal(path string, write func(string, []byte) error) (*journal, error) {
	j := &journal{path: path, write: write, state: state{Format: journalFormat}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if j.state, err = parseState(b); err != nil {
		return nil, fmt.Errorf("read journal %s: %w; move the file away to start without attachments", path, err)
	}
	return j, nil
}

// forgetUnless forgets containers of another boot of the machine, in memory:
// their namespaces are gone, and the numbers of these may have been given
// anew. Restore writes it down.
func (j *journal) forgetUnless(boot string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state.Boot != boot {
		j.state.otherBoot()
	}
}

// otherBoot forgets what no restart of the machine leaves. Addresses of an
// engine's containers are kept for a while: they may start again now.
func (s *state) otherBoot() {
	s.Containers, s.Endpoints = nil, nil
	for i := range s.Reserved {
		x := &s.Reserved[i]
		x.Endpoint, x.Bound = "", false
		x.Dead = x.Dead || !x.Pinned
	}
}

func parseState(b []byte) (state, error) {
	var s state
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return state{}, err
	}
	if s.Format != journalFormat {
		return state{}, fmt.Errorf("format %d, want %d", s.Format, journalFormat)
	}
	seen := make(map[string]bool)
	for _, e := range s.Containers {
		if e.Key == "" || e.NS.IsZero() || seen[e.Key] {
			return state{}, fmt.Errorf("entry %q is incomplete or there twice", e.Key)
		}
		seen[e.Key] = true
		if slices.ContainsFunc(e.held(), invalid) {
			return state{}, fmt.Errorf("entry %q has an invalid address", e.Key)
		}
	}
	if slices.ContainsFunc(s.hostAddresses(), invalid) {
		return state{}, errors.New("an exposed address is invalid")
	}
	return s, s.checkEngines()
}

// checkEngines checks what was read of engines.
func (s *state) checkEngines() error {
	ids, keys, addrs := make(map[string]bool), make(map[string]bool), make(map[netip.Addr]bool)
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if e.ID == "" || e.Key == "" || ids[e.ID] {
			return fmt.Errorf("endpoint %q is incomplete or there twice", e.ID)
		}
		ids[e.ID] = true
		if slices.ContainsFunc(e.held(), invalid) {
			return fmt.Errorf("endpoint %q has an invalid address", e.ID)
		}
	}
	for _, x := range s.Reserved {
		if x.Key == "" || keys[x.Key] || invalid(x.Address) || addrs[x.Address.Addr()] {
			return fmt.Errorf("reservation %q of %s is incomplete or there twice", x.Key, x.Address)
		}
		if x.Endpoint != "" && !ids[x.Endpoint] {
			return fmt.Errorf("reservation %q is of endpoint %q, which does not exist", x.Key, x.Endpoint)
		}
		keys[x.Key], addrs[x.Address.Addr()] = true, true
	}
	return nil
}

func invalid(p netip.Prefix) bool { return !p.IsValid() }

func (s *state) bytes() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", " ")
	return append(b, '\n'), err
}

// view calls f with the state, which f must neither change nor keep.
func (j *journal) view(f func(s *state)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(&j.state)
}

// entry returns a copy of the entry with a key.
func (j *journal) entry(key string) (entry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e := j.state.find(key); e != nil {
		return e.clone(), true
	}
	return entry{}, false
}

// update changes the state and returns when that is on disk. An error of f
// changes nothing, and what changes nothing writes nothing. If the file cannot
// be written the change stands in memory only, and the caller takes it back. f
// must not call the journal.
func (j *journal) update(f func(s *state) error) error {
	version, err := j.change(f)
	if err != nil {
		return err
	}
	err = j.save(version)
	if j.changed != nil {
		j.changed()
	}
	return err
}

// change is update without the disk. It returns what to save.
func (j *journal) change(f func(s *state) error) (version uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	next := j.state.clone()
	if err := f(&next); err != nil {
		return 0, err
	}
	if !reflect.DeepEqual(next, j.state) {
		j.state = next
		j.version++
	}
	return j.version, nil
}

// save returns when the state of a version, or a later one, is on disk. Callers
// that come while the file is written share the next write.
func (j *journal) save(version uint64) error {
	j.saving.Lock()
	defer j.saving.Unlock()
	if j.saved >= version {
		return nil
	}
	j.mu.Lock()
	b, err := j.state.bytes()
	version = j.version
	j.mu.Unlock()
	if err == nil {
		err = j.write(j.path, b)
	}
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	j.saved = version
	return nil
}

// writeAtomically is how the journal is written: the file is the old one or
// the new one, never half of it, and only root reads it.
func writeAtomically(path string, data []byte) error {
	return renameio.WriteFile(path, data, 0o600)
}

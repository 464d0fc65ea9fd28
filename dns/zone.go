package dns

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Owned is a record together with the host that published it.
type Owned struct {
	Record
	Owner   string // name of the peer
	Version uint64 // of its entry, counted by the owner
}

// Zone is the set of names that the switch knows. Readers always see one whole
// snapshot. It is safe for concurrent use.
type Zone struct {
	// Constant after NewZone.
	domain string // folded, with the final dot

	// The current snapshot; immutable, replaced as a whole.
	now atomic.Pointer[snapshot]

	// set orders the writers of now.
	set sync.Mutex
}

// snapshot is immutable.
type snapshot struct {
	serial  uint32
	entries []Owned                 // sorted by order
	names   map[string]node         // by folded full name
	hosts   map[netip.Addr][]string // folded full names, sorted
}

// node is what exists at a name. A name that only has names below it has no
// addresses.
type node struct {
	v4, v6 []netip.Addr // sorted
}

// NewZone returns an empty zone for the domain, which must be one that
// [ParseName] accepts.
func NewZone(domain string) *Zone {
	z := &Zone{domain: fold(fqdn(domain))}
	z.now.Store(build(z.domain, nil, 1))
	return z
}

// Domain returns the domain in lower case, with its final dot.
func (z *Zone) Domain() string { return z.domain }

// Contains reports whether name (with or without its final dot) is the domain
// or lies below it.
func (z *Zone) Contains(name string) bool { return below(fold(fqdn(name)), z.domain) }

// Set replaces all records. Records that are malformed or whose names lie
// outside of the domain are left out: no peer takes over a foreign name. The
// slice stays the caller's. Setting the same records again changes nothing.
func (z *Zone) Set(records []Owned) {
	entries := make([]Owned, 0, len(records))
	for _, r := range records {
		if r.check() == nil && below(fold(r.Hostname), z.domain) {
			entries = append(entries, r)
		}
	}
	slices.SortFunc(entries, order)
	entries = slices.Compact(entries)

	z.set.Lock()
	defer z.set.Unlock()
	old := z.now.Load()
	if slices.Equal(old.entries, entries) {
		return
	}
	z.now.Store(build(z.domain, entries, old.serial+1))
}

// Entries returns a copy of the records in use, sorted by name (ignoring
// case), address, owner and container.
func (z *Zone) Entries() []Owned { return slices.Clone(z.now.Load().entries) }

// Lookup returns the addresses of a name, in random order, IPv4 before IPv6. A
// name of one label is looked up in the domain. The name is known when it has
// addresses or other names lie below it.
func (z *Zone) Lookup(name string) (addrs []netip.Addr, known bool) {
	full := fold(fqdn(name))
	if oneLabel(full) {
		full += z.domain
	}
	n, known := z.now.Load().names[full]
	return slices.Concat(shuffled(n.v4), shuffled(n.v6)), known
}

// Reverse returns the full names, in lower case and in random order, that stand
// for an address.
func (z *Zone) Reverse(a netip.Addr) []string { return shuffled(z.now.Load().hosts[a]) }

func build(domain string, entries []Owned, serial uint32) *snapshot {
	s := &snapshot{
		serial:  serial,
		entries: entries,
		names:   make(map[string]node, len(entries)+1),
		hosts:   make(map[netip.Addr][]string, len(entries)),
	}
	s.names[domain] = node{}
	for _, e := range entries {
		name := fold(e.Hostname)
		n := s.names[name]
		if e.Addr.Is4() {
			n.v4 = append(n.v4, e.Addr)
		} else {
			n.v6 = append(n.v6, e.Addr)
		}
		s.names[name] = n
		s.hosts[e.Addr] = append(s.hosts[e.Addr], name)
		s.addParents(name, domain)
	}
	for name, n := range s.names {
		s.names[name] = node{v4: unique(n.v4), v6: unique(n.v6)}
	}
	for a, names := range s.hosts {
		slices.Sort(names)
		s.hosts[a] = slices.Compact(names)
	}
	return s
}

// addParents makes the names between name and domain exist, so that they are
// answered as empty and not as unknown (RFC 8020).
func (s *snapshot) addParents(name, domain string) {
	for name != domain {
		_, name, _ = strings.Cut(name, ".")
		if _, ok := s.names[name]; ok {
			return
		}
		s.names[name] = node{}
	}
}

func order(a, b Owned) int {
	return cmp.Or(
		strings.Compare(fold(a.Hostname), fold(b.Hostname)),
		a.Addr.Compare(b.Addr),
		strings.Compare(a.Owner, b.Owner),
		strings.Compare(a.Container, b.Container),
		strings.Compare(a.Hostname, b.Hostname),
		cmp.Compare(a.Version, b.Version),
	)
}

func unique(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// shuffled returns a copy of list in random order.
func shuffled[T any](list []T) []T {
	list = slices.Clone(list)
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

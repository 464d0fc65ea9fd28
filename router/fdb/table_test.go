package fdb

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// clock is a clock that tests set.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Unix(1e9, 0)} }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) pass(d time.Duration)    { c.at = c.at.Add(d) }
func (c *clock) seconds(n time.Duration) { c.pass(n * time.Second) }

func overlay(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 2: 0x65, 3: 0x66, 4: 0x74, 14: byte(n >> 8), 15: byte(n)})
}

func remotes(list ...int) []Remote {
	var r []Remote
	for _, n := range list {
		r = append(r, Remote{Overlay: overlay(n), Whole: n})
	}
	return r
}

func mac(n int) MAC { return MAC{0x02, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)} }

// at checks where an address is; 0: nowhere.
func at(t *testing.T, table *Table, m MAC, want int) {
	t.Helper()
	got, ok := table.Lookup(m)
	if ok != (want != 0) || ok && got != overlay(want) {
		t.Errorf("%s is at %v, %v, want remote %d", m, got, ok, want)
	}
}

func TestLearnAndMove(t *testing.T) {
	table := New(Options{})
	table.Learn(mac(1), overlay(2))
	at(t, table, mac(1), 0) // no remotes yet
	table.Set(remotes(3, 2), nil)
	if r := table.Remotes(); !slices.Equal(r, remotes(2, 3)) {
		t.Errorf("remotes %v", r)
	}
	table.Learn(mac(1), overlay(2))
	at(t, table, mac(1), 2)
	if r, ok := table.Remote(mac(1)); !ok || r.Whole != 2 {
		t.Errorf("remote %v, %v", r, ok)
	}
	table.Learn(mac(1), overlay(3))
	at(t, table, mac(1), 3)
	table.Local(mac(1))
	at(t, table, mac(1), 0)
	table.Learn(mac(1), overlay(9))
	at(t, table, mac(1), 0)
	for _, m := range []MAC{{}, {0x01, 0, 0x5e, 0, 0, 1}, broadcast} {
		table.Learn(m, overlay(2))
		table.Local(m)
		at(t, table, m, 0)
	}
	table.Learn(mac(1), overlay(2))
	table.Learn(mac(2), overlay(3))
	table.Set(remotes(1, 3), nil)
	at(t, table, mac(1), 0)
	at(t, table, mac(2), 3)
	if s := table.Stats(); s.Moves != 1 || s.Learnt != 1 || s.Known != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestKnown(t *testing.T) {
	table := New(Options{})
	known := []Known{
		{MAC: mac(1), At: overlay(2)},
		{MAC: mac(2), At: overlay(9)}, // no remote
		{MAC: mac(3), At: overlay(2)}, // two claim it
		{MAC: mac(3), At: overlay(3)},
		{MAC: broadcast, At: overlay(2)},
	}
	table.Set(remotes(2, 3), nil)
	table.Learn(mac(1), overlay(3))
	at(t, table, mac(1), 3)
	table.Set(remotes(2, 3), known)
	at(t, table, mac(1), 2)
	table.Learn(mac(1), overlay(3))
	table.Learn(mac(1), overlay(2)) // as it should be
	table.Local(mac(1))
	at(t, table, mac(1), 2)
	if s := table.Stats(); s.Astray != 2 || s.Known != 1 || s.Learnt != 0 {
		t.Errorf("stats %+v", s)
	}
	for _, n := range []int{2, 3} {
		at(t, table, mac(n), 0)
		table.Learn(mac(n), overlay(3))
		at(t, table, mac(n), 3)
	}
	at(t, table, broadcast, 0)
	// It leaves: nothing is known, nothing was learnt.
	table.Set(remotes(2, 3), nil)
	at(t, table, mac(1), 0)
	table.Learn(mac(1), overlay(3))
	at(t, table, mac(1), 3)
	// Its host is a remote no longer.
	table.Set(remotes(3), known)
	at(t, table, mac(1), 3)
}

func TestAge(t *testing.T) {
	c := newClock()
	table := New(Options{Now: c.now, Age: 10 * time.Second})
	table.Set(remotes(2, 3), []Known{{MAC: mac(9), At: overlay(3)}})
	table.Learn(mac(1), overlay(2))
	table.Learn(mac(2), overlay(2))
	for range 4 {
		c.seconds(5)
		table.Sweep()
		table.Learn(mac(1), overlay(2))
	}
	at(t, table, mac(1), 2)
	at(t, table, mac(2), 0)
	at(t, table, mac(9), 3)
	c.seconds(10)
	table.Sweep()
	at(t, table, mac(1), 2)
	c.seconds(1)
	table.Sweep()
	at(t, table, mac(1), 0)
}

func TestLimits(t *testing.T) {
	table := New(Options{Limit: 10, PerRemote: 6})
	table.Set(remotes(2, 3), nil)
	for n := range 100 {
		table.Learn(mac(n), overlay(2))
	}
	if s := table.Stats(); s.Learnt != 6 || s.Refused != 94 {
		t.Errorf("one remote: %+v", s)
	}
	for n := range 100 {
		table.Learn(mac(100+n), overlay(3))
	}
	if s := table.Stats(); s.Learnt != 10 {
		t.Errorf("both: %+v", s)
	}
	// An entry that moves to a remote with a full share is nowhere.
	table.Learn(mac(100), overlay(2))
	at(t, table, mac(100), 0)
	// What is there is still refreshed and forgotten.
	table.Learn(mac(1), overlay(2))
	table.Local(mac(1))
	table.Learn(mac(200), overlay(2))
	at(t, table, mac(200), 2)
}

// twin is the table as anybody would write it.
type twin struct {
	limit, share int
	age          time.Duration
	now          time.Time
	remotes      map[netip.Addr]bool
	known        map[MAC]netip.Addr
	learnt       map[MAC]twinEntry
}

type twinEntry struct {
	at   netip.Addr
	seen time.Time
}

func (w *twin) set(list []Remote, known []Known) {
	w.remotes, w.known = map[netip.Addr]bool{}, map[MAC]netip.Addr{}
	for _, r := range list {
		w.remotes[r.Overlay] = true
	}
	for _, k := range known {
		claims := map[netip.Addr]bool{}
		for _, l := range known {
			if l.MAC == k.MAC && w.remotes[l.At] {
				claims[l.At] = true
			}
		}
		if len(claims) == 1 && claims[k.At] {
			w.known[k.MAC] = k.At
		}
	}
	for m, e := range w.learnt {
		if _, ok := w.known[m]; ok || !w.remotes[e.at] {
			delete(w.learnt, m)
		}
	}
}

func (w *twin) learn(m MAC, from netip.Addr) {
	if _, ok := w.known[m]; ok || !w.remotes[from] || m[0]&1 == 1 || m == (MAC{}) {
		return
	}
	old, ok := w.learnt[m]
	of := 0
	for _, e := range w.learnt {
		if e.at == from {
			of++
		}
	}
	switch {
	case ok && old.at == from:
	case of >= w.share:
		delete(w.learnt, m)
		return
	case !ok && len(w.learnt) >= w.limit:
		return
	}
	w.learnt[m] = twinEntry{from, w.now}
}

func (w *twin) local(m MAC) {
	if _, ok := w.known[m]; !ok {
		delete(w.learnt, m)
	}
}

func (w *twin) sweep(now time.Time) {
	w.now = now
	for m, e := range w.learnt {
		if now.Sub(e.seen) > w.age {
			delete(w.learnt, m)
		}
	}
}

func (w *twin) lookup(m MAC) (netip.Addr, bool) {
	if at, ok := w.known[m]; ok {
		return at, true
	}
	e, ok := w.learnt[m]
	return e.at, ok
}

func TestTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		w := &twin{
			limit: rapid.IntRange(1, 300).Draw(t, "limit"), share: rapid.IntRange(1, 200).Draw(t, "share"),
			age: 20 * time.Second, now: c.at, learnt: map[MAC]twinEntry{},
		}
		table := New(Options{Limit: w.limit, PerRemote: w.share, Age: w.age, Now: c.now})
		// The first byte is sometimes that of a group.
		drawMAC := rapid.Custom(func(t *rapid.T) MAC {
			m := mac(rapid.IntRange(0, 400).Draw(t, "mac"))
			m[0] = byte(rapid.SampledFrom([]int{2, 2, 2, 2, 0, 3}).Draw(t, "first"))
			return m
		})
		drawHost := rapid.Custom(func(t *rapid.T) netip.Addr { return overlay(rapid.IntRange(1, 6).Draw(t, "host")) })
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				var list []Remote
				for _, n := range rapid.SliceOfN(rapid.IntRange(1, 6), 0, 6).Draw(t, "remotes") {
					list = append(list, Remote{Overlay: overlay(n)})
				}
				var known []Known
				for range rapid.IntRange(0, 5).Draw(t, "known") {
					known = append(known, Known{MAC: mac(rapid.IntRange(1, 9).Draw(t, "mac")), At: drawHost.Draw(t, "at")})
				}
				table.Set(list, known)
				w.set(list, known)
			},
			"learn": func(t *rapid.T) {
				m, from := drawMAC.Draw(t, "m"), drawHost.Draw(t, "from")
				table.Learn(m, from)
				w.learn(m, from)
			},
			"burst": func(t *rapid.T) {
				first, n, from := rapid.IntRange(0, 300).Draw(t, "first"), rapid.IntRange(1, 100).Draw(t, "n"), drawHost.Draw(t, "from")
				for i := range n {
					table.Learn(mac(first+i), from)
					w.learn(mac(first+i), from)
				}
			},
			"local": func(t *rapid.T) {
				m := drawMAC.Draw(t, "m")
				table.Local(m)
				w.local(m)
			},
			"sweep": func(t *rapid.T) {
				c.seconds(time.Duration(rapid.IntRange(0, 15).Draw(t, "seconds")))
				table.Sweep()
				w.sweep(c.at)
			},
			"": func(t *rapid.T) {
				for n := range 401 {
					for _, first := range []byte{0, 2, 3} {
						m := mac(n)
						m[0] = first
						got, ok := table.Lookup(m)
						want, wantOK := w.lookup(m)
						if got != want || ok != wantOK {
							t.Fatalf("%s is at %v, %v, want %v, %v", m, got, ok, want, wantOK)
						}
					}
				}
				if s := table.Stats(); s.Learnt != len(w.learnt) || s.Known != len(w.known) {
					t.Fatalf("%+v, want %d learnt, %d known", s, len(w.learnt), len(w.known))
				}
			},
		})
	})
}

// All at once, for the race detector; and no answer is ever a host that no Set
// has named.
func TestConcurrent(t *testing.T) {
	table := New(Options{Limit: 2000})
	table.Set(remotes(1, 2, 3), nil)
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			frame := []byte(nil)
			for i := range 3000 {
				m := mac(i * (worker + 1) % 2500)
				table.Learn(m, overlay(1+(i+worker)%4))
				if a, ok := table.Lookup(m); ok && (a.Compare(overlay(1)) < 0 || a.Compare(overlay(4)) > 0) {
					t.Errorf("%s at %s", m, a)
				}
				table.Local(mac(i % 100))
				_, _ = table.Members(frame)
				table.Snoop(frame, overlay(1))
			}
		})
	}
	for i := range 200 {
		table.Set(remotes(1, 2, 3+i%2), []Known{{MAC: mac(i), At: overlay(1)}})
		table.Sweep()
		_ = table.Stats()
	}
	group.Wait()
}

func filled(macs, hosts int) *Table {
	table := New(Options{PerRemote: 1 << 16})
	var list []Remote
	for n := range hosts {
		list = append(list, Remote{Overlay: overlay(n + 1)})
	}
	table.Set(list, nil)
	for n := range macs {
		table.Learn(mac(n), overlay(n%hosts+1))
	}
	return table
}

func TestNoAllocation(t *testing.T) {
	table := filled(1000, 500)
	from := overlay(7)
	n := testing.AllocsPerRun(1000, func() {
		table.Lookup(mac(7))
		table.Lookup(mac(1 << 20))
		table.Learn(mac(6), from)
		table.Learn(mac(7), from)
		table.Local(mac(1 << 20))
		table.Remotes()
	})
	if n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}

// Addresses at regular distances, and those of one vendor, spread as well.
func TestSearchesAreShort(t *testing.T) {
	for _, step := range []int{1, 256, 1 << 16} {
		s := newSlots(0, 1)
		longest := 0
		for n := range 10_000 {
			if !s.room() {
				s = s.copied(1, func(_ uint64, id uint16) (uint16, bool) { return id, true })
			}
			s.add(key(MAC{2})+uint64(n*step), 0, 1)
		}
		for n := range 10_000 {
			k := key(MAC{2}) + uint64(n*step)
			length := 1
			for i := s.start(k); s.word[i&s.mask].Load()>>16 != k; i++ {
				length++
			}
			longest = max(longest, length)
		}
		if longest > 100 {
			t.Errorf("step %d: a search takes %d steps", step, longest)
		}
	}
}

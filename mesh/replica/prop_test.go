package replica

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// world is a few hosts with a network that loses, repeats and reorders, and
// the naive twin of every owner: a map.
type world struct {
	hosts []*Store
	twin  []map[string]string
	// states is everything that an owner's log ever was.
	states []map[string]bool
	saved  []savedHost
	mail   []letter
}

type savedHost struct {
	logs map[ID]*log
	twin map[string]string
}

type letter struct {
	to   int
	data []byte
}

func newWorld(n int) *world {
	w := &world{}
	for i := range n {
		w.hosts = append(w.hosts, newStore(owner(byte(i+1))))
		w.twin = append(w.twin, map[string]string{})
		w.states = append(w.states, map[string]bool{"": true})
		w.saved = append(w.saved, savedHost{twin: map[string]string{}})
	}
	return w
}

func (w *world) note(i int) {
	w.states[i][text(w.hosts[i], owner(byte(i+1)))] = true
}

func (w *world) send(from, to int, m Message) {
	m.From = owner(byte(from + 1))
	w.mail = append(w.mail, letter{to, m.Marshal()})
}

// deliver lets host to handle one message as the mesh does.
func (w *world) deliver(t tester, l letter) {
	m, err := Parse(l.data)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	s, from := w.hosts[l.to], int(m.From[0])-1
	switch m.Kind {
	case KindDigest:
		d := s.Compare(m.Digest)
		for _, r := range Requests(d.Want) {
			w.send(l.to, from, r)
		}
		if m.Answer {
			for _, r := range s.Answer(d.Give) {
				w.send(l.to, from, r)
			}
		}
	case KindRequest:
		for _, r := range s.Answer(m.Pulls) {
			w.send(l.to, from, r)
		}
	case KindDelta:
		for _, c := range m.Chunks {
			if r := s.Apply(c); r.Want != nil {
				for _, q := range Requests([]Pull{*r.Want}) {
					w.send(l.to, from, q)
				}
			}
		}
	}
	w.note(l.to)
	w.check(t)
}

// check: every copy is exactly what its owner's log was at some time.
func (w *world) check(t tester) {
	for h, s := range w.hosts {
		checkStore(t, s)
		for o := range w.hosts {
			if got := text(s, owner(byte(o+1))); !w.states[o][got] {
				t.Fatalf("host %d has of owner %d what never was: %s", h, o, got)
			}
		}
	}
}

func (w *world) clone(i int) map[ID]*log {
	c := make(map[ID]*log)
	for id, l := range w.hosts[i].logs {
		n := *l
		n.entries = maps.Clone(l.entries)
		c[id] = &n
	}
	return c
}

func (w *world) restart(i int, logs map[ID]*log) {
	w.hosts[i] = newStore(owner(byte(i + 1)))
	for id, l := range logs {
		if err := w.hosts[i].set(id, l); err != nil {
			panic(err)
		}
	}
	w.note(i)
}

// TestConverge lets hosts write, talk over a bad network, lose their memory
// and come back with an old one; when messages flow again, every host has of
// every owner what the owner's naive twin has.
func TestConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 4).Draw(t, "hosts")
		w := newWorld(n)
		host := rapid.IntRange(0, n-1)
		key := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				i, k, v := host.Draw(t, "host"), key.Draw(t, "key"), fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "value"))
				put(t, w.hosts[i], k, v)
				w.twin[i][k] = v
				w.note(i)
			},
			"delete": func(t *rapid.T) {
				i, k := host.Draw(t, "host"), key.Draw(t, "key")
				w.hosts[i].Delete(names, k)
				delete(w.twin[i], k)
				w.note(i)
			},
			"digest": func(t *rapid.T) {
				i, j := host.Draw(t, "from"), host.Draw(t, "to")
				if i != j {
					w.send(i, j, Message{Kind: KindDigest, Digest: w.hosts[i].Digest(), Answer: rapid.Bool().Draw(t, "answer")})
				}
			},
			"sync": func(t *rapid.T) { // an exchange that nothing disturbs
				i, j := host.Draw(t, "from"), host.Draw(t, "to")
				if i != j {
					exchange(t, w.hosts[i], w.hosts[j])
					w.note(j)
					w.check(t)
				}
			},
			"broadcast": func(t *rapid.T) {
				i, j, o := host.Draw(t, "from"), host.Draw(t, "to"), host.Draw(t, "owner")
				if m, ok := w.hosts[i].Recent(ID{owner(byte(o + 1)), names}, 400); ok && i != j {
					w.send(i, j, m)
				}
			},
			"deliver": func(t *rapid.T) {
				if len(w.mail) == 0 {
					t.Skip("no mail")
				}
				k := rapid.IntRange(0, len(w.mail)-1).Draw(t, "letter")
				l := w.mail[k]
				if rapid.IntRange(0, 3).Draw(t, "repeat") > 0 {
					w.mail = slices.Delete(w.mail, k, k+1)
				}
				w.deliver(t, l)
			},
			"lose": func(t *rapid.T) {
				if len(w.mail) == 0 {
					t.Skip("no mail")
				}
				k := rapid.IntRange(0, len(w.mail)-1).Draw(t, "letter")
				w.mail = slices.Delete(w.mail, k, k+1)
			},
			"save": func(t *rapid.T) {
				i := host.Draw(t, "host")
				w.saved[i] = savedHost{w.clone(i), maps.Clone(w.twin[i])}
			},
			"restart empty": func(t *rapid.T) {
				i := host.Draw(t, "host")
				w.restart(i, nil)
				w.twin[i] = map[string]string{}
			},
			"restore": func(t *rapid.T) {
				i := host.Draw(t, "host")
				old := w.saved[i]
				w.restart(i, old.logs)
				w.saved[i] = savedHost{w.clone(i), maps.Clone(old.twin)}
				w.twin[i] = maps.Clone(old.twin)
			},
			"raise the floor": func(t *rapid.T) {
				i, o := host.Draw(t, "host"), host.Draw(t, "owner")
				if l := w.hosts[i].logs[ID{owner(byte(o + 1)), names}]; l != nil {
					l.floor = l.version
					for k, e := range l.entries {
						if e.deleted {
							delete(l.entries, k)
						}
					}
				}
			},
		})
		w.settle(t)
	})
}

func (w *world) settle(t tester) {
	w.mail = nil
	for range 2*len(w.hosts) + 2 {
		for i := range w.hosts {
			for j := range w.hosts {
				if i != j {
					w.send(i, j, Message{Kind: KindDigest, Digest: w.hosts[i].Digest()})
				}
			}
		}
		for n := 0; len(w.mail) > 0; n++ {
			if n > 10000 {
				t.Fatalf("messages do not end: %d more", len(w.mail))
			}
			l := w.mail[0]
			w.mail = w.mail[1:]
			w.deliver(t, l)
		}
	}
	for o := range w.hosts {
		for h, s := range w.hosts {
			got := map[string]string{}
			for _, e := range s.Entries(ID{owner(byte(o + 1)), names}) {
				got[e.Key] = string(e.Value)
			}
			if !maps.Equal(got, w.twin[o]) {
				t.Fatalf("host %d has of owner %d: %v, want %v", h, o, got, w.twin[o])
			}
		}
	}
	for i := range w.hosts {
		for j := range w.hosts {
			if d := w.hosts[i].Compare(w.hosts[j].Digest()); len(d.Want)+len(d.Give)+len(d.Continued) > 0 {
				t.Fatalf("hosts %d and %d still differ: %+v", i, j, d)
			}
		}
	}
}

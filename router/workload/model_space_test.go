package workload

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/api"
)

// twin is who has what, naively.
type twin struct {
	has   map[string][]netip.Prefix
	dying map[netip.Addr]string // for whom it is kept
	other map[netip.Addr]bool   // at another host
}

const twinHost = "host"

func inTwin(a netip.Addr) bool { return netip.MustParsePrefix("10.0.0.0/16").Contains(a) }

// owner says who has an address, dead or alive.
func (m *twin) owner(a netip.Addr) string {
	for c, list := range m.has {
		if holds(list, a) {
			return c
		}
	}
	if m.other[a] {
		return elsewhere
	}
	return m.dying[a]
}

// lowest is the address that c would get in a subnet.
func (m *twin) lowest(c string, subnet netip.Prefix) netip.Prefix {
	for _, mine := range []bool{true, false} {
		for a := subnet.Addr().Next(); a.Next() != broadcast(subnet).Next(); a = a.Next() {
			o := m.owner(a)
			if o == "" && !mine || o == c && mine {
				return netip.PrefixFrom(a, subnet.Bits())
			}
		}
	}
	panic("a subnet is full")
}

// attach returns what c has to get.
func (m *twin) attach(c string, asks []ask) (want []netip.Prefix, ok bool) {
	// What cannot be is refused before anything is tried.
	all, static := expected(asks, m.has[c])
	for _, p := range static {
		if o := m.owner(p.Addr()); o != "" && o != c && o != elsewhere && m.dying[p.Addr()] == "" {
			return nil, false
		}
	}
	for _, p := range all {
		for _, h := range union(m.has[c], all) {
			if h.Bits() != p.Bits() && h.Overlaps(p) {
				return nil, false
			}
		}
	}
	var fresh []netip.Prefix
	giveBack := func() {
		for _, f := range fresh {
			delete(m.dying, f.Addr())
		}
	}
	for _, a := range asks {
		p, found := a.among(union(m.has[c], want))
		if !found {
			p = a.prefix
			if a.allocate {
				p = m.lowest(c, a.prefix)
			}
			if o := m.owner(p.Addr()); inTwin(p.Addr()) && o != "" && o != c {
				giveBack()
				return nil, false
			}
			fresh = append(fresh, p)
		}
		want = union(want, []netip.Prefix{p})
	}
	// Only now is it known which addresses the subnets gave.
	for _, p := range want {
		for _, h := range union(m.has[c], want) {
			if h.Bits() != p.Bits() && h.Overlaps(p) {
				giveBack()
				return nil, false
			}
		}
	}
	for _, p := range want {
		delete(m.dying, p.Addr())
	}
	m.has[c] = union(m.has[c], want)
	return want, true
}

func (m *twin) detach(c string, asks []ask) []netip.Prefix {
	take, out := m.has[c], m.has[c]
	if len(asks) > 0 {
		take, out = matching(m.has[c], asks), answer(asks, m.has[c])
	} else {
		maps.DeleteFunc(m.dying, func(_ netip.Addr, k string) bool { return k == c })
	}
	m.has[c] = without(m.has[c], take)
	return out
}

func (m *twin) end(c string) {
	for _, p := range m.has[c] {
		if inTwin(p.Addr()) {
			m.dying[p.Addr()] = c
		}
	}
	m.has[c] = nil
}

// TestModelOfSpace lets people, containers and other hosts do what they like
// and compares with the twin.
func TestModelOfSpace(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.addSpace("10.0.0.0/16", "10.0.0.0/24")
		containers := []string{"c0", "c1", "c2"}
		ids := map[string]string{}
		pid := 100
		run := func(c string) {
			pid++
			w.run(ids[c], c, pid)
		}
		for i, c := range containers {
			ids[c] = strings.Repeat(fmt.Sprint(i), 64)
			run(c)
		}
		d := w.restart()
		m := &twin{has: map[string][]netip.Prefix{}, dying: map[netip.Addr]string{}, other: map[netip.Addr]bool{}}
		address := rapid.Custom(func(t *rapid.T) string {
			third := rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "net")
			second := rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "range")
			return fmt.Sprintf("10.%d.%d.%d/24", second, third, rapid.IntRange(1, 5).Draw(t, "host"))
		})
		typed := rapid.Custom(func(t *rapid.T) string {
			if rapid.Bool().Draw(t, "static") {
				return address.Draw(t, "address")
			}
			return rapid.SampledFrom([]string{"net:default", "net:default", "net:10.0.1.0/24", "net:10.0.2.0/24", "net:10.0.0.0/16"}).Draw(t, "subnet")
		})
		who := rapid.SampledFrom(append([]string{twinHost}, containers...))
		running := func(c string) bool { return c == twinHost || w.docker.containers[c].Running }
		rt.Repeat(map[string]func(*rapid.T){
			"attach": func(rt *rapid.T) {
				c, text := who.Draw(rt, "who"), rapid.SliceOfN(typed, 0, 3).Draw(rt, "addresses")
				if !running(c) {
					return
				}
				var got api.Addresses
				var err error
				if c == twinHost {
					got, err = d.Expose(ctx, api.ExposeRequest{Addresses: text})
				} else {
					got, err = d.Attach(ctx, api.AttachRequest{Container: c, Addresses: text})
				}
				asks, perr := d.parseWanted(text)
				check(t, perr)
				want, ok := m.attach(c, asks)
				if (err == nil) != ok || !slices.Equal(got, want) {
					rt.Fatalf("%s %v: %v, %v; want %v, %v (%+v)", c, text, got, err, want, ok, m)
				}
			},
			"detach": func(rt *rapid.T) {
				c, text := who.Draw(rt, "who"), rapid.SliceOfN(typed, 0, 2).Draw(rt, "addresses")
				var got api.Addresses
				var err error
				if c == twinHost {
					got, err = d.Hide(ctx, api.HideRequest{Addresses: text})
				} else {
					got, err = d.Detach(ctx, api.DetachRequest{Container: c, Addresses: text})
				}
				if err != nil {
					rt.Fatal(err)
				}
				asks, perr := d.parseAsks(text)
				check(t, perr)
				if want := m.detach(c, asks); !slices.Equal(got, want) {
					rt.Fatalf("%s %v: released %v, want %v", c, text, got, want)
				}
			},
			"end or run": func(rt *rapid.T) {
				c := rapid.SampledFrom(containers).Draw(rt, "who")
				if !running(c) {
					run(c)
					return
				}
				w.say(d, "end "+c)
				m.end(c)
			},
			"restart": func(rt *rapid.T) { // which nobody tells us
				c := rapid.SampledFrom(containers).Draw(rt, "who")
				if running(c) {
					w.kill(w.docker.containers[c].PID)
					run(c)
					m.end(c)
					_, err := d.Sweep(ctx)
					check(t, err)
				}
			},
			"later": func(*rapid.T) {
				w.space.expire()
				clear(m.dying)
			},
			"other host": func(rt *rapid.T) {
				a := netip.MustParsePrefix(address.Draw(rt, "address")).Addr()
				if o := m.owner(a); inTwin(a) && o == "" {
					m.other[a] = true
					w.space.held[a] = fakeHolder{key: elsewhere, label: elsewhere}
				} else if o == elsewhere {
					delete(m.other, a)
					w.free(a.String())
				}
			},
			"crash": func(*rapid.T) { d = w.restart() },
			"lose state": func(*rapid.T) {
				w.loseState()
				for a := range m.other {
					w.space.held[a] = fakeHolder{key: elsewhere, label: elsewhere}
				}
				clear(m.dying)
				delete(m.has, twinHost)
				d = w.restart()
			},
			"": func(rt *rapid.T) {
				list, err := d.PS(ctx, nil)
				check(t, err)
				seen := 0
				for _, a := range list {
					c := twinHost
					for name, id := range ids {
						if a.ID == id {
							c = name
						}
					}
					if !slices.Equal(a.Addresses, m.has[c]) {
						rt.Fatalf("%s has %v, want %v", c, a.Addresses, m.has[c])
					}
					seen += len(a.Addresses)
				}
				for _, held := range m.has {
					seen -= len(held)
				}
				if seen != 0 {
					rt.Fatalf("%v is listed, want %v", list, m.has)
				}
				w.see(d)
				if n := strings.Count(w.space.dying(), "\n"); n != len(m.dying) {
					rt.Fatalf("kept for a while: %swant %v", w.space.dying(), m.dying)
				}
			},
		})
	})
}

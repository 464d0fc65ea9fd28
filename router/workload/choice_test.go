package workload

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/api"
)

// engineTwin is who has which address, naively.
type engineTwin struct {
	has   map[string]netip.Addr // containers that run
	last  map[string]netip.Addr // that do not, and what they had
	freed map[netip.Addr]time.Time
	tried []string // created and not started
}

// lowest is the first address that nobody has and none is kept for.
func (m *engineTwin) lowest() netip.Addr {
	for a := netip.MustParseAddr("10.0.0.1"); ; a = a.Next() {
		if _, kept := m.freed[a]; !kept && !m.held(a) {
			return a
		}
	}
}

func (m *engineTwin) held(a netip.Addr) bool {
	for _, b := range m.has {
		if a == b {
			return true
		}
	}
	return false
}

// next is what a container gets that starts now.
func (m *engineTwin) next() netip.Addr {
	if len(m.tried) > 0 {
		return m.lowest()
	}
	var best netip.Addr
	for _, a := range m.last {
		at, kept := m.freed[a]
		if !kept || m.held(a) {
			continue
		}
		if !best.IsValid() || at.After(m.freed[best]) || at.Equal(m.freed[best]) && a.Less(best) {
			best = a
		}
	}
	if best.IsValid() {
		return best
	}
	return m.lowest()
}

// TestModelOfEngine lets containers of an engine come, go and come back, and
// compares with the twin: nobody gets what another one has, and who comes back
// gets what the rule says.
func TestModelOfEngine(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.addSpace("10.0.0.0/16", "10.0.0.0/24")
			d := w.restart()
			ctx := context.Background()
			m := &engineTwin{has: map[string]netip.Addr{}, last: map[string]netip.Addr{}, freed: map[netip.Addr]time.Time{}}
			names := []string{"c0", "c1", "c2", "c3"}
			id := func(name string) string { return strings.Repeat(name[1:], 64) }
			round := 0
			start := func(name string) {
				round++
				want := m.next()
				e, err := d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("10.0.0.0/24")})
				check(t, err)
				if e.Addr() != want {
					rt.Fatalf("%s got %s, want %s (%+v)", name, e, want, m)
				}
				endpoint := fmt.Sprintf("%064x", 0xe0000000+round)
				_, err = d.AddEndpoint(ctx, api.EndpointRequest{ID: endpoint, Network: "wide-id", Addresses: []netip.Prefix{e}})
				check(t, err)
				j, err := d.JoinEndpoint(ctx, api.EndpointJoin{ID: endpoint, Sandbox: sandboxOf(endpoint)})
				check(t, err)
				w.take(j, 1000+round)
				w.know(d, id(name), name, j, 1000+round, "")
				check(t, d.settleEndpoint(ctx, endpoint))
				d.NoteStarted(id(name))
				check(t, d.ContainerStarted(ctx, id(name)))
				m.has[name] = e.Addr()
				delete(m.last, name)
				delete(m.freed, e.Addr())
				for other, a := range m.last { // it is given to one only
					if a == e.Addr() {
						delete(m.last, other)
					}
				}
				if i := slices.Index(m.tried, name); i >= 0 {
					m.tried = slices.Delete(m.tried, i, i+1)
				} else if len(m.tried) > 0 {
					m.tried = m.tried[1:]
				}
			}
			rt.Repeat(map[string]func(*rapid.T){
				"start or stop": func(rt *rapid.T) {
					name := rapid.SampledFrom(names).Draw(rt, "who")
					if a, ok := m.has[name]; ok {
						w.down(d, name)
						m.last[name], m.freed[a] = a, time.Now()
						delete(m.has, name)
						return
					}
					start(name)
				},
				"create": func(rt *rapid.T) {
					name := rapid.SampledFrom(names).Draw(rt, "who")
					if _, there := w.docker.containers[name]; there {
						return
					}
					w.docker.set(name, Container{ID: id(name), Name: name, Created: true, Networks: []Network{{Name: wide}}})
					d.NoteCreated(id(name))
					check(t, d.ContainerCreated(ctx, id(name)))
					if len(m.has)+len(m.freed) > 0 { // otherwise nobody comes back
						m.tried = append(m.tried, name)
					}
				},
				"remove": func(rt *rapid.T) {
					name := rapid.SampledFrom(names).Draw(rt, "who")
					if _, runs := m.has[name]; runs {
						return
					}
					if _, there := w.docker.containers[name]; !there {
						return
					}
					w.rm(d, name)
					delete(m.last, name)
					m.tried = slices.DeleteFunc(m.tried, func(n string) bool { return n == name })
				},
				"later": func(*rapid.T) {
					time.Sleep(31 * time.Second)
					w.space.expire()
					_, err := d.Sweep(ctx)
					check(t, err)
					clear(m.freed)
					m.tried = nil
				},
				"a second": func(*rapid.T) { time.Sleep(time.Second) },
				"crash": func(*rapid.T) {
					d = w.restart()
					for a := range m.freed {
						m.freed[a] = time.Now()
					}
					m.tried = nil
				},
				"sweep": func(*rapid.T) {
					_, err := d.Sweep(ctx)
					check(t, err)
				},
				"": func(rt *rapid.T) {
					list, err := d.PS(ctx, nil)
					check(t, err)
					if len(list)-1 != len(m.has) {
						rt.Fatalf("%+v is listed, want %v", list[1:], m.has)
					}
					for _, a := range list[1:] {
						if m.has["c"+a.Container[:1]] != a.Addresses[0].Addr() {
							rt.Fatalf("%+v is listed, want %v", list[1:], m.has)
						}
					}
					w.see(d)
				},
			})
		})
	})
}

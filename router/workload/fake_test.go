package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

const testDomain = "weft.internal."

var errPower = errors.New("the power is off")

// power is what everything that outlives the daemon hangs on. When it goes
// off, nothing has an effect any more, as after kill -9.
type power struct {
	mu    sync.Mutex
	uses  int
	limit int  // the use at which something happens; 0: never
	late  bool // that use has its effect still
	once  bool // only that use fails: an error, no kill -9
	off   bool
}

func (p *power) use(f func() error) error { return p.spend(f, true) }

// useWhole is use of what never fails with effect, though the power may go off
// after it.
func (p *power) useWhole(f func() error) error { return p.spend(f, false) }

func (p *power) spend(f func() error, halves bool) error {
	p.mu.Lock()
	if p.off {
		p.mu.Unlock()
		return errPower
	}
	p.uses++
	hit := p.limit != 0 && p.uses == p.limit
	p.off = hit && !p.once
	late := p.late && (halves || !p.once)
	p.mu.Unlock()
	if hit && !late {
		return errPower
	}
	err := f()
	if hit {
		return errPower
	}
	return err
}

func (p *power) arm(n int, late, once bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uses, p.limit, p.late, p.once, p.off = 0, n, late, once, false
}

func (p *power) isOff() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.off
}

func (p *power) hit() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit != 0 && p.uses >= p.limit
}

func get[T any](p *power, f func() (T, error)) (v T, err error) {
	err = p.use(func() (err error) {
		v, err = f()
		return err
	})
	return v, err
}

// world is a machine with fakes of everything.
type world struct {
	t      *testing.T
	dir    string
	proc   string
	boot   string
	power  *power
	host   *namespace
	docker *fakeDocker
	space  *fakeSpace // nil: none

	mu     sync.Mutex
	paths  map[string]*namespace
	names  map[string][]dns.Record
	expose map[netip.Prefix]bool // with masquerading
	told   map[string][]netip.Addr
	led    map[string]int // namespaces in which names are asked of us
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), proc: t.TempDir(), boot: "boot-1", power: &power{},
		docker: &fakeDocker{containers: map[string]Container{}},
		paths:  map[string]*namespace{}, names: map[string][]dns.Record{}, expose: map[netip.Prefix]bool{}, led: map[string]int{},
	}
	w.host = &namespace{Fake: kerneltest.New("4:1"), power: w.power}
	check(t, w.host.AddBridge("weft", w.MAC(), 1370))
	check(t, w.host.SetUp("weft", true))
	w.paths[w.nspath(1)] = w.host
	w.stat(1, 1)
	return w
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) nspath(pid int) string { return filepath.Join(w.proc, strconv.Itoa(pid), "ns/net") }

func (w *world) stat(pid, start int) {
	w.t.Helper()
	dir := filepath.Join(w.proc, strconv.Itoa(pid))
	check(w.t, os.MkdirAll(dir, 0o755))
	line := fmt.Sprintf("%d (a) b (c) S %s %d 0 0\n", pid, strings.Repeat("0 ", 18), start)
	check(w.t, os.WriteFile(filepath.Join(dir, "stat"), []byte(line), 0o644))
}

// process starts a process in a namespace of its own.
func (w *world) process(pid, start int, id string) *namespace {
	w.t.Helper()
	w.stat(pid, start)
	n := &namespace{Fake: w.host.Namespace(id), power: w.power}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paths[w.nspath(pid)] = n
	return n
}

// kill ends a process, and its namespace.
func (w *world) kill(pid int) {
	w.t.Helper()
	check(w.t, os.RemoveAll(filepath.Join(w.proc, strconv.Itoa(pid))))
	w.mu.Lock()
	n := w.paths[w.nspath(pid)]
	delete(w.paths, w.nspath(pid))
	w.mu.Unlock()
	n.Destroy()
}

// run starts a Docker container.
func (w *world) run(id, name string, pid int) {
	w.t.Helper()
	w.process(pid, pid, fmt.Sprintf("4:%d", 4000+pid))
	w.docker.set(name, Container{ID: id, Name: name, Hostname: id[:12], PID: pid, Running: true})
}

func (w *world) Open(path string) (attach.Guest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, ok := w.paths[path]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
	}
	return n, nil
}

// Set implements Names.
func (w *world) Set(key string, records []dns.Record) error {
	return w.power.use(func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.names[key] = slices.Clone(records)
		if len(records) == 0 {
			delete(w.names, key)
		}
		return nil
	})
}

// SetExposed implements Host.
func (w *world) SetExposed(_ context.Context, addresses, masquerade []netip.Prefix) error {
	return w.power.use(func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		clear(w.expose)
		for _, p := range addresses {
			w.expose[p] = slices.Contains(masquerade, p)
		}
		return nil
	})
}

// hosts is what the other hosts are told of the attachments here.
type hosts struct{ w *world }

func (h hosts) Set(list []fdb.Attachment) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.told = make(map[string][]netip.Addr)
	for _, a := range list {
		h.w.told[a.MAC.String()] = slices.SortedFunc(slices.Values(a.Addrs), netip.Addr.Compare)
	}
	return nil
}

// checkTold wants the other hosts to know what `weft ps` shows. Containers
// that share a namespace are one attachment.
func (w *world) checkTold(list []api.Attachment) {
	w.t.Helper()
	want := make(map[string][]netip.Addr)
	for _, a := range list {
		if len(a.Addresses) == 0 {
			continue
		}
		for _, p := range a.Addresses {
			if !slices.Contains(want[a.MAC], p.Addr()) {
				want[a.MAC] = append(want[a.MAC], p.Addr())
			}
		}
		slices.SortFunc(want[a.MAC], netip.Addr.Compare)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for mac, addrs := range want {
		if got := w.told[mac]; !slices.Equal(slices.Compact(got), addrs) {
			w.t.Errorf("the other hosts are told of %v at %s, want %v", got, mac, addrs)
		}
	}
	for mac, addrs := range w.told {
		if want[mac] == nil && len(addrs) > 0 {
			w.t.Errorf("the other hosts are told of %v at %s, where nobody has them", addrs, mac)
		}
	}
}

// MAC implements Host.
func (w *world) MAC() kernel.MAC { return kernel.MAC{2, 0, 0, 0, 0, 1} }

// start starts a daemon on what its predecessor left; names are forgotten with
// that.
func (w *world) start() *Workload {
	w.t.Helper()
	w.mu.Lock()
	clear(w.names)
	w.mu.Unlock()
	c := Config{
		StateDir: w.dir, BootID: w.boot, Domain: testDomain, Docker: w.docker, Names: w, Host: w, Proc: w.proc,
		Attachments: hosts{w}, DNS: dnsAddress(),
		Attacher: attach.New(w.host, w.Open, attach.Config{
			MTU: func() int { return 1370 }, DNS: dnsAddress(), Redirect: func(g attach.Guest, _ string) error { return w.lead(g, 1) },
			Withdraw: func(g attach.Guest) error { return w.lead(g, 0) },
		}),
	}
	if w.space != nil {
		c.Space = w.space
	}
	d, err := New(c)
	check(w.t, err)
	d.journal.write = func(path string, data []byte) error {
		return w.power.use(func() error {
			// Atomic, but not safe from a power cut: the tests write often.
			tmp := path + ".tmp"
			return errors.Join(os.WriteFile(tmp, data, 0o600), os.Rename(tmp, path))
		})
	}
	return d
}

// restart is start and Restore.
func (w *world) restart() *Workload {
	w.t.Helper()
	d := w.start()
	check(w.t, d.Restore(context.Background()))
	return d
}

// see describes everything that people would notice, and checks that kernel,
// journal and names agree.
func (w *world) see(d *Workload) string {
	w.t.Helper()
	var b strings.Builder
	list, err := d.PS(context.Background(), nil)
	check(w.t, err)
	for _, a := range list {
		j, err := json.Marshal(a)
		check(w.t, err)
		fmt.Fprintf(&b, "ps %s\n", j)
	}
	w.checkKernel(d)
	w.checkTold(list)
	b.WriteString(w.checkSpace(d))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(w.names)) {
		for _, r := range w.names[key] {
			fmt.Fprintf(&b, "name %s %s %s %s\n", key, r.Hostname, r.Addr, r.Container)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(w.expose), netip.Prefix.Compare) {
		fmt.Fprintf(&b, "exposed %s %v\n", p, w.expose[p])
	}
	d.journal.view(func(s *state) {
		for _, e := range s.Containers {
			if len(e.Adding)+len(e.Removing) > 0 {
				w.t.Errorf("unfinished: %+v", e)
			}
			for _, n := range e.Names {
				if !slices.ContainsFunc(w.names[e.Key], func(r dns.Record) bool { return n.Hostname == r.Hostname && n.Addr == r.Addr }) {
					w.t.Errorf("name %v is in the journal only", n)
				}
			}
		}
		if len(s.exposing) > 0 {
			w.t.Error("still exposing")
		}
		for _, e := range s.Endpoints {
			for _, n := range e.Names {
				if !slices.ContainsFunc(w.names[namesKey(e.ID)], func(r dns.Record) bool { return n.Hostname == r.Hostname && n.Addr == r.Addr }) {
					w.t.Errorf("name %v is in the journal only", n)
				}
			}
		}
	})
	return b.String()
}

// checkKernel compares the kernel with the journal.
func (w *world) checkKernel(d *Workload) {
	w.t.Helper()
	links, err := w.host.Fake.Links()
	check(w.t, err)
	ends := 0 // less their other ends
	for _, l := range links {
		switch {
		case strings.HasPrefix(l.Name, "wvg"):
			ends--
		case l.Kind == "veth":
			ends++
			if !l.Up || l.Master == 0 {
				w.t.Errorf("%s is not on the switch", l.Name)
			}
		}
	}
	seen := map[*namespace]bool{}
	for path, n := range w.paths {
		if n == w.host || seen[n] {
			continue
		}
		seen[n] = true
		ns, err := d.attacher.Identify(path)
		check(w.t, err)
		var want, have []netip.Prefix
		d.journal.view(func(s *state) { want = s.spec(ns).Addresses })
		inside, err := n.Fake.Links()
		check(w.t, err)
		for _, l := range inside {
			if l.Kind != "veth" {
				continue
			}
			got, err := n.Fake.Addrs(l.Name)
			check(w.t, err)
			have = union(have, got)
			ends--
			d.journal.view(func(s *state) {
				for _, e := range s.Endpoints {
					switch {
					case e.MAC != l.MAC.String():
					case e.settled():
						want = union(want, e.held())
					default:
						want = union(want, got)
					}
				}
			})
		}
		if len(without(want, have))+len(without(have, want)) > 0 {
			w.t.Errorf("%s has %v, the journal says %v", path, have, want)
		}
	}
	if ends != 0 {
		w.t.Errorf("%d host ends belong to no namespace", ends)
	}
}

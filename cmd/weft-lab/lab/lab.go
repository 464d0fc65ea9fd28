package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Lab is a set of hosts and networks. Its methods are safe for concurrent use.
type Lab struct {
	// Constant after Up or Open.
	by     process
	keep   bool
	binDir string
	sw     *Place
	hosts  map[string]*Host
	owner  *os.File // reading end, for first processes; nil when the lab is kept
	ownerW *os.File // its end keeps the lab alive

	mu       sync.Mutex
	topology Topology // its name is constant
	faults   []Fault
	filtered bool // the table of faults has been made
	captures []*Capture

	middle       sync.Mutex // never held while mu is asked for
	interceptors map[string]*interceptor
}

// Options say how a lab is made.
type Options struct {
	// Keep lets the lab outlive this process, until [Down].
	Keep bool
	// BinDir is put before the standard directories in PATH.
	BinDir string
	// Progress gets one line for each step; it may be nil.
	Progress func(string)
}

// Up makes a lab. It blocks until every host is up and plugged in; when that
// fails nothing is left behind. A lab of the same name whose owner is gone is
// replaced, any other is an error. ctx bounds the making only.
func Up(ctx context.Context, t Topology, o Options) (*Lab, error) {
	t, err := t.complete()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs root")
	}
	if err := sweep(); err != nil {
		return nil, err
	}
	if err := makeState(t.Name); err != nil {
		return nil, fmt.Errorf("lab %s is there already: take it down first (weft-lab down %s): %w", t.Name, t.Name, err)
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	l := &Lab{topology: t, keep: o.Keep, binDir: o.BinDir, by: process{os.Getpid(), start}, hosts: map[string]*Host{}}
	if err := l.up(ctx, o); err != nil {
		return nil, fmt.Errorf("lab %s: %w", t.Name, errors.Join(err, l.Down()))
	}
	return l, nil
}

// makeState makes a lab's directory, which must not be there. Whoever takes the
// last other lab down at the same time removes the one above.
func makeState(name string) error {
	for {
		if err := os.MkdirAll(stateRoot, 0o700); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(stateRoot, name), 0o700); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
}

func (l *Lab) up(ctx context.Context, o Options) error {
	say := o.Progress
	if say == nil {
		say = func(string) {}
	}
	disk := filepath.Join(diskRoot, l.topology.Name)
	if err := removeTree(disk); err != nil {
		return err
	}
	for { // whoever takes the last other lab down at the same time removes the directory above
		if err := os.MkdirAll(disk, 0o755); err == nil {
			break
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if len(l.topology.Hosts) >= manyHosts {
		if err := roomForNeighbours(neighRoot); err != nil {
			say("this machine's table of neighbours may be too small for so many hosts: " + err.Error())
		}
	}
	if !l.keep {
		var err error
		if l.owner, l.ownerW, err = os.Pipe(); err != nil {
			return err
		}
	}
	if err := l.saveLocked(); err != nil {
		return err
	}
	var err error
	l.sw, err = spawn(ctx, nil, "switch", allNamespaces, initConfig{Kind: "switch"}, l.owner)
	if err != nil {
		return err
	}
	if err := l.addBridges(); err != nil {
		return err
	}
	say(fmt.Sprintf("starting %d hosts", len(l.topology.Hosts)))
	var g errgroup.Group
	g.SetLimit(4)
	for _, spec := range l.topology.Hosts {
		h := newHost(l, spec, &Place{name: spec.Name, pid: -1, pidfd: -1})
		l.hosts[spec.Name] = h
		g.Go(func() error {
			if err := h.install(); err != nil {
				return fmt.Errorf("install %s: %w", spec.Name, err)
			}
			return h.boot(ctx)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return l.SetFault(ctx, l.topology.Faults...)
}

func (l *Lab) saveLocked() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.save()
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.topology.Name }

// Topology returns what the lab consists of now. It must not be changed.
func (l *Lab) Topology() Topology {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.topology
}

// Host returns the host of that name, nil when there is none.
func (l *Lab) Host(name string) *Host { return l.hosts[name] }

// Hosts returns all hosts in the order of the topology.
func (l *Lab) Hosts() []*Host {
	var out []*Host
	for _, s := range l.Topology().Hosts {
		out = append(out, l.hosts[s.Name])
	}
	return out
}

// Place returns the host or, as HOST/CONTAINER, the container of that name.
func (l *Lab) Place(name string) (*Place, error) {
	if h := l.hosts[name]; h != nil && h.pid > 0 {
		return h.Place, nil
	}
	for _, h := range l.hosts {
		for _, c := range h.Containers() {
			if c.name == name {
				return c.Place, nil
			}
		}
	}
	return nil, fmt.Errorf("lab %s has no running host or container %q", l.topology.Name, name)
}

// Open returns a lab that another process made with [Options.Keep].
func Open(name string) (*Lab, error) {
	s, err := load(name)
	if err != nil {
		return nil, err
	}
	l := &Lab{
		topology: s.Topology, faults: s.Faults, filtered: s.Filtered, keep: s.Keep, by: s.Owner, binDir: s.BinDir,
		hosts: map[string]*Host{},
	}
	if l.sw, err = openPlace("switch", s.Switch, ""); err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	for _, spec := range s.Topology.Hosts {
		h := newHost(l, spec, nil)
		h.edged = spec.edgeRules() != ""
		l.hosts[spec.Name] = h
		if h.Place, err = openPlace(spec.Name, s.Hosts[spec.Name], l.binDir); err != nil {
			h.Place = &Place{name: spec.Name, pid: -1, pidfd: -1}
			continue // halted
		}
		h.own = spec.Systemd
		for c, p := range s.Containers[spec.Name] {
			place, err := openPlace(spec.Name+"/"+c, p, l.binDir)
			if err != nil {
				continue // ended
			}
			if h.containers[c], err = newContainer(h, c, place); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

func openPlace(name string, p process, binDir string) (*Place, error) {
	if p.PID <= 0 || !p.alive() {
		return nil, fmt.Errorf("%s is not running", name)
	}
	place, err := newPlace(name, p.PID)
	if err == nil && binDir != "" {
		place.SetPath(binDir)
	}
	return place, err
}

// Save records containers that were started, or hosts that were halted, since
// the last change, for other processes.
func (l *Lab) Save() error { return l.saveLocked() }

// Down ends every host and removes everything that the lab made.
func (l *Lab) Down() error {
	l.mu.Lock()
	captures := slices.Clone(l.captures)
	l.mu.Unlock()
	for _, c := range captures {
		c.Stop()
	}
	for _, p := range l.ports() {
		if l.sw != nil {
			_ = l.release(p.Name)
		}
	}
	var g errgroup.Group
	for h := range maps.Values(l.hosts) {
		g.Go(h.end)
	}
	errs := []error{g.Wait()}
	if l.sw != nil {
		errs = append(errs, l.sw.kill())
		l.sw.close()
		l.sw = nil
	}
	if l.owner != nil {
		errs = append(errs, l.owner.Close(), l.ownerW.Close())
		l.owner = nil
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return remove(l.topology.Name)
}

// Close lets go of a kept lab without ending it.
func (l *Lab) Close() {
	for _, h := range l.hosts {
		for _, c := range h.Containers() {
			c.close()
		}
		if h.pid > 0 {
			h.close()
		}
	}
	l.sw.close()
}

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Where labs keep what another process must know, and where their hosts' disks
// are: not below a directory that hosts overlay, and not on a /run that may be
// small and noexec.
const (
	stateRoot = "/run/weft-lab"
	diskRoot  = "/var/cache/weft-lab"
)

// process names a process for good; a number alone may be used again.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

func (p process) alive() bool {
	s, err := startTime(p.PID)
	return err == nil && s == p.Start
}

// kill ends a first process, and with it its PID namespace, and waits until it
// is gone. One that has ended is no error.
func (p process) kill() error {
	if p.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.alive() { // looked at after the descriptor, so the number is ours or was
		return nil
	}
	return killWait(fd)
}

// killWait kills the process of a pidfd and waits until it has ended.
func killWait(fd int) error {
	err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); { // with all in its namespace
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for its end: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
	return errors.New("killed, but it does not end")
}

// state is what is written to /run/weft-lab/NAME/state.json.
type state struct {
	Topology   Topology                      `json:"topology"`
	Faults     []Fault                       `json:"faults,omitempty"`
	Filtered   bool                          `json:"filtered,omitempty"`
	Keep       bool                          `json:"keep,omitempty"`
	Owner      process                       `json:"owner"`
	Switch     process                       `json:"switch"`
	Hosts      map[string]process            `json:"hosts"`
	Containers map[string]map[string]process `json:"containers,omitempty"`
	BinDir     string                        `json:"bin_dir,omitempty"`
}

func statePath(name string) string { return filepath.Join(stateRoot, name, "state.json") }

// save writes the state; l.mu is held.
func (l *Lab) save() error {
	s := state{
		Topology: l.topology, Faults: l.faults, Filtered: l.filtered, Keep: l.keep, Owner: l.by, BinDir: l.binDir,
		Hosts: map[string]process{}, Containers: map[string]map[string]process{},
	}
	if l.sw != nil {
		s.Switch = process{l.sw.pid, l.sw.start}
	}
	for name, h := range l.hosts {
		h.mu.Lock()
		if h.Place != nil && h.pid > 0 {
			s.Hosts[name] = process{h.pid, h.start}
			s.Containers[name] = map[string]process{}
			for c, p := range h.containers {
				s.Containers[name][c] = process{p.pid, p.start}
			}
		}
		h.mu.Unlock()
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("lab %s: state: %w", l.topology.Name, err)
	}
	path := statePath(l.topology.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("lab %s: %w", l.topology.Name, err)
	}
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("lab %s: %w", l.topology.Name, err)
	}
	return os.Rename(path+".new", path)
}

func load(name string) (state, error) {
	var s state
	b, err := os.ReadFile(statePath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("there is no lab %q: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return s, fmt.Errorf("lab %s: %w", name, err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("lab %s: read %s: %w", name, statePath(name), err)
	}
	return s, nil
}

// Names returns the labs of this machine, in order.
func Names() ([]string, error) {
	dirs, err := os.ReadDir(stateRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, d := range dirs {
		out = append(out, d.Name())
	}
	slices.Sort(out)
	return out, nil
}

// Kept returns the labs that were made to stay, in order.
func Kept() ([]string, error) {
	names, err := Names()
	return slices.DeleteFunc(names, func(n string) bool {
		s, err := load(n)
		return err != nil || !s.Keep
	}), err
}

// Down ends the lab of that name, whoever made it and however that one ended,
// and removes everything that is left of it. A lab that does not exist is no
// error.
func Down(name string) error {
	if !validName(name) {
		return fmt.Errorf("bad lab name %q", name)
	}
	s, err := load(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	errs := []error{s.Switch.kill()}
	for _, p := range s.Hosts {
		errs = append(errs, p.kill())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take lab %s down: %w", name, err) // the state stays for another try
	}
	return remove(name)
}

// remove removes what is left of a lab without processes; the state last, so
// that a failure can be tried again.
func remove(name string) error {
	if err := errors.Join(removeCgroups(name), removeTree(filepath.Join(diskRoot, name))); err != nil {
		return fmt.Errorf("remove what lab %s left: %w", name, err)
	}
	return removeTree(filepath.Join(stateRoot, name))
}

// removeTree removes a directory of the lab's, and the directory above when
// that is empty then.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir))
	return nil
}

// sweep removes what is left of labs whose owner was killed; their processes
// ended with it.
func sweep() error {
	names, err := Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		s, err := load(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process is just making or removing it
		}
		if err != nil {
			return err
		}
		if !s.Keep && !s.Owner.alive() {
			if err := Down(name); err != nil {
				return err
			}
		}
	}
	return nil
}

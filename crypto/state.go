package crypto

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrOtherMachine is returned by [OpenState] for a directory that another
// machine wrote: it was copied, or the disk was cloned. Two hosts with one
// identity disturb each other, so neither is started in silence.
var ErrOtherMachine = errors.New("state directory belongs to another machine")

// State is what the state directory keeps about who this host is. It is not
// safe for concurrent use.
type State struct {
	Key       *Key
	Name      Name   // set by hand, else the derived one
	MachineID string // of this machine; empty when it has none
	Created   bool   // the key was made by this call: a new host

	dir string
}

// OpenState reads the identity from dir and makes directory (0700) and key
// (0600) at the first start. Looser permissions are tightened. It blocks on
// the disk and on another process that is doing the same.
//
// A file that cannot be read or understood is an error and is left as it is.
// A directory of another machine gives [ErrOtherMachine]. An empty machineID
// is compared with nothing; one that was not known before is recorded.
func OpenState(dir, machineID string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	path := filepath.Join(dir, identityFile)
	s := &State{MachineID: machineID, dir: dir}
	b, err := readState(path)
	if errors.Is(err, fs.ErrNotExist) {
		if s.Key, err = NewKey(); err != nil {
			return nil, err
		}
		s.Name, s.Created = s.Key.Identity().Name(), true
		if err := errors.Join(tighten(dir), s.save()); err != nil {
			return nil, err
		}
		return s, nil
	}
	const remedy = "restore it from a backup, or run 'weft reset' to start as a new host"
	if err != nil {
		return nil, fmt.Errorf("read identity %s: %w; %s", path, err, remedy)
	}
	kept, err := parseIdentity(b)
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w; %s", path, err, remedy)
	}
	if kept.machine != "" && machineID != "" && kept.machine != machineID {
		return nil, fmt.Errorf("%w: %s was written on machine %s and this is %s (a copied directory or a cloned disk); "+
			"run 'weft reset' here to start as a new host", ErrOtherMachine, dir, kept.machine, machineID)
	}
	s.Key = KeyFromSeed(kept.seed)
	s.Name = kept.name
	if s.Name.IsZero() {
		s.Name = s.Key.Identity().Name()
	}
	if err := tighten(dir); err != nil {
		return nil, err
	}
	switch {
	case machineID == "":
		s.MachineID = kept.machine
	case kept.machine == "":
		if err := s.save(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// SetName sets the name by hand. It stays until the directory is removed.
func (s *State) SetName(n Name) error {
	if err := n.Check(); err != nil {
		return err
	}
	unlock, err := lockDir(s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	before := s.Name
	s.Name = n
	if err := s.save(); err != nil {
		s.Name = before
		return err
	}
	return nil
}

func (s *State) save() error {
	kept := identityState{seed: s.Key.Seed(), machine: s.MachineID}
	if s.Name != s.Key.Identity().Name() {
		kept.name = s.Name
	}
	return writeState(s.dir, identityFile, kept.encode())
}

// LoadSecret returns the cluster secret that is kept in dir. Without one the
// error is [fs.ErrNotExist].
func LoadSecret(dir string) (Secret, error) {
	s, err := loadSecret(dir)
	return s.secret, err
}

// LoadCluster returns the name of the cluster that the kept secret was saved
// for. A secret made from a password belongs to that name alone, because the
// name is part of its salt. Without a secret the error is [fs.ErrNotExist].
func LoadCluster(dir string) (string, error) {
	s, err := loadSecret(dir)
	return s.cluster, err
}

func loadSecret(dir string) (secretState, error) {
	path := filepath.Join(dir, secretFile)
	b, err := readState(path)
	if errors.Is(err, fs.ErrNotExist) {
		return secretState{}, err
	}
	var s secretState
	if err == nil {
		s, err = parseSecret(b)
	}
	if err != nil {
		return secretState{}, fmt.Errorf("cluster secret %s: %w; give it again with --password or --token", path, err)
	}
	if err := tightenFile(path); err != nil {
		return secretState{}, err
	}
	return s, nil
}

// SaveSecret keeps the secret of a cluster in dir (0600). It reports whether
// another one was there before, a damaged one included; the same one again is
// not written.
func SaveSecret(dir string, s Secret, cluster string) (replaced bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("make state directory: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return false, err
	}
	defer unlock()
	want := secretState{secret: s, cluster: cluster}
	kept, err := loadSecret(dir)
	switch {
	case err == nil && kept == want:
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
	default:
		replaced = true
	}
	if err := writeState(dir, secretFile, want.encode()); err != nil {
		return false, err
	}
	return replaced, nil
}

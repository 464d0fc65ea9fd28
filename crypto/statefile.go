package crypto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// The files of the state directory that this package owns.
const (
	identityFile = "identity"
	secretFile   = "secret"

	stateFormat  = 1
	maxStateFile = 64 << 10
)

// identityState is the content of the file identity.
type identityState struct {
	seed    [32]byte
	name    Name // zero: the derived one
	machine string
}

type identityJSON struct {
	Format  int    `json:"format"`
	Seed    string `json:"seed"`
	Name    string `json:"name,omitempty"`
	Machine string `json:"machine,omitempty"`
}

func (s identityState) encode() []byte {
	j := identityJSON{Format: stateFormat, Seed: hex.EncodeToString(s.seed[:]), Machine: s.machine}
	if !s.name.IsZero() {
		j.Name = s.name.String()
	}
	return encodeJSON(j)
}

func parseIdentity(b []byte) (identityState, error) {
	var j identityJSON
	if err := decodeJSON(b, &j); err != nil {
		return identityState{}, err
	}
	if j.Format != stateFormat {
		return identityState{}, fmt.Errorf("format %d is unknown, written by another version of weft?", j.Format)
	}
	s := identityState{machine: j.Machine}
	if err := decodeKey(s.seed[:], j.Seed); err != nil {
		return identityState{}, fmt.Errorf("seed: %w", err)
	}
	if j.Name != "" {
		n, err := ParseName(j.Name)
		if err != nil {
			return identityState{}, err
		}
		s.name = n
	}
	return s, nil
}

// secretState is the content of the file secret.
type secretState struct {
	secret  Secret
	cluster string
}

type secretJSON struct {
	Format  int    `json:"format"`
	Secret  string `json:"secret"`
	Cluster string `json:"cluster"`
}

func (s secretState) encode() []byte {
	return encodeJSON(secretJSON{Format: stateFormat, Secret: hex.EncodeToString(s.secret[:]), Cluster: s.cluster})
}

func parseSecret(b []byte) (secretState, error) {
	var j secretJSON
	if err := decodeJSON(b, &j); err != nil {
		return secretState{}, err
	}
	if j.Format != stateFormat {
		return secretState{}, fmt.Errorf("format %d is unknown, written by another version of weft?", j.Format)
	}
	s := secretState{cluster: j.Cluster}
	if err := decodeKey(s.secret[:], j.Secret); err != nil {
		return secretState{}, fmt.Errorf("secret: %w", err)
	}
	return s, nil
}

func decodeKey(dst []byte, text string) error {
	if len(text) != 2*len(dst) {
		return fmt.Errorf("want %d hexadecimal digits, got %d", 2*len(dst), len(text))
	}
	// The decoder's own error would quote a character of the secret.
	if _, err := hex.Decode(dst, []byte(text)); err != nil {
		return errors.New("not hexadecimal")
	}
	if bytes.Count(dst, []byte{0}) == len(dst) {
		return errors.New("all zero")
	}
	return nil
}

func encodeJSON(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("crypto: encode state: " + err.Error()) // strings and a number
	}
	return append(b, '\n')
}

func decodeJSON(b []byte, v any) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return errors.New("the file is empty")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("the file is damaged: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("the file is damaged: something follows the end")
	}
	return nil
}

func readState(path string) ([]byte, error) {
	// A pipe or a link to a device must not block or feed the daemon.
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if fi.Size() > maxStateFile {
		return nil, fmt.Errorf("%d bytes are too many", fi.Size())
	}
	return os.ReadFile(path)
}

// writeState replaces a file as a whole: after a power cut there is the old
// one or the new one.
func writeState(dir, name string, b []byte) error {
	path := filepath.Join(dir, name)
	err := renameio.WriteFile(path, b, 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write %s: sync directory: %w", path, err)
	}
	return nil
}

// tighten takes the directory and our files in it from everybody but the owner.
func tighten(dir string) error {
	if err := chmodAtMost(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(
		tightenFile(filepath.Join(dir, identityFile)),
		tightenFile(filepath.Join(dir, secretFile)))
}

func tightenFile(path string) error { return chmodAtMost(path, 0o600) }

func chmodAtMost(path string, most fs.FileMode) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check permissions: %w", err)
	}
	if fi.Mode().Perm()&^most == 0 {
		return nil
	}
	if err := os.Chmod(path, most); err != nil {
		return fmt.Errorf("tighten permissions: %w", err)
	}
	return nil
}

// lockDir keeps two processes from making two identities at the first start.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}

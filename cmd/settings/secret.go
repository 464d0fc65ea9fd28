package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weftnet/weft/crypto"
)

// maxSecret bounds a password or token, in bytes.
const maxSecret = 4 << 10

// Secret is the cluster secret as somebody gave it. At most one field is set.
// It prints as nothing that helps anybody.
type Secret struct {
	Token    string `json:"token,omitempty"`
	Password string `json:"password,omitempty"`
}

// IsZero reports whether no secret was given.
func (s Secret) IsZero() bool { return s == Secret{} }

// String keeps the secret out of logs.
func (s Secret) String() string {
	if s.IsZero() {
		return "none"
	}
	return "given"
}

// GoString keeps the secret out of test output and %#v.
func (s Secret) GoString() string { return "settings.Secret(" + s.String() + ")" }

// Derive returns the secret itself and, from a token, the host that issued it.
// A password takes about a second of one processor and 64 MiB meanwhile.
func (s Secret) Derive(cluster string, weak bool) (crypto.Secret, crypto.Identity, error) {
	if s.Token != "" {
		t, err := crypto.ParseToken(s.Token)
		return t.Secret, t.Issuer, err
	}
	secret, err := crypto.PasswordSecret(s.Password, cluster, weak)
	return secret, crypto.Identity{}, err
}

// WriteSecret writes s in the form that [ReadSecret] takes.
func WriteSecret(w io.Writer, s Secret) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	_, err = w.Write(b)
	return err
}

// ReadSecret reads one JSON object with a token or a password up to the end of
// r.
func ReadSecret(r io.Reader) (Secret, error) {
	b, err := io.ReadAll(io.LimitReader(r, 2*maxSecret+1))
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	// The parser's errors may quote what they did not understand.
	bad := errors.New(`read secret: want {"token": …} or {"password": …}`)
	var s Secret
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil || len(b) > 2*maxSecret || len(bytes.TrimSpace(b[d.InputOffset():])) != 0 {
		return Secret{}, bad
	}
	if (s.Token == "") == (s.Password == "") {
		return Secret{}, bad
	}
	return s, nil
}

// secret takes the secret of the strongest layer that has one; two of one
// layer contradict each other.
func (l *loader) secret(weak bool) (Secret, error) {
	if l.program == Daemon {
		if s, err := l.fromDescriptor(); err != nil || !s.IsZero() {
			return s, err
		}
		for _, o := range options() {
			if o.secret && o.programs&Daemon == 0 && l.env.Exists(o.name) {
				return Secret{}, invalid("%s: weftd takes no secret from its environment; use --password-file, or 'weft launch'", o.variable())
			}
		}
	}
	var given []option
	for _, layer := range []interface{ Exists(string) bool }{l.flags, l.env, l.file} {
		for _, o := range options() {
			if o.secret && layer.Exists(o.name) {
				given = append(given, o)
			}
		}
		if len(given) > 0 {
			break
		}
	}
	switch len(given) {
	case 0:
		return l.fromCredentials(weak)
	case 1:
		return l.take(given[0], weak)
	}
	return Secret{}, invalid("--%s and --%s are two secrets; give one", given[0].name, given[1].name)
}

func (l *loader) fromDescriptor() (Secret, error) {
	fd, err := l.src.Flags.GetInt(secretFD)
	if err != nil || fd < 0 {
		return Secret{}, nil // a flag set without it has no descriptor
	}
	f := os.NewFile(uintptr(fd), secretFD)
	if f == nil {
		return Secret{}, invalid("--%s=%d is not open", secretFD, fd)
	}
	defer f.Close()
	return ReadSecret(f)
}

// fromCredentials takes what systemd gives to a daemon as the credential
// weft.token or weft.password, see systemd.exec(5).
func (l *loader) fromCredentials(weak bool) (Secret, error) {
	dir := ""
	for _, kv := range l.src.Environ {
		if v, ok := strings.CutPrefix(kv, "CREDENTIALS_DIRECTORY="); ok {
			dir = v
		}
	}
	if l.program != Daemon || dir == "" {
		return Secret{}, nil
	}
	var found Secret
	for _, kind := range []string{"token", "password"} {
		path := filepath.Join(dir, "weft."+kind)
		text, err := l.readLine(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Secret{}, fmt.Errorf("read the credential: %w", err)
		}
		if !found.IsZero() {
			return Secret{}, invalid("the credentials weft.token and weft.password are two secrets; give one")
		}
		if found, err = checkSecret(kind, text, path, weak); err != nil {
			return Secret{}, err
		}
	}
	return found, nil
}

// take reads and checks one secret.
func (l *loader) take(o option, weak bool) (Secret, error) {
	value, label, _, err := l.value(o)
	if err != nil {
		return Secret{}, err
	}
	kind, isFile := strings.CutSuffix(o.name, "-file")
	if isFile {
		label += " " + value
		if value, err = l.readLine(value); err != nil {
			return Secret{}, invalid("%s: %v", label, err)
		}
	}
	return checkSecret(kind, value, label, weak)
}

// checkSecret makes a secret of a token or a password.
func checkSecret(kind, value, label string, weak bool) (Secret, error) {
	if kind == "token" {
		if _, err := crypto.ParseToken(value); err != nil {
			return Secret{}, invalid("%s: %v", label, err)
		}
		return Secret{Token: strings.TrimSpace(value)}, nil
	}
	switch {
	case value == "":
		return Secret{}, invalid("%s: password is empty", label)
	case len(value) > maxSecret:
		return Secret{}, invalid("%s: password is longer than %d bytes", label, maxSecret)
	case len(value) < crypto.MinPasswordLength && !weak:
		return Secret{}, invalid("%s: %v: use at least %d characters, a token, or --weak-password",
			label, crypto.ErrWeakPassword, crypto.MinPasswordLength)
	}
	return Secret{Password: value}, nil
}

// readLine returns the first line of a file that holds a secret. One that
// everybody can read is refused.
func (l *loader) readLine(path string) (string, error) {
	r := l.src.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return "", err
		}
		if open := info.Mode().Perm() & 0o007; info.Mode().IsRegular() && open != 0 {
			return "", fmt.Errorf("everybody on this host can open the secret: run 'chmod 600 %s'", path)
		}
		r = f
	}
	if r == nil {
		return "", errors.New("there is no standard input")
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+2))
	if err != nil {
		return "", err
	}
	if i := slices.Index(b, '\n'); i >= 0 {
		b = b[:i]
	}
	return string(bytes.TrimSuffix(b, []byte("\r"))), nil
}

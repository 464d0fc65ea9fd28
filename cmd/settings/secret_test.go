package settings

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/crypto"
)

func TestSecretByDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	want := Secret{Password: "a long enough password \"ü\""}
	if err := WriteSecret(w, want); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer r.Close()
	flags := pflag.NewFlagSet("weftd", pflag.ContinueOnError)
	AddFlags(flags, Daemon)
	fd, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := flags.Set(secretFD, strconv.Itoa(fd)); err != nil {
		t.Fatal(err)
	}
	if f := flags.Lookup(secretFD); f == nil || !f.Hidden {
		t.Errorf("--%s is not hidden", secretFD)
	}
	s, err := Load(Daemon, Source{Flags: flags, Environ: []string{"WEFT_TOKEN=loses"}}, nil)
	if err != nil || s.Secret != want {
		t.Errorf("secret differs, or %v", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
		t.Error("the descriptor is still open")
	}
}

func TestDerive(t *testing.T) {
	token := crypto.Token{Secret: crypto.Secret{7}, Issuer: crypto.Identity{9}}
	secret, issuer, err := Secret{Token: token.String()}.Derive("weft", false)
	if err != nil || secret != token.Secret || issuer != token.Issuer {
		t.Errorf("token: issuer %v, %v", issuer, err)
	}
	secret, issuer, err = Secret{Password: "a long enough password"}.Derive("weft", false)
	want, werr := crypto.PasswordSecret("a long enough password", "weft", false)
	if err != nil || werr != nil || secret != want || !issuer.IsZero() {
		t.Errorf("password: %v, %v", err, werr)
	}
}

// FuzzReadSecret: what is read, written again, is read as the same; what is
// not, is not told.
func FuzzReadSecret(f *testing.F) {
	for _, s := range []string{
		`{"token":"weft1.x"}`, `{"password":"p"}`, `{"token":"x","password":"p"}`, `{}`, `null`, `"secret"`, `{"token":""}`,
		`{"token":"secret"} {}`, `{"secret":"secret"}`, `{"Token":"x"}`, "", `{"password":"\u0000"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadSecret(bytes.NewReader(b))
		if err != nil {
			if strings.Contains(err.Error(), "secret:") && err.Error() != `read secret: want {"token": …} or {"password": …}` {
				t.Fatalf("error tells too much: %v", err)
			}
			return
		}
		var out bytes.Buffer
		if err := WriteSecret(&out, s); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadSecret(&out); err != nil || again != s {
			t.Fatalf("not the same again: %v", err)
		}
	})
}

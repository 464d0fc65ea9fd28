package crypto

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPasswordSecret(t *testing.T) {
	for _, tt := range []struct {
		name, password string
		weak           bool
		want           string // part of the error
	}{
		{"short", "too short", false, "9 characters, want at least 14"},
		{"characters, not bytes", "öööööööööööö", false, "12 characters"},
		{"empty", "", false, "empty"},
		{"empty and weak", "", true, "empty"},
		{"short and weak", "x", true, ""},
		{"long enough", "exactly 14 ch.", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := PasswordSecret(tt.password, "weft", tt.weak)
			if tt.want == "" {
				if err != nil || s == (Secret{}) {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, ErrWeakPassword) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestKeysDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Secret(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"))
		name := rapid.String().Draw(t, "cluster")
		k := s.Keys(name)
		if k != s.Keys(name) {
			t.Fatal("not a function")
		}
		if k.VNI == 0 || k.VNI >= 1<<24 {
			t.Fatalf("VNI %d is not one", k.VNI)
		}
		o := s.Keys(name + "x")
		a, b, c := drawKey(t).Identity(), drawKey(t).Identity(), drawKey(t).Identity()
		seen := map[[32]byte]string{}
		for what, key := range map[string][32]byte{
			"secret": s, "gossip": k.Gossip, "introduction": k.Introduction, "pair": k.pair, "cluster": k.Cluster,
			"other gossip": o.Gossip, "other introduction": o.Introduction, "other pair": o.pair, "other cluster": o.Cluster,
			"psk": k.PresharedKey(a, b), "pair key": k.PairKey(a, b), "other psk": o.PresharedKey(a, b),
		} {
			if was, ok := seen[key]; ok {
				t.Fatalf("%s and %s are the same key", what, was)
			}
			seen[key] = what
		}
		if k.PresharedKey(a, b) != k.PresharedKey(b, a) || k.PairKey(a, b) != k.PairKey(b, a) {
			t.Fatal("the two ends of a pair differ")
		}
		if b != c && a != b && k.PresharedKey(a, b) == k.PresharedKey(a, c) {
			t.Fatal("two pairs share a key")
		}
	})
}

func TestNewSecret(t *testing.T) {
	a, err := NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := NewSecret(); a == b || a == (Secret{}) {
		t.Fatal("not random")
	}
}

func TestParseToken(t *testing.T) {
	good := Token{Secret{1, 2, 3}, Identity{4, 5, 6}}.String()
	for _, tt := range []struct{ name, in, want string }{
		{"whole", good, ""},
		{"with line end", "  " + good + "\r\n", ""},
		{"empty", "", "does not begin with"},
		{"a password", "correct horse battery staple", "does not begin with"},
		{"other version", "weft2" + good[5:], "does not begin with"},
		{"cut", good[:len(good)-1], "incomplete"},
		{"longer", good + "A", "incomplete"},
		{"broken line", good[:20] + "\n" + good[20:], "incomplete"},
		{"padding", good + "=", "incomplete"},
		{"typing error", good[:10] + flip(good[10]) + good[11:], "typing error"},
		{"other alphabet", strings.Replace(good, "A", "+", 1), "incomplete"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tok, err := ParseToken(tt.in)
			switch {
			case tt.want == "" && (err != nil || tok.String() != good):
				t.Fatalf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("got %v, want %q", err, tt.want)
			case err != nil && len(tt.in) > 30 && strings.Contains(err.Error(), tt.in[6:20]):
				t.Fatal("the error repeats the token")
			}
		})
	}
}

func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{Secret{1}, Identity{2}}.String())
	f.Add("weft1.")
	f.Add(Token{}.String()[:40] + "\n" + Token{}.String()[40:])
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		if got := tok.String(); got != strings.TrimSpace(s) {
			t.Fatalf("%q parses and writes back as %q", s, got)
		}
	})
}

package crypto

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func drawKey(t *rapid.T) *Key {
	return KeyFromSeed([32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")))
}

func TestIdentityProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawKey(t), drawKey(t)
		ia, ib := a.Identity(), b.Identity()
		if n := ia.Name(); n[0]&3 != 2 {
			t.Fatalf("%s is not a locally administered unicast address", n)
		}
		if !OverlayPrefix.Contains(ia.Overlay()) {
			t.Fatalf("%s is not in %s", ia.Overlay(), OverlayPrefix)
		}
		if ia != ib && (ia.Overlay() == ib.Overlay() || ia.Name() == ib.Name() || a.WireGuardPublic() == b.WireGuardPublic()) {
			t.Fatal("two identities share what is derived")
		}
		if lo, hi := Sorted(ia, ib); lo.Compare(hi) > 0 || (lo != ia && lo != ib) {
			t.Fatal("not sorted")
		}
		if ia.Compare(ib) != -ib.Compare(ia) {
			t.Fatal("Compare is not antisymmetric")
		}
		var back Identity
		text, _ := ia.MarshalText()
		if err := back.UnmarshalText(text); err != nil || back != ia {
			t.Fatalf("%s reads as %s, %v", text, back, err)
		}
		if again := KeyFromSeed(a.Seed()); again.Identity() != ia || again.WireGuardPrivate() != a.WireGuardPrivate() {
			t.Fatal("the seed does not bring the key back")
		}
	})
}

func TestSignatureProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, other := drawKey(t), drawKey(t)
		domain := rapid.StringMatching(`[a-z ]{1,12}`).Draw(t, "domain")
		msg := rapid.SliceOf(rapid.Byte()).Draw(t, "message")
		sig := k.Sign(domain, msg)
		if !k.Identity().Verify(domain, msg, sig) {
			t.Fatal("own signature does not verify")
		}
		if other.Identity() != k.Identity() && other.Identity().Verify(domain, msg, sig) {
			t.Fatal("signature verifies for another identity")
		}
		// Moving the border between domain and message, or changing a bit.
		if k.Identity().Verify(domain[:len(domain)-1], append([]byte{domain[len(domain)-1]}, msg...), sig) {
			t.Fatal("signature verifies in a shorter domain")
		}
		bad := bytes.Clone(sig)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if k.Identity().Verify(domain, msg, bad) {
			t.Fatal("a changed signature verifies")
		}
		if k.Identity().Verify(domain, msg, append(sig, 0)) || k.Identity().Verify(domain, msg, sig[:63]) {
			t.Fatal("a signature of another length verifies")
		}
	})
}

func TestIdentityUnmarshalText(t *testing.T) {
	id := Identity{1}
	for _, s := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("0", 65), strings.Repeat("0", 63) + "g"} {
		if err := id.UnmarshalText([]byte(s)); err == nil || id != (Identity{1}) {
			t.Errorf("UnmarshalText(%q) = %v, identity now %s", s, err, id)
		}
	}
}

// A key handed out must not change the one inside.
func TestSignerIsACopy(t *testing.T) {
	k := KeyFromSeed([32]byte{1})
	want := k.Identity()
	clear(k.Signer())
	if k.Identity() != want || !want.Verify("d", nil, k.Sign("d", nil)) {
		t.Fatal("clearing what Signer returned broke the key")
	}
}

// Nothing secret appears in whatever somebody prints by mistake.
func TestNothingSecretIsPrinted(t *testing.T) {
	seed := [32]byte([]byte("0123456789abcdef0123456789abcdef"))
	k, s := KeyFromSeed(seed), Secret(seed)
	keys := s.Keys("weft")
	var leaks []string
	for _, b := range [][]byte{seed[:], k.sign[:32], keys.Gossip[:], keys.Introduction[:], keys.pair[:]} {
		leaks = append(leaks, string(b[:8]), hex.EncodeToString(b[:8]), strings.Trim(fmt.Sprint(b[:8]), "[]"), //nolint:staticcheck // the numbers, as a careless print shows them
			strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", b[:8]), "[]byte"), "{}"))
	}
	leaks = append(leaks, Token{Secret: s}.String()[:20])
	check := func(how, got string) {
		for _, l := range leaks {
			if strings.Contains(got, l) {
				t.Errorf("%s gives it away: %s", how, got)
			}
		}
	}
	type state struct {
		K *Key
		S Secret
		W Keys
	}
	for _, v := range []any{k, s, &s, keys, &keys, state{k, s, keys}, &State{Key: k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			if verb == "%d" || verb == "%x" {
				if _, ok := v.(fmt.Stringer); !ok {
					continue
				}
			}
			if verb != "%d" {
				check(fmt.Sprintf("%T %s", v, verb), fmt.Sprintf(verb, v))
			}
		}
	}
	check("Token %#v", fmt.Sprintf("%#v", Token{Secret: s}))
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k, "secret", s, "keys", keys, "token", Token{Secret: s})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k, "secret", s, "keys", keys, "token", Token{Secret: s})
	check("slog", out.String())
}

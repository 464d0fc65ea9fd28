package crypto

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vectors are what any implementation of weft must compute. They change only
// with the version of the protocol.
type vectors struct {
	Identities []identityVector `json:"identities"`
	Pairs      []pairVector     `json:"pairs"`
	Clusters   []clusterVector  `json:"clusters"`
	Passwords  []passwordVector `json:"passwords"`
	Tokens     []tokenVector    `json:"tokens"`
	Signatures []signVector     `json:"signatures"`
}

type identityVector struct {
	Seed             string `json:"seed"`
	Identity         string `json:"identity"`
	Name             string `json:"name"`
	Overlay          string `json:"overlay"`
	WireGuardPrivate string `json:"wireguard_private"`
	WireGuardPublic  string `json:"wireguard_public"`
}

type clusterVector struct {
	Secret       string `json:"secret"`
	Cluster      string `json:"cluster"`
	ClusterHash  string `json:"cluster_hash"`
	Gossip       string `json:"gossip"`
	Introduction string `json:"introduction"`
	VNI          uint32 `json:"vni"`
}

type pairVector struct {
	Secret  string `json:"secret"`
	Cluster string `json:"cluster"`
	A       string `json:"a"`
	B       string `json:"b"`
	PSK     string `json:"psk"`
	PairKey string `json:"pair_key"`
}

type passwordVector struct {
	Password string `json:"password"`
	Cluster  string `json:"cluster"`
	Secret   string `json:"secret"`
}

type tokenVector struct {
	Secret string `json:"secret"`
	Issuer string `json:"issuer"`
	Text   string `json:"text"`
}

type signVector struct {
	Seed      string `json:"seed"`
	Domain    string `json:"domain"`
	Message   string `json:"message"`
	Signature string `json:"signature"`
}

func TestVectors(t *testing.T) {
	path := filepath.Join("testdata", "vectors.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want vectors
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	got := compute(t, want)
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, n := range []int{
		len(want.Identities), len(want.Pairs), len(want.Clusters),
		len(want.Passwords), len(want.Tokens), len(want.Signatures),
	} {
		if n == 0 {
			t.Fatal("a kind of vector is missing")
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("vectors (-want +got):\n%s", d)
	}
	for _, v := range want.Signatures {
		k := KeyFromSeed(bytes32(t, v.Seed))
		if !k.Identity().Verify(v.Domain, unhex(t, v.Message), unhex(t, v.Signature)) {
			t.Errorf("signature in domain %q does not verify", v.Domain)
		}
	}
	for _, v := range want.Tokens {
		tok, err := ParseToken(v.Text)
		if err != nil {
			t.Fatal(err)
		}
		if tok != (Token{Secret(bytes32(t, v.Secret)), Identity(bytes32(t, v.Issuer))}) {
			t.Errorf("token %s: parsed to something else", v.Text)
		}
	}
}

var update = flag.Bool("update", false, "write the vectors instead of comparing them")

// compute returns the vectors with everything but the inputs computed.
func compute(t *testing.T, in vectors) vectors {
	var out vectors
	for _, v := range in.Identities {
		k := KeyFromSeed(bytes32(t, v.Seed))
		id, private, public := k.Identity(), k.WireGuardPrivate(), k.WireGuardPublic()
		out.Identities = append(out.Identities, identityVector{
			Seed: v.Seed, Identity: id.String(), Name: id.Name().String(), Overlay: id.Overlay().String(),
			WireGuardPrivate: hex.EncodeToString(private[:]), WireGuardPublic: hex.EncodeToString(public[:]),
		})
	}
	for _, v := range in.Clusters {
		k := Secret(bytes32(t, v.Secret)).Keys(v.Cluster)
		out.Clusters = append(out.Clusters, clusterVector{
			Secret: v.Secret, Cluster: v.Cluster, ClusterHash: hex.EncodeToString(k.Cluster[:]),
			Gossip: hex.EncodeToString(k.Gossip[:]), Introduction: hex.EncodeToString(k.Introduction[:]), VNI: k.VNI,
		})
	}
	for _, v := range in.Pairs {
		k := Secret(bytes32(t, v.Secret)).Keys(v.Cluster)
		a, b := Identity(bytes32(t, v.A)), Identity(bytes32(t, v.B))
		psk, pair := k.PresharedKey(a, b), k.PairKey(a, b)
		out.Pairs = append(out.Pairs, pairVector{
			Secret: v.Secret, Cluster: v.Cluster, A: v.A, B: v.B,
			PSK: hex.EncodeToString(psk[:]), PairKey: hex.EncodeToString(pair[:]),
		})
	}
	for _, v := range in.Passwords {
		s, err := PasswordSecret(v.Password, v.Cluster, true)
		if err != nil {
			t.Fatal(err)
		}
		out.Passwords = append(out.Passwords, passwordVector{v.Password, v.Cluster, hex.EncodeToString(s[:])})
	}
	for _, v := range in.Tokens {
		tok := Token{Secret(bytes32(t, v.Secret)), Identity(bytes32(t, v.Issuer))}
		out.Tokens = append(out.Tokens, tokenVector{v.Secret, v.Issuer, tok.String()})
	}
	for _, v := range in.Signatures {
		sig := KeyFromSeed(bytes32(t, v.Seed)).Sign(v.Domain, unhex(t, v.Message))
		out.Signatures = append(out.Signatures, signVector{v.Seed, v.Domain, v.Message, hex.EncodeToString(sig)})
	}
	return out
}

func bytes32(t *testing.T, s string) [32]byte {
	t.Helper()
	b := unhex(t, s)
	if len(b) != 32 {
		t.Fatalf("%d bytes, want 32", len(b))
	}
	return [32]byte(b)
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

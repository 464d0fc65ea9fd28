package mesh

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
)

// What is known belongs to a cluster: another one must not inherit peers that
// it would then dial for ever. Only the sequence number stays with the host.
func TestPersistIsPerCluster(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	in := func(cluster string, secret byte, targets ...string) *Mesh {
		return alone(t, func(c *Config) {
			c.StateDir, c.Resume, c.Targets = dir, len(targets) == 0, targets
			c.Keys = crypto.Secret{secret}.Keys(cluster)
		})
	}
	m := in("one", 1, "host1")
	if _, err := m.learn(now, signed(t, 1, nil)); err != nil {
		t.Fatal(err)
	}
	if err := m.saveNow(); err != nil {
		t.Fatal(err)
	}
	rotated := in("one", 2)
	if len(rotated.latestView().Peers) != 1 || len(rotated.Targets()) != 1 {
		t.Error("a new secret lost the peers")
	}
	other := in("two", 1)
	if v := other.latestView(); len(v.Peers) != 0 || len(other.Targets()) != 0 || v.Self.Seq <= rotated.latestView().Self.Seq {
		t.Errorf("in another cluster: %d peers, targets %q, advert %d", len(v.Peers), other.Targets(), v.Self.Seq)
	}
}

func TestPersist(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	m := alone(t, func(c *Config) { c.StateDir, c.Targets = dir, []string{"host1", "192.0.2.7:1"} })
	a := signed(t, 1, nil)
	m.introduced(now, hello.Result{Peer: a.Identity, Adverts: []advert.Signed{a, signed(t, 2, nil)}, Dialled: true, Remote: netip.MustParseAddrPort("192.0.2.9:6783")})
	m.reached(now, a.Identity, netip.MustParseAddrPort("203.0.113.1:1234"))
	m.targets[0].peer = a.Identity
	if err := m.saveNow(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, FileName)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	first := m.latestView()

	again := alone(t, func(c *Config) { c.StateDir, c.Resume, c.Boot, c.Targets = dir, true, 101, []string{"HOST1", "c"} })
	if got := again.Targets(); !slices.Equal(got, []string{"host1", "192.0.2.7:1", "c"}) {
		t.Errorf("targets %q", got)
	}
	v := again.latestView()
	for i := range first.Peers { // of the run, not of the peer
		first.Peers[i].Introduced, first.Peers[i].Initiator, first.Peers[i].Target = 0, false, ""
		v.Peers[i].Initiator = false
		if v.Peers[i].Identity == a.Identity {
			if v.Peers[i].Target != "host1" {
				t.Errorf("target %q", v.Peers[i].Target)
			}
			v.Peers[i].Target = ""
		}
	}
	if diff := cmp.Diff(first.Peers, v.Peers, cmp.Comparer(func(x, y advert.Signed) bool { return bytes.Equal(x.Bytes(), y.Bytes()) }), cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); diff != "" {
		t.Errorf("peers (-before +after):\n%s", diff)
	}
	if v.Self.Seq <= first.Self.Seq || v.Self.Boot != 101 {
		t.Errorf("advert %d of boot %d after %d", v.Self.Seq, v.Self.Boot, first.Self.Seq)
	}

	// A file that is not understood is put aside.
	for _, bad := range []string{"{", "", `{"version":2}`, `[]`, "\x00"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := alone(t, func(c *Config) { c.StateDir = dir }).latestView(); len(got.Peers) != 0 {
			t.Errorf("%q: %d peers", bad, len(got.Peers))
		}
		if b, err := os.ReadFile(path + ".damaged"); err != nil || string(b) != bad {
			t.Errorf("%q put aside as %q, %v", bad, b, err)
		}
	}
	if _, err := New(Config{Key: m.cfg.Key, Hello: m.cfg.Hello, Port: 1, Datapath: 1, StateDir: filepath.Join(dir, "none")}); err == nil {
		t.Error("a directory that is not there is no error")
	}
	if _, err := New(Config{Key: m.cfg.Key, Hello: m.cfg.Hello, Port: 1, Datapath: 1, StateDir: dir, Targets: []string{"a b"}}); err == nil {
		t.Error("a target that cannot be read is no error")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"version":1,"seq":5,"targets":[{"target":"host1"}],"peers":[{"advert":"AAAA","endpoint":"1.2.3.4:5"}]}`))
	f.Add([]byte(`{"version":1,"gone":[{"peer":"` + crypto.Identity{1}.String() + `","seq":7},{"seq":1,"advert":"AAAA"}]}`))
	key := crypto.KeyFromSeed(testSeed(0))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := New(Config{Key: key, Hello: new(fakeHello), Port: 6783, Datapath: 1, StateDir: dir, Resume: true})
		if err != nil {
			return
		}
		if m.advert.Seq == 0 {
			t.Error("no advert")
		}
	})
}

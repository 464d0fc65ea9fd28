package dns

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// record makes an owned record from "host address [container]".
func record(s string) Owned {
	f := append(strings.Fields(s), "")
	return Owned{Record: Record{Hostname: f[0], Addr: addr(f[1]), Container: f[2]}, Owner: "02:00:00:00:00:01", Version: 1}
}

func zone(domain string, records ...string) *Zone {
	z := NewZone(domain)
	var list []Owned
	for _, r := range records {
		list = append(list, record(r))
	}
	z.Set(list)
	return z
}

// twin is the zone without any structure: it looks at every record each time.
type twin struct {
	domain  string
	records []Owned
}

func (w twin) all() []Owned {
	var list []Owned
	for _, r := range w.records {
		_, err := r.Marshal()
		name := strings.ToLower(r.Hostname)
		if err == nil && (name == w.domain || strings.HasSuffix(name, "."+w.domain)) {
			list = append(list, r)
		}
	}
	return list
}

func (w twin) lookup(name string) (map[netip.Addr]bool, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, ".")) + "."
	if strings.Count(name, ".") == 1 {
		name += w.domain
	}
	addrs, known := make(map[netip.Addr]bool), name == w.domain
	for _, r := range w.all() {
		host := strings.ToLower(r.Hostname)
		if host == name {
			addrs[r.Addr] = true
		}
		inside := name == w.domain || strings.HasSuffix(name, "."+w.domain)
		known = known || inside && (host == name || strings.HasSuffix(host, "."+name))
	}
	return addrs, known
}

func (w twin) reverse(a netip.Addr) map[string]bool {
	names := make(map[string]bool)
	for _, r := range w.all() {
		if r.Addr == a {
			names[strings.ToLower(r.Hostname)] = true
		}
	}
	return names
}

func TestZoneTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z, w := NewZone("A.B"), twin{domain: "a.b."}
		if z.Domain() != w.domain {
			t.Fatalf("domain is %q", z.Domain())
		}
		for range rapid.IntRange(1, 3).Draw(t, "sets") {
			w.records = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Owned {
				domain := rapid.SampledFrom([]string{"a.b.", "A.b.", "b.", "a.b"}).Draw(t, "domain") // some are foreign, some malformed
				return Owned{Record: drawRecord(t, domain), Owner: "p", Version: uint64(rapid.IntRange(1, 2).Draw(t, "version"))}
			}), 0, 12).Draw(t, "records")
			given := slices.Clone(w.records)
			z.Set(w.records)
			if !slices.Equal(given, w.records) {
				t.Fatal("Set changed its argument")
			}
			checkTwin(t, z, w)
		}
	})
}

func checkTwin(t *rapid.T, z *Zone, w twin) {
	names := []string{"a", "b", "a.b", "A.B.", "b.", "zz.a.b.", "a.b.a.b", `a\.b.`}
	for _, r := range w.records {
		names = append(names, r.Hostname, strings.ToUpper(r.Hostname), "x."+r.Hostname)
		if _, parent, ok := strings.Cut(r.Hostname, "."); ok && parent != "" {
			names = append(names, parent)
		}
		got, want := z.Reverse(r.Addr), w.reverse(r.Addr)
		if !sameSet(got, want) {
			t.Fatalf("Reverse(%s) = %v, want %v", r.Addr, got, want)
		}
	}
	for _, name := range names {
		got, known := z.Lookup(name)
		want, wantKnown := w.lookup(name)
		if known != wantKnown || !sameSet(got, want) {
			t.Fatalf("Lookup(%q) = %v, %v; want %v, %v", name, got, known, want, wantKnown)
		}
		if !slices.IsSortedFunc(got, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() }) {
			t.Fatalf("Lookup(%q) = %v: IPv6 before IPv4", name, got)
		}
	}
	want := make(map[Owned]bool)
	for _, r := range w.all() {
		want[r] = true
	}
	got := z.Entries()
	if !sameSet(got, want) || !slices.IsSortedFunc(got, order) {
		t.Fatalf("Entries() = %v, want %v", got, want)
	}
}

// sameSet also finds duplicates in got.
func sameSet[T comparable](got []T, want map[T]bool) bool {
	set := make(map[T]bool)
	for _, v := range got {
		set[v] = true
	}
	return len(got) == len(set) && maps.Equal(set, want)
}

func TestZoneSetSame(t *testing.T) {
	z := zone("weft.internal", "web.weft.internal. 10.32.0.1", "web.weft.internal. 10.32.0.2")
	before := z.now.Load()
	z.Set([]Owned{record("web.weft.internal. 10.32.0.2"), record("web.weft.internal. 10.32.0.1"), record("web.weft.internal. 10.32.0.1")})
	if z.now.Load() != before {
		t.Error("the same records in another order made a new snapshot")
	}
	z.Set(nil)
	if now := z.now.Load(); now.serial != before.serial+1 || len(now.names) != 1 {
		t.Errorf("after removing all: %+v", now)
	}
}

func TestZoneEntriesKeepCase(t *testing.T) {
	z := zone("Weft.Internal", "Web.WEFT.internal. 10.32.0.1 c", "evil.example. 10.32.0.9")
	want := []Owned{record("Web.WEFT.internal. 10.32.0.1 c")}
	if diff := cmp.Diff(want, z.Entries(), compareAddr); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := z.Reverse(addr("10.32.0.1")); !slices.Equal(got, []string{"web.weft.internal."}) {
		t.Errorf("Reverse: %v", got)
	}
	for name, want := range map[string]bool{
		"web.weft.internal": true, "WEFT.internal.": true, "internal": false, "aweft.internal": false, "example.com": false, "web": false,
	} {
		if got := z.Contains(name); got != want {
			t.Errorf("Contains(%q) = %v", name, got)
		}
	}
}

// TestZoneRotates expects every address to come first about equally often: with
// 3,000 tries each share is far from half or double by many deviations.
func TestZoneRotates(t *testing.T) {
	z := zone("d", "web.d. 10.32.0.1", "web.d. 10.32.0.2", "web.d. 10.32.0.3")
	first := make(map[netip.Addr]int)
	for range 3000 {
		got, _ := z.Lookup("web")
		first[got[0]]++
	}
	for a, n := range first {
		if len(first) != 3 || n < 500 || n > 2000 {
			t.Errorf("%s came first %d times of 3000 (%d addresses did)", a, n, len(first))
		}
	}
}

// TestZoneConcurrent lets the race detector look, and checks that no reader
// sees half a change: both names always have the same address.
func TestZoneConcurrent(t *testing.T) {
	z := zone("d", "a.d. 10.0.0.0", "b.d. 10.0.0.0")
	var writer, readers sync.WaitGroup
	done := make(chan struct{})
	writer.Go(func() {
		for i := range 200 {
			z.Set([]Owned{record(fmt.Sprint("a.d. 10.0.0.", i)), record(fmt.Sprint("b.d. 10.0.0.", i))})
		}
		close(done)
	})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if e := z.Entries(); len(e) != 2 || e[0].Addr != e[1].Addr {
					t.Errorf("half a change: %v", e)
				}
				z.Lookup("a")
			}
		})
	}
	writer.Wait()
	readers.Wait()
}

func bigZone(n int) (*Zone, []Owned) {
	z := NewZone("weft.internal")
	list := make([]Owned, n)
	for i := range list {
		a := netip.AddrFrom4([4]byte{10, 32, byte(i >> 8), byte(i)})
		list[i] = Owned{Record: Record{Hostname: fmt.Sprintf("host%d.weft.internal.", i), Addr: a}, Owner: "p", Version: 1}
	}
	z.Set(list)
	return z, list
}

func BenchmarkZoneLookup(b *testing.B) {
	z, list := bigZone(10_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if a, _ := z.Lookup(list[i%len(list)].Hostname); len(a) != 1 {
			b.Fatal("not found")
		}
	}
}

func BenchmarkZoneSet(b *testing.B) {
	z, list := bigZone(10_000)
	b.ReportAllocs()
	for i := uint64(2); b.Loop(); i++ {
		list[0].Version = i
		z.Set(list)
	}
}

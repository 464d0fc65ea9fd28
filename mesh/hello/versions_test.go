package hello

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
)

// Two hosts speak the highest version of both, or each is told what the other
// one speaks. A host that names no versions in TLS, as the first ones did not,
// speaks version 1.
func TestVersions(t *testing.T) {
	refused := func(there, here string) string {
		return fmt.Sprintf("other protocol version: %s there, %s here; run the same version of weft on both", there, here)
	}
	for _, tt := range []struct {
		name             string
		d, l             Versions
		oldD, oldL       bool // it names none
		want             uint16
		dialler, listens string // what each is told; "": they are introduced
	}{
		{name: "the first", want: 1},
		{name: "both the same", d: Versions{2, 4}, l: Versions{2, 4}, want: 4},
		{name: "the dialler is newer", d: Versions{1, 3}, l: Versions{1, 2}, want: 2},
		{name: "the listener is newer", d: Versions{1, 2}, l: Versions{2, 5}, want: 2},
		{name: "the first dials", l: Versions{1, 3}, oldD: true, want: 1},
		{name: "the first listens", d: Versions{1, 3}, oldL: true, want: 1},
		{name: "none in common", d: Versions{1, 2}, l: Versions{3, 4}, dialler: refused("3 to 4", "1 to 2"), listens: refused("1 to 2", "3 to 4")},
		{name: "none in common, the other way round", d: Versions{3, 4}, l: Versions{1, 2}, dialler: refused("1 to 2", "3 to 4"), listens: refused("3 to 4", "1 to 2")},
		{name: "the first dials what is too new", l: Versions{2, 3}, oldD: true, dialler: refused("2 to 3", "1"), listens: refused("1", "2 to 3")},
		{name: "the first listens to what is too new", d: Versions{2, 3}, oldL: true, dialler: refused("1", "2 to 3"), listens: refused("2 to 3", "1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				d, l := newHost(t, network, hostConfig{n: 1, versions: tt.d}), newHost(t, network, hostConfig{n: 2, versions: tt.l})
				if tt.oldD {
					d.client.NextProtos = []string{baseProtocol}
				}
				if tt.oldL {
					l.server.NextProtos = []string{baseProtocol}
				}
				addr := netip.MustParseAddrPort("192.0.2.200:6783")
				stop := l.serve(t, network.listen(addr))
				r, err := d.Dial(t.Context(), addr, nil)
				synctest.Wait()
				stop()
				if tt.dialler == "" {
					got := l.got()
					if err != nil || r.Version != tt.want || len(got) != 1 || got[0].Version != tt.want {
						t.Fatalf("version %d, %v; the listener has %d introductions (%s)", r.Version, err, len(got), l.logs)
					}
					return
				}
				if !errors.Is(err, ErrVersion) || err.Error() != tt.dialler {
					t.Errorf("the dialler is told %v, want %s", err, tt.dialler)
				}
				if log := l.logs.String(); !strings.Contains(log, fmt.Sprintf("err=%q", tt.listens)) || len(l.got()) != 0 {
					t.Errorf("the listener says %swant %s", log, tt.listens)
				}
			})
		})
	}
}

func TestCommon(t *testing.T) {
	for _, tt := range []struct {
		a, b Versions
		want uint16
		ok   bool
	}{
		{Versions{}, Versions{}, 1, true},
		{Versions{}, Versions{1, 9}, 1, true},
		{Versions{2, 5}, Versions{4, 9}, 5, true},
		{Versions{2, 5}, Versions{5, 9}, 5, true},
		{Versions{2, 5}, Versions{6, 9}, 0, false},
		{Versions{}, Versions{2, 2}, 0, false},
	} {
		for _, p := range [][2]Versions{{tt.a, tt.b}, {tt.b, tt.a}} {
			if got, ok := p[0].Common(p[1]); ok != tt.ok || ok && got != tt.want {
				t.Errorf("%s and %s: %d, %v; want %d, %v", p[0], p[1], got, ok, tt.want, tt.ok)
			}
		}
	}
}

// Whatever somebody says becomes a range that is one, and what we write is read.
func FuzzVersions(f *testing.F) {
	f.Add(Versions{1, 3}.Meta(), "weft/3 weft/2 weft/1 weft")
	f.Add([]byte{1}, "weft")
	f.Add([]byte{2, 0, 1, 0, 1}, "weft/0 weft/65536 weft/01 h2")
	f.Add([]byte{1, 0, 1, 255, 255}, "weft/1 weft/65535")
	f.Fuzz(func(t *testing.T, meta []byte, names string) {
		v := ParseMeta(meta)
		if !v.valid() || v == (Versions{}) || len(v.protocols()) > maxVersions+1 {
			t.Fatalf("%x became %v", meta, v)
		}
		if w := ParseMeta(append(v.Meta(), meta...)); w != v {
			t.Fatalf("%v became %v", v, w)
		}
		if w := offered(v.protocols()); w != v {
			t.Fatalf("%v is offered as %v", v, w)
		}
		if w := offered(strings.Fields(names)); !w.valid() {
			t.Fatalf("%q became %v", names, w)
		}
		other := readOther(bytes.NewReader(meta), v.Max)
		if !other.valid() || !other.has(v.Max) {
			t.Fatalf("%x after version %d became %v", meta, v.Max, other)
		}
	})
}

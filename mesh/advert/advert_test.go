package advert

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
)

func testKey() *crypto.Key { return crypto.KeyFromSeed([32]byte{1, 2, 3}) }

func full() Advert {
	return Advert{
		Name: crypto.Name{2, 0, 0, 0, 0, 9}, Nickname: "höst-1", Boot: 0x0102030405060708, Seq: 0x1112131415161718,
		Endpoints: []netip.AddrPort{
			netip.MustParseAddrPort("192.0.2.1:6784"), netip.MustParseAddrPort("[2001:db8::1]:6785"),
		},
		HelloPort: 6783, Datapath: Kernel, Version: "0.1.0",
	}
}

func minimal() Advert { return Advert{HelloPort: 1, Datapath: Userspace} }

var cmpAdvert = cmp.Options{cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateEmpty()}

// TestBytes holds the exact encoding, with spaces between the fields.
func TestBytes(t *testing.T) {
	k := testKey()
	id, wg, name := k.Identity().String(), k.WireGuardPublic(), k.Identity().Name()
	for _, tt := range []struct {
		what string
		in   Advert
		want string
	}{
		{"full", full(), "01 " + id + " 020000000009 0102030405060708 1112131415161718 " + hex.EncodeToString(wg[:]) +
			" 1a7f 02 07 68c3b673742d31 05 302e312e30 02" +
			" 04 c0000201 1a80" +
			" 06 20010db8000000000000000000000001 1a81"},
		{"minimal", minimal(), "01 " + id + " " + hex.EncodeToString(name[:]) + " 0000000000000000 0000000000000000 " +
			hex.EncodeToString(wg[:]) + " 0001 01 00 00 00"},
		{"gone", Advert{HelloPort: 1, Datapath: Userspace, Seq: 9, Nickname: "a", Gone: true}, "02 " + id + " " +
			hex.EncodeToString(name[:]) + " 0000000000000000 0000000000000009 " + hex.EncodeToString(wg[:]) + " 0001 01 01 61 00 00"},
		{"IPv4 as IPv6, and twice", Advert{HelloPort: 1, Datapath: Userspace, Endpoints: []netip.AddrPort{
			netip.MustParseAddrPort("[::ffff:192.0.2.1]:7"), netip.MustParseAddrPort("192.0.2.1:7"),
		}}, "01 " + id + " " + hex.EncodeToString(name[:]) + " 0000000000000000 0000000000000000 " +
			hex.EncodeToString(wg[:]) + " 0001 01 00 00 01 04 c0000201 0007"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s, err := Sign(k, tt.in)
			if err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, k.Sign("weft advert", want)...)
			if d := cmp.Diff(hex.Dump(want), hex.Dump(s.Bytes())); d != "" {
				t.Fatalf("bytes (-want +got):\n%s", d)
			}
			back, err := Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(s.Advert, back.Advert, cmpAdvert); d != "" {
				t.Fatalf("parsed (-signed +parsed):\n%s", d)
			}
		})
	}
}

// TestLimits holds what Sign refuses; the same, signed all the same, is
// refused by Parse.
func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(a *Advert)
		want   string // part of the error, "" = taken
	}{
		{"largest", func(a *Advert) {
			a.Nickname, a.Version, a.Endpoints = strings.Repeat("n", MaxNickname), strings.Repeat("v", MaxVersion), endpoints(MaxEndpoints)
			a.Seq, a.Boot = 1<<64-1, 1<<64-1
		}, ""},
		{"endpoints", func(a *Advert) { a.Endpoints = endpoints(MaxEndpoints + 1) }, "9 endpoints"},
		{"nickname", func(a *Advert) { a.Nickname = strings.Repeat("n", MaxNickname+1) }, "nickname of 65 bytes"},
		{"version", func(a *Advert) { a.Version = strings.Repeat("v", MaxVersion+1) }, "version of 33 bytes"},
		{"line end", func(a *Advert) { a.Nickname = "a\nb" }, "U+000A"},
		{"escape", func(a *Advert) { a.Nickname = "\x1b[31m" }, "U+001B"},
		{"C1 control", func(a *Advert) { a.Nickname = "a\u009bm" }, "U+009B"},
		{"direction", func(a *Advert) { a.Nickname = "a\u202eb" }, "U+202E"},
		{"line separator", func(a *Advert) { a.Version = "a\u2028b" }, "U+2028"},
		{"not UTF-8", func(a *Advert) { a.Nickname = "\xff" }, "not UTF-8"},
		{"spaces and signs", func(a *Advert) { a.Nickname = "my host № 1 ☃ 東" }, ""},
		{"hello port", func(a *Advert) { a.HelloPort = 0 }, "port is zero"},
		{"data path", func(a *Advert) { a.Datapath = 0 }, "data path 0"},
		{"later data path", func(a *Advert) { a.Datapath = 3 }, "data path 3"},
		{"endpoint without port", func(a *Advert) { a.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:0")} }, "no port"},
		{"no endpoint", func(a *Advert) { a.Endpoints = []netip.AddrPort{{}} }, "no address"},
		{"zone", func(a *Advert) { a.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:1")} }, "zone"},
		{"not usable but well formed", func(a *Advert) { a.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")} }, ""},
		{"another's identity", func(a *Advert) { a.Identity = crypto.Identity{1} }, "not the key's"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, a := testKey(), minimal()
			tt.change(&a)
			s, err := Sign(k, a)
			if tt.want == "" {
				if err != nil || len(s.Bytes()) > MaxSize {
					t.Fatalf("%v, %d bytes", err, len(s.Bytes()))
				}
				if _, err := Parse(s.Bytes()); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Sign: got %v, want %q", err, tt.want)
			}
			if a.Identity.IsZero() {
				a.Identity, a.Name, a.WireGuard = k.Identity(), k.Identity().Name(), k.WireGuardPublic()
			}
			if _, err := Parse(signed(k, a)); err == nil && tt.name != "zone" { // the encoding has no place for one
				t.Fatal("Parse takes what Sign refuses")
			}
		})
	}
}

func endpoints(n int) []netip.AddrPort {
	var eps []netip.AddrPort
	for i := range n {
		eps = append(eps, netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(i+1)))
	}
	return eps
}

// signed signs without looking.
func signed(k *crypto.Key, a Advert) []byte {
	b := a.encode()
	return append(b, k.Sign(domain, b)...)
}

func TestParseRefuses(t *testing.T) {
	k := testKey()
	good, err := Sign(k, full())
	if err != nil {
		t.Fatal(err)
	}
	body := good.Bytes()[:len(good.Bytes())-signatureSize]
	resign := func(b []byte) []byte { return append(bytes.Clone(b), k.Sign(domain, b)...) }
	at := func(i int, v ...byte) []byte {
		b := bytes.Clone(body)
		copy(b[i:], v)
		return resign(b)
	}
	const (
		name     = 33
		wireg    = name + 6 + 8 + 8
		nickname = wireg + 32 + 2 + 1
	)
	v6 := len(body) - 19 // family of the second endpoint
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"empty", nil, "cut off"},
		{"too large", make([]byte, MaxSize+1), "at most 1024"},
		{"format", at(0, 3), "format 3"},
		{"no format", at(0, 0), "format 0"},
		{"gone by another's hand", append(append([]byte{formatGone}, body[1:]...), good.Bytes()[len(body):]...), "signature is not of"},
		{"zero name", at(name, 0, 0, 0, 0, 0, 0), "name is zero"},
		{"zero WireGuard key", at(wireg, make([]byte, 32)...), "key is zero"},
		{"nickname longer than the rest", at(nickname, 255), "cut off"},
		{"family", at(v6, 5), "family 5"},
		{"IPv4 as IPv6", at(v6+1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4), "written as IPv6"},
		{"port zero", at(len(body)-2, 0, 0), "no port"},
		{"same endpoint twice", signed(k, func() Advert {
			a := good.Advert
			a.Endpoints = []netip.AddrPort{a.Endpoints[0], a.Endpoints[0]}
			return a
		}()), "twice"},
		{"another's", at(1, bytes.Repeat([]byte{7}, 32)...), "signature is not of"},
		{"other domain", append(bytes.Clone(body), k.Sign("weft", body)...), "signature is not of"},
		{"byte between", append(append(bytes.Clone(body), 0), k.Sign(domain, body)...), "signature of 65"},
		{"byte after", append(good.Bytes(), 0), "signature of 65"},
		{"signed byte after", resign(append(bytes.Clone(body), 0)), "signature of 65"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if s, err := Parse(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, %v, want %q", s, err, tt.want)
			}
		})
	}
	// Every cut, every bit.
	for i := range good.Bytes() {
		if _, err := Parse(good.Bytes()[:i]); err == nil {
			t.Fatalf("cut to %d bytes it is taken", i)
		}
		for bit := range 8 {
			b := good.Bytes()
			b[i] ^= 1 << bit
			if _, err := Parse(b); err == nil {
				t.Fatalf("with bit %d of byte %d changed it is taken", bit, i)
			}
		}
	}
}

func TestNewer(t *testing.T) {
	k, other := testKey(), crypto.KeyFromSeed([32]byte{9})
	sign := func(k *crypto.Key, seq, boot uint64) Signed {
		a := minimal()
		a.Seq, a.Boot = seq, boot
		s, err := Sign(k, a)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, tt := range []struct {
		name string
		s, o Signed
		want bool
	}{
		{"later", sign(k, 2, 9), sign(k, 1, 1), true},
		{"earlier", sign(k, 1, 9), sign(k, 2, 1), false},
		{"same", sign(k, 1, 1), sign(k, 1, 1), false},
		{"same number, other boot", sign(k, 1, 2), sign(k, 1, 1), false},
		{"of somebody else", sign(other, 2, 1), sign(k, 1, 1), false},
	} {
		if got := tt.s.Newer(tt.o); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Neither the caller's slices nor ours reach the other.
func TestSignedIsItsOwn(t *testing.T) {
	a := full()
	s, err := Sign(testKey(), a)
	if err != nil {
		t.Fatal(err)
	}
	want := s.Bytes()
	a.Endpoints[0] = netip.AddrPort{}
	clear(s.Bytes())
	if !bytes.Equal(want, s.Bytes()) || s.Endpoints[0].Port() != 6784 {
		t.Fatal("a signed advert changed")
	}
	in := s.Bytes()
	p, err := Parse(in)
	if err != nil {
		t.Fatal(err)
	}
	clear(in)
	if !bytes.Equal(want, p.Bytes()) || p.Nickname != "höst-1" {
		t.Fatal("a parsed advert shares the caller's bytes")
	}
}

func TestUsable(t *testing.T) {
	for s, want := range map[string]bool{
		"192.0.2.1:6784":                   true,
		"10.0.0.1:1":                       true,
		"[2001:db8::1]:1":                  true,
		"[fd00::1]:1":                      true,
		"[::ffff:192.0.2.1]:1":             true,
		"[fe80::1%eth0]:1":                 true,
		"100.64.0.1:1":                     true,
		"192.0.2.1:0":                      false,
		"0.0.0.0:1":                        false,
		"0.1.2.3:1":                        false,
		"127.0.0.1:1":                      false,
		"127.9.9.9:1":                      false,
		"[::ffff:127.0.0.1]:1":             false,
		"[::1]:1":                          false,
		"[::]:1":                           false,
		"224.0.0.1:1":                      false,
		"255.255.255.255:1":                false,
		"240.0.0.1:1":                      false,
		"[ff02::1]:1":                      false,
		"[ff02::1%eth0]:1":                 false,
		"[fe80::1]:1":                      false,
		"169.254.67.83:1":                  false,
		"169.254.169.254:1":                false,
		"[fd77:6566:7400::1]:1":            false,
		"[fd77:6566:7400:ffff::1%weft]:1":  false,
		"[fd77:6566:7401::1]:1":            true,
		"[::ffff:169.254.67.83]:53":        false,
		"[::ffff:0.0.0.0]:1":               false,
		"[2001:db8:1:2:3:4:5:6]:65535":     true,
		"[fd77:6566:7400:1:2:3:4:5]:65535": false,
	} {
		if got := Usable(netip.MustParseAddrPort(s)); got != want {
			t.Errorf("Usable(%s) = %v, want %v", s, got, want)
		}
	}
	if Usable(netip.AddrPort{}) {
		t.Error("nothing is usable")
	}
}

// Whatever Sign takes, Parse gives back.
func TestRoundTrip(t *testing.T) {
	k := testKey()
	rapid.Check(t, func(t *rapid.T) {
		a := Advert{
			Nickname: rapid.StringN(0, 16, 70).Draw(t, "nickname"), Version: rapid.StringN(0, 16, 40).Draw(t, "version"),
			Boot: rapid.Uint64().Draw(t, "boot"), Seq: rapid.Uint64().Draw(t, "seq"),
			HelloPort: rapid.Uint16().Draw(t, "port"), Datapath: Datapath(rapid.IntRange(0, 3).Draw(t, "datapath")),
			Endpoints: rapid.SliceOfN(rapid.Custom(drawEndpoint), 0, 10).Draw(t, "endpoints"),
			Gone:      rapid.Bool().Draw(t, "gone"),
		}
		copy(a.Name[:], rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "name"))
		s, err := Sign(k, a)
		if err != nil {
			return
		}
		p, err := Parse(s.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s.Advert, p.Advert, cmpAdvert); d != "" {
			t.Fatal(d)
		}
		if a.Nickname != p.Nickname || a.Seq != p.Seq || a.Boot != p.Boot {
			t.Fatalf("%+v became %+v", a, p.Advert)
		}
		if !bytes.Equal(p.Bytes(), s.Bytes()) {
			t.Fatal("other bytes")
		}
	})
}

func drawEndpoint(t *rapid.T) netip.AddrPort {
	n := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
	a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "addr"))
	return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, "port"))
}

// What parses is encoded by the same bytes. The fuzzer cannot sign, so the
// unsigned part is signed here.
func FuzzParse(f *testing.F) {
	k := testKey()
	for _, a := range []Advert{full(), minimal(), {HelloPort: 1, Datapath: Kernel, Gone: true}, {HelloPort: 1, Datapath: Kernel, Endpoints: endpoints(MaxEndpoints)}} {
		s, err := Sign(k, a)
		if err != nil {
			f.Fatal(err)
		}
		b := s.Bytes()
		f.Add(b[0], b[33:len(b)-signatureSize])
	}
	f.Fuzz(func(t *testing.T, first byte, b []byte) {
		_, _ = Parse(b)
		id := k.Identity()
		b = append(append([]byte{first}, id[:]...), b...)
		b = append(b, k.Sign(domain, b)...)
		s, err := Parse(b)
		if err != nil {
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 200 {
				t.Fatalf("not one short line: %q", err)
			}
			return
		}
		if !bytes.Equal(s.Bytes(), b) {
			t.Fatalf("%x became %x", b, s.Bytes())
		}
		if got := signed(k, s.Advert); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes as %x", b, got)
		}
		again, err := Sign(k, s.Advert)
		if err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("Sign of a parsed advert: %v", err)
		}
	})
}

// Parsing takes no more memory than it was given.
func TestParseAllocates(t *testing.T) {
	b := make([]byte, MaxSize)
	b[0] = format
	for _, fill := range []byte{0, 8, 0xff} {
		for i := 1; i < len(b); i++ {
			b[i] = fill
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = Parse(b) }); n > 20 {
			t.Errorf("%v allocations for refused bytes of %#x", n, fill)
		}
	}
}

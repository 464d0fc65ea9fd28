package hello

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWireBytes holds the exact bytes of everything that is sent.
func TestWireBytes(t *testing.T) {
	cluster := strings.Repeat("c1", 32)
	p := proof{
		version: 1,
		label:   labelDialler, dialler: crypto.Identity(unhex(t, strings.Repeat("d1", 32))),
		listener: crypto.Identity(unhex(t, strings.Repeat("11", 32))), exporter: unhex(t, strings.Repeat("ee", 32)),
	}
	var b bytes.Buffer
	take := func() []byte { defer b.Reset(); return bytes.Clone(b.Bytes()) }
	for _, tt := range []struct {
		what string
		got  func() []byte
		want string
	}{
		{"preamble", func() []byte {
			_ = writePreamble(&b, preamble{version: 1, cluster: [32]byte(unhex(t, cluster)), boot: 0x0102030405060708})
			return take()
		}, "77656674 0001 " + cluster + " 0102030405060708"},
		{"frame", func() []byte { _ = writeFrame(&b, frameProof, []byte{0xaa, 0xbb}); return take() }, "01 00000002 aabb"},
		{"done", func() []byte { _ = writeFrame(&b, frameDone, nil); return take() }, "04 00000000"},
		{"refusal", func() []byte { _ = writeRefusal(&b, refusePeer, "no"); return take() }, "02 00000003 03 6e6f"},
		{"body, nothing known", func() []byte { return body{}.encode(nil) }, "00 00 0000"},
		{
			"body, IPv4", func() []byte { return body{netip.MustParseAddr("192.0.2.1"), true}.encode([][]byte{{1}, {2, 3}}) },
			"01 04c0000201 0002 0001 01 0002 0203",
		},
		{
			"body, IPv6", func() []byte { return body{netip.MustParseAddr("2001:db8::1%eth0"), false}.encode(nil) },
			"00 06 20010db8000000000000000000000001 0000",
		},
		{
			"body, IPv4 as IPv6", func() []byte { return body{netip.MustParseAddr("::ffff:192.0.2.1"), false}.encode(nil) },
			"00 04c0000201 0000",
		},
		{"proof", p.bytes, "07 6469616c6c6572 0001 " + strings.Repeat("d1", 32) + strings.Repeat("11", 32) + strings.Repeat("ee", 32)},
		{"busy alert", func() []byte { return []byte(busyAlert) }, "15 0303 0002 02 31"},
	} {
		if d := cmp.Diff(hex.Dump(unhex(t, tt.want)), hex.Dump(tt.got())); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.what, d)
		}
	}
}

func TestReadPreamble(t *testing.T) {
	rest := strings.Repeat("00", 40)
	for _, tt := range []struct {
		name, in string
		want     error
		left     int
	}{
		{"ours", "77656674 0001" + rest, nil, 0},
		{"a later version, of any length", "77656674 0002 ffff", nil, 2},
		{"not ours", "47455420 2f20" + rest, errMagic, 40},
		{"cut in the magic", "7765", io.ErrUnexpectedEOF, 0},
		{"cut later", "77656674 0001 00", io.ErrUnexpectedEOF, 0},
		{"nothing", "", io.EOF, 0},
	} {
		r := bytes.NewReader(unhex(t, tt.in))
		if _, err := readPreamble(r, Versions{}); !errors.Is(err, tt.want) || r.Len() != tt.left {
			t.Errorf("%s: %v, %d bytes left; want %v, %d", tt.name, err, r.Len(), tt.want, tt.left)
		}
	}
}

func TestReadFrame(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		most     int
		want     string // content, or part of the error
		ok       bool
	}{
		{"wanted", "03 00000002 6869", 2, "hi", true},
		{"empty", "03 00000000", 2, "", true},
		{"refusal", "02 00000001 01", 0, "\x01", true},
		{"too long", "03 00000003 686968", 2, "at most 2", false},
		{"much too long", "03 ffffffff", 2, "at most 2", false},
		{"refusal too long", "02 00000202", 1 << 20, "at most 513", false},
		{"another type", "01 00000001 01", 2, "type 1, want 3", false},
		{"type zero", "00 00000000", 2, "type 0", false},
		{"cut", "03 00000002 68", 2, "unexpected EOF", false},
		{"cut in the header", "03 0000", 2, "unexpected EOF", false},
	} {
		_, got, err := readFrame(bytes.NewReader(unhex(t, tt.in)), frameAdverts, tt.most)
		if tt.ok && (err != nil || string(got) != tt.want) || !tt.ok && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	// A length alone costs nothing.
	header := unhex(t, "03 00100000")
	if n := testing.AllocsPerRun(100, func() { _, _, _ = readFrame(bytes.NewReader(header), frameAdverts, maxBody) }); n > 10 {
		t.Errorf("%v allocations for a length", n)
	}
}

func TestDecodeBodyRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":                "",
		"cut":                  "00",
		"no count":             "00 00 00",
		"flags":                "02 00 0000",
		"family":               "00 05 0000",
		"cut address":          "00 04 c000 0000",
		"IPv4 as IPv6":         "00 06 00000000000000000000ffffc0000201 0000",
		"too many":             "00 00 0401" + strings.Repeat("0000", 1025),
		"fewer than counted":   "00 00 0002 0001 01",
		"cut advert":           "00 00 0001 0002 01",
		"advert too large":     "00 00 0001 0401" + strings.Repeat("00", 1025),
		"something afterwards": "00 00 0000 00",
	} {
		if _, _, err := decodeBody(unhex(t, in)); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The largest body stays within the limits and the sender cuts, not fails.
func TestEncodeBodyLimits(t *testing.T) {
	small := signAdvert(t, key(1), 1, 1)
	big, err := advert.Sign(key(2), advert.Advert{
		HelloPort: 1, Datapath: advert.Kernel, Nickname: strings.Repeat("n", advert.MaxNickname),
		Version: strings.Repeat("v", advert.MaxVersion),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		a       advert.Signed
		n, want int
	}{{small, 10, 10}, {small, 5000, MaxAdverts}, {big, 5000, MaxAdverts}} {
		all := make([]advert.Signed, tt.n)
		for i := range all {
			all[i] = tt.a
		}
		b := encodeBody(body{}, all)
		if len(b) > maxBody {
			t.Errorf("%d bytes", len(b))
		}
		_, got, err := decodeBody(b)
		if err != nil || len(got) != tt.want {
			t.Errorf("%d of %d adverts, %v", len(got), tt.n, err)
		}
	}
}

func TestVerifyAdverts(t *testing.T) {
	a1, a2, a3 := signAdvert(t, key(1), 1, 1), signAdvert(t, key(1), 1, 2), signAdvert(t, key(1), 1, 3)
	b1, b2 := signAdvert(t, key(2), 1, 1), signAdvert(t, key(2), 1, 2)
	bad := b1.Bytes()
	bad[50] ^= 1
	for _, tt := range []struct {
		name    string
		in      [][]byte
		want    []advert.Signed
		dropped int
	}{
		{"none", nil, nil, 0},
		{"own and others", [][]byte{a1.Bytes(), b1.Bytes()}, []advert.Signed{a1, b1}, 0},
		{"own is bad", [][]byte{bad, b1.Bytes()}, nil, 1},
		{"other is bad", [][]byte{a1.Bytes(), bad, {}}, []advert.Signed{a1}, 2},
		{"newest of others", [][]byte{a1.Bytes(), b1.Bytes(), b2.Bytes(), b1.Bytes()}, []advert.Signed{a1, b2}, 0},
		{"the sender's first stays", [][]byte{a2.Bytes(), a3.Bytes(), a1.Bytes()}, []advert.Signed{a2}, 0},
	} {
		got, dropped := verifyAdverts(tt.in)
		if dropped != tt.dropped || len(got) != len(tt.want) {
			t.Errorf("%s: %d adverts, %d dropped", tt.name, len(got), dropped)
			continue
		}
		for i := range got {
			if !bytes.Equal(got[i].Bytes(), tt.want[i].Bytes()) {
				t.Errorf("%s: advert %d is another", tt.name, i)
			}
		}
	}
}

func TestWriteRefusalCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 700, 2000).Draw(t, "text")
		var b bytes.Buffer
		if err := writeRefusal(&b, refusePeer, text); err != nil {
			t.Fatal(err)
		}
		_, content, err := readFrame(&b, frameDone, 0)
		if err != nil || len(content) > maxRefusal || !strings.HasPrefix(text, string(content[1:])) {
			t.Fatalf("%q, %v", content, err)
		}
		if got := printable(string(content[1:])); strings.ContainsAny(got, "\n\r\x1b\u202e") {
			t.Fatalf("%q", got)
		}
	})
}

func FuzzReadPreamble(f *testing.F) {
	f.Add([]byte("weft\x00\x01" + strings.Repeat("x", 40)))
	f.Add([]byte("weft\x00\x02"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		p, err := readPreamble(r, Versions{})
		if err != nil || p.version != 1 {
			return
		}
		var out bytes.Buffer
		_ = writePreamble(&out, p)
		if used := in[:len(in)-r.Len()]; !bytes.Equal(used, out.Bytes()) {
			t.Fatalf("%x became %x", used, out.Bytes())
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x03\x00\x00\x00\x02hi"), 10)
	f.Add([]byte("\x02\x00\x00\x00\x03\x03no"), 10)
	f.Add([]byte("\x03\xff\xff\xff\xff"), 10)
	f.Fuzz(func(t *testing.T, in []byte, most int) {
		most = max(0, most) % (1 << 20)
		r := bytes.NewReader(in)
		kind, content, err := readFrame(r, frameAdverts, most)
		if err != nil {
			return
		}
		if kind == frameAdverts && len(content) > most || cap(content) > 1024+4*len(in) {
			t.Fatalf("%d bytes, room for %d", len(content), cap(content))
		}
		var out bytes.Buffer
		_ = writeFrame(&out, kind, content)
		if used := in[:len(in)-r.Len()]; !bytes.Equal(used, out.Bytes()) {
			t.Fatalf("%x became %x", used, out.Bytes())
		}
		if kind == frameRefusal {
			s := &session{raw: &meteredConn{lifted: true}}
			if err := s.refusal(content); err == nil || strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Fatalf("refusal %q", err)
			}
		}
	})
}

func FuzzDecodeBody(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00"))
	f.Add(body{netip.MustParseAddr("2001:db8::1"), true}.encode([][]byte{{1}, {}, {2, 3}}))
	f.Add(body{netip.MustParseAddr("192.0.2.1"), false}.encode([][]byte{signAdvert(f, key(1), 1, 1).Bytes()}))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, adverts, err := decodeBody(in)
		if err != nil {
			return
		}
		if out := h.encode(adverts); !bytes.Equal(in, out) {
			t.Fatalf("%x became %x", in, out)
		}
		known, dropped := verifyAdverts(adverts)
		if len(known)+dropped > len(adverts) {
			t.Fatal("more than there were")
		}
	})
}

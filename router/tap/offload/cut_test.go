package offload

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// cutAll is what a Cut gives, in buffers that fit exactly.
func cutAll(t testing.TB, c *Cut, h Header, frame []byte) (list [][]byte, err error) {
	t.Helper()
	before, dirt := bytes.Clone(frame), bytes.Repeat([]byte{0xa5}, 100)
	if err := c.Start(h, frame); err != nil {
		if n, ok := c.Next(make([]byte, 70000)); n != 0 || ok || c.Len() != 0 || !errors.Is(c.Err(), err) {
			t.Errorf("after %v: n = %d, ok = %v, %v", err, n, ok, c.Err())
		}
		return nil, err
	}
	buffer := make([]byte, 70000)
	longest := c.Len()
	for {
		room := c.Len() + 14
		if c.Len() == 0 {
			room = len(buffer)
		}
		copy(buffer, dirt)
		n, ok := c.Next(buffer[:room:room])
		if !ok {
			if n != 0 || c.Err() != nil {
				t.Errorf("at the end: n = %d, %v", n, c.Err())
			}
			break
		}
		list = append(list, bytes.Clone(buffer[:n]))
		if n-14 > longest {
			t.Errorf("segment of %d bytes, promised were %d", n-14, longest)
		}
		longest = max(c.Len(), longest)
	}
	if len(list) > 0 && len(list[0])-14 != longest {
		t.Errorf("longest segment promised: %d, is %d", longest, len(list[0])-14)
	}
	if !bytes.Equal(frame, before) {
		t.Error("the frame was changed")
	}
	return list, nil
}

// sameCut compares a Cut with its twin.
func sameCut(t testing.TB, c *Cut, h Header, frame []byte) [][]byte {
	t.Helper()
	want, wantErr := slowCut(h, frame)
	got, err := cutAll(t, c, h, frame)
	if !errors.Is(err, wantErr) {
		t.Fatalf("%+v\n%s\ngot %v, want %v", h, hex.Dump(frame[:min(len(frame), 200)]), err, wantErr)
	}
	if len(got) != len(want) {
		t.Fatalf("%+v\n%s\n%d segments, want %d", h, hex.Dump(frame[:min(len(frame), 200)]), len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("%+v\nsegment %d of %d (-want +got):\n%s", h, i, len(got), cmp.Diff(hex.Dump(want[i]), hex.Dump(got[i])))
		}
	}
	return got
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for n := range 260 {
		for _, b := range [][]byte{noise(r, n), bytes.Repeat([]byte{0xff}, n), make([]byte, n)} {
			if got, want := fold(add(0, b)), slowSum(b); got != want {
				t.Fatalf("%d bytes: %04x, want %04x\n%x", n, got, want, b)
			}
			for _, s := range []uint64{1, math.MaxUint64, math.MaxUint64 - 1, r.Uint64()} {
				var first [8]byte
				for i := range first {
					first[i] = byte(s >> (8 * i))
				}
				if got, want := fold(add(s, b)), slowSum(append(first[:], b...)); got != want {
					t.Fatalf("%d bytes after %x: %04x, want %04x", n, s, got, want)
				}
			}
		}
	}
	// The example of RFC 1071 section 3.
	if got := fold(add(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7})); got != 0xddf2 {
		t.Errorf("%04x", got)
	}
}

// A frame by hand: 5 bytes in pieces of 2.
func TestCutBytes(t *testing.T) {
	const head = "020000000002 020000000001 8100 6007 0800"
	frame := head + "4500 002d 00ff 4000 40 06 0000 0a200001 0a200002" +
		"1389 0050 ffffffff 00000001 50 99 0100 5a40 0000" + "6162636465"
	want := []string{
		head + "4500 002a 00ff 4000 40 06 258d 0a200001 0a200002" +
			"1389 0050 ffffffff 00000001 50 90 0100 24d4 0000" + "6162",
		head + "4500 002a 0100 4000 40 06 258c 0a200001 0a200002" +
			"1389 0050 00000001 00000001 50 10 0100 2351 0000" + "6364",
		head + "4500 0029 0101 4000 40 06 258c 0a200001 0a200002" +
			"1389 0050 00000003 00000001 50 19 0100 21ab 0000" + "65",
	}
	raw := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	h := Header{Flags: NeedsChecksum, GSOType: GSOTCPv4 | GSOECN, GSOSize: 2, CsumStart: 38, CsumOffset: 16}
	f := raw(frame)
	at := slowHeaders{v4: true, l3: 18, l4: 38, head: 58}
	pseudo := slowAdd(slowPseudo(f, at, 6), 25)
	f[54], f[55] = byte(pseudo>>8), byte(pseudo)
	got, err := cutAll(t, new(Cut), h, f)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d segments, %v", len(got), err)
	}
	for i := range got {
		if diff := cmp.Diff(hex.EncodeToString(raw(want[i])), hex.EncodeToString(got[i])); diff != "" {
			t.Errorf("segment %d (-want +got):\n%s", i, diff)
		}
		if slowSum(got[i][18:38]) != 0xffff || slowAdd(slowPseudo(got[i], at, 6), uint16(len(got[i])-38), slowSum(got[i][38:])) != 0xffff {
			t.Errorf("segment %d: wrong checksum", i)
		}
	}
}

func TestHeader(t *testing.T) {
	h := Header{1, 2, 0x0304, 0x0506, 0x0708, 0x090a}
	b := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99}
	h.Put(b)
	var got Header
	if err := got.Parse(b); err != nil || got != h || b[10] != 99 {
		t.Errorf("%+v %v % x", got, err, b)
	}
	if err := got.Parse(b[:9]); !errors.Is(err, ErrShort) {
		t.Errorf("nine bytes: %v", err)
	}
}

func TestCutTwin(t *testing.T) {
	var c Cut
	seen := map[string]int{}
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := randomSpec(r, pick(r, 0, 20, 20, 500, 500, 3000, 3000, 3000, 3000, 20000))
		h, f := s.super(pick(r, 1+r.IntN(3), 1+r.IntN(1500), 1348, 8900, 65535))
		if len(f) > 20000 && h.GSOSize < 200 {
			h.GSOSize += 200
		}
		switch {
		case chance(r, 5):
			h.GSOType = GSONone
		case chance(r, 5):
			h.GSOType = pick[uint8](r, GSOTCPv4, GSOTCPv6, GSOUDP, GSOUDP|GSOECN)
		case chance(r, 5):
			h.Flags = pick[byte](r, 0, DataValid)
		case chance(r, 10) && s.proto == 17:
			f[int(h.CsumStart)+6], f[int(h.CsumStart)+7] = 0, 0 // none
		}
		if chance(r, 30) { // something is wrong
			for range 1 + r.IntN(3) {
				f[r.IntN(min(len(f), 120))] ^= 1 << r.IntN(8)
			}
		}
		if chance(r, 10) {
			var b [HeaderLen]byte
			h.Put(b[:])
			b[r.IntN(HeaderLen)] ^= 1 << r.IntN(8)
			if err := h.Parse(b[:]); err != nil {
				t.Fatal(err)
			}
			if h.GSOSize < 10 {
				h.GSOSize = 0
			}
		}
		if chance(r, 5) {
			f = f[:r.IntN(len(f))]
		}
		got := sameCut(t, &c, h, f)
		switch {
		case c.Err() != nil:
			seen[c.Err().Error()]++
		case len(got) == 1:
			seen["one"]++
		default:
			seen["more"]++
		}
	}
	t.Log(seen)
	for _, err := range []error{ErrShort, ErrGSOSize, ErrGSOType, ErrHeaders, ErrChecksum, errors.New("one"), errors.New("more")} {
		if seen[err.Error()] < 5 {
			t.Errorf("%q was seen %d times only", err, seen[err.Error()])
		}
	}
}

// Segments are right packets that carry the payload, whoever says so.
func TestCutIsRight(t *testing.T) {
	var c Cut
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		s := randomSpec(r, 5000)
		h, f := s.super(100 + r.IntN(1400))
		_, at := s.frame()
		list, err := cutAll(t, &c, h, f)
		if err != nil {
			t.Fatal(err)
		}
		var payload []byte
		for i, b := range list {
			s.payload = b[at.head:]
			want, _ := s.frame()
			if s.proto == 6 {
				flags := s.flags
				if i > 0 {
					flags &^= 0x80
				}
				if i < len(list)-1 {
					flags &^= 0x09
				}
				x := s
				x.flags = flags
				want, _ = x.frame()
			}
			if s.v4 || s.options == nil {
				if !bytes.Equal(b, want) {
					t.Fatalf("segment %d (-want +got):\n%s", i, cmp.Diff(hex.Dump(want), hex.Dump(b)))
				}
			}
			s.id++
			s.seq += uint32(len(s.payload))
			payload = append(payload, s.payload...)
		}
		if !bytes.Equal(payload, f[at.head:]) {
			t.Fatal("other payload")
		}
	}
}

func TestCutErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(h *Header, f []byte) []byte
		err    error
	}{
		{"nothing", func(h *Header, f []byte) []byte { return f }, nil},
		{"no frame", func(h *Header, f []byte) []byte { return nil }, ErrShort},
		{"runt", func(h *Header, f []byte) []byte { return f[:13] }, ErrShort},
		{"TCP header cut off", func(h *Header, f []byte) []byte { return f[:54] }, ErrShort},
		{"IP header cut off", func(h *Header, f []byte) []byte { h.Flags = 0; return f[:33] }, ErrShort},
		{"UFO", func(h *Header, f []byte) []byte { h.GSOType = 3; return f }, ErrGSOType},
		{"ECN without TCP", func(h *Header, f []byte) []byte { h.GSOType = GSOECN; return f }, ErrGSOType},
		{"no size", func(h *Header, f []byte) []byte { h.GSOSize = 0; return f }, ErrGSOSize},
		{"other protocol", func(h *Header, f []byte) []byte { h.GSOType = GSOUDP; return f }, ErrHeaders},
		{"other family", func(h *Header, f []byte) []byte { h.GSOType = GSOTCPv6; return f }, ErrHeaders},
		{"fragment", func(h *Header, f []byte) []byte { f[20] |= 0x20; return f }, ErrHeaders},
		{"ARP", func(h *Header, f []byte) []byte { f[13] = 6; return f }, ErrHeaders},
		{"version", func(h *Header, f []byte) []byte { f[14] = 0x65; return f }, ErrHeaders},
		{"TCP header too short", func(h *Header, f []byte) []byte { f[46] = 0x40; return f }, ErrHeaders},
		{"checksum begins elsewhere", func(h *Header, f []byte) []byte { h.CsumStart += 2; h.CsumOffset -= 2; return f }, ErrChecksum},
		{"checksum ends elsewhere", func(h *Header, f []byte) []byte { h.CsumOffset++; return f }, ErrChecksum},
		{"checksum outside", func(h *Header, f []byte) []byte { h.GSOType = GSONone; h.CsumStart = uint16(len(f)) - 17; return f }, ErrChecksum},
		{"checksum at the end", func(h *Header, f []byte) []byte { h.GSOType = GSONone; h.CsumStart = uint16(len(f)) - 18; return f }, nil},
		{"options, and no checksum", func(h *Header, f []byte) []byte { h.Flags = 0; f[14] = 0x46; f[50] = 0x50; return f }, ErrHeaders},
	} {
		h, f := spec{v4: true, proto: 6, flags: 0x10, tcpOpts: make([]byte, 12), payload: make([]byte, 100)}.super(50)
		f = tt.change(&h, f)
		if err := new(Cut).Start(h, f); !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.err)
		}
		sameCut(t, new(Cut), h, f)
	}
}

func TestCutBuffer(t *testing.T) {
	h, f := spec{v4: true, proto: 6, flags: 0x10, payload: make([]byte, 5000)}.super(1000)
	var c Cut
	for _, h := range []Header{h, {}} {
		if err := c.Start(h, f); err != nil {
			t.Fatal(err)
		}
		if n, ok := c.Next(make([]byte, c.Len()+13)); n != 0 || ok || !errors.Is(c.Err(), ErrBuffer) || c.Len() != 0 {
			t.Errorf("n = %d, ok = %v, %v", n, ok, c.Err())
		}
		if _, ok := c.Next(make([]byte, 9000)); ok {
			t.Error("goes on after an error")
		}
	}
}

// A checksum that comes out as 0 is 0xffff where 0 says that there is none.
func TestCutZero(t *testing.T) {
	for _, tt := range []struct {
		proto byte
		cut   bool
		want  uint16
	}{{6, true, 0}, {17, true, 0xffff}, {6, false, 0xffff}, {17, false, 0xffff}} {
		s := spec{v4: true, proto: tt.proto, flags: 0x10, payload: make([]byte, 10)}
		_, at := s.frame()
		field := at.l4 + map[byte]int{6: 16, 17: 6}[tt.proto]
		f, _ := s.frame()
		s.payload[0], s.payload[1] = f[field], f[field+1]
		h, f := s.super(10)
		if !tt.cut {
			h.GSOType = GSONone
		}
		got, err := cutAll(t, new(Cut), h, f)
		if err != nil || len(got) != 1 {
			t.Fatal(len(got), err)
		}
		if sum := uint16(got[0][field])<<8 + uint16(got[0][field+1]); sum != tt.want {
			t.Errorf("%+v: %04x", tt, sum)
		}
	}
}

// No segment is longer than an IP packet can be.
func TestCutLimit(t *testing.T) {
	for _, tt := range []struct {
		payload, size int
		err           error
	}{
		{65535 - 40, 65535, nil},
		{65535 - 39, 65535, ErrHeaders},
		{65535 - 39, 65535 - 40, nil},
		{65535 - 39, 65535 - 39, ErrHeaders},
		{65535, 1, nil},
	} {
		h, f := spec{v4: true, proto: 6, flags: 0x10, payload: make([]byte, tt.payload)}.super(tt.size)
		if err := new(Cut).Start(h, f); !errors.Is(err, tt.err) {
			t.Errorf("%d bytes in pieces of %d: %v", tt.payload, tt.size, err)
		}
	}
}

package signal

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
)

var testKey = [32]byte{1, 2, 3}

var compareAddrs = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBytes holds the exact encoding, with spaces between the fields. The last
// field is the MAC; one of them was also computed by openssl, see TestMAC.
func TestBytes(t *testing.T) {
	from, to := ID{1, 2, 3, 4, 5, 6, 7, 8}, ID{0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8}
	const head = " 0102030405060708 f1f2f3f4f5f6f7f8 0000000000000009"
	zeros := func(n int) string { return " " + strings.Repeat("00", n) }
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:6784"), netip.MustParseAddrPort("[2001:db8::1%eth0]:1")
	const v4Bytes, v6Bytes = " 00000000000000000000ffffc0000201 1a80", " 20010db8000000000000000000000001 0001"
	for _, tt := range []struct {
		what string
		in   Packet
		want string // without the MAC
	}{
		{"probe", Packet{Kind: Probe}, "57 01" + head + zeros(18)},
		{"padded probe", Packet{Kind: Probe, Size: 70}, "57 01" + head + zeros(28)},
		{"probe reply", Packet{Kind: ProbeReply, Observed: v4}, "57 02" + head + v4Bytes},
		{"mapped", Packet{Kind: ProbeReply, Observed: netip.MustParseAddrPort("[::ffff:192.0.2.1]:6784")}, "57 02" + head + v4Bytes},
		{"zone", Packet{Kind: ProbeReply, Observed: v6}, "57 02" + head + v6Bytes},
		{"nobody", Packet{Kind: ProbeReply, Observed: netip.MustParseAddrPort("[::]:7")}, "57 02" + head + zeros(18)},
		{"reply that was to be padded", Packet{Kind: ProbeReply, Observed: v4, Size: 62}, "57 02" + head + v4Bytes},
		{
			"bind",
			Packet{Kind: Bind, Boot: 0xb, Role: RelayPort, Cookie: [8]byte{0xc0, 7: 0xc1}},
			"57 03" + head + " 000000000000000b 01 c0000000000000c1" + zeros(19),
		},
		{
			"bind reply",
			Packet{Kind: BindReply, Boot: 0xb, Cookie: [8]byte{0xc0}, Accepted: true, Observed: v4},
			"57 04" + head + " 000000000000000b 00 c000000000000000 01" + v4Bytes,
		},
		{"notice", Packet{Kind: Notice, Boot: 0xb, Index: 0x1d}, "57 05" + head + " 000000000000000b 0000001d"},
		{"hush", Packet{Kind: Hush, Boot: 0xb, Peer: ID{0xee}, For: 300*time.Millisecond + 1}, "57 06" + head + " 000000000000000b ee00000000000000 012c"},
		{"long hush", Packet{Kind: Hush, For: time.Hour}, "57 06" + head + zeros(16) + " 0bb8"},
		{"no hush", Packet{Kind: Hush, For: -1}, "57 06" + head + zeros(18)},
		{"invite", Packet{Kind: Invite, Boot: 0xb}, "57 07" + head + " 000000000000000b"},
		{"padded invite", Packet{Kind: Invite, Boot: 0xb, Size: 1000}, "57 07" + head + " 000000000000000b" + zeros(28)},
	} {
		t.Run(tt.what, func(t *testing.T) {
			tt.in.From, tt.in.To, tt.in.Number = from, to, 9
			want := unhex(t, tt.want)
			sum := mac(want, testKey)
			want = append(want, sum[:macSize]...)

			got := tt.in.Append([]byte("before"), testKey)
			if !bytes.HasPrefix(got, []byte("before")) {
				t.Fatal("what was there before is gone")
			}
			got = got[len("before"):]
			if d := cmp.Diff(hex.Dump(want), hex.Dump(got)); d != "" {
				t.Fatalf("bytes (-want +got):\n%s", d)
			}
			if !Is(got) || !Verify(got, testKey) {
				t.Fatal("not taken for what it is")
			}
			p, err := Parse(got)
			if err != nil {
				t.Fatal(err)
			}
			if again := p.Append(nil, testKey); !bytes.Equal(again, got) {
				t.Fatalf("parsed and encoded again:\n%x\n%x", got, again)
			}
		})
	}
}

// TestMAC holds one MAC that another program made:
//
//	printf '\x0dweft signal 1\x57\x07…' | openssl dgst -sha256 -mac HMAC -macopt hexkey:010203…
func TestMAC(t *testing.T) {
	p := Packet{Kind: Invite, From: ID{1}, To: ID{2}, Number: 3, Boot: 4}
	const want = "57 07 0100000000000000 0200000000000000 0000000000000003 0000000000000004" +
		" 814c66b80362946a7725bdd87a3edde7"
	if got := p.Append(nil, testKey); !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("got %x", got)
	}
}

func TestIDs(t *testing.T) {
	id := crypto.KeyFromSeed([32]byte{9}).Identity()
	if got := IDOf(id).String(); got != id.Fingerprint() {
		t.Errorf("got %s, want the fingerprint %s", got, id.Fingerprint())
	}
}

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		in   interface{ String() string }
		want string
	}{
		{Probe, "probe"},
		{ProbeReply, "probe reply"},
		{Bind, "bind"},
		{BindReply, "bind reply"},
		{Notice, "notice"},
		{Hush, "hush"},
		{Invite, "invite"},
		{Kind(0), "kind 0"},
		{Kind(8), "kind 8"},
		{WireGuardPort, "wireguard port"},
		{RelayPort, "relay port"},
		{Role(2), "role 2"},
	} {
		if got := tt.in.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// TestSizes holds the promises that others count on: small packets fit
// anywhere, and a request is as long as its reply.
func TestSizes(t *testing.T) {
	for k := Probe; k.known(); k++ {
		if n := len(Packet{Kind: k}.Append(nil, testKey)); n != k.Least() || n > 100 {
			t.Errorf("%v: %d bytes, Least is %d", k, n, k.Least())
		}
		if n := len(Packet{Kind: k, Size: 5000}.Append(nil, testKey)); n > 100 && k != Probe {
			t.Errorf("%v: padded to %d bytes", k, n)
		}
	}
	if Probe.Least() < ProbeReply.Least() || Bind.Least() < BindReply.Least() {
		t.Error("a reply may be longer than its request")
	}
	if n := len(Packet{Kind: Probe, Size: 1 << 20}.Append(nil, testKey)); n != MaxSize {
		t.Errorf("%d bytes, want no more than UDP carries", n)
	}
}

func TestUnknownKindPanics(t *testing.T) {
	for _, k := range []Kind{0, 8, 255} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%v was encoded", k)
				}
			}()
			Packet{Kind: k}.Append(nil, testKey)
		}()
	}
}

// TestRefused changes good packets in one place each; the MAC is made anew, so
// that it is the form that is refused.
func TestRefused(t *testing.T) {
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }
	grow := func(n int) func([]byte) []byte {
		return func(b []byte) []byte { return append(b, make([]byte, n)...) }
	}
	for _, tt := range []struct {
		what   string
		kind   Kind
		change func(b []byte) []byte // of what comes before the MAC
		want   string
	}{
		{"nothing", Probe, func([]byte) []byte { return nil }, "not a packet"},
		{"header only", Probe, func(b []byte) []byte { return b[:headerSize-1] }, "not a packet"},
		{"first byte", Probe, set(0, 4), "not a packet"},
		{"kind 0", Probe, set(1, 0), "kind 0 is unknown"},
		{"kind 8", Probe, set(1, 8), "kind 8 is unknown"},
		{"short probe", Probe, cut(1), "probe of 59 bytes, want at least 60"},
		{"short reply", ProbeReply, cut(1), "of 59 bytes"},
		{"short bind", Bind, cut(1), "of 77 bytes"},
		{"short bind reply", BindReply, cut(1), "of 77 bytes"},
		{"short notice", Notice, cut(1), "of 53 bytes"},
		{"short hush", Hush, cut(1), "of 59 bytes"},
		{"short invite", Invite, cut(1), "of 49 bytes"},
		{"too long", Probe, grow(MaxSize), "at most 65507"},
		{"padded reply", ProbeReply, grow(1), "probe reply of 61 bytes, want at most 60"},
		{"padded bind", Bind, grow(1), "of 79 bytes, want at most 78"},
		{"padded bind reply", BindReply, grow(1), "of 79 bytes, want at most 78"},
		{"padded notice", Notice, grow(1), "of 55 bytes, want at most 54"},
		{"padded hush", Hush, grow(1), "of 61 bytes, want at most 60"},
		{"long invite", Invite, grow(29), "of 79 bytes, want at most 78"},
		{"padding", Probe, set(headerSize+17, 1), "padding is not zero"},
		{"padding of a bind", Bind, set(headerSize+17, 1), "padding is not zero"},
		{"role", Bind, set(headerSize+8, 2), "role 2 is unknown"},
		{"accepted", BindReply, set(headerSize+17, 2), "accepted is 2"},
		{"port of nobody", ProbeReply, set(headerSize+17, 1), "port without an address"},
		{"port of nobody in a bind reply", BindReply, set(headerSize+35, 1), "port without an address"},
		{"long hush", Hush, set(headerSize+16, 0x0c), "at most 3s"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			b := Packet{Kind: tt.kind}.Append(nil, testKey)
			b = tt.change(b[:len(b)-macSize])
			sum := mac(b, testKey)
			b = append(b, sum[:macSize]...)
			if _, err := Parse(b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func randomPacket(t *rapid.T) Packet {
	id := rapid.Custom(func(t *rapid.T) ID { return ID(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "id")) })
	p := Packet{
		Kind: Kind(rapid.IntRange(1, 7).Draw(t, "kind")),
		From: id.Draw(t, "from"), To: id.Draw(t, "to"), Number: rapid.Uint64().Draw(t, "number"),
	}
	p.Size = rapid.IntRange(p.Kind.Least(), min(p.Kind.Most(), 2000)).Draw(t, "size")
	if p.Kind >= Bind {
		p.Boot = rapid.Uint64().Draw(t, "boot")
	}
	switch p.Kind {
	case Bind, BindReply:
		p.Role = Role(rapid.IntRange(0, 1).Draw(t, "role"))
		p.Cookie = id.Draw(t, "cookie")
		p.Accepted = p.Kind == BindReply && rapid.Bool().Draw(t, "accepted")
	case Notice:
		p.Index = rapid.Uint32().Draw(t, "index")
	case Hush:
		p.Peer = id.Draw(t, "peer")
		p.For = time.Duration(rapid.IntRange(0, 3000).Draw(t, "for")) * time.Millisecond
	}
	if p.Kind == ProbeReply || p.Kind == BindReply {
		p.Observed = rapid.SampledFrom([]netip.AddrPort{
			{}, netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("192.0.2.1:65535"), netip.MustParseAddrPort("[2001:db8::1]:0"),
		}).Draw(t, "observed")
	}
	return p
}

// TestThereAndBack: what is encoded is read again, and a MAC holds for these
// bytes and this key only.
func TestThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := randomPacket(t)
		b := p.Append(nil, testKey)
		got, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(p, got, compareAddrs); d != "" {
			t.Fatalf("(-sent +read):\n%s", d)
		}
		if !Verify(b, testKey) || Verify(b, [32]byte{9}) {
			t.Fatal("the MAC does not tell keys apart")
		}
		bad := slices.Clone(b)
		bad[rapid.IntRange(0, len(b)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if Verify(bad, testKey) {
			t.Fatal("a changed packet is believed")
		}
		if cut := rapid.IntRange(1, len(b)).Draw(t, "cut"); Verify(b[:len(b)-cut], testKey) {
			t.Fatal("a cut packet is believed")
		}
	})
}

// FuzzParse: what parses is encoded to the same bytes again, so that there is
// one form of each packet, and nothing panics.
// Of a packet of a later kind it is known whose it is, and of nothing else.
func TestSenderOfUnknown(t *testing.T) {
	key := [32]byte{7}
	probe := Packet{Kind: Probe, From: ID{1, 2, 3}, To: ID{4}, Number: 5}.Append(nil, key)
	later := func(kind byte) []byte {
		b := bytes.Clone(probe[:len(probe)-macSize])
		b[1] = kind
		sum := mac(b, key)
		return append(b, sum[:macSize]...)
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want ID
	}{
		{"a kind of today", probe, ID{}},
		{"a later kind", later(byte(Invite) + 1), ID{1, 2, 3}},
		{"kind 0", later(0), ID{1, 2, 3}},
		{"too short", later(99)[:headerSize+macSize-1], ID{}},
		{"too long", append(later(99), make([]byte, maxUnknown)...), ID{}},
		{"not ours", append([]byte{1}, later(99)[1:]...), ID{}},
	} {
		got := SenderOfUnknown(tt.b)
		if got != tt.want || got != (ID{}) && !Verify(tt.b, key) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for k := Probe; k.known(); k++ {
		p := Packet{Kind: k, From: ID{1}, To: ID{2}, Number: 3, Boot: 4, For: time.Second, Observed: netip.MustParseAddrPort("192.0.2.1:1")}
		b := p.Append(nil, testKey)
		f.Add(b)
		f.Add(b[:len(b)-1])
		p.Size = 100
		f.Add(p.Append(nil, testKey))
		f.Add(p.Append(b, testKey))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if all := slices.Concat(slices.Collect(Split(b))...); !bytes.Equal(all, b) {
			t.Fatalf("split %x and joined again %x", b, all)
		}
		p, err := Parse(b)
		if err != nil {
			if p != (Packet{}) {
				t.Fatalf("an error and a packet: %+v", p)
			}
			Verify(b, testKey)
			return
		}
		again := p.Append(nil, testKey)
		if body := len(b) - macSize; !bytes.Equal(again[:body], b[:body]) || len(again) != len(b) {
			t.Fatalf("parsed and encoded again:\n%x\n%x", b, again)
		}
		if Verify(b, testKey) != bytes.Equal(again, b) {
			t.Fatal("Verify and Append disagree about the MAC")
		}
	})
}

// TestParseAllocatesNothing, since strangers send what they like.
func TestParseAllocatesNothing(t *testing.T) {
	for _, p := range []Packet{{Kind: BindReply, Observed: netip.MustParseAddrPort("[2001:db8::1]:1")}, {Kind: Probe, Size: 1400}} {
		b := p.Append(nil, testKey)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := Parse(b); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations", p.Kind, n)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	p := Packet{Kind: Probe}.Append(nil, testKey)
	for b.Loop() {
		if !Verify(p, testKey) {
			b.Fatal("not verified")
		}
	}
}

// What a host sends a peer at once and comes as one is taken apart again; what
// came alone stays whole.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Packet{
			Kind: rapid.SampledFrom([]Kind{Probe, Probe, ProbeReply, Bind, Notice}).Draw(t, "kind"),
			From: ID(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "from")), To: ID(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "to")),
			Size: rapid.IntRange(0, 2000).Draw(t, "size"),
		}
		var whole []byte
		var want [][]byte
		for n := range rapid.IntRange(1, 20).Draw(t, "packets") {
			p.Number = rapid.Uint64().Draw(t, "number")
			if rapid.IntRange(0, 9).Draw(t, "last") == 0 && p.Kind == Probe && n > 0 { // may be shorter
				p.Size = rapid.IntRange(0, p.Size).Draw(t, "smaller")
				want = append(want, p.Append(nil, testKey))
				break
			}
			want = append(want, p.Append(nil, testKey))
		}
		for _, b := range want {
			whole = append(whole, b...)
		}
		if diff := cmp.Diff(want, slices.Collect(Split(whole))); diff != "" {
			t.Fatal(diff)
		}
	})
	for _, b := range []string{"", "W", "4" + strings.Repeat("x", 5000), strings.Repeat("W", headerSize+macSize)} {
		if got := slices.Collect(Split([]byte(b))); len(b) > 0 && (len(got) != 1 || string(got[0]) != b) || len(b) == 0 && len(got) != 0 {
			t.Errorf("%q is taken for %d packets", b[:min(len(b), 50)], len(got))
		}
	}
}

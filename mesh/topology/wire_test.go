package topology

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
)

func testKey() *crypto.Key { return crypto.KeyFromSeed([32]byte{1, 2, 3}) }

// id returns an identity; a smaller number is a smaller identity.
func id(n int) crypto.Identity { return crypto.Identity{0: 1, 1: byte(n >> 8), 2: byte(n)} }

func full() Report {
	return Report{
		Boot: 0x0102030405060708, Seq: 0x1112131415161718, SwitchMTU: 1370, NAT: NATSymmetric,
		Links: []Link{
			{
				Peer: id(1), State: Direct, Outbound: true, Bound: true, RTT: 1234 * time.Microsecond, MTU: 1500,
				Age: 3 * time.Minute, Endpoint: netip.MustParseAddrPort("192.0.2.1:6784"),
			},
			{Peer: id(2), State: Relayed, RTT: time.Second, Endpoint: netip.MustParseAddrPort("[2001:db8::1]:6785")},
			{Peer: id(3), State: Pending, Age: time.Second},
		},
	}
}

var cmpReport = cmp.Options{cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateEmpty()}

// TestBytes holds the exact encoding, with spaces between the fields.
func TestBytes(t *testing.T) {
	k := testKey()
	owner := k.Identity().String()
	for _, tt := range []struct {
		what string
		in   Report
		want string
	}{
		{"full", full(), "01 " + owner + " 0102030405060708 1112131415161718 055a 03 0003 " +
			id(1).String() + " 1d 000004d2 05dc 000000b4 c0000201 1a80 " +
			id(2).String() + " 22 000f4240 0000 00000000 20010db8000000000000000000000001 1a81 " +
			id(3).String() + " 03 00000000 0000 00000001"},
		{"empty", Report{}, "01 " + owner + " 0000000000000000 0000000000000000 0000 00 0000"},
		{"parts of units", Report{Links: []Link{
			{Peer: id(1), State: Direct, RTT: 1, Age: time.Second - 1},
			{Peer: id(2), State: Direct, RTT: math.MaxInt64, Age: math.MaxInt64},
		}}, "01 " + owner + " 0000000000000000 0000000000000000 0000 00 0002 " +
			id(1).String() + " 01 00000001 0000 00000000 " +
			id(2).String() + " 01 ffffffff 0000 ffffffff"},
		{"order and endpoints", Report{Links: []Link{
			{Peer: id(3), State: Direct, Endpoint: netip.MustParseAddrPort("[fe80::1%eth0]:7")},
			{Peer: id(1), State: Direct, Endpoint: netip.MustParseAddrPort("[::ffff:192.0.2.1]:7")},
			{Peer: id(2), State: Direct, Endpoint: netip.AddrPortFrom(netip.Addr{}, 7)},
		}}, "01 " + owner + " 0000000000000000 0000000000000000 0000 00 0003 " +
			id(1).String() + " 11 00000000 0000 00000000 c0000201 0007 " +
			id(2).String() + " 01 00000000 0000 00000000 " +
			id(3).String() + " 01 00000000 0000 00000000"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			before := slices.Clone(tt.in.Links)
			got, err := Sign(k, tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(before, tt.in.Links) {
				t.Error("Sign changed its argument")
			}
			want, err := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, k.Sign("weft links", want)...)
			if d := cmp.Diff(hex.Dump(want), hex.Dump(got)); d != "" {
				t.Fatalf("bytes (-want +got):\n%s", d)
			}
			r, err := Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Sign(k, r)
			if err != nil || !bytes.Equal(again, want) {
				t.Fatalf("a parsed report has other bytes: %v", err)
			}
		})
	}
}

func links(n int) []Link {
	var out []Link
	for i := range n {
		out = append(out, Link{Peer: id(i), State: Direct, RTT: time.Second, Endpoint: netip.MustParseAddrPort("[2001:db8::1]:1")})
	}
	return out
}

// TestLimits holds what Sign refuses; the same, signed all the same, is
// refused by Parse.
func TestLimits(t *testing.T) {
	owner := testKey().Identity()
	for _, tt := range []struct {
		name   string
		change func(r *Report)
		want   string // part of the error, "" = taken
	}{
		{"largest", func(r *Report) { r.Links, r.Boot, r.Seq, r.SwitchMTU = links(MaxLinks), 1<<64-1, 1<<64-1, 65535 }, ""},
		{"NAT", func(r *Report) { r.NAT = 4 }, "kind 4 is unknown"},
		{"switch MTU", func(r *Report) { r.SwitchMTU = 65536 }, "switch MTU of 65536"},
		{"owner", func(r *Report) { r.Links[1].Peer = owner }, "the owner itself"},
		{"twice", func(r *Report) { r.Links[1].Peer = r.Links[0].Peer }, "two links"},
		{"no state", func(r *Report) { r.Links[0].State = 0 }, "state 0 is unknown"},
		{"MTU", func(r *Report) { r.Links[0].MTU = -1 }, "MTU of -1"},
		{"round trip", func(r *Report) { r.Links[0].RTT = -time.Second }, "below zero"},
		{"age", func(r *Report) { r.Links[0].Age = -time.Second }, "below zero"},
		{"endpoint", func(r *Report) { r.Links[0].Endpoint = netip.MustParseAddrPort("192.0.2.1:0") }, "no port"},
		{"another's", func(r *Report) { r.Owner = id(9) }, "not the key's"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := full()
			tt.change(&r)
			b, err := Sign(testKey(), r)
			if tt.want == "" {
				if err != nil || len(b) > MaxSize {
					t.Fatalf("%v, %d bytes", err, len(b))
				}
				t.Logf("%d bytes", len(b))
				if _, err := Parse(b); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Of too many links those stay that others need.
func TestBestLinksStay(t *testing.T) {
	all := links(MaxLinks + 4)
	far, bound, unmeasured, relayed, pending := &all[7], &all[100], &all[200], &all[300], &all[400]
	far.RTT = time.Minute
	bound.RTT, bound.Bound = time.Minute, true
	unmeasured.RTT = 0
	relayed.State = Relayed
	pending.State = Pending
	b, err := Sign(testKey(), Report{Links: all})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(b)
	if err != nil || len(r.Links) != MaxLinks {
		t.Fatalf("%d links, %v", len(r.Links), err)
	}
	for l, want := range map[*Link]bool{far: false, bound: true, unmeasured: false, relayed: false, pending: false, &all[0]: true} {
		if got := slices.ContainsFunc(r.Links, func(x Link) bool { return x.Peer == l.Peer }); got != want {
			t.Errorf("%v, bound %v, %v: %v", l.State, l.Bound, l.RTT, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	k := testKey()
	good, err := Sign(k, full())
	if err != nil {
		t.Fatal(err)
	}
	body := good[:len(good)-signatureSize]
	resign := func(b []byte) []byte { return append(bytes.Clone(b), k.Sign(domain, b)...) }
	at := func(i int, v ...byte) []byte {
		b := bytes.Clone(body)
		copy(b[i:], v)
		return resign(b)
	}
	const first = headSize + 32 // flags of the first link
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"empty", nil, "cut off"},
		{"too large", make([]byte, MaxSize+1), "at most 32768"},
		{"format", at(0, 2), "format 2"},
		{"NAT", at(headSize-3, 4), "kind 4"},
		{"more links than there are", at(headSize-2, 0, 4), "cut off"},
		{"fewer links than there are", at(headSize-2, 0, 2), "behind the last link"},
		{"far more links", at(headSize-2, 255, 255), "65535 links"},
		{"no state", at(first, flagIPv4), "state 0"},
		{"both families", at(first, 0x31), "flags 0x31"},
		{"flags of the future", at(first, 0x51), "flags 0x51"},
		{"out of order", at(headSize, 0xff), "not in order"},
		{"port zero", at(first+1+4+2+4+4, 0, 0), "no port"},
		{"IPv4 as IPv6", func() []byte {
			r := full()
			r.Owner = k.Identity()
			r.Links[1].Endpoint = netip.MustParseAddrPort("[::ffff:192.0.2.1]:7")
			return resign(r.encode())
		}(), "written as IPv6"},
		{"another's", at(1, bytes.Repeat([]byte{7}, 32)...), "signature is not of"},
		{"other domain", append(bytes.Clone(body), k.Sign("weft advert", body)...), "signature is not of"},
		{"byte after", append(bytes.Clone(good), 0), ""},
		{"signed byte after", resign(append(bytes.Clone(body), 0)), "behind the last link"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r, err := Parse(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, %v, want %q", r, err, tt.want)
			}
		})
	}
	// Every cut, every bit.
	for i := range good {
		if _, err := Parse(good[:i]); err == nil {
			t.Fatalf("cut to %d bytes it is taken", i)
		}
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			if _, err := Parse(b); err == nil {
				t.Fatalf("with bit %d of byte %d changed it is taken", bit, i)
			}
		}
	}
}

// Whatever Sign takes, Parse gives back.
func TestRoundTrip(t *testing.T) {
	k := testKey()
	rapid.Check(t, func(t *rapid.T) {
		r := drawReport(t)
		b, err := Sign(k, r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		r.Owner = k.Identity()
		r = r.byPeer()
		if d := cmp.Diff(r, got, cmpReport); d != "" {
			t.Fatal(d)
		}
	})
}

func drawReport(t *rapid.T) Report {
	r := Report{
		Boot: rapid.Uint64().Draw(t, "boot"), Seq: rapid.Uint64().Draw(t, "seq"),
		SwitchMTU: int(rapid.Uint16().Draw(t, "switch MTU")), NAT: NATKind(rapid.IntRange(0, 3).Draw(t, "NAT")),
	}
	for _, p := range rapid.SliceOfNDistinct(rapid.IntRange(0, 1000), 0, 20, rapid.ID[int]).Draw(t, "peers") {
		r.Links = append(r.Links, Link{
			Peer: id(p), State: LinkState(rapid.IntRange(1, 3).Draw(t, "state")),
			Outbound: rapid.Bool().Draw(t, "outbound"), Bound: rapid.Bool().Draw(t, "bound"),
			RTT: time.Duration(rapid.Uint32().Draw(t, "rtt")) * time.Microsecond, MTU: int(rapid.Uint16().Draw(t, "mtu")),
			Age: time.Duration(rapid.Uint32().Draw(t, "age")) * time.Second, Endpoint: drawEndpoint(t),
		})
	}
	return r
}

func drawEndpoint(t *rapid.T) netip.AddrPort {
	n := rapid.SampledFrom([]int{0, 4, 16}).Draw(t, "size")
	a, ok := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "addr"))
	if !ok || a.Is4In6() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, rapid.Uint16Range(1, 65535).Draw(t, "port"))
}

// What parses is encoded by the same bytes. The fuzzer cannot sign, so the
// unsigned part is signed here.
func FuzzParse(f *testing.F) {
	k := testKey()
	for _, r := range []Report{full(), {}, {Links: links(MaxLinks)}} {
		b, err := Sign(k, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[0], b[33:len(b)-signatureSize])
	}
	f.Fuzz(func(t *testing.T, first byte, b []byte) {
		_, _ = Parse(b)
		owner := k.Identity()
		b = append(append([]byte{first}, owner[:]...), b...)
		b = append(b, k.Sign(domain, b)...)
		r, err := Parse(b)
		if err != nil {
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 200 {
				t.Fatalf("not one short line: %q", err)
			}
			return
		}
		if again, err := Sign(k, r); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		g := Build(owner, []Report{r})
		if len(g.Binds(16)) > len(r.Links) || g.Relays(id(1), 3) != nil {
			t.Fatal("one report alone makes routes")
		}
	})
}

// Parsing takes no more memory than it was given.
func TestParseAllocates(t *testing.T) {
	b := make([]byte, MaxSize)
	b[0] = format
	for _, fill := range []byte{0, 1, 0x11, 0xff} {
		for i := headSize; i < len(b); i++ {
			b[i] = fill
		}
		b[headSize-2], b[headSize-1] = 1, 0xf4 // 500 links
		if n := testing.AllocsPerRun(100, func() { _, _ = Parse(b) }); n > 20 {
			t.Errorf("%v allocations for refused bytes of %#x", n, fill)
		}
	}
}

func TestWords(t *testing.T) {
	got := fmt.Sprint(Direct, Relayed, Pending, LinkState(7), NATUnknown, NATNone, NATEndpointIndependent, NATSymmetric, NATKind(7))
	if want := "direct relayed pending state 7 unknown none endpoint-independent symmetric kind 7"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

package replica

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/crypto"
)

func owner(b byte) crypto.Identity {
	var id crypto.Identity
	for i := range id {
		id[i] = b
	}
	return id
}

// hexOwner is the identity of 32 equal bytes as it appears on the wire.
func hexOwner(b string) string { return strings.Repeat(b, 32) }

var wireCases = []struct {
	name string
	in   Message
	want string // blanks are for the reader
}{
	{
		name: "empty digest",
		in:   Message{Kind: KindDigest, From: owner(0xaa)},
		want: "01 " + hexOwner("aa") + " 00",
	},
	{
		name: "digest of two owners",
		in: Message{Kind: KindDigest, Answer: true, From: owner(0xaa), Digest: []Summary{
			{ID{owner(1), 0}, 300, 0x1122334455667788},
			{ID{owner(1), 1}, 2, 1},
			{ID{owner(2), 1}, 0, 0},
		}},
		want: "21 " + hexOwner("aa") + " 02 " +
			hexOwner("01") + " 02 00 ac02 1122334455667788 01 02 0000000000000001 " +
			hexOwner("02") + " 01 01 00 0000000000000000",
	},
	{
		name: "request",
		in: Message{Kind: KindRequest, From: owner(0xaa), Pulls: []Pull{
			{ID: ID{owner(1), 1}, Since: 128},
			{ID: ID{owner(2), 0}, Full: true},
		}},
		want: "02 " + hexOwner("aa") + " 02 " +
			hexOwner("01") + " 01 00 8001 " +
			hexOwner("02") + " 00 01 00",
	},
	{
		name: "delta with a value and a tombstone",
		in: Message{Kind: KindDelta, Relay: true, From: owner(0xaa), Chunks: []Chunk{{
			ID: ID{owner(1), 1}, Base: 3, Version: 6, Hash: 0xff, Part: 0, Parts: 1,
			Changes: []Change{
				{Key: "n/a", Value: []byte("v"), Version: 4},
				{Key: "b", Version: 6, Deleted: true},
			},
		}}},
		want: "13 " + hexOwner("aa") + " 01 " +
			hexOwner("01") + " 01 00 03 06 00000000000000ff 00 01 02 " +
			"04 00 03 6e2f61 01 76 " +
			"06 01 01 62",
	},
	{
		name: "second part of a snapshot",
		in: Message{Kind: KindDelta, From: owner(0xaa), Chunks: []Chunk{{
			ID: ID{owner(1), 2}, Full: true, Version: 9, Hash: 1, Part: 1, Parts: 2,
			Changes: []Change{{Key: "k", Value: []byte{}, Version: 9}},
		}}},
		want: "03 " + hexOwner("aa") + " 01 " +
			hexOwner("01") + " 02 01 00 09 0000000000000001 01 02 01 " +
			"09 00 01 6b 00",
	},
}

func TestWire(t *testing.T) {
	for _, tt := range wireCases {
		t.Run(tt.name, func(t *testing.T) {
			want := strings.ReplaceAll(tt.want, " ", "")
			if got := hex.EncodeToString(tt.in.Marshal()); got != want {
				t.Errorf("Marshal:\n got %s\nwant %s", got, want)
			}
			b, err := hex.DecodeString(want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.in, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("Parse (-want +got):\n%s", diff)
			}
			for i := range b {
				if _, err := Parse(b[:i]); err == nil {
					t.Errorf("the first %d of %d bytes are taken", i, len(b))
				}
			}
			if _, err := Parse(append(b, 0)); err == nil {
				t.Error("a byte too many is taken")
			}
		})
	}
}

func TestWireRefused(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":                    "",
		"unknown kind":               "07" + hexOwner("aa") + "00",
		"unknown flag":               "41" + hexOwner("aa") + "00",
		"long uvarint":               "01" + hexOwner("aa") + "8000",
		"owner without channels":     "01" + hexOwner("aa") + "01" + hexOwner("01") + "00" + "0000000000000000000000",
		"owner twice":                "01" + hexOwner("aa") + "02" + strings.Repeat(hexOwner("01")+"01"+"00010000000000000000", 2),
		"owner in two groups":        "01" + hexOwner("aa") + "02" + hexOwner("01") + "0100010000000000000000" + hexOwner("01") + "0101010000000000000000",
		"channels out of order":      "01" + hexOwner("aa") + "01" + hexOwner("01") + "02" + "01010000000000000000" + "00010000000000000000",
		"channel 16":                 "02" + hexOwner("aa") + "01" + hexOwner("01") + "100000",
		"full with since":            "02" + hexOwner("aa") + "01" + hexOwner("01") + "010105",
		"flag of 2":                  "02" + hexOwner("aa") + "01" + hexOwner("01") + "010205",
		"part beyond parts":          "03" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "0001" + "0000000000000000" + "010100",
		"no parts":                   "03" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "0001" + "0000000000000000" + "000000",
		"change at the base":         "03" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "0102" + "0000000000000000" + "000101" + "01016b0000",
		"change above the version":   "03" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "0102" + "0000000000000000" + "000101" + "0301016b",
		"tombstone in a snapshot":    "03" + hexOwner("aa") + "01" + hexOwner("01") + "0101" + "0002" + "0000000000000000" + "000101" + "0101016b",
		"more items than bytes":      "02" + hexOwner("aa") + "ffffff7f",
		"version above MaxVersion":   "02" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "ffffffffffffffff7f",
		"key longer than the rest":   "03" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "0102" + "0000000000000000" + "000101" + "0201ff016b",
		"base above the version":     "03" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "0302" + "0000000000000000" + "000100",
		"snapshot that has a base":   "03" + hexOwner("aa") + "01" + hexOwner("01") + "0101" + "0102" + "0000000000000000" + "000100",
		"257 parts":                  "03" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "0001" + "0000000000000000" + "00810200",
		"descending change versions": "03" + hexOwner("aa") + "01" + hexOwner("01") + "0100" + "0009" + "0000000000000000" + "000102" + "0501016b" + "0401016c",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m, err := Parse(b); err == nil {
			t.Errorf("%s is taken: %+v", name, m)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tt := range wireCases {
		f.Add(tt.in.Marshal())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		if got := m.Marshal(); !bytes.Equal(got, b) {
			t.Errorf("parsed % x\nwritten % x", b, got)
		}
	})
}

// FuzzStore gives whatever parses to a store that has something of its own.
func FuzzStore(f *testing.F) {
	self, other := owner(0xaa), owner(1)
	for _, tt := range wireCases {
		f.Add(tt.in.Marshal())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		s := New(Config{Self: self, Verify: func(crypto.Identity, uint64, []byte) error { return nil }})
		peer := New(Config{Self: other})
		for i, key := range []string{"a", "b", "c"} {
			for _, st := range []*Store{s, peer} {
				if _, err := st.Put(1, key, []byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		exchange(t, peer, s)
		s.Compare(m.Digest)
		for _, r := range s.Answer(m.Pulls) {
			if n := len(r.Marshal()); n > MaxMessage {
				t.Errorf("answer of %d bytes", n)
			}
		}
		for _, c := range m.Chunks {
			s.Apply(c)
		}
		checkStore(t, s)
	})
}

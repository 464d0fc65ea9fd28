package fdb

import (
	"bytes"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
)

func addrs(text ...string) (list []netip.Addr) {
	for _, s := range text {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

func TestAttachmentBytes(t *testing.T) {
	for _, c := range []struct {
		name string
		a    Attachment
		bad  bool
	}{
		{"no address", Attachment{MAC: MAC{2, 0, 0, 0, 0, 1}}, false},
		{"both families", Attachment{MAC{2, 0, 0, 0, 0, 1}, addrs("10.32.0.1", "fd00::1")}, false},
		{"no MAC address", Attachment{}, true},
		{"a group", Attachment{MAC: MAC{1, 0, 0, 0, 0, 1}}, true},
		{"out of order", Attachment{MAC{2, 0, 0, 0, 0, 1}, addrs("10.32.0.2", "10.32.0.1")}, true},
		{"twice", Attachment{MAC{2, 0, 0, 0, 0, 1}, addrs("10.32.0.2", "10.32.0.2")}, true},
		{"written as IPv6", Attachment{MAC{2, 0, 0, 0, 0, 1}, addrs("::ffff:10.32.0.2")}, true},
		{"a multicast address", Attachment{MAC{2, 0, 0, 0, 0, 1}, addrs("224.0.0.1")}, true},
		{"no address at all", Attachment{MAC{2, 0, 0, 0, 0, 1}, addrs("0.0.0.0")}, true},
		{"too many", Attachment{MAC{2, 0, 0, 0, 0, 1}, many(MaxAddrs + 1)}, true},
		{"as many as may be", Attachment{MAC{2, 0, 0, 0, 0, 1}, many(MaxAddrs)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, value, err := c.a.Marshal()
			if (err != nil) != c.bad {
				t.Fatal(err)
			}
			if c.bad {
				return
			}
			got, err := ParseAttachment(key, value)
			if err != nil || got.MAC != c.a.MAC || !slices.Equal(got.Addrs, c.a.Addrs) {
				t.Errorf("read back %v, %v", got, err)
			}
		})
	}
}

func many(n int) (list []netip.Addr) {
	a := netip.MustParseAddr("10.32.0.1")
	for range n {
		list, a = append(list, a), a.Next()
	}
	return list
}

func FuzzAttachment(f *testing.F) {
	for _, a := range []Attachment{{MAC{2, 0, 0, 0, 0, 1}, addrs("10.32.0.1", "fd00::1")}, {MAC: MAC{6}}} {
		key, value, err := a.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(key, value)
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		a, err := ParseAttachment(key, value)
		if err != nil {
			return
		}
		k, v, err := a.Marshal()
		if err != nil || k != key || !bytes.Equal(v, value) {
			t.Errorf("%q %x became %q %x: %v", key, value, k, v, err)
		}
	})
}

func TestSettle(t *testing.T) {
	h1, h2 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	m1, m2, m3 := MAC{2, 1}, MAC{2, 2}, MAC{2, 3}
	claim := func(m MAC, at netip.Addr, text ...string) Claim { return Claim{Attachment{m, addrs(text...)}, at} }
	for _, c := range []struct {
		name   string
		claims []Claim
		want   []Known
	}{
		{
			"in order of MAC",
			[]Claim{claim(m2, h1, "10.32.0.2"), claim(m1, h2, "10.32.0.1")},
			[]Known{{m1, h2, addrs("10.32.0.1")}, {m2, h1, addrs("10.32.0.2")}},
		},
		{
			"a container that moves",
			[]Claim{claim(m1, h1, "10.32.0.1"), claim(m1, h2, "10.32.0.1"), claim(m2, h1, "10.32.0.2")},
			[]Known{{m2, h1, addrs("10.32.0.2")}},
		},
		{
			"an address claimed twice",
			[]Claim{claim(m1, h1, "10.32.0.1", "10.32.0.9"), claim(m3, h2, "10.32.0.1")},
			[]Known{{m1, h1, addrs("10.32.0.9")}, {m3, h2, nil}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Settle(c.claims); !slices.EqualFunc(got, c.want, Known.Equal) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// entries is a replica that can be full.
type entries struct {
	m     map[string]string
	calls int
	full  bool
}

func (e *entries) Put(key string, value []byte) error {
	e.calls++
	if e.full {
		return errors.New("full")
	}
	e.m[key] = string(value)
	return nil
}

func (e *entries) Delete(key string) error {
	e.calls++
	delete(e.m, key)
	return nil
}

func TestRegister(t *testing.T) {
	e := &entries{m: make(map[string]string)}
	r := NewRegister(e)
	one := Attachment{MAC{2, 1}, addrs("10.32.0.2", "10.32.0.1")}
	two := Attachment{MAC{2, 2}, addrs("10.32.0.3")}
	set := func(list ...Attachment) []MAC {
		t.Helper()
		if err := r.Set(list); err != nil {
			t.Fatal(err)
		}
		var macs []MAC
		for _, key := range slices.Sorted(maps.Keys(e.m)) {
			a, err := ParseAttachment(key, []byte(e.m[key]))
			if err != nil {
				t.Fatal(err)
			}
			macs = append(macs, a.MAC)
		}
		return macs
	}
	if got := set(one, two); !slices.Equal(got, []MAC{one.MAC, two.MAC}) {
		t.Fatal(got)
	}
	calls := e.calls
	set(two, one)
	if e.calls != calls {
		t.Error("the same was told again")
	}
	if got := set(two); !slices.Equal(got, []MAC{two.MAC}) {
		t.Fatal(got)
	}
	e.full = true
	if r.Set([]Attachment{one, two}) == nil {
		t.Fatal("nobody says that the replica is full")
	}
	e.full = false
	if got := set(one, two); !slices.Equal(got, []MAC{one.MAC, two.MAC}) {
		t.Error("what failed is not tried again:", got)
	}
}

// One host that claims everything neither fills the tables nor takes the room
// of the others.
func TestSettleIsBounded(t *testing.T) {
	liar, honest := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	var claims []Claim
	for i := range 3 * MaxPerHost {
		claims = append(claims, Claim{Attachment{MAC: MAC{2, 9, byte(i >> 16), byte(i >> 8), byte(i)}}, liar})
	}
	claims = append(claims, Claim{Attachment{MAC: MAC{2, 1}}, honest})
	known := Settle(claims)
	if len(known) != MaxPerHost+1 || known[0].At != honest {
		t.Errorf("%d known, the first at %s", len(known), known[0].At)
	}
	claims = nil
	for i := range 2 * MaxKnown {
		at := netip.AddrFrom16([16]byte{0xfd, 14: byte(i / MaxPerHost >> 8), 15: byte(i / MaxPerHost)})
		claims = append(claims, Claim{Attachment{MAC: MAC{2, 9, byte(i >> 16), byte(i >> 8), byte(i)}}, at})
	}
	if n := len(Settle(claims)); n != MaxKnown {
		t.Errorf("%d known, at most %d", n, MaxKnown)
	}
}

package crypto

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseName(t *testing.T) {
	for _, tt := range []struct {
		in, want string // want "" = refused
	}{
		{"7a:3e:00:00:00:01", "7a:3e:00:00:00:01"},
		{"7A:3E:00:00:00:01", "7a:3e:00:00:00:01"},
		{"7a-3e-00-00-00-01", "7a:3e:00:00:00:01"},
		{"7a3e.0000.0001", "7a:3e:00:00:00:01"},
		{"7a3e00000001", "7a:3e:00:00:00:01"},
		{"7a:3e:0:0:0:1", "7a:3e:00:00:00:01"},
		{"::1", "00:00:00:00:00:01"},
		{"::", "00:00:00:00:00:00"},
		{"1::", "01:00:00:00:00:00"},
		{"1::2", "01:00:00:00:00:02"},
		{"7a:3e::1", "7a:3e:00:00:00:01"},
		{"1:2:3:4:5::", "01:02:03:04:05:00"},
		{"1:2:3:4::6", "01:02:03:04:00:06"},
		{"::2:3:4:5:6", "00:02:03:04:05:06"},

		{"", ""},
		{":", ""},
		{"1", ""},
		{":1", ""},
		{":::1", ""},
		{"::1::", ""},
		{"1:2:3:4:5", ""},
		{"1:2:3:4:5:6:7", ""},
		{"1:2:3:4:5:6::", ""},
		{"1:2:3::4:5:6", ""},
		{"::123", ""},
		{"::g", ""},
		{"::+1", ""},
		{"::0x1", ""},
		{"::1 ", ""},
		{"host1", ""},
		{"00:00:5e:ef:10:00:00:01", ""}, // EUI-64
	} {
		n, err := ParseName(tt.in)
		if tt.want == "" {
			if err == nil {
				t.Errorf("ParseName(%q) = %s, want an error", tt.in, n)
			} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", tt.in)) {
				t.Errorf("ParseName(%q): error does not name it: %v", tt.in, err)
			}
			continue
		}
		if err != nil || n.String() != tt.want {
			t.Errorf("ParseName(%q) = %s, %v, want %s", tt.in, n, err, tt.want)
		}
	}
}

// Every way to write a name reads back as the same name.
func TestNameForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var n Name
		for i := range n {
			// Many zeros, for the short forms.
			n[i] = rapid.SampledFrom([]byte{0, 0, 0, 1, 0x0a, 0x7a, 0xff}).Draw(t, "octet")
		}
		forms := []string{
			n.String(), strings.ToUpper(n.String()), strings.ReplaceAll(n.String(), ":", "-"),
			fmt.Sprintf("%x:%x:%x:%x:%x:%x", n[0], n[1], n[2], n[3], n[4], n[5]),
		}
		// Each run of zeros may be left out.
		for i := range n {
			for j := i + 1; j <= len(n) && n[j-1] == 0; j++ {
				forms = append(forms, join(n[:i])+"::"+join(n[j:]))
			}
		}
		for _, s := range forms {
			if got, err := ParseName(s); err != nil || got != n {
				t.Fatalf("ParseName(%q) = %s, %v, want %s", s, got, err, n)
			}
		}
	})
}

func join(octets []byte) string {
	var s []string
	for _, o := range octets {
		s = append(s, fmt.Sprintf("%x", o))
	}
	return strings.Join(s, ":")
}

func TestNameText(t *testing.T) {
	in := map[Name]Name{{1, 2, 3, 4, 5, 6}: {0xfe}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"01:02:03:04:05:06":"fe:00:00:00:00:00"}`; string(b) != want {
		t.Fatalf("got %s, want %s", b, want)
	}
	var out map[Name]Name
	if err := json.Unmarshal(b, &out); err != nil || out[Name{1, 2, 3, 4, 5, 6}] != (Name{0xfe}) {
		t.Fatalf("%v %v", out, err)
	}
	n := Name{9}
	if err := n.UnmarshalText([]byte("no name")); err == nil || n != (Name{9}) {
		t.Fatalf("a failed UnmarshalText changed the name to %s (%v)", n, err)
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"::1", "7a:3e:00:00:00:01", "7a3e.0000.0001", "1::2:3", "::", ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			return
		}
		again, err := ParseName(n.String())
		if err != nil || again != n {
			t.Fatalf("%q is %s, which reads as %s, %v", s, n, again, err)
		}
	})
}

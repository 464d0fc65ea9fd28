package api

import (
	"errors"
	"fmt"
	"testing"
)

func TestParseAddress(t *testing.T) {
	tests := []struct{ in, want string }{
		{"10.32.0.1/12", "10.32.0.1/12"},
		{"ip:10.32.0.1/12", "10.32.0.1/12"},
		{"fd00::1/64", "fd00::1/64"},
		{"net:default", "allocate invalid Prefix"},
		{"net:10.2.2.0/24", "allocate 10.2.2.0/24"},
		{"net:10.2.2.1/24", "error: subnet net:10.2.2.1/24 has host bits set; did you mean net:10.2.2.0/24 or ip:10.2.2.1/24?"},
		{"10.32.0.1", "error: address 10.32.0.1 needs a prefix length, such as 10.32.0.1/24"},
		{"ip:fd00::1", "error: address ip:fd00::1 needs a prefix length, such as fd00::1/64"},
		{"10.32.0.1/33", `error: address "10.32.0.1/33": want ADDRESS/LENGTH such as 10.32.0.1/12`},
		{"10.32.0.1/", `error: address "10.32.0.1/": want ADDRESS/LENGTH such as 10.32.0.1/12`},
		{"10.32.0.256/12", `error: address "10.32.0.256/12": want ADDRESS/LENGTH such as 10.32.0.1/12`},
		{"net:", `error: address "net:": want ADDRESS/LENGTH such as 10.32.0.1/12`},
		{"", `error: address "": want ADDRESS/LENGTH such as 10.32.0.1/12`},
		{"0.0.0.0/0", "error: address 0.0.0.0 is not one that a container can have"},
		{"127.0.0.1/8", "error: address 127.0.0.1 is not one that a container can have"},
		{"224.0.0.1/24", "error: address 224.0.0.1 is not one that a container can have"},
		{"255.255.255.255/32", "error: address 255.255.255.255 is not one that a container can have"},
		{"::ffff:10.0.0.1/120", "error: address ::ffff:10.0.0.1/120: write it as IPv4"},
	}
	for _, tt := range tests {
		a, err := ParseAddress(tt.in)
		got := a.Prefix.String()
		if a.Allocate {
			got = "allocate " + got
		}
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tt.want {
			t.Errorf("ParseAddress(%q): %s\nwant %s", tt.in, got, tt.want)
		}
		if err != nil && !errors.Is(err, ErrUsage) {
			t.Errorf("ParseAddress(%q): not ErrUsage: %v", tt.in, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	tests := []struct{ in, want string }{
		{"192.0.2.1", "192.0.2.1 0"},
		{"192.0.2.1:7000", "192.0.2.1 7000"},
		{"host2", "host2 0"},
		{"host2.example.org:6783", "host2.example.org 6783"},
		{"host2.example.org.", "host2.example.org. 0"},
		{"2001:db8::1", "2001:db8::1 0"},
		{"[2001:db8::1]", "2001:db8::1 0"},
		{"[2001:db8::1]:7000", "2001:db8::1 7000"},
		{"fe80::1%eth0", "fe80::1%eth0 0"},
		{"under_score", "under_score 0"},
		{"", `error: peer "" is neither an address nor the name of a host`},
		{"host:", `error: peer "host:": want IP-OR-NAME[:PORT] with a port from 1 to 65535`},
		{"host:0", `error: peer "host:0": want IP-OR-NAME[:PORT] with a port from 1 to 65535`},
		{"host:65536", `error: peer "host:65536": want IP-OR-NAME[:PORT] with a port from 1 to 65535`},
		{"[192.0.2.1]:7000", `error: peer "[192.0.2.1]:7000": "192.0.2.1" is not an IPv6 address`},
		{"[2001:db8::1:7000", `error: peer "[2001:db8::1:7000": "2001:db8::1" is not an IPv6 address`},
		{"300.1.1.1", `error: peer "300.1.1.1" is neither an address nor the name of a host`},
		{"192.0.2", `error: peer "192.0.2" is neither an address nor the name of a host`},
		{"-host", `error: peer "-host" is neither an address nor the name of a host`},
		{"a b", `error: peer "a b" is neither an address nor the name of a host`},
		{"10.32.0.1/12", `error: peer "10.32.0.1/12" is neither an address nor the name of a host`},
		{"0.0.0.0", `error: peer "0.0.0.0": nobody can be reached at that address`},
		{"[ff02::1]:6783", `error: peer "[ff02::1]:6783": nobody can be reached at that address`},
	}
	for _, tt := range tests {
		host, port, err := ParseTarget(tt.in)
		got := fmt.Sprintf("%s %d", host, port)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tt.want {
			t.Errorf("ParseTarget(%q): %s\nwant %s", tt.in, got, tt.want)
		}
	}
}

func TestParseFQDN(t *testing.T) {
	for in, want := range map[string]string{
		"Web.weft.internal": "Web.weft.internal.", "web.weft.internal.": "web.weft.internal.", "web": "web.",
		"10.32.0.1": "10.32.0.1.", "": "", ".": "", "a..b": "", "web-.x": "", "bücher.example": "", "a b": "", "*.x": "",
	} {
		got, err := ParseFQDN(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseFQDN(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

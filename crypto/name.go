package crypto

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// String returns the name in full: six octets with colons.
func (n Name) String() string { return net.HardwareAddr(n[:]).String() }

// IsZero reports whether the name is unset.
func (n Name) IsZero() bool { return n == Name{} }

// Check says why no host can have the name, if so: it is no address of a
// single host.
func (n Name) Check() error {
	if n.IsZero() || n[0]&1 != 0 {
		return fmt.Errorf("peer name %s: want a unicast address that is not zero", n)
	}
	return nil
}

// ParseName reads a name in any form that [net.ParseMAC] accepts for six
// octets, and in the short forms that people type: octets without leading
// zeros ("1:2:3:4:5:6"), and one "::" that stands for one or more zero octets
// ("::1", "7a::5:1", "7a::").
func ParseName(s string) (Name, error) {
	if mac, err := net.ParseMAC(s); err == nil {
		if len(mac) != len(Name{}) {
			return Name{}, fmt.Errorf("peer name %q: %d octets, want %d", s, len(mac), len(Name{}))
		}
		return Name(mac), nil
	}
	head, tail, short := strings.Cut(s, "::")
	front, ok1 := parseOctets(head)
	back, ok2 := parseOctets(tail)
	given, size := len(front)+len(back), len(Name{})
	if !ok1 || !ok2 || short && given >= size || !short && given != size {
		return Name{}, fmt.Errorf("peer name %q: want six octets like 7a:3e:00:00:00:01, or a short form like ::1", s)
	}
	var n Name
	copy(n[:], front)
	copy(n[size-len(back):], back)
	return n, nil
}

// parseOctets reads octets of one or two hexadecimal digits between colons;
// an empty string holds none.
func parseOctets(s string) ([]byte, bool) {
	if s == "" {
		return nil, true
	}
	var octets []byte
	for field := range strings.SplitSeq(s, ":") {
		if len(field) > 2 {
			return nil, false
		}
		// ParseUint takes no sign and, in base 16, no prefix or underscore.
		o, err := strconv.ParseUint(field, 16, 8)
		if err != nil {
			return nil, false
		}
		octets = append(octets, byte(o))
	}
	return octets, true
}

// MarshalText implements [encoding.TextMarshaler].
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler] with [ParseName].
func (n *Name) UnmarshalText(b []byte) error {
	parsed, err := ParseName(string(b))
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}

package hello

import (
	"fmt"
	"strconv"
	"strings"
)

// Versions is a range of versions of the rules between hosts, both ends
// included. The zero value is version 1 alone, which is also what a host speaks
// that says nothing.
type Versions struct{ Min, Max uint16 }

// maxVersions bounds how many versions one program speaks.
const maxVersions = 16

// baseProtocol is what hosts of all versions offer in TLS, beside
// "weft/VERSION" for each version (RFC 7301): so a connection always comes
// about, and each end can say what is wrong.
const baseProtocol = "weft"

func (v Versions) orFirst() Versions {
	if v == (Versions{}) {
		return Versions{1, 1}
	}
	return v
}

// String returns "1", or "1 to 3".
func (v Versions) String() string {
	if v = v.orFirst(); v.Min == v.Max {
		return strconv.Itoa(int(v.Min))
	}
	return fmt.Sprintf("%d to %d", v.Min, v.Max)
}

// valid says whether it is a range at all.
func (v Versions) valid() bool {
	return v == (Versions{}) || v.Min > 0 && v.Min <= v.Max && v.Max-v.Min < maxVersions
}

func (v Versions) has(n uint16) bool {
	v = v.orFirst()
	return v.Min <= n && n <= v.Max
}

// Common returns the highest version of both; false: there is none.
func (v Versions) Common(o Versions) (uint16, bool) {
	v, o = v.orFirst(), o.orFirst()
	n := min(v.Max, o.Max)
	return n, n >= max(v.Min, o.Min)
}

// nearest returns the version of v that is n, or next to it.
func (v Versions) nearest(n uint16) uint16 {
	v = v.orFirst()
	return min(max(n, v.Min), v.Max)
}

// MetaSize is how many bytes [Versions.Meta] has.
const MetaSize = 5

// Meta returns what a host says of itself in gossip: a byte 1, Min and Max, big
// endian.
func (v Versions) Meta() []byte {
	v = v.orFirst()
	return []byte{1, byte(v.Min >> 8), byte(v.Min), byte(v.Max >> 8), byte(v.Max)}
}

// ParseMeta reads what [Versions.Meta] wrote. What is anything else, or
// nothing, is of a host that speaks version 1; what follows is of later ones.
func ParseMeta(b []byte) Versions {
	if len(b) >= MetaSize && b[0] == 1 {
		v := Versions{uint16(b[1])<<8 | uint16(b[2]), uint16(b[3])<<8 | uint16(b[4])}
		if v.valid() && v != (Versions{}) {
			return v
		}
	}
	return Versions{1, 1}
}

// protocols are the names of v in TLS, best first.
func (v Versions) protocols() []string {
	v = v.orFirst()
	var names []string
	for n := v.Max; n >= v.Min; n-- {
		names = append(names, fmt.Sprintf("%s/%d", baseProtocol, n))
	}
	return append(names, baseProtocol)
}

// agreed reads the name that both ends chose: 0 when it is that of all.
func agreed(name string) (version uint16, ok bool) {
	if name == baseProtocol {
		return 0, true
	}
	number, ok := strings.CutPrefix(name, baseProtocol+"/")
	n, err := strconv.ParseUint(number, 10, 16)
	if !ok || err != nil || n == 0 || number != strconv.FormatUint(n, 10) {
		return 0, false
	}
	return uint16(n), true
}

// offered reads the names that a dialler offers: the range from the least to
// the greatest of its versions. The zero value: it names none.
func offered(names []string) Versions {
	var v Versions
	for _, name := range names {
		n, ok := agreed(name)
		switch {
		case !ok || n == 0:
		case v == (Versions{}):
			v = Versions{n, n}
		default:
			v.Min, v.Max = min(v.Min, n), max(v.Max, n)
		}
	}
	if !v.valid() {
		return Versions{}
	}
	return v
}

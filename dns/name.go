package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Limits of a name (RFC 1035 section 2.3.4).
const (
	MaxName  = 254 // bytes as written, with the final dot; 255 on the wire
	maxLabel = 63
)

// The two trees of reverse names.
const (
	reverse4 = ".in-addr.arpa."
	reverse6 = ".ip6.arpa."
)

// ParseName checks that s can be registered as a name or serve as the domain,
// and returns it with its final dot and with its case as given. Labels consist
// of ASCII letters, digits, '-' and '_'; other names must be written in their
// ASCII form (xn--…).
func ParseName(s string) (string, error) {
	full := fqdn(s)
	if full == "." {
		return "", errors.New("name is empty")
	}
	if len(full) > MaxName {
		return "", fmt.Errorf("name of %d bytes is too long: at most %d", len(full), MaxName)
	}
	for label := range strings.SplitSeq(full[:len(full)-1], ".") {
		if err := checkLabel(label); err != nil {
			return "", fmt.Errorf("name %q: %w", s, err)
		}
	}
	return full, nil
}

func checkLabel(label string) error {
	if label == "" {
		return errors.New("empty label")
	}
	if len(label) > maxLabel {
		return fmt.Errorf("label of %d bytes is too long: at most %d", len(label), maxLabel)
	}
	for _, c := range []byte(label) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return fmt.Errorf("%q is not allowed: only letters, digits, '-' and '_'", string(rune(c)))
		}
	}
	return nil
}

func fqdn(s string) string {
	if strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

// fold returns s in lower case. Only ASCII has case in the DNS; strings.ToLower
// would turn the Kelvin sign into a k.
func fold(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if 'A' <= b[j] && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// below reports whether the folded name is domain or lies below it. A dot that
// is escaped belongs to its label: `a\.weft.internal.` is not below
// "weft.internal.".
func below(name, domain string) bool {
	if name == domain {
		return true
	}
	rest, ok := strings.CutSuffix(name, domain)
	if !ok || !strings.HasSuffix(rest, ".") {
		return false
	}
	rest = rest[:len(rest)-1]
	slashes := len(rest) - len(strings.TrimRight(rest, `\`))
	return rest != "" && slashes%2 == 0
}

// oneLabel reports whether the full name has exactly one label. A name with an
// escape is none that anybody registers.
func oneLabel(name string) bool {
	return len(name) > 1 && !strings.Contains(name, `\`) && strings.Count(name, ".") == 1
}

// parseReverse returns the address that a folded reverse name stands for.
func parseReverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, reverse4); ok {
		return parseReverse4(rest)
	}
	if rest, ok := strings.CutSuffix(name, reverse6); ok {
		return parseReverse6(rest)
	}
	return netip.Addr{}, false
}

func parseReverse4(s string) (netip.Addr, bool) {
	labels := strings.Split(s, ".")
	if len(labels) != 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, label := range labels {
		n, err := strconv.ParseUint(label, 10, 8)
		if err != nil || strconv.FormatUint(n, 10) != label {
			return netip.Addr{}, false
		}
		b[3-i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}

func parseReverse6(s string) (netip.Addr, bool) {
	const nibbles = 32
	if len(s) != 2*nibbles-1 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range nibbles {
		if i > 0 && s[2*i-1] != '.' {
			return netip.Addr{}, false
		}
		n, err := strconv.ParseUint(s[2*i:2*i+1], 16, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		at := nibbles - 1 - i // the last nibble of the address comes first
		b[at/2] |= byte(n) << (4 * (1 - at%2))
	}
	return netip.AddrFrom16(b), true
}

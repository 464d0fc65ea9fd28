package api

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// AddressSpec is an address as people type it for a container or for the host.
type AddressSpec struct {
	Prefix   netip.Prefix // the static address, or the subnet to allocate from
	Allocate bool         // net:…; with an invalid Prefix it is net:default
}

// ParseAddress reads [ip:]CIDR, net:CIDR and net:default. Its errors wrap
// [ErrUsage].
func ParseAddress(s string) (AddressSpec, error) {
	if s == "net:default" {
		return AddressSpec{Allocate: true}, nil
	}
	text, allocate := strings.CutPrefix(s, "net:")
	if !allocate {
		text = strings.TrimPrefix(s, "ip:")
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		if a, err := netip.ParseAddr(text); err == nil && !allocate {
			bits := 24
			if a.Is6() {
				bits = 64
			}
			return AddressSpec{}, usage("address %s needs a prefix length, such as %s/%d", s, a, bits)
		}
		return AddressSpec{}, usage("address %q: want ADDRESS/LENGTH such as 10.32.0.1/12", s)
	}
	if p.Addr().Is4In6() {
		return AddressSpec{}, usage("address %s: write it as IPv4", s)
	}
	if allocate {
		if p != p.Masked() {
			return AddressSpec{}, usage("subnet %s has host bits set; did you mean net:%s or ip:%s?", s, p.Masked(), p)
		}
		return AddressSpec{Prefix: p, Allocate: true}, nil
	}
	if err := CheckUnicast(p.Addr()); err != nil {
		return AddressSpec{}, err
	}
	return AddressSpec{Prefix: p}, nil
}

// CheckUnicast refuses addresses that no container can have. Its errors wrap
// [ErrUsage].
func CheckUnicast(a netip.Addr) error {
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Zone() != "" ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return usage("address %s is not one that a container can have", a)
	}
	return nil
}

// ParseTarget reads a peer as people type it: ip-or-name[:port]. The port is
// zero when none is given. Its errors wrap [ErrUsage].
func ParseTarget(s string) (host string, port uint16, err error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return targetAddr(s, a, 0)
	}
	host = s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		n, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || n == 0 {
			return "", 0, usage("peer %q: want IP-OR-NAME[:PORT] with a port from 1 to 65535", s)
		}
		host, port = s[:i], uint16(n)
	}
	if v6, ok := strings.CutPrefix(host, "["); ok {
		v6, ok = strings.CutSuffix(v6, "]")
		a, err := netip.ParseAddr(v6)
		if !ok || err != nil || !a.Is6() {
			return "", 0, usage("peer %q: %q is not an IPv6 address", s, v6)
		}
		return targetAddr(s, a, port)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Is6() {
			return "", 0, usage("peer %q: write an IPv6 address with a port as [%s]:%d", s, host, port)
		}
		return targetAddr(s, a, port)
	}
	if !isHostName(host) {
		return "", 0, usage("peer %q is neither an address nor the name of a host", s)
	}
	return host, port, nil
}

func targetAddr(s string, a netip.Addr, port uint16) (string, uint16, error) {
	if a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return "", 0, usage("peer %q: nobody can be reached at that address", s)
	}
	return a.String(), port, nil
}

// ParseFQDN checks a name that somebody gives to addresses by hand and returns
// it with its final dot. Its errors wrap [ErrUsage].
func ParseFQDN(s string) (string, error) {
	name := strings.TrimSuffix(s, ".")
	if !isDNSName(name) {
		return "", usage("name %q: want a domain name such as web.weft.internal", s)
	}
	return name + ".", nil
}

// isHostName also refuses what was meant to be an IPv4 address: the last label
// of a name is never a number.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	last := s[strings.LastIndexByte(s, '.')+1:]
	return isDNSName(s) && strings.Trim(last, "0123456789") != ""
}

// isDNSName takes letters, digits, hyphens and underscores, labels of up to 63
// bytes and 253 bytes in all; no final dot.
func isDNSName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i] | 0x20
			if (c < 'a' || c > 'z') && (label[i] < '0' || label[i] > '9') && label[i] != '-' && label[i] != '_' {
				return false
			}
		}
	}
	return true
}

func usage(format string, a ...any) error {
	return &problemError{class: ErrUsage, text: fmt.Sprintf(format, a...)}
}

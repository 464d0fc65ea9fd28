package settings

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/router/api"
)

// What the options of the table take, and what they refuse.

func boolean(to *bool, v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return invalid("want true or false")
	}
	*to = b
	return nil
}

func number(to *int, v string, least, most int) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		return invalid("want a number from %d to %d", least, most)
	}
	*to = n
	return nil
}

func oneOf(to *string, v string, words ...string) error {
	if !slices.Contains(words, v) {
		last := len(words) - 1
		return invalid("want %s or %s", strings.Join(words[:last], ", "), words[last])
	}
	*to = v
	return nil
}

// label takes what is printed in columns: no spaces and nothing that a
// terminal would act on.
func label(to *string, v string, most int) error {
	odd := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if v == "" || len(v) > most || !utf8.ValidString(v) || strings.ContainsFunc(v, odd) {
		return invalid("want 1 to %d bytes without spaces and control characters", most)
	}
	*to = v
	return nil
}

func path(to *string, v string) error {
	if !filepath.IsAbs(v) || filepath.Clean(v) == "/" {
		return invalid("want an absolute path")
	}
	*to = filepath.Clean(v)
	return nil
}

func setHosts(s *Settings, v string) error {
	if v == "" {
		return nil
	}
	for text := range strings.SplitSeq(v, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return invalid("%q is not an address", text)
		}
		a = a.Unmap()
		if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || crypto.OverlayPrefix.Contains(a) {
			return invalid("other hosts cannot reach this one at %s", a)
		}
		if !slices.Contains(s.Hosts, a) {
			s.Hosts = append(s.Hosts, a)
		}
	}
	if len(s.Hosts) > advert.MaxEndpoints {
		return invalid("want at most %d addresses", advert.MaxEndpoints)
	}
	return nil
}

// setPort refuses the ports that VXLAN and gossip have inside every tunnel.
func setPort(s *Settings, v string) error {
	var n int
	if err := number(&n, v, 1, 65534); err != nil {
		return err
	}
	if n >= 6784 && n <= 6786 {
		return invalid("the port and the next one must not be 6785 or 6786, which VXLAN and gossip have")
	}
	s.Port = uint16(n)
	return nil
}

// setRange takes the address range, or nothing.
func setRange(s *Settings, v string) error {
	if v == "" {
		return nil
	}
	if err := network(&s.Range, v); err != nil {
		return err
	}
	if own := netip.MustParsePrefix("169.254.0.0/16"); s.Range.Overlaps(own) {
		return invalid("%s overlaps %s, in which the name server listens", v, own)
	}
	return nil
}

// network takes an IPv4 network in which addresses can be given out.
func network(to *netip.Prefix, v string) error {
	p, err := netip.ParsePrefix(v)
	if err != nil || !p.Addr().Is4() {
		return invalid("want an IPv4 network such as 10.32.0.0/12")
	}
	switch {
	case p != p.Masked():
		return invalid("%s is an address, its network is %s", v, p.Masked())
	case p.Bits() < 8 || p.Bits() > 30:
		return invalid("want a network from /8 to /30")
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsUnspecified():
		return invalid("%s cannot be given to containers", v)
	}
	*to = p
	return nil
}

func duration(to *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if v == "0" {
		d, err = 0, nil
	}
	if err != nil || d < 0 {
		return invalid("want a time such as 90m or 24h")
	}
	*to = d
	return nil
}

func setMTU(s *Settings, v string) error {
	if err := number(&s.MTU, v, 0, 9216); err != nil {
		return err
	}
	if s.MTU != 0 && s.MTU < 576 {
		return invalid("want 0 or a number from 576 to 9216")
	}
	return nil
}

func setDomain(s *Settings, v string) error {
	d, err := api.ParseFQDN(v)
	if err != nil {
		return invalid("want a domain name such as weft.internal.")
	}
	s.DNSDomain = strings.ToLower(d)
	return nil
}

func setDNSListen(s *Settings, v string) error {
	if a, err := netip.ParseAddr(v); err == nil {
		s.DNSListen = netip.AddrPortFrom(a, 53)
		return nil
	}
	ap, err := netip.ParseAddrPort(v)
	if err != nil || ap.Port() == 0 {
		return invalid("want an address with or without port, such as 169.254.67.83:53")
	}
	s.DNSListen = ap
	return nil
}

func setStatusAddr(s *Settings, v string) error {
	if v == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(v)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 {
		return invalid("want ADDRESS:PORT such as 127.0.0.1:6782")
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil {
		return invalid("want ADDRESS:PORT such as 127.0.0.1:6782")
	}
	s.StatusAddr = v
	return nil
}

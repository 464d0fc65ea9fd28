package workload

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/router/api"
)

// autoName returns the full name under which an engine's container is
// registered by itself, or nothing: its FQDN when that lies in the domain,
// nothing when its user put it into another domain, else its name in ours.
func autoName(c Container, domain string) string {
	if domain == "" {
		return ""
	}
	full := c.Hostname
	if c.Domainname != "" {
		full += "." + c.Domainname
	}
	elsewhere := strings.Contains(strings.TrimSuffix(full, "."), ".")
	if !elsewhere || full == "" {
		full = c.Name + "." + strings.TrimSuffix(domain, ".")
	}
	full, err := dns.ParseName(full)
	if err != nil || !inDomain(full, domain) {
		return ""
	}
	return full
}

// inDomain reports whether a full name lies below the domain, which is in
// lower case; both end in a dot.
func inDomain(full, domain string) bool {
	return strings.HasSuffix(strings.ToLower(full), "."+domain)
}

// parseFQDN reads the name of dns-add and expose. One label is a name of our
// domain, as it is when it is asked for.
func parseFQDN(s, domain string) (string, error) {
	full, err := api.ParseFQDN(s)
	if err != nil {
		return "", err
	}
	if !strings.Contains(strings.TrimSuffix(s, "."), ".") && !strings.HasSuffix(s, ".") {
		full += domain
	}
	if !inDomain(full, domain) {
		return "", usage("name %s is not in the domain %s of this cluster", s, domain)
	}
	return full, nil
}

// withNames returns list with those of more that it lacks, in new memory.
func withNames(list, more []name) []name {
	out := slices.Clone(list)
	for _, n := range more {
		if !slices.ContainsFunc(out, n.same) {
			out = append(out, n)
		}
	}
	return out
}

// same reports whether two records answer the same question alike.
func (n name) same(o name) bool {
	return n.Addr == o.Addr && strings.EqualFold(n.Hostname, o.Hostname)
}

// withoutNames returns list without the records of a name (empty: any) for
// addresses (none: any), in new memory.
func withoutNames(list []name, full string, addrs []netip.Addr) []name {
	return slices.DeleteFunc(slices.Clone(list), func(n name) bool {
		return (full == "" || strings.EqualFold(n.Hostname, full)) &&
			(len(addrs) == 0 || slices.Contains(addrs, n.Addr))
	})
}

// named returns a record for each address.
func named(full string, addrs []netip.Addr, auto bool) []name {
	var list []name
	for _, a := range addrs {
		list = withNames(list, []name{{Hostname: full, Addr: a, Auto: auto}})
	}
	return list
}

func addrsOf(list []netip.Prefix) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(list))
	for _, p := range list {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// renamed returns list with the container's own name replaced; an empty one
// removes it. It reports whether that changed anything.
func renamed(list []name, full string) ([]name, bool) {
	var out []name
	changed := false
	for _, n := range list {
		if n.Auto && n.Hostname != full {
			changed = true
			if full == "" {
				continue
			}
			n.Hostname = full
		}
		out = withNames(out, []name{n})
	}
	return out, changed
}

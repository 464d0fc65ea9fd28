package main

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/weftnet/weft/router/api"
)

// isAddress reports whether somebody meant an address of the switch. Names of
// containers have no slash; netns: has, and comes first.
func isAddress(arg string) bool {
	if strings.HasPrefix(arg, "netns:") || strings.HasPrefix(arg, "pid:") {
		return false
	}
	_, err := netip.ParseAddr(arg)
	return err == nil || strings.Contains(arg, "/") || strings.HasPrefix(arg, "ip:") || strings.HasPrefix(arg, "net:")
}

// splitArgs takes addresses and at most one container, in any order.
func splitArgs(args []string) (addresses []string, container string, err error) {
	for _, arg := range args {
		switch {
		case isAddress(arg):
			if _, err := api.ParseAddress(arg); err != nil {
				return nil, "", err
			}
			addresses = append(addresses, arg)
		case container != "":
			return nil, "", usagef("takes one container, got %q and %q", container, arg)
		default:
			if container, err = containerArg(arg); err != nil {
				return nil, "", err
			}
		}
	}
	return addresses, container, nil
}

// addressArgs takes addresses only.
func addressArgs(args []string) ([]string, error) {
	addresses, container, err := splitArgs(args)
	if err == nil && container != "" {
		return nil, usagef("%q is not an address: want ADDRESS/LENGTH such as 10.32.0.1/12", container)
	}
	return addresses, err
}

// containerArg checks a container and makes the path of a namespace absolute,
// because the daemon has another working directory.
func containerArg(arg string) (string, error) {
	if pid, ok := strings.CutPrefix(arg, "pid:"); ok {
		if n, err := strconv.ParseInt(pid, 10, 32); err != nil || n <= 0 {
			return "", usagef("container %q: want pid:NUMBER", arg)
		}
		return arg, nil
	}
	ns, ok := strings.CutPrefix(arg, "netns:")
	switch {
	case !ok && (arg == "" || strings.ContainsAny(arg, "/ \t\n")):
		return "", usagef("%q is not a container: want a Docker name or id, pid:N, or netns:NAME-or-path", arg)
	case !ok:
		return arg, nil
	case ns == "" || ns == "." || ns == "..":
		return "", usagef("container %q: want netns:NAME-or-path", arg)
	case !strings.Contains(ns, "/"):
		return "netns:" + filepath.Join("/run/netns", ns), nil
	}
	abs, err := filepath.Abs(ns)
	if err != nil {
		return "", err
	}
	return "netns:" + abs, nil
}

// nameArgs takes [ip …] container, or ip … when a name is given with -h.
func nameArgs(args []string, fqdn string, named bool) (api.NameRequest, error) {
	var r api.NameRequest
	for _, arg := range args {
		a, err := netip.ParseAddr(arg)
		if err == nil {
			if err := api.CheckUnicast(a); err != nil {
				return r, err
			}
			r.Addresses = append(r.Addresses, a)
			continue
		}
		if isAddress(arg) {
			return r, usagef("%q: want an address without prefix length, such as 10.32.0.1", arg)
		}
		if r.Container != "" {
			return r, usagef("takes one container, got %q and %q", r.Container, arg)
		}
		if r.Container, err = containerArg(arg); err != nil {
			return r, err
		}
	}
	if named {
		name, err := fqdnArg(fqdn)
		if err != nil {
			return r, err
		}
		r.FQDN = name
	}
	if r.Container == "" && (r.FQDN == "" || len(r.Addresses) == 0) {
		return r, usagef("name a container, or addresses and -h FQDN")
	}
	return r, nil
}

// fqdnArg checks a name and gives it its final dot; without one a single label
// stays as it is, because it is a name of the domain, which the daemon knows.
func fqdnArg(s string) (string, error) {
	name, err := api.ParseFQDN(s)
	if err == nil && !strings.Contains(s, ".") {
		return s, nil
	}
	return name, err
}

// targetArgs takes peers.
func targetArgs(args []string) error {
	for _, arg := range args {
		if _, _, err := api.ParseTarget(arg); err != nil {
			return err
		}
	}
	return nil
}

package plugin

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/weftnet/weft/router/api"
)

// generic is the key under which the engine hands a network's own options on.
const generic = "com.docker.network.generic"

// prefix begins the options that are ours. One that we do not know is a wish
// that must not be dropped; all others belong to somebody else.
const prefix = "weft."

// Options of endpoints: `docker network connect --driver-opt`. The attach
// proxy uses them.
const (
	optContainer   = prefix + "container"   // full id of the container
	optAddresses   = prefix + "addresses"   // further addresses as `weft attach` takes them, separated by spaces or commas
	optNoDNS       = prefix + "nodns"       // true: no names, and the container's resolver is left alone
	optNoMulticast = prefix + "nomulticast" // true: no route for multicast; an option of networks, too
)

// networkOptions is what people asked for of a network.
type networkOptions struct{ noMulticast bool }

func parseNetworkOptions(all map[string]any) (o networkOptions, err error) {
	own, _ := all[generic].(map[string]any)
	if err := known(own, "an option of a network", optNoMulticast); err != nil {
		return o, err
	}
	o.noMulticast, err = flag(own, optNoMulticast)
	return o, err
}

func parseEndpointOptions(all map[string]any) (r api.EndpointRequest, err error) {
	if err := known(all, "an option of an endpoint", optContainer, optAddresses, optNoDNS, optNoMulticast); err != nil {
		return r, err
	}
	r.Container, _ = all[optContainer].(string)
	addresses, _ := all[optAddresses].(string)
	r.Extra = strings.FieldsFunc(addresses, func(c rune) bool { return c == ' ' || c == ',' })
	if r.WithoutDNS, err = flag(all, optNoDNS); err != nil {
		return r, err
	}
	r.NoMulticastRoute, err = flag(all, optNoMulticast)
	return r, err
}

// known refuses options of ours that do not exist.
func known[V any](options map[string]V, what string, names ...string) error {
	for name := range options {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		found := false
		for _, n := range names {
			found = found || n == name
		}
		if !found && len(names) == 0 {
			return fmt.Errorf("%s is not %s", name, what)
		}
		if !found {
			return fmt.Errorf("%s is not %s: there is %s", name, what, strings.Join(names, ", "))
		}
	}
	return nil
}

// flag reads an option that is true when it is given without a value.
func flag(options map[string]any, name string) (bool, error) {
	v, given := options[name]
	if !given {
		return false, nil
	}
	if b, ok := v.(bool); ok {
		return b, nil
	}
	text, _ := v.(string)
	if text == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("option %s=%s: want true or false", name, text)
	}
	return b, nil
}

package proxy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"net/netip"
	"regexp"
	"strings"
)

// object is a JSON object whose members stay as they came unless they are set.
type object map[string]json.RawMessage

// parseObject reads an object; null and nothing are an empty one.
func parseObject(b []byte) (object, error) {
	o := object{}
	if len(bytes.TrimSpace(b)) == 0 {
		return o, nil
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, err
	}
	if o == nil {
		o = object{}
	}
	return o, nil
}

// key returns under which name a member is there: engines do not mind its case.
func (o object) key(name string) string {
	if _, ok := o[name]; ok {
		return name
	}
	found := ""
	for k := range o {
		if strings.EqualFold(k, name) && (found == "" || k < found) {
			found = k
		}
	}
	return cmp.Or(found, name)
}

// get reads a member into v, which stays as it is when there is none.
func (o object) get(name string, v any) error {
	b, ok := o[o.key(name)]
	if !ok {
		return nil
	}
	return json.Unmarshal(b, v)
}

func (o object) set(name string, v any) error {
	b, err := marshal(v)
	if err == nil {
		o[o.key(name)] = b
	}
	return err
}

// marshal does not escape what needs no escape.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// creation is the request to create a container: what we read of it, and all
// the rest as it came.
type creation struct {
	top, host object

	hostname, domainname string
	env                  []string
	labels               map[string]string
	mode                 string // of its network
	dns, search          []string
}

// parseCreation reads a request that the engine, too, can read. What it cannot
// read gives an error, and is for the engine to refuse.
func parseCreation(body []byte) (*creation, error) {
	top, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	c := &creation{top: top}
	if c.host, err = parseObject(top[top.key("HostConfig")]); err != nil {
		return nil, err
	}
	return c, errors.Join(
		top.get("Hostname", &c.hostname), top.get("Domainname", &c.domainname), top.get("Env", &c.env), top.get("Labels", &c.labels),
		c.host.get("NetworkMode", &c.mode), c.host.get("Dns", &c.dns), c.host.get("DnsSearch", &c.search),
	)
}

// plain says whether nobody chose a network for the container.
func (c *creation) plain() bool {
	return c.mode == "" || c.mode == "default" || c.mode == "bridge"
}

// variable returns the last value of an environment variable.
func (c *creation) variable(name string) (value string) {
	for _, kv := range c.env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// setNames gives the container a host name in the domain, unless its user gave
// one, and the name server, unless its user named one.
func (c *creation) setNames(cfg *Config, name string) error {
	domain := strings.TrimSuffix(cfg.Domain, ".")
	var errs []error
	if host := cfg.hostname(name, c.labels); host != "" && domain != "" && c.hostname == "" && c.domainname == "" {
		errs = append(errs, c.top.set("Hostname", host), c.top.set("Domainname", domain))
	}
	if cfg.DNS.IsValid() {
		if len(c.dns) == 0 {
			errs = append(errs, c.host.set("Dns", []netip.Addr{cfg.DNS}))
		}
		if len(c.search) == 0 && len(c.dns) == 0 && domain != "" {
			errs = append(errs, c.host.set("DnsSearch", []string{domain}))
		}
		errs = append(errs, c.top.set("HostConfig", c.host))
	}
	return errors.Join(errs...)
}

func (c *creation) body() ([]byte, error) { return marshal(c.top) }

// hostForm is a label of a host name; Docker's names have underscores, too.
var hostForm = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?$`)

// hostname returns the host name that a container should have: its name, or
// its label, with what --hostname-match found replaced. A name that cannot be
// that of a host gives none.
func (cfg *Config) hostname(name string, labels map[string]string) string {
	if v := labels[cfg.Label]; cfg.Label != "" && v != "" {
		name = v
	}
	if cfg.Match != nil {
		name = cfg.Match.ReplaceAllString(name, cfg.Replacement)
	}
	if !hostForm.MatchString(name) {
		return ""
	}
	return name
}

// rewriteInspection returns what docker inspect shows of a container with the
// address on the switch as the one that the container has, or nothing when
// there is none to show.
func rewriteInspection(body []byte, find func(id string) (netip.Prefix, string, bool)) ([]byte, error) {
	top, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	var id string
	if err := top.get("Id", &id); err != nil || id == "" {
		return nil, err
	}
	network, err := parseObject(top["NetworkSettings"])
	if err != nil || len(network) == 0 {
		return nil, err
	}
	at, mac, ok := find(id)
	if !ok {
		return nil, nil
	}
	err = errors.Join(network.set("IPAddress", at.Addr()), network.set("IPPrefixLen", at.Bits()),
		network.set("MacAddress", mac), top.set("NetworkSettings", network))
	if err != nil {
		return nil, err
	}
	return marshal(top)
}

package settings

import (
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/router/api"
)

// Proxy says how plain `docker run` gets the switch.
type Proxy struct {
	On     bool
	Listen []string // besides the socket: tcp://ADDRESS:PORT or unix:///PATH

	TLS       bool // on TCP
	TLSVerify bool // and clients need a certificate; TLS is on with it
	TLSCACert string
	TLSCert   string
	TLSKey    string

	NoDefaultIPAlloc    bool // leave containers alone that name no WEFT_CIDR
	NoRewriteHosts      bool
	RewriteInspect      bool
	HostnameFromLabel   string
	HostnameMatch       string // a regular expression, checked
	HostnameReplacement string
}

// dockerOptions is the part of the table that concerns Docker.
func dockerOptions() []option {
	flag := func(name, def, help string, to func(*Settings) *bool) option {
		return option{
			name: name, programs: run, def: def, help: help, isBool: true,
			set: func(s *Settings, v string) error { return boolean(to(s), v) },
		}
	}
	text := func(name, def, help string, to func(*Settings) *string) option {
		return option{
			name: name, programs: run, def: def, help: help,
			set: func(s *Settings, v string) error { *to(s) = v; return nil },
		}
	}
	file := func(name, help string, to func(*Settings) *string) option {
		return option{name: name, programs: run, help: help, set: func(s *Settings, v string) error {
			if v == "" {
				return nil
			}
			return path(to(s), v)
		}}
	}
	return []option{
		flag("plugin", "true", "serve Docker's network driver and address allocator 'weft'", func(s *Settings) *bool { return &s.Plugin }),
		{
			name: "plugin-socket", programs: run | Reset, def: DefaultPluginSocket,
			help: "where Docker finds the plugin: `FILE`.sock, which is also the driver's name", set: setPluginSocket,
		},
		flag("proxy", "true", "serve Docker's API for 'weft env': plain docker run gets the switch", func(s *Settings) *bool { return &s.Proxy.On }),
		{
			name: "proxy-listen", short: "H", programs: run, many: true, set: setProxyListen,
			help: "serve Docker's API at `tcp://ADDRESS:PORT|unix:///PATH`, too; may be repeated",
		},
		flag("tls", "", "use TLS where Docker's API is served on TCP; false serves it to everybody", func(s *Settings) *bool { return &s.Proxy.TLS }),
		flag("tlsverify", "", "use TLS there and let only clients with a certificate in", func(s *Settings) *bool { return &s.Proxy.TLSVerify }),
		file("tlscacert", "with --tlsverify: trust certificates signed by the one in `FILE`", func(s *Settings) *string { return &s.Proxy.TLSCACert }),
		file("tlscert", "with TLS: our certificate is in `FILE`", func(s *Settings) *string { return &s.Proxy.TLSCert }),
		file("tlskey", "with TLS: its key is in `FILE`", func(s *Settings) *string { return &s.Proxy.TLSKey }),
		flag("without-dns", "", "give Docker's containers no names, and leave their resolver alone", func(s *Settings) *bool { return &s.WithoutDNS }),
		flag("no-multicast-route", "", "do not route Docker's containers' multicast through the switch", func(s *Settings) *bool { return &s.NoMulticastRoute }),
		flag("no-rewrite-hosts", "", "leave the order of addresses in containers' /etc/hosts alone", func(s *Settings) *bool { return &s.Proxy.NoRewriteHosts }),
		flag("no-default-ipalloc", "", "plain docker run gets the switch only with WEFT_CIDR", func(s *Settings) *bool { return &s.Proxy.NoDefaultIPAlloc }),
		flag("rewrite-inspect", "", "let docker inspect through the proxy show the address on the switch", func(s *Settings) *bool { return &s.Proxy.RewriteInspect }),
		text("hostname-from-label", "", "name containers after their `LABEL`, where they have it", func(s *Settings) *string { return &s.Proxy.HostnameFromLabel }),
		{
			name: "hostname-match", programs: run, def: "(.*)", help: "make host names from containers' names: what matches `REGEXP` is replaced",
			set: func(s *Settings, v string) error {
				if _, err := regexp.Compile(v); err != nil {
					return invalid("want a regular expression: %v", err)
				}
				s.Proxy.HostnameMatch = v
				return nil
			},
		},
		text("hostname-replacement", "$1", "by `TEXT`, in which $1 is what the first group matched", func(s *Settings) *string { return &s.Proxy.HostnameReplacement }),
	}
}

// setPluginSocket takes a path of which a driver's name can be made.
func setPluginSocket(s *Settings, v string) error {
	name, ok := strings.CutSuffix(filepath.Base(v), ".sock")
	if api.CheckSocketPath(v) != nil || !ok || !regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`).MatchString(name) {
		return invalid("want an absolute path of at most 107 bytes that ends in NAME.sock, NAME in lower case")
	}
	s.PluginSocket = filepath.Clean(v)
	return nil
}

// PluginName is what Docker calls the driver of our networks.
func (s Settings) PluginName() string {
	return strings.TrimSuffix(filepath.Base(s.PluginSocket), ".sock")
}

// PluginDoor is where the daemon itself answers what Docker asks; the socket
// that Docker knows is held by another process.
func (s Settings) PluginDoor() string { return filepath.Join(filepath.Dir(s.Socket), "plugin.sock") }

// setProxyListen takes a list of endpoints, as dockerd's -H does.
func setProxyListen(s *Settings, v string) error {
	for one := range strings.SplitSeq(v, ",") {
		one = strings.TrimSpace(one)
		if one == "" {
			continue
		}
		kind, rest, _ := strings.Cut(one, "://")
		host, port, err := net.SplitHostPort(rest)
		n, perr := strconv.ParseUint(port, 10, 16)
		switch {
		case kind == "tcp" && err == nil && perr == nil && n > 0 && !strings.ContainsAny(host, "/ "):
		case kind == "unix" && api.CheckSocketPath(rest) == nil:
		default:
			return invalid("%q: want tcp://ADDRESS:PORT or unix:///PATH", one)
		}
		if !slices.Contains(s.Proxy.Listen, one) {
			s.Proxy.Listen = append(s.Proxy.Listen, one)
		}
	}
	return nil
}

// checkProxy refuses TLS that cannot work, and TCP without it unless somebody
// says that he wants it.
func (s *Settings) checkProxy() error {
	p := &s.Proxy
	p.TLS = p.TLS || p.TLSVerify
	tcp := slices.IndexFunc(p.Listen, func(e string) bool { return strings.HasPrefix(e, "tcp://") })
	switch {
	case p.TLS && (p.TLSCert == "" || p.TLSKey == ""):
		return invalid("--tls needs --tlscert and --tlskey")
	case p.TLSVerify && p.TLSCACert == "":
		return invalid("--tlsverify needs --tlscacert")
	case tcp >= 0 && !p.TLS && s.Sources["tls"] == "":
		return invalid("-H %s: whoever reaches that port is root on this host; give --tlsverify with --tlscacert, --tlscert and --tlskey, "+
			"or say --tls=false to serve it to everybody", p.Listen[tcp])
	}
	return nil
}

// ProxySocket is where the daemon serves Docker's API.
func (s Settings) ProxySocket() string { return filepath.Join(filepath.Dir(s.Socket), "docker.sock") }

// ProxyEndpoint is the same in the form of DOCKER_HOST.
func (s Settings) ProxyEndpoint() string {
	if filepath.Dir(s.Socket) == filepath.Dir(DefaultSocket) {
		return "unix:///var/run/weft/docker.sock" // as Docker's own is called
	}
	return "unix://" + s.ProxySocket()
}

// list is a flag that may be repeated; what was set is joined by commas.
type list struct {
	value string
	set   bool
}

func (l *list) String() string { return l.value }

func (l *list) Type() string { return "list" }

func (l *list) Set(v string) error {
	if l.set {
		v = l.value + "," + v
	}
	l.value, l.set = v, true
	return nil
}

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
	"github.com/weftnet/weft/mesh/ipam"
	"github.com/weftnet/weft/router/api"
)

// Program says whose flags are wanted.
type Program uint8

// The programs. A launch takes everything that the daemon takes, and secrets
// as arguments besides; every command takes what a client takes.
const (
	Launch Program = 1 << iota // weft launch
	Daemon                     // weftd
	Reset                      // weft reset, weftd reset
	Client                     // every other command of weft

	run = Launch | Daemon
	all = run | Reset | Client
)

// option is one row of the table. Its name is the flag; WEFT_ and the name in
// capitals is the variable; the name is the YAML key.
type option struct {
	name     string
	programs Program
	def      string // as people would type it
	help     string // one line; the word in back quotes names the value
	isBool   bool
	secret   bool // never shown, never handed on by argument or environment
	noFile   bool // not a YAML key
	set      func(*Settings, string) error
}

// options is the table, in the order in which help shows it.
func options() []option {
	return []option{
		{
			name: "cluster", programs: run, def: "weft", help: "call the cluster `NAME`; hosts of another one are refused",
			set: func(s *Settings, v string) error { return label(&s.Cluster, v, 64) },
		},
		// The three secrets are taken together, in secret.go.
		{name: "password", programs: Launch, secret: true, help: "password of the cluster: `TEXT` of at least 14 characters"},
		{name: "password-file", programs: run, secret: true, help: "password of the cluster: the first line of `FILE`; - is standard input"},
		{name: "token", programs: Launch, secret: true, help: "secret of the cluster: `TOKEN` as 'weft token' prints it on another host"},
		{
			name: "weak-password", programs: run, isBool: true, help: "take a password of less than 14 characters",
			set: func(s *Settings, v string) error { return boolean(&s.WeakPassword, v) },
		},
		{name: "host", programs: run, help: "tell other hosts to reach this one at `ADDRESS`[,ADDRESS …] first", set: setHosts},
		{name: "port", programs: run, def: "6783", help: "introduction and relay use TCP and UDP `PORT`, WireGuard the next one", set: setPort},
		{
			name: "name", programs: run, help: "call this peer `NAME`, six octets, instead of the derived one; stays until reset",
			set: func(s *Settings, v string) (err error) {
				if v == "" {
					return nil
				}
				if s.Name, err = crypto.ParseName(v); err != nil {
					return err
				}
				return s.Name.Check()
			},
		},
		{
			name: "nickname", programs: run, help: "call this peer `NAME` towards people (default: what the host is called)",
			set: func(s *Settings, v string) error { return label(&s.Nickname, v, advert.MaxNickname) },
		},
		{
			name: "resume", programs: run, isBool: true, help: "keep the peers of the last run",
			set: func(s *Settings, v string) error { return boolean(&s.Resume, v) },
		},
		{
			name: "no-discovery", programs: run, isBool: true, help: "introduce only to the peers named, and dial no other; those are reached through relays",
			set: func(s *Settings, v string) error { return boolean(&s.NoDiscovery, v) },
		},
		{
			name: "conn-limit", programs: run, def: "200", help: "dial at most `NUMBER` peers, and reach the others through relays; 0 is no limit",
			set: func(s *Settings, v string) error { return number(&s.ConnLimit, v, 0, 65535) },
		},
		{
			name: "datapath", programs: run, def: "auto", help: "let `auto|kernel|userspace` move the packets",
			set: func(s *Settings, v string) error { return oneOf(&s.Datapath, v, "auto", "kernel", "userspace") },
		},
		{
			name: "offload", programs: run, def: "auto", help: "let `auto|off` decide whether the userspace switch port moves TCP in pieces of up to 64 kB",
			set: func(s *Settings, v string) error { return oneOf(&s.Offload, v, "auto", "off") },
		},
		{name: "mtu", programs: run, def: "0", help: "let the switch carry packets of `BYTES`; 0 chooses from the underlay", set: setMTU},
		{
			name: "no-dns", programs: run, isBool: true, help: "do not serve names",
			set: func(s *Settings, v string) error { return boolean(&s.NoDNS, v) },
		},
		{name: "dns-domain", programs: run, def: "weft.internal.", help: "give containers names in `DOMAIN`", set: setDomain},
		{name: "dns-listen-address", programs: run, def: "169.254.67.83:53", help: "let the name server listen on `ADDRESS`[:PORT]", set: setDNSListen},
		{
			name: "dns-ttl", programs: run, def: "1", help: "let answers be kept for `SECONDS`",
			set: func(s *Settings, v string) error {
				var n int
				if err := number(&n, v, 0, 86400); err != nil {
					return err
				}
				s.DNSTTL = uint32(n)
				return nil
			},
		},
		{
			name: "resolv-conf", programs: run, def: "/etc/resolv.conf", help: "ask the servers that `FILE` names about other domains",
			set: func(s *Settings, v string) error { return path(&s.ResolvConf, v) },
		},
		{
			name: "ipalloc-range", programs: run, def: "10.32.0.0/12", help: "give containers addresses in `CIDR`, the same on every host; empty turns the allocator off",
			set: setRange,
		},
		{
			name: "ipalloc-default-subnet", programs: run, help: "give addresses in `CIDR` when no subnet is asked for (default: the whole range)",
			set: func(s *Settings, v string) error {
				if v == "" {
					return nil
				}
				return network(&s.DefaultSubnet, v)
			},
		},
		{
			name: "ipalloc-init", programs: run, def: "consensus", help: "divide the range as `consensus[=n]|seed=NAME,…|observer` says, once",
			set: func(s *Settings, v string) (err error) {
				if s.Division, err = ipam.ParseMode(v); err != nil {
					return invalid("%v", err)
				}
				return nil
			},
		},
		{
			name: "ipalloc-reclaim-after", programs: run, def: "24h", help: "ask for rmpeer when a host with address space was out of reach for `TIME`; 0 never does",
			set: func(s *Settings, v string) error { return duration(&s.ReclaimAfter, v) },
		},
		{
			name: "state-dir", programs: run | Reset, def: DefaultStateDir, help: "keep identity, secret and journal in `DIRECTORY`",
			set: func(s *Settings, v string) error { return path(&s.StateDir, v) },
		},
		{
			name: "socket", programs: all, def: DefaultSocket, help: "reach the daemon at the unix socket `FILE`",
			set: func(s *Settings, v string) error {
				if err := api.CheckSocketPath(v); err != nil {
					return invalid("want an absolute path of at most 107 bytes")
				}
				s.Socket = v
				return nil
			},
		},
		{
			name: "config", programs: all, def: DefaultConfig, help: "read settings from `FILE`", noFile: true,
			set: func(s *Settings, v string) error { return path(&s.Config, v) },
		},
		{name: "status-addr", programs: run, def: "127.0.0.1:6782", help: "serve status and metrics at `ADDRESS:PORT`; empty for none", set: setStatusAddr},
		{
			name: "log-level", programs: run, def: "info", help: "log what is at least `debug|info|warning|error`",
			set: func(s *Settings, v string) error {
				return oneOf(&s.LogLevel, v, "debug", "info", "warning", "error")
			},
		},
		{
			name: "log-format", programs: run, def: "text", help: "log in the form `text|json`",
			set: func(s *Settings, v string) error { return oneOf(&s.LogFormat, v, "text", "json") },
		},
	}
}

func find(name string) (option, bool) {
	table := options()
	i := slices.IndexFunc(table, func(o option) bool { return o.name == name })
	if i < 0 {
		return option{}, false
	}
	return table[i], true
}

// variable is the name of an option in the environment.
func (o option) variable() string {
	return "WEFT_" + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
}

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

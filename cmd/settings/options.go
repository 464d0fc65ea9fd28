package settings

import (
	"slices"
	"strings"

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
	short    string // one letter, as a flag; mostly none
	isBool   bool
	many     bool // the flag may be repeated
	secret   bool // never shown, never handed on by argument or environment
	noFile   bool // not a YAML key
	noFlag   bool // not a flag: arguments say it
	set      func(*Settings, string) error
}

// options is the table, in the order in which help shows it.
func options() []option {
	return slices.Concat(clusterOptions(), peerOptions(), packetOptions(), nameOptions(), addressOptions(), daemonOptions(), dockerOptions())
}

// clusterOptions say which cluster this is, and who may be in it.
func clusterOptions() []option {
	return []option{
		{
			name: "cluster", programs: run, def: "weft", help: "call the cluster `NAME`; hosts of another one are refused",
			set: func(s *Settings, v string) error { return label(&s.Cluster, v, 64) },
		},
		// The secrets are taken together, in secret.go.
		{name: "password", programs: Launch, secret: true, help: "password of the cluster: `TEXT` of at least 14 characters"},
		{name: "password-file", programs: run, secret: true, help: "password of the cluster: the first line of `FILE`; - is standard input"},
		{name: "token", programs: Launch, secret: true, help: "secret of the cluster: `TOKEN` as 'weft token' prints it on another host"},
		{name: "token-file", programs: run, secret: true, help: "secret of the cluster: a token, the first line of `FILE`; - is standard input"},
		{
			name: "weak-password", programs: run, isBool: true, help: "take a password of less than 14 characters",
			set: func(s *Settings, v string) error { return boolean(&s.WeakPassword, v) },
		},
	}
}

// peerOptions say what this peer is called, where others reach it, and whom it looks for.
func peerOptions() []option {
	return []option{
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
			name: "peers", programs: run, noFlag: true, help: "join these `PEER`[,PEER …], IP-OR-NAME[:PORT]; those named to weft launch come instead",
			set: setPeers,
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
	}
}

// packetOptions say how packets are moved.
func packetOptions() []option {
	return []option{
		{
			name: "datapath", programs: run, def: "auto", help: "let `auto|kernel|userspace` move the packets",
			set: func(s *Settings, v string) error { return oneOf(&s.Datapath, v, "auto", "kernel", "userspace") },
		},
		{
			name: "offload", programs: run, def: "auto", help: "let `auto|off` decide whether the userspace data path moves packets in pieces of 64 kB",
			set: func(s *Settings, v string) error { return oneOf(&s.Offload, v, "auto", "off") },
		},
		{name: "mtu", programs: run, def: "0", help: "let the switch carry packets of `BYTES`; 0 chooses from the underlay", set: setMTU},
	}
}

// nameOptions say how names are served.
func nameOptions() []option {
	return []option{
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
	}
}

// addressOptions say which addresses containers get.
func addressOptions() []option {
	return []option{
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
	}
}

// daemonOptions say where the daemon keeps, shows and logs what.
func daemonOptions() []option {
	return []option{
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
			name: "ui", programs: run, isBool: true, help: "show the picture at the status address, to those whom 'weft ui' gives a way in",
			set: func(s *Settings, v string) error { return boolean(&s.UI, v) },
		},
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

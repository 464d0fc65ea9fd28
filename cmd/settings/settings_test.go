package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam"
	"github.com/weftnet/weft/router/api"
)

// input is one way to start a program.
type input struct {
	program Program
	args    []string
	environ []string
	yaml    string // contents of the configuration file; empty: there is none
	stdin   string
}

// load parses as a program would. @dir stands for the directory of
// the configuration file, DIR for it in the answer.
func (in input) load(t *testing.T) (Settings, error) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "weft.yaml")
	expand := strings.NewReplacer("@dir", dir)
	if in.yaml != "" {
		if err := os.WriteFile(config, []byte(expand.Replace(in.yaml)), 0o600); err != nil {
			t.Fatal(err)
		}
		in.environ = append(in.environ, "WEFT_CONFIG="+config)
	}
	for i := range in.args {
		in.args[i] = expand.Replace(in.args[i])
	}
	for i := range in.environ {
		in.environ[i] = expand.Replace(in.environ[i])
	}
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("a long enough password\r\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "token"), []byte(crypto.Token{Secret: crypto.Secret{1}}.String()+"\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "open"), []byte("a long enough password\n"), 0o604),
		os.Mkdir(filepath.Join(dir, "credentials"), 0o700), os.Mkdir(filepath.Join(dir, "both"), 0o700),
		os.Symlink("../token", filepath.Join(dir, "credentials/weft.token")),
		os.Symlink("../token", filepath.Join(dir, "both/weft.token")), os.Symlink("../password", filepath.Join(dir, "both/weft.password")),
	); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(flags, in.program)
	if err := flags.Parse(in.args); err != nil {
		return Settings{}, err
	}
	s, err := Load(in.program, Source{Flags: flags, Environ: in.environ, Stdin: strings.NewReader(in.stdin)}, flags.Args())
	if err != nil {
		return s, errors.Join(errors.New(strings.NewReplacer(dir, "DIR").Replace(err.Error())), errors.Unwrap(err))
	}
	s.Config = strings.Replace(s.Config, dir, "DIR", 1)
	for k, v := range s.Sources {
		s.Sources[k] = strings.Replace(v, dir, "DIR", 1)
	}
	return s, nil
}

func defaults(t *testing.T) Settings {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return Settings{
		Cluster: "weft", Port: 6783, Nickname: host, ConnLimit: 200, Datapath: "auto", Offload: "auto",
		DNSDomain: "weft.internal.", DNSListen: netip.MustParseAddrPort("169.254.67.83:53"), DNSTTL: 1,
		Range: netip.MustParsePrefix("10.32.0.0/12"), DefaultSubnet: netip.MustParsePrefix("10.32.0.0/12"), ReclaimAfter: 24 * time.Hour,
		Plugin: true, PluginSocket: "/run/docker/plugins/weft.sock", Proxy: Proxy{On: true, HostnameMatch: "(.*)", HostnameReplacement: "$1"},
		ResolvConf: "/etc/resolv.conf", StateDir: "/var/lib/weft", Socket: "/run/weft/weft.sock",
		Config: "/etc/weft/weft.yaml", StatusAddr: "127.0.0.1:6782", LogLevel: "info", LogFormat: "text",
		Sources: map[string]string{},
	}
}

func TestLoad(t *testing.T) {
	token := crypto.Token{Secret: crypto.Secret{1}}.String()
	tests := []struct {
		name string
		in   input
		want func(*Settings)
	}{
		{"nothing", input{program: Daemon}, func(*Settings) {}},
		{"everything by flag", input{program: Launch, args: []string{
			"--cluster=c", "--weak-password", "--password=short", "--host=192.0.2.1,2001:db8::1", "--port=7000", "--name=::1", "--nickname=nick",
			"--no-discovery", "--conn-limit=0", "--datapath=kernel", "--offload=off", "--mtu=1400", "--no-dns", "--dns-domain=Example.Internal",
			"--dns-listen-address=127.0.0.53", "--dns-ttl=0", "--resolv-conf=/etc/r", "--state-dir=/s/", "--socket=/x/weft.sock",
			"--ipalloc-range=10.128.0.0/10", "--ipalloc-default-subnet=10.129.0.0/16", "--ipalloc-init=seed=::2,::1", "--ipalloc-reclaim-after=90m",
			"--plugin=false", "--plugin-socket=/p/weft2.sock", "--proxy=false", "-H", "tcp://0.0.0.0:2376", "-H=unix:///x/d.sock", "--proxy-listen=tcp://[::1]:2376,unix:///x/d.sock",
			"--tls", "--tlsverify", "--tlscacert=/t/ca", "--tlscert=/t/cert", "--tlskey=/t/key", "--without-dns", "--no-multicast-route",
			"--no-rewrite-hosts", "--no-default-ipalloc", "--rewrite-inspect", "--hostname-from-label=host", "--hostname-match=^a(.)", "--hostname-replacement=b$1",
			"--status-addr=", "--ui", "--log-level=debug", "--log-format=json", "host2", "192.0.2.3:7000", "host2",
		}}, func(s *Settings) {
			*s = Settings{
				Cluster: "c", Secret: Secret{Password: "short"}, WeakPassword: true,
				Hosts: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, Port: 7000,
				Name: crypto.Name{5: 1}, Nickname: "nick", Targets: []string{"host2", "192.0.2.3:7000"}, NoDiscovery: true,
				Datapath: "kernel", Offload: "off", MTU: 1400, NoDNS: true, DNSDomain: "example.internal.", DNSListen: netip.MustParseAddrPort("127.0.0.53:53"),
				Range: netip.MustParsePrefix("10.128.0.0/10"), DefaultSubnet: netip.MustParsePrefix("10.129.0.0/16"), ReclaimAfter: 90 * time.Minute,
				PluginSocket: "/p/weft2.sock", WithoutDNS: true, NoMulticastRoute: true,
				Proxy: Proxy{
					Listen: []string{"tcp://0.0.0.0:2376", "unix:///x/d.sock", "tcp://[::1]:2376"},
					TLS:    true, TLSVerify: true, TLSCACert: "/t/ca", TLSCert: "/t/cert", TLSKey: "/t/key",
					NoDefaultIPAlloc: true, NoRewriteHosts: true, RewriteInspect: true,
					HostnameFromLabel: "host", HostnameMatch: "^a(.)", HostnameReplacement: "b$1",
				},
				Division:   ipam.Mode{Kind: ipam.ModeSeed, Seeds: []crypto.Name{{5: 1}, {5: 2}}},
				ResolvConf: "/etc/r", StateDir: "/s", Socket: "/x/weft.sock", Config: "/etc/weft/weft.yaml", LogLevel: "debug", LogFormat: "json", UI: true,
				Sources: map[string]string{},
			}
			for _, o := range options() {
				if o.name != "config" && o.name != "token" && !strings.HasSuffix(o.name, "-file") && o.name != "resume" && !o.noFlag {
					s.Sources[o.name] = "--" + o.name
				}
			}
		}},
		{"flags beat variables beat file beats defaults", input{
			program: Launch, args: []string{"--nickname=flag"},
			environ: []string{"WEFT_NICKNAME=env", "WEFT_CLUSTER=env", "PATH=/bin"},
			yaml:    "nickname: file\ncluster: file\nport: 7000\n",
		}, func(s *Settings) {
			s.Nickname, s.Cluster, s.Port, s.Config = "flag", "env", 7000, "DIR/weft.yaml"
			s.Sources = map[string]string{"nickname": "--nickname", "cluster": "WEFT_CLUSTER", "port": "DIR/weft.yaml", "config": "WEFT_CONFIG"}
		}},
		{"a switch can be switched off again", input{
			program: Launch, args: []string{"--no-dns=false"}, environ: []string{"WEFT_NO_DISCOVERY=1"}, yaml: "no-dns: true\nresume: true\n",
		}, func(s *Settings) {
			s.NoDiscovery, s.Resume, s.Config = true, true, "DIR/weft.yaml"
			s.Sources = map[string]string{"no-dns": "--no-dns", "no-discovery": "WEFT_NO_DISCOVERY", "resume": "DIR/weft.yaml", "config": "WEFT_CONFIG"}
		}},
		{"unknown and empty variables are none", input{
			program: Daemon, environ: []string{"WEFT_CIDR=10.32.0.1/12", "WEFT_PORT=", "WEFT_log_level=debug", "WEFT_=x", "WEFT", "weft_port=1"},
		}, func(*Settings) {}},
		{"lists in the file", input{program: Daemon, yaml: "host: [192.0.2.1, '2001:db8::1']\nname: '02:00:00:00:00:01'\n"}, func(s *Settings) {
			s.Hosts = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
			s.Name, s.Config = crypto.Name{2, 0, 0, 0, 0, 1}, "DIR/weft.yaml"
			s.Sources = map[string]string{"host": "DIR/weft.yaml", "name": "DIR/weft.yaml", "config": "WEFT_CONFIG"}
		}},
		{"TCP for everybody, because somebody says so", input{program: Launch, args: []string{"-H", "tcp://127.0.0.1:2375", "--tls=false"}}, func(s *Settings) {
			s.Proxy.Listen = []string{"tcp://127.0.0.1:2375"}
			s.Sources = map[string]string{"proxy-listen": "--proxy-listen", "tls": "--tls"}
		}},
		{"endpoints in the file", input{program: Daemon, yaml: "proxy-listen: [unix:///a, unix:///b]\nproxy: false\n"}, func(s *Settings) {
			s.Proxy.On, s.Proxy.Listen, s.Config = false, []string{"unix:///a", "unix:///b"}, "DIR/weft.yaml"
			s.Sources = map[string]string{"proxy-listen": "DIR/weft.yaml", "proxy": "DIR/weft.yaml", "config": "WEFT_CONFIG"}
		}},
		{"an empty file", input{program: Daemon, yaml: "# nothing\n"}, func(s *Settings) {
			s.Config, s.Sources = "DIR/weft.yaml", map[string]string{"config": "WEFT_CONFIG"}
		}},
		{"no allocator", input{program: Daemon, args: []string{"--ipalloc-range=", "--ipalloc-default-subnet=10.129.0.0/16"}}, func(s *Settings) {
			s.Range, s.DefaultSubnet = netip.Prefix{}, netip.Prefix{}
			s.Sources = map[string]string{"ipalloc-range": "--ipalloc-range", "ipalloc-default-subnet": "--ipalloc-default-subnet"}
		}},
		{"token beats the password of a weaker layer", input{
			program: Launch, args: []string{"--token=" + token}, environ: []string{"WEFT_PASSWORD=a long enough password"},
		}, func(s *Settings) {
			s.Secret = Secret{Token: token}
			s.Sources = map[string]string{"token": "--token", "password": "WEFT_PASSWORD"}
		}},
		{"password from a file", input{program: Daemon, args: []string{"--password-file=@dir/password"}}, func(s *Settings) {
			s.Secret, s.Sources = Secret{Password: "a long enough password"}, map[string]string{"password-file": "--password-file"}
		}},
		{"password from standard input", input{program: Launch, environ: []string{"WEFT_PASSWORD_FILE=-"}, stdin: "a long enough password"}, func(s *Settings) {
			s.Secret, s.Sources = Secret{Password: "a long enough password"}, map[string]string{"password-file": "WEFT_PASSWORD_FILE"}
		}},
		{"token from a file", input{program: Launch, args: []string{"--token-file=@dir/token"}}, func(s *Settings) {
			s.Secret, s.Sources = Secret{Token: token}, map[string]string{"token-file": "--token-file"}
		}},
		{"a credential", input{program: Daemon, environ: []string{"CREDENTIALS_DIRECTORY=@dir/credentials"}}, func(s *Settings) {
			s.Secret = Secret{Token: token}
		}},
		{"everything beats a credential", input{program: Daemon, args: []string{"--password-file=@dir/password"}, environ: []string{"CREDENTIALS_DIRECTORY=@dir/credentials"}}, func(s *Settings) {
			s.Secret, s.Sources = Secret{Password: "a long enough password"}, map[string]string{"password-file": "--password-file"}
		}},
		{"credentials are a daemon's", input{program: Launch, environ: []string{"CREDENTIALS_DIRECTORY=@dir/credentials"}}, func(*Settings) {}},
		{"peers of the file", input{program: Daemon, yaml: "peers: [host2, '192.0.2.3:7000']\nresume: true\n"}, func(s *Settings) {
			s.Targets, s.Resume, s.Config = []string{"host2", "192.0.2.3:7000"}, true, "DIR/weft.yaml"
			s.Sources = map[string]string{"peers": "DIR/weft.yaml", "resume": "DIR/weft.yaml", "config": "WEFT_CONFIG"}
		}},
		{"peers named come instead", input{program: Launch, args: []string{"host4"}, environ: []string{"WEFT_PEERS=host2,host3"}}, func(s *Settings) {
			s.Targets, s.Sources = []string{"host4"}, map[string]string{"peers": "WEFT_PEERS"}
		}},
		{"a daemon's token from the file", input{program: Daemon, yaml: "token: " + token + "\n"}, func(s *Settings) {
			s.Secret, s.Config = Secret{Token: token}, "DIR/weft.yaml"
			s.Sources = map[string]string{"config": "WEFT_CONFIG"}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := defaults(t)
			tt.want(&want)
			got, err := tt.in.load(t)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	flag := func(arg string) input { return input{program: Launch, args: []string{arg}} }
	label := "want 1 to 64 bytes without spaces and control characters"
	tests := []struct {
		in   input
		want string
	}{
		{flag("--cluster="), "--cluster=: " + label},
		{flag("--cluster=a b"), "--cluster=a b: " + label},
		{flag("--nickname=" + strings.Repeat("x", 65)), "--nickname=" + strings.Repeat("x", 65) + ": " + label},
		{flag("--host=host1"), `--host=host1: "host1" is not an address`},
		{flag("--host=127.0.0.1"), "--host=127.0.0.1: other hosts cannot reach this one at 127.0.0.1"},
		{flag("--host=192.0.2.1,fd77:6566:7400::1"), "--host=192.0.2.1,fd77:6566:7400::1: other hosts cannot reach this one at fd77:6566:7400::1"},
		{flag("--port=0"), "--port=0: want a number from 1 to 65534"},
		{flag("--port=65535"), "--port=65535: want a number from 1 to 65534"},
		{flag("--port=6784"), "--port=6784: the port and the next one must not be 6785 or 6786, which VXLAN and gossip have"},
		{flag("--conn-limit=-1"), "--conn-limit=-1: want a number from 0 to 65535"},
		{flag("--datapath=fast"), "--datapath=fast: want auto, kernel or userspace"},
		{flag("--offload=on"), "--offload=on: want auto or off"},
		{flag("--mtu=100"), "--mtu=100: want 0 or a number from 576 to 9216"},
		{flag("--mtu=10000"), "--mtu=10000: want a number from 0 to 9216"},
		{flag("--dns-domain=."), "--dns-domain=.: want a domain name such as weft.internal."},
		{flag("--dns-listen-address=dns"), "--dns-listen-address=dns: want an address with or without port, such as 169.254.67.83:53"},
		{flag("--ipalloc-range=10.32.0.1/12"), "--ipalloc-range=10.32.0.1/12: 10.32.0.1/12 is an address, its network is 10.32.0.0/12"},
		{flag("--ipalloc-range=10.32.0.0"), "--ipalloc-range=10.32.0.0: want an IPv4 network such as 10.32.0.0/12"},
		{flag("--ipalloc-range=fd00::/64"), "--ipalloc-range=fd00::/64: want an IPv4 network such as 10.32.0.0/12"},
		{flag("--ipalloc-range=10.0.0.0/31"), "--ipalloc-range=10.0.0.0/31: want a network from /8 to /30"},
		{flag("--ipalloc-range=127.0.0.0/8"), "--ipalloc-range=127.0.0.0/8: 127.0.0.0/8 cannot be given to containers"},
		{flag("--ipalloc-range=169.0.0.0/8"), "--ipalloc-range=169.0.0.0/8: 169.0.0.0/8 overlaps 169.254.0.0/16, in which the name server listens"},
		{flag("--ipalloc-default-subnet=10.48.0.0/16"), "--ipalloc-default-subnet: 10.48.0.0/16 is not inside the range 10.32.0.0/12"},
		{flag("--ipalloc-default-subnet=10.0.0.0/8"), "--ipalloc-default-subnet: 10.0.0.0/8 is not inside the range 10.32.0.0/12"},
		{flag("--ipalloc-init=majority"), "--ipalloc-init=majority: allocator mode \"majority\": want consensus, consensus=N, seed=NAME,… or observer"},
		{flag("--ipalloc-reclaim-after=-1h"), "--ipalloc-reclaim-after=-1h: want a time such as 90m or 24h"},
		{flag("--dns-ttl=1s"), "--dns-ttl=1s: want a number from 0 to 86400"},
		{flag("--resolv-conf=resolv.conf"), "--resolv-conf=resolv.conf: want an absolute path"},
		{flag("--state-dir=/"), "--state-dir=/: want an absolute path"},
		{flag("--socket=weft.sock"), "--socket=weft.sock: want an absolute path of at most 107 bytes"},
		{flag("--status-addr=6782"), "--status-addr=6782: want ADDRESS:PORT such as 127.0.0.1:6782"},
		{flag("--plugin-socket=/run/docker/plugins/weft"), "--plugin-socket=/run/docker/plugins/weft: want an absolute path of at most 107 bytes that ends in NAME.sock, NAME in lower case"},
		{flag("--proxy-listen=2376"), `--proxy-listen=2376: "2376": want tcp://ADDRESS:PORT or unix:///PATH`},
		{flag("-Htcp://0.0.0.0"), `--proxy-listen=tcp://0.0.0.0: "tcp://0.0.0.0": want tcp://ADDRESS:PORT or unix:///PATH`},
		{flag("-Hunix://d.sock"), `--proxy-listen=unix://d.sock: "unix://d.sock": want tcp://ADDRESS:PORT or unix:///PATH`},
		{flag("-Htcp://127.0.0.1:2375"), "-H tcp://127.0.0.1:2375: whoever reaches that port is root on this host; give --tlsverify with --tlscacert, --tlscert and --tlskey, " +
			"or say --tls=false to serve it to everybody"},
		{flag("--tls"), "--tls needs --tlscert and --tlskey"},
		{input{program: Launch, args: []string{"--tlsverify", "--tlscert=/c", "--tlskey=/k"}}, "--tlsverify needs --tlscacert"},
		{flag("--tlscert=c.pem"), "--tlscert=c.pem: want an absolute path"},
		{flag("--hostname-match=("), "--hostname-match=(: want a regular expression: error parsing regexp: missing closing ): `(`"},
		{flag("--log-level=warn"), "--log-level=warn: want debug, info, warning or error"},
		{flag("--log-format=xml"), "--log-format=xml: want text or json"},
		{flag("host:0"), `peer "host:0": want IP-OR-NAME[:PORT] with a port from 1 to 65535`},
		{input{program: Launch, args: []string{"--resume", "host2"}}, "--resume keeps the peers of the last run: name none, or leave it out"},
		{flag("--config=/none/weft.yaml"), "read settings: open /none/weft.yaml: no such file or directory"},

		{flag("--token=x"), `--token: token does not begin with "weft1."; print one with 'weft token' on a host of the cluster`},
		{flag("--password=short"), "--password: password is too short: use at least 14 characters, a token, or --weak-password"},
		{flag("--password="), "--password: password is empty"},
		{flag("--password=" + strings.Repeat("x", 5000)), "--password: password is longer than 4096 bytes"},
		{flag("--password-file=/none"), "--password-file /none: open /none: no such file or directory"},
		{input{program: Launch, args: []string{"--password-file=-"}}, "--password-file -: password is empty"},
		{input{program: Launch, args: []string{"--password=a long enough password", "--token=x"}}, "--password and --token are two secrets; give one"},
		{input{program: Daemon, environ: []string{"WEFT_TOKEN=x"}}, "WEFT_TOKEN: weftd takes no secret from its environment; use --password-file, or 'weft launch'"},
		{input{program: Daemon, args: []string{"--secret-fd=99"}}, "read secret: read secret-fd: bad file descriptor"},

		{input{program: Launch, environ: []string{"WEFT_PORT=x"}}, "WEFT_PORT=x: want a number from 1 to 65534"},
		{input{program: Launch, environ: []string{"WEFT_NO_DNS=maybe"}}, "WEFT_NO_DNS=maybe: want true or false"},
		{input{program: Launch, yaml: "# first\nport: 70000"}, "DIR/weft.yaml:2: port: 70000: want a number from 1 to 65534"},
		{input{program: Launch, yaml: "port: {a: 1}"}, "DIR/weft.yaml:1: port: want one value"},
		{input{program: Launch, yaml: "colour: red\nsize: 1"}, `DIR/weft.yaml:1: unknown key "colour"`},
		{input{program: Launch, yaml: "config: /x"}, `DIR/weft.yaml:1: unknown key "config"`},
		{input{program: Launch, yaml: "secret-fd: 3"}, `DIR/weft.yaml:1: unknown key "secret-fd"`},
		{input{program: Daemon, yaml: "port: 7000\nlog_level: debug"}, `DIR/weft.yaml:2: unknown key "log_level", did you mean log-level?`},
		{input{program: Daemon, yaml: "port: 7000\nport: 7001"}, `read settings: DIR/weft.yaml: yaml: unmarshal errors: line 2: mapping key "port" already defined at line 1`},
		{input{program: Daemon, yaml: "peers: [host2, 'host:0']"}, `DIR/weft.yaml:1: peers: host2,host:0: peer "host:0": want IP-OR-NAME[:PORT] with a port from 1 to 65535`},
		{input{program: Daemon, args: []string{"--token-file=@dir/password"}}, `--token-file DIR/password: token does not begin with "weft1."; print one with 'weft token' on a host of the cluster`},
		{input{program: Daemon, args: []string{"--password-file=@dir/open"}}, "--password-file DIR/open: everybody on this host can open the secret: run 'chmod 600 DIR/open'"},
		{input{program: Daemon, environ: []string{"CREDENTIALS_DIRECTORY=@dir/both"}}, "the credentials weft.token and weft.password are two secrets; give one"},
		{input{program: Daemon, yaml: "- a list"}, "read settings: DIR/weft.yaml: yaml: unmarshal errors: line 1: cannot unmarshal !!seq into map[string]interface {}"},
		{input{program: Client, yaml: "socket: a: b"}, "read settings: DIR/weft.yaml: yaml: mapping values are not allowed in this context"},
		{input{program: Client, yaml: "socket: weft.sock"}, "DIR/weft.yaml:1: socket: weft.sock: want an absolute path of at most 107 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			_, err := tt.in.load(t)
			if err == nil {
				t.Fatal("no error")
			}
			text, _, _ := strings.Cut(err.Error(), "\n") // the class is joined to it
			if text != tt.want {
				t.Errorf("error\n%s\nwant\n%s", text, tt.want)
			}
			if !errors.Is(err, api.ErrUsage) && !strings.HasPrefix(tt.want, "read secret") {
				t.Errorf("%v is not api.ErrUsage", err)
			}
			for _, secret := range []string{"short", "long enough"} {
				if strings.Contains(strings.ReplaceAll(text, "too short", ""), secret) {
					t.Errorf("the error tells a secret: %s", text)
				}
			}
		})
	}
}

// TestClientNeedsLittle: what concerns only the daemon does not keep a command
// from reaching it.
func TestClientNeedsLittle(t *testing.T) {
	s, err := input{program: Client, yaml: "socket: /x/weft.sock\nport: 70000\ncolour: red\n"}.load(t)
	if err != nil || s.Socket != "/x/weft.sock" {
		t.Errorf("socket %q, %v", s.Socket, err)
	}
	s, err = input{program: Reset, args: []string{"--socket=/y"}, environ: []string{"WEFT_STATE_DIR=/s"}}.load(t)
	if err != nil || s.Socket != "/y" || s.StateDir != "/s" || s.LogFile() != "/weftd.log" {
		t.Errorf("socket %q, state %q, log %q, %v", s.Socket, s.StateDir, s.LogFile(), err)
	}
}

func TestOnlyWhatWorksExists(t *testing.T) {
	for p, unknown := range map[Program][]string{
		Launch: {"secret-fd", "no-restart", "trusted-subnets"},
		Daemon: {"password", "token"},
		Reset:  {"port", "token"},
		Client: {"state-dir", "port"},
	} {
		for _, name := range unknown {
			if _, err := (input{program: p, args: []string{"--" + name + "=1"}}).load(t); err == nil || !strings.Contains(err.Error(), "unknown flag") {
				t.Errorf("program %d takes --%s: %v", p, name, err)
			}
		}
	}
}

func TestDaemonArgsAndEnviron(t *testing.T) {
	flags := pflag.NewFlagSet("launch", pflag.ContinueOnError)
	AddFlags(flags, Launch)
	err := flags.Parse([]string{"--port=7000", "--no-dns", "-H", "unix:///a", "-H", "unix:///b", "--proxy=false", "--resume=false", "--password=very secret", "--password-file=/p", "--token=t", "--status-addr=", "x"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"--port=7000", "--resume=false", "--no-dns=true", "--status-addr=", "--proxy=false", "--proxy-listen=unix:///a,unix:///b"}
	if diff := cmp.Diff(want, DaemonArgs(flags, Daemon)); diff != "" {
		t.Error(diff)
	}
	if got := DaemonArgs(flags, Reset); len(got) != 0 {
		t.Errorf("reset gets %q", got)
	}
	in := []string{"PATH=/bin", "WEFT_PASSWORD=x", "WEFT_TOKEN=y", "WEFT_PASSWORD_FILE=/z", "WEFT_PORT=7000", "WEFT_TOKENS=z"}
	if diff := cmp.Diff([]string{"PATH=/bin", "WEFT_PORT=7000", "WEFT_TOKENS=z"}, ChildEnviron(in)); diff != "" {
		t.Error(diff)
	}
}

// TestTable holds the rows together: each has a help text, a default that its
// own check takes, and a variable that leads back to it.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range options() {
		if seen[o.name] || o.help == "" || o.programs == 0 {
			t.Errorf("%s: twice, without help, or for nobody", o.name)
		}
		seen[o.name] = true
		if o.isBool && o.def != "" && o.def != "true" {
			t.Errorf("%s: default %q", o.name, o.def)
		}
		if !o.isBool && strings.Count(o.help, "`") != 2 {
			t.Errorf("%s: help %q names no value", o.name, o.help)
		}
		if o.set == nil != o.secret {
			t.Errorf("%s: a secret has no set, everything else has", o.name)
		}
		if o.set != nil && !o.isBool && o.name != "nickname" {
			if err := o.set(&Settings{}, o.def); err != nil {
				t.Errorf("%s: default %q: %v", o.name, o.def, err)
			}
		}
		if len(o.help) > 90 {
			t.Errorf("%s: help of %d bytes does not fit a line", o.name, len(o.help))
		}
	}
}

func TestCheckSecret(t *testing.T) {
	empty, kept := t.TempDir(), t.TempDir()
	if _, err := crypto.SaveSecret(kept, crypto.Secret{1}, "weft"); err != nil {
		t.Fatal(err)
	}
	given := Secret{Token: "x"}
	tests := []struct {
		s    Settings
		made bool
		want error
	}{
		{Settings{StateDir: empty}, true, nil},
		{Settings{StateDir: empty, Targets: []string{"host2"}}, false, api.ErrUsage},
		{Settings{StateDir: empty, Targets: []string{"host2"}, Secret: given}, false, nil},
		{Settings{StateDir: empty, Secret: given}, false, nil},
		{Settings{StateDir: kept}, false, nil},
		{Settings{StateDir: kept, Targets: []string{"host2"}}, false, nil},
		{Settings{StateDir: empty + "/none"}, true, nil},
	}
	for _, tt := range tests {
		made, err := tt.s.CheckSecret()
		if made != tt.made || !errors.Is(err, tt.want) {
			t.Errorf("%+v: made %t, %v; want %t, %v", tt.s, made, err, tt.made, tt.want)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := Settings{Secret: Secret{Password: "hidden", Token: "hidden"}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(format, s); strings.Contains(text, "hidden") {
			t.Errorf(format+" prints the secret", s)
		}
	}
}

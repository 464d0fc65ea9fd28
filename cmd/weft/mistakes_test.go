package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/router/api"
)

// fakeClient is a daemon inside the test.
type fakeClient struct{ *fakeBackend }

func (fakeClient) Pid(context.Context) (int, error) { return 0, nil }

// result is what one command line gave.
type result struct {
	code           int
	stdout, stderr string
	changes        int // how often the daemon was asked to change something
}

// execute runs weft inside the test. A nil backend is no daemon at all.
func execute(t *testing.T, b *fakeBackend, euid int, args ...string) result {
	t.Helper()
	dir := t.TempDir()
	var out, errs bytes.Buffer
	p := &program{
		stdin: strings.NewReader(""), stdout: &out, stderr: &errs, euid: euid, executable: dir + "/weft",
		environ: []string{"PATH=" + dir, "WEFT_CONFIG=" + dir + "/weft.yaml", "WEFT_SOCKET=" + dir + "/run/weft.sock", "WEFT_STATE_DIR=" + dir + "/state"},
		dial:    dialSocket, patience: time.Hour,
	}
	if err := os.WriteFile(dir+"/weft.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if b != nil {
		p.dial = func(string) daemon { return fakeClient{b} }
	}
	r := result{code: p.run(t.Context(), args), stdout: out.String(), stderr: errs.String()}
	if b != nil {
		r.changes = b.asked()
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("weft %q left files: %v, %v", args, entries, err)
	}
	return r
}

// want holds a result to one line on stderr and nothing else.
func (r result) want(t *testing.T, args []string, code int, stderr string) {
	t.Helper()
	if r.code != code || r.stdout != "" || r.stderr != "weft: "+stderr+"\n" {
		t.Errorf("weft %q: exit %d, stdout %q, stderr %q\nwant exit %d, stderr %q", args, r.code, r.stdout, r.stderr, code, "weft: "+stderr)
	}
}

// TestMistakes drives every command with wrong arguments: exit 2, one line,
// and nobody is asked anything.
func TestMistakes(t *testing.T) {
	const (
		invalid   = `: want ADDRESS/LENGTH such as 10.32.0.1/12`
		noPeer    = ` is neither an address nor the name of a host`
		container = ` is not a container: want a Docker name or id, pid:N, or netns:NAME-or-path`
	)
	see := func(command string) string { return "; see 'weft " + command + " --help'" }
	tests := []struct {
		args   string
		stderr string
	}{
		{"", "name a command; see 'weft --help'"},
		{"lunch", `unknown command "lunch", did you mean launch?; see 'weft --help'`},
		{"ipam", `unknown command "ipam"; see 'weft --help'`},
		{"setup-cni host2", `unknown command "setup-cni"; see 'weft --help'`},
		{"--nothing", "unknown flag: --nothing; see 'weft --help'"},
		{"--socket=weft.sock status", "--socket=weft.sock: want an absolute path of at most 107 bytes"},
		{"--config=weft.yaml status", "--config=weft.yaml: want an absolute path"},

		{"attach", "attach: name a container" + see("attach")},
		{"attach 10.32.0.1/12", "attach: name a container" + see("attach")},
		{"attach web db", `attach: takes one container, got "web" and "db"` + see("attach")},
		{"attach 10.32.0.1 web", "address 10.32.0.1 needs a prefix length, such as 10.32.0.1/24"},
		{"attach 10.32.0.1/33 web", `address "10.32.0.1/33"` + invalid},
		{"attach 10.32.0.300/12 web", `address "10.32.0.300/12"` + invalid},
		{"attach ip:10.32.0.1/ web", `address "ip:10.32.0.1/"` + invalid},
		{"attach net:10.32.0.1/12 web", "subnet net:10.32.0.1/12 has host bits set; did you mean net:10.32.0.0/12 or ip:10.32.0.1/12?"},
		{"attach net:fault web", `address "net:fault"` + invalid},
		{"attach 224.0.0.1/8 web", "address 224.0.0.1 is not one that a container can have"},
		{"attach web/db", `address "web/db"` + invalid},
		{"attach pid:0", `attach: container "pid:0": want pid:NUMBER` + see("attach")},
		{"attach pid:self", `attach: container "pid:self": want pid:NUMBER` + see("attach")},
		{"attach netns:", `attach: container "netns:": want netns:NAME-or-path` + see("attach")},
		{"attach --mac=01:00:00:00:00:01 10.32.0.1/12 web", "attach: --mac=01:00:00:00:00:01: want a unicast MAC address such as 02:00:00:00:00:01" + see("attach")},
		{"attach --mac=2 10.32.0.1/12 web", "attach: --mac=2: want a unicast MAC address such as 02:00:00:00:00:01" + see("attach")},
		{"attach --add-host=a:10.0.0.1 10.32.0.1/12 web", "attach: --add-host needs --rewrite-hosts" + see("attach")},
		{"attach --rewrite-hosts --add-host=a 10.32.0.1/12 web", "attach: --add-host=a: want NAME:ADDRESS" + see("attach")},
		{"attach --nothing web", "attach: unknown flag: --nothing" + see("attach")},
		{"attach -h x web", "attach: unknown flag: -h" + see("attach")},

		{"ui now", `ui: takes no arguments, got "now"` + see("ui")},

		{"detach", "detach: name a container" + see("detach")},
		{"detach web db", `detach: takes one container, got "web" and "db"` + see("detach")},
		{"detach 10.32.0.1/99 web", `address "10.32.0.1/99"` + invalid},
		{"expose web", `expose: "web" is not an address: want ADDRESS/LENGTH such as 10.32.0.1/12` + see("expose")},
		{"expose 10.32.0.1", "address 10.32.0.1 needs a prefix length, such as 10.32.0.1/24"},
		{"expose 10.32.0.1/12 -h -", `name "-": want a domain name such as web.weft.internal`},
		{"expose 10.32.0.1/12 -h", "expose: flag needs an argument: 'h' in -h" + see("expose")},
		{"hide web", `hide: "web" is not an address: want ADDRESS/LENGTH such as 10.32.0.1/12` + see("hide")},
		{"ps a/b", `ps: "a/b"` + container + see("ps")},
		{"ps -o xml", `ps: invalid argument "xml" for "-o, --output" flag: want table or json` + see("ps")},

		{"dns-add", "dns-add: name a container, or addresses and -h FQDN" + see("dns-add")},
		{"dns-add 10.32.0.1", "dns-add: name a container, or addresses and -h FQDN" + see("dns-add")},
		{"dns-add -h web.weft.internal", "dns-add: name a container, or addresses and -h FQDN" + see("dns-add")},
		{"dns-add 10.32.0.1/12 web", `dns-add: "10.32.0.1/12": want an address without prefix length, such as 10.32.0.1` + see("dns-add")},
		{"dns-add 224.0.0.1 web", "address 224.0.0.1 is not one that a container can have"},
		{"dns-add web db", `dns-add: takes one container, got "web" and "db"` + see("dns-add")},
		{"dns-add web -h a..b", `name "a..b": want a domain name such as web.weft.internal`},
		{"dns-remove", "dns-remove: name a container, or addresses and -h FQDN" + see("dns-remove")},
		{"dns-remove 10.32.0.1", "dns-remove: name a container, or addresses and -h FQDN" + see("dns-remove")},
		{"dns-lookup", "dns-lookup: takes one name" + see("dns-lookup")},
		{"dns-lookup a b", "dns-lookup: takes one name" + see("dns-lookup")},
		{"dns-lookup a..b", `name "a..b": want a domain name such as web.weft.internal`},
		{"dns-lookup bücher", `name "bücher": want a domain name such as web.weft.internal`},
		{"dns-args x", `dns-args: takes no arguments, got "x"` + see("dns-args")},
		{"env now", `env: takes no arguments, got "now"` + see("env")},
		{"config --restore", "config: unknown flag: --restore" + see("config")},

		{"connect", "connect: name a peer: IP-OR-NAME[:PORT]" + see("connect")},
		{"connect host:0", `peer "host:0": want IP-OR-NAME[:PORT] with a port from 1 to 65535`},
		{"connect --replace good bad/name", `peer "bad/name"` + noPeer},
		{"forget", "forget: name a peer as 'weft status targets' shows it" + see("forget")},
		{"forget 300.0.0.1", `peer "300.0.0.1"` + noPeer},
		{"prime x", `prime: takes no arguments, got "x"` + see("prime")},
		{"rmpeer", "rmpeer: name a peer that is gone for good, as 'weft status ipam' shows it" + see("rmpeer")},
		{"rmpeer --force", "rmpeer: name a peer that is gone for good, as 'weft status ipam' shows it" + see("rmpeer")},
		{"rmpeer --all host2", "rmpeer: unknown flag: --all" + see("rmpeer")},
		{"token x", `token: takes no arguments, got "x"` + see("token")},
		{"logs x", `logs: takes no arguments, got "x"` + see("logs")},
		{"logs -x", "logs: unknown shorthand flag: 'x' in -x" + see("logs")},

		{"status ips", `status: unknown section "ips": want targets, connections, peers, dns, ipam` + see("status")},
		{"status dns peers", `status: takes one section, got "dns" and "peers"` + see("status")},
		{"status --wait=2", "status: --wait=2: want connections=N" + see("status")},
		{"status --wait=connections=-1", "status: --wait=connections=-1: want connections=N" + see("status")},
		{"status --wait=connections=1 --timeout=0s", "status: --timeout=0s: want a time such as 30s" + see("status")},
		{"status --timeout=3s", "status: --timeout needs --wait=connections=N" + see("status")},
		{"why", "why: name a peer, as 'weft status connections' shows it" + see("why")},
		{"why host2 host3", `why: takes one peer, got "host2" and "host3"` + see("why")},
		{"doctor host2 host3", `doctor: takes one peer, got "host2" and "host3"` + see("doctor")},
		{"events now", `events: takes no arguments, got "now"` + see("events")},
		{"why -o yaml host2", `why: invalid argument "yaml" for "-o, --output" flag: want table or json` + see("why")},
		{"report x", `report: takes no arguments, got "x"` + see("report")},
		{"report -f {{end}}", "report: -f: template: report:1: unexpected {{end}}" + see("report")},

		{"launch --trusted-subnets=10.0.0.0/8", "launch: unknown flag: --trusted-subnets" + see("launch")},
		{"launch --no-restart", "launch: unknown flag: --no-restart" + see("launch")},
		{"launch --secret-fd=0", "launch: unknown flag: --secret-fd" + see("launch")},
		{"launch --no-dns=maybe", `launch: invalid argument "maybe" for "--no-dns" flag: strconv.ParseBool: parsing "maybe": invalid syntax` + see("launch")},
		{"launch --datapath=fast", "--datapath=fast: want auto, kernel or userspace"},
		{"launch bad/name", `peer "bad/name"` + noPeer},
		{"stop x", `stop: takes no arguments, got "x"` + see("stop")},
		{"reset x", `reset: takes no arguments, got "x"` + see("reset")},
		{"reset --port=1", "reset: unknown flag: --port" + see("reset")},
		{"version x", `version: takes no arguments, got "x"` + see("version")},
		{"help a b", `help: takes one command, got "a" and "b"` + see("help")},
		{"help attach x", `help: takes one command, got "attach" and "x"` + see("help")},
		{"completion", "completion: name a shell: bash, zsh, fish or powershell" + see("completion")},
		{"completion tcsh", "completion: name a shell: bash, zsh, fish or powershell" + see("completion")},
	}
	driven := map[string]bool{}
	for _, tt := range tests {
		args := strings.Fields(tt.args)
		if len(args) > 0 {
			driven[args[0]] = true
		}
		r := execute(t, newFakeBackend(), 0, args...)
		r.want(t, args, exitUsage, tt.stderr)
		if r.changes != 0 {
			t.Errorf("weft %q asked the daemon", args)
		}
	}
	for _, c := range (&program{}).command().Commands() {
		if !driven[c.Name()] {
			t.Errorf("no mistake is made with %s", c.Name())
		}
	}
}

// needDaemon is one right use of every command that asks the daemon.
func needDaemon() [][]string {
	var all [][]string
	for _, line := range []string{
		"attach 10.32.0.1/12 web", "detach web", "expose 10.32.0.1/12", "hide", "ps", "dns-add web", "dns-remove web",
		"dns-lookup web", "dns-args", "connect host2", "forget host2", "token", "logs", "logs -f", "status", "status dns",
		"status --wait=connections=1", "status ipam", "prime", "rmpeer host2", "attach web", "expose", "why host2", "why -o json host2", "report", "report -f {{.Ready}}",
	} {
		all = append(all, strings.Fields(line))
	}
	return all
}

func TestWithoutDaemon(t *testing.T) {
	for _, args := range needDaemon() {
		r := execute(t, nil, 0, args...)
		if r.code != exitUnreachable || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 ||
			!strings.HasPrefix(r.stderr, "weft: weftd is not reachable at /") || !strings.HasSuffix(r.stderr, "; start it with 'weft launch'\n") {
			t.Errorf("weft %q: exit %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
	}
	execute(t, nil, 0, "stop").want(t, []string{"stop"}, 0, "weftd is not running")
	for _, line := range []string{"version", "help", "--help", "help launch", "launch --help", "completion bash", "completion zsh", "completion fish", "completion powershell"} {
		if r := execute(t, nil, 1000, strings.Fields(line)...); r.code != 0 || r.stdout == "" || r.stderr != "" {
			t.Errorf("weft %s: exit %d, stdout of %d bytes, stderr %q", line, r.code, len(r.stdout), r.stderr)
		}
	}
}

func TestWithoutRoot(t *testing.T) {
	execute(t, nil, 1000, "launch").want(t, []string{"launch"}, exitFailed, "launch needs root: it makes network interfaces; try 'sudo weft launch'")
	execute(t, nil, 1000, "reset").want(t, []string{"reset"}, exitFailed, "reset needs root: it removes network interfaces; try 'sudo weft reset'")
	execute(t, nil, 1000, "launch", "--port=x").want(t, []string{"launch", "--port=x"}, exitUsage, "--port=x: want a number from 1 to 65534")
}

// TestAsNobody runs the program as another user: the daemon is there, and its
// socket is not for them.
func TestAsNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("SKIPPED: needs root, to become nobody")
	}
	dir, err := os.MkdirTemp("", "weft-nobody") //nolint:usetesting // t.TempDir lies where nobody may look
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	weft := filepath.Join(dir, "weft")
	if out, err := exec.Command("cp", self, weft).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cover := filepath.Join(dir, "cover") // where a run with -cover wants to write
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(cover, 0o755), os.Chmod(cover, 0o777)); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "run", "weft.sock")
	f := newFakeBackend()
	ln, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- api.NewServer(f, nil).Serve(ctx, ln) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	run := func(args ...string) result {
		var out, errs bytes.Buffer
		c := exec.Command(weft, args...)
		c.Dir = "/"
		c.Env = []string{"WEFT_SOCKET=" + socket, "WEFT_STATE_DIR=" + dir + "/state", "PATH=/bin", "GOCOVERDIR=" + cover, "GORACE=atexit_sleep_ms=0"}
		c.Stdout, c.Stderr = &out, &errs
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if err := c.Run(); c.ProcessState == nil {
			t.Fatal(err)
		}
		return result{code: c.ProcessState.ExitCode(), stdout: out.String(), stderr: errs.String()}
	}
	for _, args := range append(needDaemon(), []string{"stop"}) {
		run(args...).want(t, args, exitFailed, "open "+socket+": permission denied; run as root or as a member of group weft")
	}
	run("launch").want(t, []string{"launch"}, exitFailed, "launch needs root: it makes network interfaces; try 'sudo weft launch'")
	run("reset").want(t, []string{"reset"}, exitFailed, "reset needs root: it removes network interfaces; try 'sudo weft reset'")
	if f.asked() != 0 {
		t.Error("somebody without permission reached the daemon")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestOutputThatCannotBeWritten: a full disk under stdout is a failure.
func TestOutputThatCannotBeWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("SKIPPED: there is no /dev/full")
	}
	defer full.Close()
	var errs bytes.Buffer
	p := &program{stdout: full, stderr: &errs, environ: nil, dial: func(string) daemon { return fakeClient{newFakeBackend()} }}
	for _, args := range [][]string{{"status"}, {"ps"}, {"report"}, {"token"}, {"version"}} {
		if code := p.run(t.Context(), args); code != exitFailed {
			t.Errorf("weft %q on a full disk: exit %d, %q", args, code, errs.String())
		}
	}
}

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// proxied runs Docker's client against the proxy.
func (n *node) proxied(args ...string) lab.Result {
	return n.Docker(n.c.t.Context(), append([]string{"-H", "unix:///var/run/weft/docker.sock"}, args...)...)
}

// byProxy is proxied for what has to work.
func (n *node) byProxy(args ...string) string {
	n.c.t.Helper()
	r := n.proxied(args...)
	if r.Err != nil {
		n.c.t.Fatalf("%s: docker %s through the proxy: %v", n.Name(), strings.Join(args, " "), r)
	}
	return r.Stdout
}

// plainRun starts a container that sleeps, through the proxy.
func (n *node) plainRun(name string, flags ...string) {
	n.c.t.Helper()
	n.byProxy(append(append([]string{"run", "-d", "--stop-signal", "KILL", "--name", name}, flags...), lab.DockerImage, "sleep", "1000000")...)
}

// addressesIn returns what a container has on weft0.
func (n *node) addressesIn(name string) string {
	n.c.t.Helper()
	out := ""
	n.c.wait("something can be run in "+name, time.Second, func() error { // it may be about to start
		r := n.inBox(name, "sh", "-c", "ip -4 -o addr show dev weft0 2>/dev/null || true")
		out = r.Stdout
		return r.Err
	})
	var list []string
	for _, m := range regexp.MustCompile(`inet (\S+)`).FindAllStringSubmatch(out, -1) {
		list = append(list, m[1])
	}
	return strings.Join(list, " ")
}

// Plain docker run gets the switch, from its first millisecond, and keeps its
// address; what a container wants else it says with WEFT_CIDR.
func TestProxyRun(t *testing.T) {
	parallelAs(t, engined, 60*time.Second)
	c := dockerised(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	if got, want := h1.must("config"), "-H unix:///var/run/weft/docker.sock\n"; got != want {
		t.Errorf("config prints %q, want %q", got, want)
	}
	if got, want := h1.must("env"), "export DOCKER_HOST=unix:///var/run/weft/docker.sock ORIG_DOCKER_HOST=\n"; got != want {
		t.Errorf("env prints %q, want %q", got, want)
	}
	if a, b := h1.sh("stat -c '%a %g' /run/weft/docker.sock"), h1.sh("stat -c '%a %g' /run/docker.sock"); a != b {
		t.Errorf("our socket is %q, Docker's %q", a, b)
	}

	h1.plainRun("web")
	web := h1.dockerAddr("web", "weft")
	c.wait("web is known", time.Second, func() error { return h2.lookUp("web", web.String()) })
	// The first that it does is to ask for web, and to look at itself.
	const first = "ping -c1 -W2 web >/dev/null && ping -c1 -W2 -q web.weft.internal | sed -n 's/^PING.*(\\([0-9.]*\\)).*/\\1/p' && hostname -f && cat /etc/hosts /etc/resolv.conf"
	out := h2.byProxy("run", "--rm", "--name", "client", lab.DockerImage, "sh", "-c", first)
	if !strings.HasPrefix(out, web.String()+"\nclient.weft.internal\n") {
		t.Errorf("the first that client sees:\n%s", out)
	}
	own := regexp.MustCompile(`(?m)^(\S+)\s+client\.weft\.internal client$`).FindAllStringSubmatch(out, -1)
	if len(own) < 2 || !strings.HasPrefix(own[0][1], "10.32.") {
		t.Errorf("client finds itself at %v:\n%s", own, out)
	}
	if !strings.Contains(out, "search weft.internal") {
		t.Errorf("no search domain:\n%s", out)
	}

	// Restarted through the proxy, beside it, by its policy, and with its engine.
	h1.plainRun("policy", "--restart", "always")
	policy := h1.dockerAddr("policy", "weft")
	restart := func(how string, f func()) {
		t.Helper()
		f()
		c.wait("web has its address again after "+how, 2*time.Second, func() error {
			if err := h1.Docker(t.Context(), "exec", "web", "true").Err; err != nil {
				return err
			}
			if got := h1.addressesIn("web"); !strings.HasPrefix(got, web.String()+"/") {
				return fmt.Errorf("%q instead of %s", got, web)
			}
			return h2.lookUp("web", web.String())
		})
	}
	restart("docker restart through the proxy", func() { h1.byProxy("restart", "-t", "0", "web") })
	restart("docker restart beside it", func() { h1.docker("restart", "-t", "0", "web") })
	restart("stop, another container, and start", func() {
		h1.docker("stop", "web")
		h1.plainRun("between")
		h1.byProxy("start", "web")
	})
	if hosts := h1.docker("exec", "web", "cat", "/etc/hosts"); strings.Index(hosts, "172.") < strings.Index(hosts, web.String()) {
		t.Errorf("web's hosts file:\n%s", hosts)
	}
	pid := h1.docker("inspect", "-f", "{{.State.Pid}}", "policy")
	h1.sh("kill -9 " + pid)
	c.wait("a container that its policy restarts has its address", 2*time.Second, func() error {
		if h1.docker("inspect", "-f", "{{.State.Pid}}", "policy") == pid {
			return errors.New("it has not ended yet")
		}
		if got := h1.addressesIn("policy"); !strings.HasPrefix(got, policy.String()+"/") {
			return fmt.Errorf("%q instead of %s", got, policy)
		}
		return nil
	})

	for _, tt := range []struct{ name, cidr, want string }{
		{"none", "none", "^$"},
		{"static", "10.32.200.1/16", `^10\.32\.200\.1/16$`},
		{"subnet", "net:10.33.2.0/24", `^10\.33\.2\.1/24$`},
		{"outside", "10.99.1.5/24", `^10\.99\.1\.5/24$`},
		{"both", "10.99.1.6/24 net:10.33.2.0/24", `^10\.99\.1\.6/24 10\.33\.2\.2/24$`},
	} {
		h1.plainRun(tt.name, "-e", "WEFT_CIDR="+tt.cidr)
		c.wait("the addresses of "+tt.name, time.Second, func() error {
			if got := h1.addressesIn(tt.name); !regexp.MustCompile(tt.want).MatchString(got) {
				return fmt.Errorf("WEFT_CIDR=%s gives %q", tt.cidr, got)
			}
			return nil
		})
	}
	h2.plainRun("far", "-e", "WEFT_CIDR=10.99.1.7/24")
	c.wait("a subnet of one's own over two hosts", time.Second, func() error { return h2.inBox("far", "ping", "-c1", "-W1", "10.99.1.5").Err })
	for cidr, words := range map[string]string{
		"nonsense":       `address "nonsense": want ADDRESS/LENGTH`,
		"10.32.200.1/16": "10.32.200.1",
	} {
		if r := h1.proxied("run", "-d", "--name", "refused", "-e", "WEFT_CIDR="+cidr, lab.DockerImage, "true"); r.Err == nil || !strings.Contains(r.Stderr, words) {
			t.Errorf("WEFT_CIDR=%s: %v", cidr, r)
		}
		if r := h1.Docker(t.Context(), "inspect", "refused"); r.Err == nil {
			t.Errorf("WEFT_CIDR=%s: a container was left", cidr)
		}
	}
}

// What passes through the proxy is what passes beside it.
func TestProxyPasses(t *testing.T) {
	parallelAs(t, engined, 55*time.Second)
	c := dockerised(t, 1)
	h := c.nodes[0]
	h.plainRun("web")
	type way struct {
		name, flag string
		out        map[string]string
	}
	ways := []*way{{name: "beside", flag: "-H unix:///run/docker.sock"}, {name: "through", flag: "-H unix:///var/run/weft/docker.sock"}}
	const tty = `script -qec "docker $H run --rm -it --network none IMAGE sh -c 'tty; stty size; echo done; exit 3'" /dev/null </dev/null; echo $?`
	// The end of what is attached ends what it prints, too: attach keeps it open.
	steps := []struct{ name, script string }{
		{"run -it", tty},
		{"run -i with the end of input", "printf 'a\\nb\\n' | docker $H run --rm -i --network none IMAGE sh -c 'cat; echo end'"},
		{"exit code", "docker $H run --rm --network none IMAGE sh -c 'echo err >&2; exit 7' 2>&1; echo $?"},
		{"exec -i", "head -c 3000000 /dev/zero | docker $H exec -i web sh -c 'cat | md5sum; echo end'"},
		{"exec -it", `script -qec "docker $H exec -it web tty" /dev/null </dev/null; echo $?`},
		{"attach", "docker $H run -d -i --name at-$W --network none IMAGE sh -c 'read a; echo got $a; read b; sleep 0.3; echo end' >/dev/null; (printf 'x\\n'; sleep 0.4; printf 'y\\n'; docker $H wait at-$W >/dev/null; sleep 1) | docker $H attach at-$W; docker $H wait at-$W; docker $H rm at-$W >/dev/null"},
		{"logs -f", "docker $H run -d --name lo-$W --network none IMAGE sh -c 'for i in 1 2 3; do echo line $i; sleep 0.1; done' >/dev/null; docker $H logs -f lo-$W; docker $H wait lo-$W; docker $H rm lo-$W >/dev/null"},
		{"wait", "docker $H run -d --name wa-$W --network none IMAGE sh -c 'sleep 0.2; exit 5' >/dev/null; docker $H wait wa-$W; docker $H rm wa-$W >/dev/null"},
		{"cp", "head -c BULK /dev/urandom >/tmp/in-$W; docker $H cp /tmp/in-$W web:/tmp/f-$W; docker $H cp web:/tmp/f-$W /tmp/out-$W; cmp /tmp/in-$W /tmp/out-$W && echo same; rm /tmp/in-$W /tmp/out-$W; docker $H exec web rm /tmp/f-$W"},
		{"build", "mkdir -p /tmp/b-$W; printf 'FROM IMAGE\\nCOPY f /f\\nRUN echo built >/g && cat /f /g\\n' >/tmp/b-$W/Dockerfile; head -c 3000000 /dev/zero >/tmp/b-$W/f; DOCKER_BUILDKIT=0 docker $H build --network none --no-cache -q -t b-$W /tmp/b-$W | cut -c1-7; docker $H run --rm --network none b-$W cat /g; docker $H rmi -f b-$W | grep -c Untagged; rm -r /tmp/b-$W"},
		{"events", "docker $H events --since 0 --until $(date +%s) --filter container=web --format '{{.Action}}' | head -2"},
		{"stats", "docker $H stats --no-stream --format '{{.Name}}' web"},
		{"save", "docker $H save IMAGE | tar t | wc -l"},
		{"images", "docker $H images --no-trunc --format '{{.ID}} {{.Size}}' IMAGE"},
		{"version", "docker $H version"},
		{"error", "docker $H run --rm --network nowhere IMAGE true 2>&1 | grep -o 'network nowhere.*'; docker $H rm nobody 2>&1"},
		{"raw answer", "printf 'GET /v1.30/images/json?filters=%%7B%%22reference%%22%%3A%%5B%%22weft-lab/busybox%%22%%5D%%7D HTTP/1.0\\r\\n\\r\\n' | nc -w 5 local:${S} | grep -v ^Date:"},
	}
	bulk := "20000000"
	if os.Getenv("WEFT_SOAK") != "" {
		bulk = "1000000000"
	}
	do := func(w *way, name, script string) {
		script = strings.NewReplacer("IMAGE", lab.DockerImage, "BULK", bulk, "docker $H", "/usr/bin/docker "+w.flag, "$H", w.flag, "$W", w.name,
			"nc -w 5 local:${S}", "python3 -c 'import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(\""+strings.TrimPrefix(w.flag, "-H unix://")+
				"\")\ns.sendall(sys.stdin.buffer.read())\nwhile True:\n d=s.recv(65536)\n if not d: break\n sys.stdout.buffer.write(d)'").Replace(script)
		r := h.Run(t.Context(), "sh", "-c", script)
		out := strings.ReplaceAll(r.Stdout+r.Stderr, w.name, "WAY")
		w.out[name] = strings.NewReplacer("^@", "", "\x00", "", "^D\b\b", "").Replace(out) // the end of a terminal's input, which races
	}
	var all sync.WaitGroup
	for _, w := range ways {
		w.out = map[string]string{}
		all.Go(func() {
			for _, s := range steps {
				do(w, s.name, s.script)
			}
		})
	}
	all.Wait()
	for _, w := range ways { // they tell of commands that still run in the container
		do(w, "inspect", "docker $H inspect web")
		do(w, "top", "docker $H top web | wc -l")
	}
	for name, through := range ways[1].out {
		if diff := cmp.Diff(ways[0].out[name], through); diff != "" {
			t.Errorf("%s (-beside +through):\n%s", name, diff)
		}
		if through == "" {
			t.Errorf("%s prints nothing: this shows nothing", name)
		}
		t.Logf("%s: %.120q", name, through)
	}

	// Many at once: each has the switch and an address of its own.
	many := 10
	if os.Getenv("WEFT_SOAK") != "" {
		many = 100
	}
	errs := make([]error, many)
	for i := range many {
		all.Go(func() {
			r := h.proxied("run", "--rm", lab.DockerImage, "sh", "-c", "ip -4 -o addr show dev weft0 | grep -q 'inet 10.32'")
			errs[i] = r.Err
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// --no-default-ipalloc, --rewrite-inspect, names made from labels, and a daemon
// that is not there.
func TestProxyFlags(t *testing.T) {
	parallel(t)
	c := newCluster(t, 1)
	h := c.nodes[0]
	h.launch("--no-default-ipalloc", "--rewrite-inspect", "--no-rewrite-hosts", "--hostname-from-label=role", "--hostname-match=^app-(.*)$", "--hostname-replacement=$1",
		"-H", "tcp://127.0.0.1:2375", "--tls=false")
	c.engines()
	c.wait("the engine has the network weft", 2*time.Second, func() error {
		return h.Docker(t.Context(), "network", "inspect", "weft").Err
	})
	h.plainRun("quiet")
	if got := h.addressesIn("quiet"); got != "" {
		t.Errorf("with --no-default-ipalloc a container has %s", got)
	}
	h.plainRun("web", "-e", "WEFT_CIDR=net:default", "--label", "role=app-shop")
	if got := h.docker("exec", "web", "hostname", "-f"); got != "shop.weft.internal\n" {
		t.Errorf("the host name is %q", got)
	}
	addr := h.dockerAddr("web", "weft")
	if hosts := h.docker("exec", "web", "cat", "/etc/hosts"); strings.Index(hosts, "172.") > strings.Index(hosts, addr.String()) {
		t.Errorf("with --no-rewrite-hosts the switch comes first: nobody need change the order\n%s", hosts)
	}
	c.wait("the name from the label is known", time.Second, func() error { return h.lookUp("shop", addr.String()) })
	shown := h.byProxy("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
	if a, err := netip.ParseAddr(strings.TrimSpace(shown)); err != nil || a != addr {
		t.Errorf("inspect shows %q, want %s", shown, addr)
	}
	if out := h.docker("-H", "tcp://127.0.0.1:2375", "ps", "-q", "--filter", "name=web"); out == "" {
		t.Error("TCP shows no container")
	}
	if out := h.sh("/usr/bin/wget -qO- --header 'Origin: http://evil.example' http://127.0.0.1:2375/containers/json 2>&1 || true"); strings.Contains(out, "web") {
		t.Errorf("a page of another site reads %s", out)
	}
	h.must("stop")
	if got := h.must("env") + h.must("config"); got != "" {
		t.Errorf("without a daemon env and config print %q", got)
	}
	h.relaunch("--resume")
	c.wait("a new daemon serves again", 2*time.Second, func() error { return h.proxied("ps").Err })
}

// BenchmarkDockerProxy asks a real engine beside the proxy and through it, in
// turn: per call, for a container's creation and removal, and for bulk.
func BenchmarkDockerProxy(b *testing.B) {
	c := dockerised(b, 1)
	h := c.nodes[0]
	h.plainRun("web")
	h.docker("exec", "web", "sh", "-c", "head -c 200000000 /dev/zero >/tmp/bulk")
	client := func(path string) *http.Client {
		root := h.Root()
		return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(root, path))
		}}}
	}
	clients := [2]*http.Client{client("run/docker.sock"), client("run/weft/docker.sock")}
	do := func(c *http.Client, method, path, body string) string {
		req, err := http.NewRequestWithContext(b.Context(), method, "http://docker/v1.41"+path, strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		r, err := c.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		defer r.Body.Close()
		if r.StatusCode >= 300 {
			b.Fatalf("%s %s: %s", method, path, r.Status)
		}
		var out strings.Builder
		if _, err = io.Copy(&out, io.LimitReader(r.Body, 1<<20)); err == nil {
			_, err = io.Copy(io.Discard, r.Body)
		}
		if err != nil {
			b.Fatal(err)
		}
		return out.String()
	}
	for _, run := range []struct {
		name  string
		times int
		f     func(c *http.Client)
	}{
		{"ping", 2000, func(c *http.Client) { do(c, "GET", "/_ping", "") }},
		{"inspect", 500, func(c *http.Client) { do(c, "GET", "/containers/web/json", "") }},
		{"create-remove", 40, func(c *http.Client) {
			var made struct{ ID string }
			if err := json.Unmarshal([]byte(do(c, "POST", "/containers/create", `{"Image":"`+lab.DockerImage+`","Cmd":["true"]}`)), &made); err != nil {
				b.Fatal(err)
			}
			do(c, "DELETE", "/containers/"+made.ID, "")
		}},
		{"archive-200MB", 4, func(c *http.Client) { do(c, "GET", "/containers/web/archive?path=/tmp/bulk", "") }},
	} {
		b.Run(run.name, func(b *testing.B) {
			var took [2]time.Duration
			for _, c := range clients {
				run.f(c)
			}
			for b.Loop() {
				for range run.times {
					for i, c := range clients {
						begun := time.Now()
						run.f(c)
						took[i] += time.Since(begun)
					}
				}
			}
			n := float64(b.N*run.times) * 1e3
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took[0].Nanoseconds())/n, "µs-beside")
			b.ReportMetric(float64(took[1].Nanoseconds())/n, "µs-through")
			b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "ratio")
		})
	}
}

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bare is a snapshot of a host with systemd without what the system does by
// itself while packages come and go.
func (n *node) bare() snapshot {
	n.c.t.Helper()
	s := n.takeSnapshot()
	own := regexp.MustCompile(`^(/run/(systemd|log|netns|lock|user|dbus|motd)|/var/(log|cache|lib/(dpkg|systemd|apt))|/root|/tmp|/var/tmp|/etc/machine-id)\b`)
	s["files"] = slices.DeleteFunc(s["files"], func(f string) bool {
		path, _, _ := strings.Cut(f, " ")
		// A directory that something was put into and taken out of is a copy.
		return own.MatchString(f) || strings.Contains(f, " d") && !strings.Contains(path, "weft")
	})
	delete(s, "sockets") // systemd's, one per program that logs
	s["processes"] = slices.DeleteFunc(s["processes"], func(p string) bool { return !strings.HasPrefix(p, "weft") })
	return s
}

// newer makes the same package with a higher version.
func newer(t *testing.T, deb string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "x")
	to := filepath.Join(t.TempDir(), "newer.deb")
	for _, args := range [][]string{
		{"dpkg-deb", "-R", deb, dir},
		{"sed", "-i", "s/^Version: .*/&+newer/", filepath.Join(dir, "DEBIAN/control")},
		{"dpkg-deb", "-Znone", "-b", dir, to},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	return to
}

// active says whether weft.service is in that state.
func (n *node) active(want string) {
	n.c.t.Helper()
	n.c.wait(n.Name()+": weft.service is "+want, time.Second, func() error {
		if got := n.property("ActiveState"); got != want {
			return fmt.Errorf("it is %s\n%s", got, n.journal())
		}
		return nil
	})
}

// A host gets the package, is configured, upgraded, loses it and gets it back,
// and after a purge is as it was before.
func TestPackage(t *testing.T) {
	parallelAs(t, engined, 25*time.Second)
	c := system(t, 2)
	deb := packages(t)[0]
	first, n := c.nodes[0], c.nodes[1]
	n.sh("iptables -S >/dev/null; ip6tables -S >/dev/null; nft list ruleset >/dev/null; mkdir -p /run/lock")
	before := n.bare()

	for _, h := range c.nodes {
		h.install(deb)
		h.active("inactive") // alone it would begin a cluster of its own
		if r := h.Run(t.Context(), "systemctl", "is-enabled", "weft.service"); strings.TrimSpace(r.Stdout) != "disabled" {
			t.Errorf("after the installation: %v", r)
		}
		if r := h.weft("status"); r.Exit != 3 {
			t.Errorf("status without a daemon: %v", r)
		}
	}
	n.sh("weftd --check-config && test -s /usr/share/man/man8/weftd.8.gz && bash -n /usr/share/bash-completion/completions/weft")
	first.configure("token: " + c.token)
	n.configure("token: "+c.token, "peers: ["+first.Addr().String()+"]")
	for _, h := range c.nodes {
		h.sh("systemctl enable --now weft-plugin.socket weft 2>&1")
		h.netns()
	}
	c.waitMesh()
	c.wait("a container reaches the other", 2*time.Second, func() error { return first.pings(n) })
	name := n.name()
	with := n.bare()
	for _, kind := range []string{"links", "addresses", "nft", "sysctls", "files", "processes"} {
		if cmp.Equal(before[kind], with[kind]) {
			t.Errorf("a snapshot with weft has the same %s as one without: it would not show what is left", kind)
		}
	}

	pid, next := n.property("MainPID"), newer(t, deb)
	n.install(next)
	n.restarted(pid, 2*time.Second)
	if got := n.sh("dpkg-query -W -f '${Version}' weft; cat /etc/weft/weft.yaml"); !strings.Contains(got, "+newer") || !strings.Contains(got, c.token) {
		t.Errorf("after the upgrade: %s", got)
	}
	n.sh("systemctl stop weft")
	n.install(next)
	n.active("inactive") // an upgrade starts nothing that did not run

	n.sh("systemctl start weft")
	n.sh("dpkg -r weft")
	n.active("inactive")
	n.sh("test ! -e /usr/sbin/weftd && test -s /var/lib/weft/secret && test -s /etc/weft/weft.yaml && ip link show weft >/dev/null")
	n.install(deb)
	n.sh("systemctl is-enabled weft weft-plugin.socket && systemctl start weft")
	if got := n.name(); got != name {
		t.Errorf("after removal and installation the host is %s, was %s", got, name)
	}
	c.waitMesh()
	c.wait("a container reaches the other", 2*time.Second, func() error { return first.pings(n) })

	n.sh("dpkg -P weft")
	n.sh("ip netns del c")
	c.wait("nothing is left", 2*time.Second, func() error {
		if diff := cmp.Diff(before, n.bare()); diff != "" {
			return diffError(diff)
		}
		return nil
	})
	n.sh("dpkg -P weft 2>/dev/null") // there is nothing to purge, and no error

	// Removed first and purged later, when the switch is gone by itself or not.
	first.sh("dpkg -r weft")
	first.sh("dpkg -P weft && test ! -e /var/lib/weft && test ! -e /etc/weft && ! ip link show weft 2>/dev/null")
}

// The commands of docs/install.md work, typed as they stand there in the order in
// which they stand: token and first host are filled in.
func TestInstallPage(t *testing.T) {
	parallelAs(t, engined, 20*time.Second)
	c := system(t, 2)
	page, err := os.ReadFile("../../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	deb, err := os.ReadFile(packages(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	higher, err := os.ReadFile(newer(t, packages(t)[0])) // stands for the next release
	if err != nil {
		t.Fatal(err)
	}
	first := c.nodes[0]
	token := ""
	for section := range strings.SplitSeq(string(page), "\n## ") {
		on := c.nodes[1]
		if strings.HasPrefix(section, "The first host") {
			on = first
		}
		title, _, _ := strings.Cut(section, "\n")
		for _, line := range shellLines(section) {
			line = strings.NewReplacer("TOKEN", token, "[host1]", "["+first.Addr().String()+"]", "apt install", "apt-get install -y -q", "apt purge", "apt-get purge -y -q").Replace(line)
			if file := regexp.MustCompile(`weft_[0-9.]+_amd64\.deb`).FindString(line); file == "weft_0.1.0_amd64.deb" {
				on.put("/root/"+file, string(deb), 0o644)
			} else if file != "" {
				on.put("/root/"+file, string(higher), 0o644)
			}
			out := on.sh("cd /root && " + line)
			if line == "weft token" {
				token = strings.TrimSpace(out)
			}
		}
		if strings.HasPrefix(title, "Every other host") {
			c.waitMesh()
		}
	}
	if token == "" {
		t.Error("no token was printed")
	}
	c.nodes[1].sh("test ! -e /var/lib/weft && test ! -e /etc/weft && ! ip link show weft 2>/dev/null")
}

func (n *node) name() string {
	n.c.t.Helper()
	r, err := n.report()
	if err != nil {
		n.c.t.Fatal(err)
	}
	return r.Router.Name
}

// A host that is shut down, or loses its power, comes back by itself: the
// daemon is enabled, keeps its peers, and containers that a unit starts are on
// the switch again.
func TestBoot(t *testing.T) {
	parallel(t)
	c := started(t)
	n := c.nodes[1]
	n.sh("weft detach netns:c && ip netns del c")
	n.put("/etc/systemd/system/box.service", `[Unit]
After=weft.service
Requires=weft.service
[Service]
Type=exec
PrivateNetwork=yes
ExecStart=sleep infinity
ExecStartPost=+/usr/bin/weft attach 10.32.0.2/12 pid:${MAINPID}
[Install]
WantedBy=multi-user.target
`, 0o644)
	n.sh("systemctl daemon-reload && systemctl enable --now box 2>&1 || { journalctl -u box; exit 1; }")
	// A peer of the command line is kept as well.
	n.must("connect", "192.0.2.99")
	for _, end := range []struct {
		how string
		f   func() error
	}{
		{"shut down", func() error { return n.Shutdown(t.Context()) }},
		{"power cut", n.Halt},
	} {
		begun := time.Now()
		if err := end.f(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: after %s", end.how, time.Since(begun).Round(time.Millisecond))
		if err := n.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.awaitSystem()
		n.active("active")
		c.wait("the container is on the switch again after a "+end.how, 3*time.Second, func() error { return c.nodes[0].pings(n) })
		if got := n.must("status", "targets"); !strings.Contains(got, "192.0.2.99") || !strings.Contains(got, c.nodes[0].Addr().String()) {
			t.Errorf("targets after a %s:\n%s", end.how, got)
		}
	}
}

// What systemd says of the units: how much they may, and that they are read as
// they are meant.
func TestUnitsHardened(t *testing.T) {
	parallel(t)
	c := system(t, 1)
	n := c.nodes[0]
	n.install(packages(t)[0])
	for unit, most := range map[string]float64{"weft.service": 5, "weft-plugin.service": 2} {
		r := n.Run(t.Context(), "systemd-analyze", "security", "--no-pager", unit)
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(r.Stdout)
		if m == nil {
			t.Fatal(r)
		}
		t.Log(m[0])
		var score float64
		if _, err := fmt.Sscan(m[1], &score); err != nil || score > most {
			t.Errorf("%s, want at most %.1f:\n%s", m[0], most, r.Stdout)
		}
	}
	r := n.Run(t.Context(), "systemd-analyze", "verify", "--man=no", "weft.service", "weft-plugin.socket", "weft-plugin.service")
	newerKeys := regexp.MustCompile(`(?m)^.*Unknown key '(RestartSteps|RestartMaxDelaySec)'.*\n`)
	if left := newerKeys.ReplaceAllString(r.Stdout+r.Stderr, ""); r.Err != nil || left != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", r.Err, left)
	}
}

// The same source gives the same packages, byte for byte, whenever and wherever
// it is built.
func TestPackageReproducible(t *testing.T) {
	parallel(t)
	skipHere(t)
	_ = packages(t)
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	nfpm := filepath.Join(cache, "weft/bin/nfpm")
	if _, err := os.Stat(nfpm); err != nil {
		t.Skip("SKIPPED, NOT TESTED: this test needs nfpm, which 'make package' installs")
	}
	var made [2]map[string]string
	for i := range made {
		tree := t.TempDir()
		// Other times, and a copy: paths and dates of a checkout are not in there.
		for _, dir := range []string{"packaging", "docs", "LICENSE", "README.md", "SECURITY.md", "CHANGELOG.md"} {
			if out, err := exec.CommandContext(t.Context(), "cp", "-r", filepath.Join(root, dir), tree).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		// One program stands for both: there is less to compress.
		script := `mkdir bin && cp "$0/weft" bin && echo weftd >bin/weftd && cp -r "$0/package" bin`
		sh := exec.CommandContext(t.Context(), "sh", "-ec", script, run.bin)
		sh.Dir = tree
		if out, err := sh.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(tree, "packaging/build"), "0.1.0", "1700000000", nfpm)
		cmd.Env = append(os.Environ(), "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		made[i] = map[string]string{}
		for _, kind := range []string{"deb", "rpm"} {
			files, err := filepath.Glob(filepath.Join(tree, "bin/package/*."+kind))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			b, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			made[i][kind] = string(b)
		}
	}
	for kind := range made[0] {
		if made[0][kind] != made[1][kind] {
			t.Errorf("two %ss of the same source differ", kind)
		}
	}
}

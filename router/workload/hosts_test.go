package workload

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

func TestRenderHosts(t *testing.T) {
	lines := []hostLine{
		{netip.MustParseAddr("10.32.0.1"), []string{"web.weft.internal", "web"}},
		{netip.MustParseAddr("10.0.0.5"), []string{"db"}},
	}
	const block = "# weft: begin\n10.32.0.1\tweb.weft.internal web\n10.0.0.5\tdb\n# weft: end\n"
	tests := []struct{ name, old, want string }{
		{"empty", "", block},
		{
			"as Docker makes it", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n172.17.0.2\tWeb\n",
			"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n" + block,
		},
		{
			"our block is replaced", "127.0.0.1 localhost\n# weft: begin\n10.9.9.9 web\n# weft: end\n1.2.3.4 x\n",
			"127.0.0.1 localhost\n1.2.3.4 x\n" + block,
		},
		{"one name of several", "172.17.0.2 web other # a comment\n", "172.17.0.2\tother # a comment\n" + block},
		{"comments stay", "# web is here\n#1.2.3.4 web\n\n", "# web is here\n#1.2.3.4 web\n\n" + block},
		{"no newline at the end", "1.2.3.4 x", "1.2.3.4 x\n" + block},
		{"an end without a beginning", "# weft: end\n1.2.3.4 x\n", "1.2.3.4 x\n" + block},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			own := []string{"web.weft.internal", "web"}
			got := renderHosts([]byte(tt.old), own, lines)
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := renderHosts(got, own, lines); string(again) != string(got) {
				t.Errorf("twice:\n%s", cmp.Diff(string(got), string(again)))
			}
		})
	}
}

func FuzzRenderHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost\n# weft: begin\n"))
	lines := []hostLine{{netip.MustParseAddr("10.32.0.1"), []string{"web"}}}
	f.Fuzz(func(t *testing.T, old []byte) {
		once := renderHosts(old, []string{"web"}, lines)
		if twice := renderHosts(once, []string{"web"}, lines); string(twice) != string(once) {
			t.Errorf("not the same twice: %q, then %q", once, twice)
		}
		if len(once) > 2*len(old)+200 {
			t.Errorf("%d bytes became %d", len(old), len(once))
		}
	})
}

func TestRewriteHosts(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.run(webID, "web", 100)
	w.process(200, 7, "4:200")
	hosts := filepath.Join(t.TempDir(), "hosts")
	const before = "127.0.0.1\tlocalhost\n172.17.0.2\taaaaaaaaaaaa\n"
	check(t, os.WriteFile(hosts, []byte(before), 0o644))
	inode := func() os.FileInfo {
		st, err := os.Stat(hosts)
		check(t, err)
		return st
	}
	was := inode()
	c := w.docker.containers["web"]
	c.HostsPath = hosts
	w.docker.set("web", c)
	d := w.restart()
	r := api.AttachRequest{
		Container: "web", Addresses: []string{"10.32.0.1/12"},
		RewriteHosts: true, AddHosts: []string{"db:10.32.0.2", "six:fd00::1"},
	}

	// A failure at the end puts the file back.
	w.power.arm(0, false, false)
	_, err := d.Attach(ctx, r)
	check(t, err)
	uses := w.power.uses
	_, err = d.Detach(ctx, api.DetachRequest{Container: "web"})
	check(t, err)
	check(t, os.WriteFile(hosts, []byte(before), 0o644))
	w.power.arm(uses, false, true)
	if _, err = d.Attach(ctx, r); err == nil {
		t.Fatal("the last step did not fail")
	}
	got, err := os.ReadFile(hosts)
	check(t, err)
	if diff := cmp.Diff(before, string(got)); diff != "" {
		t.Errorf("after a failed attach:\n%s", diff)
	}

	w.power.arm(0, false, false)
	for range 2 {
		_, err = d.Attach(ctx, r)
		check(t, err)
	}
	got, err = os.ReadFile(hosts)
	check(t, err)
	want := "127.0.0.1\tlocalhost\n# weft: begin\n10.32.0.1\tweb.weft.internal aaaaaaaaaaaa\n10.32.0.2\tdb\nfd00::1\tsix\n# weft: end\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("rewritten:\n%s", diff)
	}
	if !os.SameFile(was, inode()) {
		t.Error("it is another file now: the container does not see it")
	}

	// Of a process: below its root, and nowhere else.
	root := filepath.Join(w.proc, "200", "root", "etc")
	check(t, os.MkdirAll(root, 0o755))
	secret := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(secret, []byte("secret"), 0o600))
	r.Container, r.Addresses = "pid:200", []string{"10.32.0.3/12"}
	refused := func(what, text string) {
		t.Helper()
		if _, err := d.Attach(ctx, r); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", what, err, text)
		}
		if b, _ := os.ReadFile(secret); string(b) != "secret" {
			t.Fatalf("%s: a file outside was written", what)
		}
		if list, _ := d.PS(ctx, []string{"pid:200"}); len(list) != 0 {
			t.Errorf("%s: attached all the same", what)
		}
	}
	refused("no file", "no such file")
	file := filepath.Join(root, "hosts")
	check(t, os.Symlink(secret, file))
	refused("a link that leads out", "escapes")
	check(t, os.Remove(file))
	if os.Link("/etc/hosts", file) == nil { // on one file system only
		refused("the host's file", "shares the host's file")
		check(t, os.Remove(file))
	}
	check(t, os.Mkdir(file, 0o755))
	refused("a directory", "hosts")
	check(t, os.Remove(file))
	check(t, os.WriteFile(file, []byte(before), 0o644))
	_, err = d.Attach(ctx, r)
	check(t, err)
	got, err = os.ReadFile(file)
	check(t, err)
	if want := before + "# weft: begin\n10.32.0.2\tdb\nfd00::1\tsix\n# weft: end\n"; string(got) != want {
		t.Errorf("rewritten:\n%s", cmp.Diff(want, string(got)))
	}
	r.Container = "netns:" + w.nspath(200)
	r.Addresses = []string{"10.32.0.4/12"}
	if _, err := d.Attach(ctx, r); err == nil || !strings.Contains(err.Error(), "no /etc/hosts") {
		t.Errorf("netns: %v", err)
	}
}

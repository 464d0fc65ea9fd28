package dns

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadUpstreams(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"empty", "", ""},
		{"usual", "# made by hand\nsearch example.com\nnameserver 192.0.2.53\noptions ndots:1\n", "192.0.2.53:53"},
		{"loopback, tabs, no newline at the end", "nameserver\t127.0.0.53", "127.0.0.53:53"},
		{"ipv6", "nameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver ::ffff:192.0.2.1", "[2001:db8::1]:53 [fe80::1%eth0]:53 192.0.2.1:53"},
		{"three count", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4", "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53"},
		{"twice", "nameserver 192.0.2.1\nnameserver 192.0.2.1", "192.0.2.1:53"},
		{"not understood", "nameserver\nnameserver dns.example\n;nameserver 192.0.2.9\nNameserver 192.0.2.9\nnameserver 192.0.2.1 # ours\r\n", "192.0.2.1:53"},
		{"long line", "# " + strings.Repeat("x", 1<<17) + "\nnameserver 192.0.2.1", "192.0.2.1:53"},
	} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(tt.file), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := ReadUpstreams(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, list(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if _, err := ReadUpstreams(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func list(addrs []netip.AddrPort) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

// TestResolvConf follows a file through what happens to a resolv.conf.
func TestResolvConf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	age := time.Now().Add(-time.Hour)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		age = age.Add(time.Second) // the clock of the file system may be coarse
		if err := os.Chtimes(filepath.Join(dir, name), age, age); err != nil {
			t.Fatal(err)
		}
	}
	r := NewResolvConf(path, nil)
	expect := func(when, want string) {
		t.Helper()
		for range 2 {
			if got := list(r.Upstreams()); got != want {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
	}
	expect("no file yet", "")
	write("resolv.conf", "nameserver 192.0.2.1")
	expect("appeared", "192.0.2.1:53")
	write("resolv.conf", "nameserver 192.0.2.2")
	expect("rewritten with equal length", "192.0.2.2:53")
	write("new", "nameserver 192.0.2.3")
	if err := os.Rename(filepath.Join(dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	expect("replaced", "192.0.2.3:53")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("removed: the last ones count", "192.0.2.3:53")
	write("resolv.conf", "# empty")
	expect("emptied", "")
}

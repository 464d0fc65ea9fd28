package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

func mustAttach(t *testing.T, d *Workload, container string, addresses ...string) {
	t.Helper()
	got, err := d.Attach(context.Background(), api.AttachRequest{Container: container, Addresses: addresses})
	check(t, err)
	if len(got) != len(addresses) {
		t.Fatalf("attach %s: got %v", container, got)
	}
}

// people returns what `weft ps` and the names look like, one line each.
func (w *world) people(d *Workload) string {
	var keep []string
	for line := range strings.Lines(w.see(d)) {
		if !strings.HasPrefix(line, "ps ") {
			keep = append(keep, line)
		}
	}
	list, err := d.PS(context.Background(), nil)
	check(w.t, err)
	for _, a := range list {
		keep = append(keep, strings.TrimSpace(fmt.Sprintln(a.Container, strings.Trim(fmt.Sprint(a.Addresses), "[]")))+"\n")
	}
	return strings.Join(keep, "")
}

func TestLife(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.run(webID, "web", 100)
	w.process(200, 7, "4:200")
	d := w.restart()

	mustAttach(t, d, "web", "10.32.0.1/12")
	mustAttach(t, d, "web", "ip:10.32.0.1/12", "10.32.0.2/12")
	mustAttach(t, d, "pid:200", "10.32.0.3/12")
	_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.9/12"}, FQDN: "host1"})
	check(t, err)
	check(t, d.DNSAdd(ctx, api.NameRequest{Container: "pid:200", FQDN: "Box.Weft.Internal"}))
	check(t, d.DNSAdd(ctx, api.NameRequest{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, FQDN: "printer.weft.internal."}))
	want := `name docker:` + webID + ` web.weft.internal. 10.32.0.1 ` + webID + `
name docker:` + webID + ` web.weft.internal. 10.32.0.2 ` + webID + `
name KEY Box.Weft.Internal. 10.32.0.3 pid:200
name weft:expose host1.weft.internal. 10.32.0.9 weft:expose
name weft:extern printer.weft.internal. 192.0.2.7 weft:extern
exposed 10.32.0.9/12 true
weft:expose 10.32.0.9/12
aaaaaaaaaaaa 10.32.0.1/12 10.32.0.2/12
pid:200 10.32.0.3/12
`
	keyless := func(s string) string {
		var out []string
		for line := range strings.Lines(s) {
			if f := strings.Fields(line); len(f) == 5 && strings.HasPrefix(f[1], "ns:") {
				line = strings.Replace(line, f[1], "KEY", 1)
			}
			out = append(out, line)
		}
		return strings.Join(out, "")
	}
	if diff := cmp.Diff(want, keyless(w.people(d))); diff != "" {
		t.Errorf("after attaching (-want +got):\n%s", diff)
	}

	// The daemon is killed and comes back: nothing changes.
	before := w.see(d)
	d = w.restart()
	if diff := cmp.Diff(before, w.see(d)); diff != "" {
		t.Errorf("a restart changed something (-before +after):\n%s", diff)
	}

	// One address, then everything.
	got, err := d.Detach(ctx, api.DetachRequest{Container: "web", Addresses: []string{"10.32.0.1/12", "10.32.0.77/12"}})
	check(t, err)
	if want := "[10.32.0.1/12 10.32.0.77/12]"; fmt.Sprint(got) != want {
		t.Errorf("detach: %v, want %s", got, want)
	}
	got, err = d.Detach(ctx, api.DetachRequest{Container: "pid:200"})
	check(t, err)
	if fmt.Sprint(got) != "[10.32.0.3/12]" {
		t.Errorf("detach: %v", got)
	}
	got, err = d.Hide(ctx, api.HideRequest{})
	check(t, err)
	if fmt.Sprint(got) != "[10.32.0.9/12]" {
		t.Errorf("hide: %v", got)
	}
	check(t, d.DNSRemove(ctx, api.NameRequest{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, FQDN: "PRINTER.weft.internal"}))
	want = `name docker:` + webID + ` web.weft.internal. 10.32.0.2 ` + webID + `
weft:expose
aaaaaaaaaaaa 10.32.0.2/12
`
	if diff := cmp.Diff(want, w.people(d)); diff != "" {
		t.Errorf("after detaching (-want +got):\n%s", diff)
	}
	_, err = d.Detach(ctx, api.DetachRequest{Container: "web"})
	check(t, err)
	if diff := cmp.Diff("weft:expose\n", w.people(d)); diff != "" {
		t.Errorf("at the end (-want +got):\n%s", diff)
	}
	st, err := os.Stat(filepath.Join(w.dir, "workloads.json"))
	check(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("journal has mode %v", st.Mode())
	}
}

// TestRefused is every wrong request: class, text, and that nothing changed.
func TestRefused(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.run(webID, "web", 100)
	w.run(dbID, "db", 101)
	w.process(200, 7, "4:200")
	w.docker.set("stopped", Container{ID: strings.Repeat("c", 64), Name: "stopped"})
	w.docker.set("hostnet", Container{ID: strings.Repeat("d", 64), Name: "hostnet", Running: true, PID: 1, HostNetwork: true})
	w.docker.set("joined", Container{ID: strings.Repeat("e", 64), Name: "joined", Running: true, PID: 1})
	d := w.restart()
	mustAttach(t, d, "web", "10.32.0.1/12")
	_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.9/12"}})
	check(t, err)
	check(t, d.DNSAdd(ctx, api.NameRequest{Container: "web", FQDN: "www"}))

	attach := func(container string, addresses ...string) func() error {
		return func() error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: container, Addresses: addresses})
			return err
		}
	}
	other := errors.New("no class")
	tests := []struct {
		name  string
		f     func() error
		class error
		text  string
	}{
		{"no address", attach("db"), other, "the address allocator is off: name an address, e.g. 10.32.0.1/12"},
		{"default", attach("db", "net:default"), other, "the address allocator is off"},
		{"subnet", attach("db", "net:10.32.0.0/24"), other, "the address allocator is off"},
		{"no length", attach("db", "10.32.0.2"), api.ErrUsage, "10.32.0.2"},
		{"nonsense", attach("db", "10.32.0.256/12"), api.ErrUsage, "10.32.0.256/12"},
		{"network", attach("db", "10.32.0.0/12"), api.ErrUsage, "the first one for a container is 10.32.0.1/12"},
		{"broadcast", attach("db", "10.47.255.255/12"), api.ErrUsage, "broadcast"},
		{"name server", attach("db", "169.254.67.83/16"), api.ErrUsage, "name server"},
		{"everything", attach("db", "10.32.0.2/0"), api.ErrUsage, "default route"},
		{"IPv6", attach("db", "fd00::1/64"), api.ErrUsage, "only IPv4"},
		{"multicast", attach("db", "224.0.0.1/4"), api.ErrUsage, "224.0.0.1"},
		{"class E", attach("db", "240.0.0.1/4"), api.ErrUsage, "240.0.0.1"},
		{"unknown container", attach("nobody", "10.32.0.2/12"), api.ErrNotFound, "nobody"},
		{"unknown process", attach("pid:4711", "10.32.0.2/12"), api.ErrNotFound, "no such process"},
		{"unknown namespace", attach("netns:/run/netns/none", "10.32.0.2/12"), api.ErrNotFound, "no such network namespace"},
		{"no process number", attach("pid:x", "10.32.0.2/12"), api.ErrUsage, "pid:N"},
		{"negative process number", attach("pid:-1", "10.32.0.2/12"), api.ErrUsage, "pid:N"},
		{"relative path", attach("netns:a/b", "10.32.0.2/12"), api.ErrUsage, "netns:/PATH"},
		{"unknown form", attach("vm:1", "10.32.0.2/12"), api.ErrUsage, "pid:N"},
		{"no container", attach("", "10.32.0.2/12"), api.ErrUsage, "container"},
		{"stopped", attach("stopped", "10.32.0.2/12"), other, "not running"},
		{"host network", attach("hostnet", "10.32.0.2/12"), other, "uses the host's network and cannot be attached"},
		{"host network of another", attach("joined", "10.32.0.2/12"), other, "uses the host's network"},
		{"host's own process", attach("pid:1", "10.32.0.2/12"), other, "uses the host's network"},
		{"held by a container", attach("db", "10.32.0.1/24"), api.ErrConflict, "address 10.32.0.1 is held by container web"},
		{"held by the host", attach("db", "10.32.0.9/12"), api.ErrConflict, "address 10.32.0.9 is held by this host"},
		{"good and bad", attach("db", "10.32.0.2/12", "10.32.0.1/12"), api.ErrConflict, "10.32.0.1"},
		{"same address, other subnet", attach("web", "10.32.0.1/24"), other, "overlaps"},
		{"subnet inside", attach("web", "10.32.1.1/24"), other, "overlaps"},
		{"subnet around", attach("web", "10.1.0.1/8"), other, "overlaps"},
		{"subnets of one request", attach("db", "10.1.0.1/16", "10.1.2.1/24"), other, "overlaps"},
		{"other mac", func() error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: "web", Addresses: []string{"10.32.0.1/12"}, MAC: "02:01:01:01:01:01"})
			return err
		}, api.ErrConflict, "detach it first"},
		{"multicast mac", func() error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: "db", Addresses: []string{"10.32.0.2/12"}, MAC: "03:01:01:01:01:01"})
			return err
		}, api.ErrUsage, "unicast"},
		{"long mac", func() error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: "db", Addresses: []string{"10.32.0.2/12"}, MAC: "02:00:5e:10:00:00:00:01"})
			return err
		}, api.ErrUsage, "six octets"},
		{"add-host alone", func() error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: "db", Addresses: []string{"10.32.0.2/12"}, AddHosts: []string{"a:10.0.0.1"}})
			return err
		}, api.ErrUsage, "--rewrite-hosts"},
		{"add-host without address", func() error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: "db", Addresses: []string{"10.32.0.2/12"}, RewriteHosts: true, AddHosts: []string{"a"}})
			return err
		}, api.ErrUsage, "NAME:IP"},
		{"rewrite-hosts without a file", func() error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: "db", Addresses: []string{"10.32.0.2/12"}, RewriteHosts: true})
			return err
		}, other, "/etc/hosts"},
		{"detach unknown", func() error {
			_, err := d.Detach(ctx, api.DetachRequest{Container: "nobody"})
			return err
		}, api.ErrNotFound, "nobody"},
		{"detach nonsense", func() error {
			_, err := d.Detach(ctx, api.DetachRequest{Container: "web", Addresses: []string{"x"}})
			return err
		}, api.ErrUsage, "x"},
		{"detach default", func() error {
			_, err := d.Detach(ctx, api.DetachRequest{Container: "web", Addresses: []string{"net:default"}})
			return err
		}, other, "allocator is off"},
		{"expose nothing", func() error {
			_, err := d.Expose(ctx, api.ExposeRequest{})
			return err
		}, other, "allocator is off"},
		{"expose a container's", func() error {
			_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.1/12"}})
			return err
		}, api.ErrConflict, "held by container web"},
		{"expose overlapping", func() error {
			_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.10/16"}})
			return err
		}, other, "overlaps"},
		{"expose a foreign name", func() error {
			_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.10/12"}, FQDN: "a.example.com"})
			return err
		}, api.ErrUsage, "not in the domain weft.internal."},
		{"hide nonsense", func() error {
			_, err := d.Hide(ctx, api.HideRequest{Addresses: []string{"10.32.0.9"}})
			return err
		}, api.ErrUsage, "10.32.0.9"},
		{"a name of nothing", func() error { return d.DNSAdd(ctx, api.NameRequest{}) }, api.ErrUsage, "want a container"},
		{"a name without address", func() error { return d.DNSAdd(ctx, api.NameRequest{FQDN: "a"}) }, api.ErrUsage, "want a container"},
		{"a name for no address", func() error { return d.DNSAdd(ctx, api.NameRequest{Container: "db"}) }, other, "no address on the switch"},
		{"a process has no name", func() error {
			return d.DNSAdd(ctx, api.NameRequest{Container: "pid:200", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
		}, api.ErrUsage, "-h"},
		{"a foreign name", func() error { return d.DNSAdd(ctx, api.NameRequest{Container: "web", FQDN: "a.example.com"}) }, api.ErrUsage, "not in the domain"},
		{"the domain itself", func() error { return d.DNSAdd(ctx, api.NameRequest{Container: "web", FQDN: "weft.internal"}) }, api.ErrUsage, "not in the domain"},
		{"no name", func() error { return d.DNSAdd(ctx, api.NameRequest{Container: "web", FQDN: "a b"}) }, api.ErrUsage, "a b"},
		{"names of unknown", func() error { return d.DNSRemove(ctx, api.NameRequest{Container: "nobody"}) }, api.ErrNotFound, "nobody"},
		{"ps unknown", func() error {
			_, err := d.PS(ctx, []string{"web", "nobody"})
			return err
		}, api.ErrNotFound, "nobody"},
	}
	before := w.see(d)
	journal, err := os.ReadFile(filepath.Join(w.dir, "workloads.json"))
	check(t, err)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.f()
			if err == nil {
				t.Fatal("no error")
			}
			for _, class := range []error{api.ErrUsage, api.ErrNotFound, api.ErrConflict} {
				if got, want := errors.Is(err, class), errors.Is(tt.class, class); got != want {
					t.Errorf("is %v: %v, want %v (%v)", class, got, want, err)
				}
			}
			if !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("text %q: want one line with %q", err, tt.text)
			}
			if diff := cmp.Diff(before, w.see(d)); diff != "" {
				t.Errorf("something changed:\n%s", diff)
			}
		})
	}
	after, err := os.ReadFile(filepath.Join(w.dir, "workloads.json"))
	check(t, err)
	if diff := cmp.Diff(string(journal), string(after)); diff != "" {
		t.Errorf("the journal changed:\n%s", diff)
	}
	if len(d.locks.held) != 0 {
		t.Errorf("locks are left: %v", d.locks.held)
	}
}

func TestAskingTwice(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.run(webID, "web", 100)
	d := w.restart()
	r := api.AttachRequest{Container: "web", Addresses: []string{"10.32.0.1/12"}}
	_, err := d.Attach(ctx, r)
	check(t, err)
	before, version := w.see(d), d.journal.version
	for range 3 {
		_, err := d.Attach(ctx, r)
		check(t, err)
	}
	if diff := cmp.Diff(before, w.see(d)); diff != "" || d.journal.version != version {
		t.Errorf("asking twice changed something (version %d, was %d):\n%s", d.journal.version, version, diff)
	}
	// By its id, and by its process, it is the same container.
	mustAttach(t, d, webID[:12], "10.32.0.1/12")
	mustAttach(t, d, "pid:100", "10.32.0.1/12")
	if got, _ := d.PS(ctx, []string{"web", webID, "pid:100"}); len(got) != 1 {
		t.Errorf("ps: %v, want one", got)
	}
	_, err = d.Detach(ctx, api.DetachRequest{Container: "web"})
	check(t, err)
	if diff := cmp.Diff("weft:expose\n", w.people(d)); diff != "" {
		t.Errorf("detached:\n%s", diff)
	}
}

// TestSharedNamespace is two containers of an engine that share a network.
func TestSharedNamespace(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.run(webID, "web", 100)
	w.stat(101, 5)
	w.paths[w.nspath(101)] = w.paths[w.nspath(100)]
	w.docker.set("side", Container{ID: dbID, Name: "side", PID: 101, Running: true})
	d := w.restart()
	mustAttach(t, d, "web", "10.32.0.1/12", "10.32.0.2/12")
	mustAttach(t, d, "side", "10.32.0.2/12", "10.32.0.3/12")
	w.see(d)

	_, err := d.Detach(ctx, api.DetachRequest{Container: "side", Addresses: []string{"10.32.0.2/12"}})
	check(t, err)
	want := "name docker:" + webID + " web.weft.internal. 10.32.0.1 " + webID + "\n" +
		"name docker:" + webID + " web.weft.internal. 10.32.0.2 " + webID + "\n" +
		"name docker:" + dbID + " side.weft.internal. 10.32.0.3 " + dbID + "\n" +
		"weft:expose\naaaaaaaaaaaa 10.32.0.1/12 10.32.0.2/12\nbbbbbbbbbbbb 10.32.0.3/12\n"
	if diff := cmp.Diff(want, w.people(d)); diff != "" {
		t.Errorf("after one lets go of what both have:\n%s", diff)
	}
	// One of them ends; the namespace lives on.
	w.docker.set("side", Container{ID: dbID, Name: "side"})
	check(t, d.ContainerDied(ctx, dbID))
	if got := w.people(d); strings.Contains(got, "10.32.0.3") || !strings.Contains(got, "10.32.0.2") {
		t.Errorf("after one died:\n%s", got)
	}
	_, err = d.Detach(ctx, api.DetachRequest{Container: "web"})
	check(t, err)
	w.see(d)
}

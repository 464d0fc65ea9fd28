package workload

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

// TestGone is every way in which a container can go, and everybody who may
// notice.
func TestGone(t *testing.T) {
	ctx := context.Background()
	events := []struct {
		name   string
		happen func(w *world)
		engine bool // only the engine knows
	}{
		{"ended", func(w *world) {
			w.docker.set("web", Container{ID: webID, Name: "web"})
			w.kill(100)
		}, false},
		{"removed", func(w *world) {
			w.docker.remove("web")
			w.kill(100)
		}, false},
		{"ended while the engine hangs", func(w *world) {
			w.docker.err = errors.New("no answer")
			w.kill(100)
		}, false},
		{"its process is another one now", func(w *world) {
			w.docker.err = errors.New("no answer")
			w.kill(100)
			w.process(100, 4242, "4:777")
		}, false},
		{"restarted", func(w *world) {
			w.kill(100)
			w.run(webID, "web", 150)
		}, false},
		{"ended, another process holds its namespace", func(w *world) {
			w.docker.set("web", Container{ID: webID, Name: "web"})
		}, true},
	}
	notice := []struct {
		name   string
		engine bool
		do     func(w *world, d *Workload) (*Workload, error)
	}{
		{"sweep", true, func(_ *world, d *Workload) (*Workload, error) {
			_, err := d.Sweep(ctx)
			return d, err
		}},
		{"kernel", false, func(_ *world, d *Workload) (*Workload, error) {
			_, err := d.LinksChanged(ctx)
			return d, err
		}},
		{"engine", true, func(_ *world, d *Workload) (*Workload, error) { return d, d.ContainerDied(ctx, webID) }},
		{"restart", true, func(w *world, _ *Workload) (*Workload, error) {
			d := w.start()
			return d, d.Restore(ctx)
		}},
		{"somebody who wants the address", true, func(_ *world, d *Workload) (*Workload, error) {
			if _, err := d.Attach(ctx, api.AttachRequest{Container: "db", Addresses: []string{"10.32.0.1/12"}}); err != nil {
				return d, err
			}
			_, err := d.Detach(ctx, api.DetachRequest{Container: "db"})
			return d, err
		}},
		{"expose", true, func(_ *world, d *Workload) (*Workload, error) {
			if _, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.1/12"}}); err != nil {
				return d, err
			}
			_, err := d.Hide(ctx, api.HideRequest{})
			return d, err
		}},
	}
	for _, e := range events {
		for _, n := range notice {
			if e.engine && !n.engine || strings.Contains(e.name, "hangs") && n.name == "somebody who wants the address" {
				continue
			}
			if e.name == "its process is another one now" && n.name == "somebody who wants the address" {
				continue // the engine is needed to find it
			}
			t.Run(e.name+"/"+n.name, func(t *testing.T) {
				w := newWorld(t)
				w.run(webID, "web", 100)
				w.run(dbID, "db", 101)
				d := w.restart()
				mustAttach(t, d, "web", "10.32.0.1/12")
				e.happen(w)
				d, err := n.do(w, d)
				check(t, err)
				if diff := cmp.Diff("weft:expose\n", w.people(d)); diff != "" {
					t.Errorf("is remembered:\n%s", diff)
				}
				if len(d.keys()) != 0 {
					t.Errorf("entries are left: %v", d.keys())
				}
			})
		}
	}
}

// TestAlive is what must not be taken for a death.
func TestAlive(t *testing.T) {
	ctx := context.Background()
	tests := []struct {
		name   string
		happen func(w *world)
	}{
		{"nothing happened", func(*world) {}},
		{"the engine does not answer", func(w *world) { w.docker.err = errors.New("no answer") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.run(webID, "web", 100)
			w.process(200, 7, "4:200")
			d := w.restart()
			mustAttach(t, d, "web", "10.32.0.1/12")
			mustAttach(t, d, "pid:200", "10.32.0.2/12")
			before := w.see(d)
			tt.happen(w)
			check(t, d.ContainerDied(ctx, webID))
			for range 2 {
				repaired, err := d.Sweep(ctx)
				check(t, err)
				if len(repaired) != 0 {
					t.Errorf("repaired %q", repaired)
				}
			}
			d = w.restart()
			if diff := cmp.Diff(before, w.see(d)); diff != "" {
				t.Errorf("something changed:\n%s", diff)
			}
		})
	}
}

func TestRepair(t *testing.T) {
	ctx := context.Background()
	harm := map[string]func(w *world, end string) error{
		"taken from the bridge": func(w *world, end string) error { return w.host.SetMaster(end, "") },
		"set down":              func(w *world, end string) error { return w.host.SetUp(end, false) },
		"deleted":               func(w *world, end string) error { return w.host.DelLink(end) },
	}
	for name, f := range harm {
		for _, how := range []string{"notified", "swept", "restarted"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				w := newWorld(t)
				w.run(webID, "web", 100)
				d := w.restart()
				mustAttach(t, d, "web", "10.32.0.1/12")
				before := w.see(d)
				e, _ := d.journal.entry(dockerKey(webID))
				check(t, f(w, e.NS.HostEnd()))
				var repaired []string
				var err error
				switch how {
				case "notified":
					repaired, err = d.LinksChanged(ctx)
				case "swept":
					repaired, err = d.Sweep(ctx)
				case "restarted":
					d = w.restart()
					repaired = []string{"container web: said in the log"}
				}
				check(t, err)
				if len(repaired) == 0 || !strings.HasPrefix(repaired[0], "container web: ") {
					t.Errorf("repaired %q", repaired)
				}
				if diff := cmp.Diff(before, w.see(d)); diff != "" {
					t.Errorf("not what it was:\n%s", diff)
				}
			})
		}
	}
}

func TestReboot(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.run(webID, "web", 100)
	d := w.restart()
	mustAttach(t, d, "web", "10.32.0.1/12")
	_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.9/12"}, FQDN: "host1", WithoutMasquerade: true})
	check(t, err)
	check(t, d.DNSAdd(ctx, api.NameRequest{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, FQDN: "old"}))

	// Everything that was is gone, and the same numbers come again.
	again := newWorld(t)
	again.dir, again.boot = w.dir, "boot-2"
	again.run(webID, "web", 100)
	d = again.restart()
	want := "name weft:expose host1.weft.internal. 10.32.0.9 weft:expose\n" +
		"name weft:extern old.weft.internal. 192.0.2.8 weft:extern\n" +
		"exposed 10.32.0.9/12 false\nweft:expose 10.32.0.9/12\n"
	if diff := cmp.Diff(want, again.people(d)); diff != "" {
		t.Errorf("after a reboot:\n%s", diff)
	}
}

// TestBrokenContainer wants one container that cannot be restored not to keep
// others from it.
func TestBrokenContainer(t *testing.T) {
	w := newWorld(t)
	w.run(webID, "web", 100)
	w.run(dbID, "db", 101)
	d := w.restart()
	mustAttach(t, d, "web", "10.32.0.1/12")
	mustAttach(t, d, "db", "10.32.0.2/12")
	e, _ := d.journal.entry(dockerKey(webID))
	broken := &brokenAttacher{Attacher: d.attacher, path: e.Path}
	d = w.start()
	d.attacher = broken
	err := d.Restore(context.Background())
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "web") {
		t.Errorf("Restore: %v", err)
	}
	if len(w.names["docker:"+dbID]) != 1 || len(d.keys()) != 2 {
		t.Errorf("names %v, entries %v", w.names, d.keys())
	}
	d = w.restart()
	w.see(d)
}

var errBroken = errors.New("broken")

type brokenAttacher struct {
	Attacher
	path string
}

func (b *brokenAttacher) Identify(path string) (attach.Namespace, error) {
	if path == b.path {
		return attach.Namespace{}, errBroken
	}
	return b.Attacher.Identify(path)
}

func TestRename(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.run(webID, "web", 100)
	d := w.restart()
	mustAttach(t, d, "web", "10.32.0.1/12")
	check(t, d.DNSAdd(ctx, api.NameRequest{Container: "web", FQDN: "www"}))
	c := w.docker.containers["web"]
	w.docker.remove("web")
	c.Name = "shop"
	w.docker.set("shop", c)
	check(t, d.ContainerRenamed(ctx, webID))
	want := "name docker:" + webID + " shop.weft.internal. 10.32.0.1 " + webID + "\n" +
		"name docker:" + webID + " www.weft.internal. 10.32.0.1 " + webID + "\n" +
		"weft:expose\naaaaaaaaaaaa 10.32.0.1/12\n"
	if diff := cmp.Diff(want, w.people(d)); diff != "" {
		t.Errorf("renamed:\n%s", diff)
	}
	mustAttach(t, d, "shop", "10.32.0.1/12")
	if diff := cmp.Diff(want, w.people(d)); diff != "" {
		t.Errorf("renamed, asked again:\n%s", diff)
	}
}

// TestRemembered detaches what cannot be resolved any more.
func TestRemembered(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.run(webID, "web", 100)
	w.process(200, 7, "4:200")
	w.run(dbID, "db", 101)
	d := w.restart()
	mustAttach(t, d, "web", "10.32.0.1/12")
	mustAttach(t, d, "pid:200", "10.32.0.2/12")
	w.docker.err = errors.New("no answer")
	for arg, want := range map[string]string{"web": "10.32.0.1/12", webID: "10.32.0.1/12"} {
		list, err := d.PS(ctx, []string{arg})
		check(t, err)
		if len(list) != 1 || list[0].Addresses[0].String() != want {
			t.Errorf("ps %s: %v", arg, list)
		}
	}
	got, err := d.Detach(ctx, api.DetachRequest{Container: "web"})
	check(t, err)
	if len(got) != 1 {
		t.Errorf("detach: %v", got)
	}
	w.kill(200)
	got, err = d.Detach(ctx, api.DetachRequest{Container: "pid:200"})
	check(t, err)
	if len(got) != 1 {
		t.Errorf("detach: %v", got)
	}
	if diff := cmp.Diff("weft:expose\n", w.people(d)); diff != "" {
		t.Errorf("at the end:\n%s", diff)
	}
	if _, err := d.Detach(ctx, api.DetachRequest{Container: "pid:200"}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("detach of nothing: %v", err)
	}
}

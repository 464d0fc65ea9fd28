package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/kernel"
)

// spaceWorld has a range of 10.32.0.0 to 10.63.255.255, of which the lower half
// is the default subnet, two containers and a process.
func spaceWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.addSpace("10.32.0.0/11", "10.32.0.0/12")
	w.run(webID, "web", 100)
	w.run(dbID, "db", 101)
	w.process(200, 7, "4:200")
	return w
}

// say does what people would type and returns what they would read.
func (w *world) say(d *Workload, line string) string {
	w.t.Helper()
	ctx := context.Background()
	f := strings.Fields(line)
	last := len(f) - 1
	var got api.Addresses
	var err error
	switch f[0] {
	case "attach":
		got, err = d.Attach(ctx, api.AttachRequest{Container: f[last], Addresses: f[1:last]})
	case "detach":
		got, err = d.Detach(ctx, api.DetachRequest{Container: f[last], Addresses: f[1:last]})
	case "expose":
		got, err = d.Expose(ctx, api.ExposeRequest{Addresses: f[1:]})
	case "hide":
		got, err = d.Hide(ctx, api.HideRequest{Addresses: f[1:]})
	case "ps":
		list, perr := d.PS(ctx, f[1:])
		err = perr
		for _, a := range list {
			got = append(got, a.Addresses...)
		}
	case "restart": // of a container
		c := w.docker.containers[f[1]]
		w.kill(c.PID)
		w.run(c.ID, f[1], c.PID+50)
	case "end":
		c := w.docker.containers[f[1]]
		w.kill(c.PID)
		c.Running, c.PID = false, 0
		w.docker.set(f[1], c)
		err = d.ContainerDied(ctx, c.ID)
	case "later": // 30 s
		w.space.expire()
	default:
		w.t.Fatalf("%q?", line)
	}
	if err != nil {
		if strings.Contains(err.Error(), "\n") {
			w.t.Errorf("%s: more than one line: %q", line, err)
		}
		return err.Error()
	}
	return strings.Trim(fmt.Sprint(got), "[]")
}

// TestAllocate is conversations: what is typed, and what is answered.
func TestAllocate(t *testing.T) {
	tests := map[string][][2]string{
		"default": {
			{"attach web", "10.32.0.1/12"},
			{"attach web", "10.32.0.1/12"},
			{"attach net:default web", "10.32.0.1/12"},
			{"attach db", "10.32.0.2/12"},
			{"ps web", "10.32.0.1/12"},
			{"detach web", "10.32.0.1/12"},
			{"attach pid:200", "10.32.0.1/12"},
			{"attach web", "10.32.0.3/12"},
		},
		"a mix, in order": {
			{"attach net:10.48.0.0/24 10.32.0.9/12 net:10.49.0.0/24 10.70.0.1/24 web", "10.48.0.1/24 10.32.0.9/12 10.49.0.1/24 10.70.0.1/24"},
			{"attach 10.70.0.1/24 net:10.49.0.0/24 net:default web", "10.70.0.1/24 10.49.0.1/24 10.32.0.9/12"},
			{"detach 10.70.0.1/24 10.70.0.7/24 net:10.48.0.0/24 net:10.50.0.0/24 web", "10.70.0.1/24 10.70.0.7/24 10.48.0.1/24"},
			{"ps web", "10.32.0.9/12 10.49.0.1/24"},
			{"detach net:default web", "10.32.0.9/12"},
			{"detach net:default web", ""},
			{"detach web", "10.49.0.1/24"},
		},
		"what it has is enough": {
			{"attach 10.32.5.7/16 web", "10.32.5.7/16"},
			{"attach web", "10.32.5.7/16"},
			{"attach net:10.32.5.0/24 web", "10.32.5.7/16"},
			{"attach net:10.32.5.0/24 net:default 10.32.0.2/16 web", "10.32.5.7/16 10.32.0.2/16"},
			{"attach net:10.32.6.0/24 web", "attach web: subnet 10.32.6.0/24 overlaps that of 10.32.5.7/16 on the same interface; they must be equal or apart"},
			{"attach 10.32.0.3/12 net:default db", "10.32.0.3/12"},
		},
		"the same container by other names": {
			{"attach pid:100", "10.32.0.1/12"},
			{"attach web", "10.32.0.1/12"},
			{"attach pid:100", "10.32.0.1/12"},
			{"detach web", "10.32.0.1/12"},
			{"attach db", "10.32.0.1/12"},
		},
		"static addresses are claimed": {
			{"attach 10.32.0.1/12 web", "10.32.0.1/12"},
			{"attach db", "10.32.0.2/12"},
			{"attach 10.32.0.1/12 pid:200", "attach pid:200: address 10.32.0.1 is held by container web of this host"},
			{"attach 10.32.0.3/12 pid:200", "10.32.0.3/12"},
			{"expose 10.32.0.2/12", "expose: address 10.32.0.2 is held by container db of this host"},
			{"expose", "10.32.0.4/12"},
			{"attach 10.32.0.4/12 db", "attach db: address 10.32.0.4 is held by this host itself (weft:expose)"},
		},
		"another host's": {
			{"attach 10.32.0.250/12 web", "attach web: address 10.32.0.250 is held by web2 on host2"},
			{"attach 10.32.0.1/12 10.32.0.250/12 web", "attach web: address 10.32.0.250 is held by web2 on host2"},
			{"attach db", "10.32.0.1/12"},
		},
		"host": {
			{"expose net:10.48.0.0/24", "10.48.0.1/24"},
			{"expose", "10.32.0.1/12"},
			{"expose net:10.48.0.0/24 net:default", "10.48.0.1/24 10.32.0.1/12"},
			{"hide net:default 10.99.0.1/24", "10.32.0.1/12 10.99.0.1/24"},
			{"attach web", "10.32.0.1/12"},
			{"hide", "10.48.0.1/24"},
			{"hide", ""},
			{"hide net:default", ""},
		},
		"refused": {
			{"attach net:10.0.0.0/24 web", "attach web: subnet 10.0.0.0/24 is not inside 10.32.0.0/11"},
			{"attach net:fd00::/64 web", "subnet net:fd00::/64: only IPv4 addresses can be given; every container has its IPv6 link-local one anyhow"},
			{"attach net:default net:10.32.1.0/24 web", "attach web: subnet 10.32.0.0/12 overlaps that of 10.32.1.0/24 on the same interface; they must be equal or apart"},
			{"attach web", "10.32.0.1/12"},
			{"attach net:10.32.1.0/24 web", "attach web: subnet 10.32.1.0/24 overlaps that of 10.32.0.1/12 on the same interface; they must be equal or apart"},
		},
		"restarted in time": {
			{"attach web", "10.32.0.1/12"},
			{"attach net:10.48.0.0/24 web", "10.48.0.1/24"},
			{"end web", ""},
			{"ps", ""},
			{"attach db", "10.32.0.2/12"},
			{"attach 10.32.0.1/12 db", "attach db: address 10.32.0.1 is held by web"},
			{"restart web", ""},
			{"attach web", "10.32.0.1/12"},
			{"later", ""},
			{"attach net:10.48.0.0/24 pid:200", "10.48.0.1/24"}, // it did not ask for that again
			{"ps web", "10.32.0.1/12"},
		},
		"restarted, and nobody told us": {
			{"attach web", "10.32.0.1/12"},
			{"restart web", ""},
			{"attach web", "10.32.0.1/12"},
			{"later", ""},
			{"attach db", "10.32.0.2/12"},
		},
		"restarted too late": {
			{"attach web", "10.32.0.1/12"},
			{"end web", ""},
			{"later", ""},
			{"attach db", "10.32.0.1/12"},
			{"restart web", ""},
			{"attach web", "10.32.0.2/12"},
		},
		"detached when dead": {
			{"attach web", "10.32.0.1/12"},
			{"end web", ""},
			{"detach web", ""},
			{"attach db", "10.32.0.1/12"},
		},
	}
	for name, talk := range tests {
		t.Run(name, func(t *testing.T) {
			w := spaceWorld(t)
			w.space.held[netip.MustParseAddr("10.32.0.250")] = fakeHolder{key: elsewhere, label: "web2 on host2"}
			w.docker.containers["db"] = func() Container { c := w.docker.containers["db"]; c.Hostname = "db"; return c }()
			d := w.restart()
			for _, line := range talk {
				if line[0] == "restart web" && w.docker.containers["web"].PID == 0 {
					w.run(webID, "web", 170)
				} else if got := w.say(d, line[0]); got != line[1] {
					t.Errorf("%s: %q, want %q", line[0], got, line[1])
				}
				w.see(d)
			}
			// What is there outlives the daemon and ends with a detach.
			before := w.see(d)
			d = w.restart()
			if diff := cmp.Diff(before, w.see(d)); diff != "" {
				t.Errorf("a restart changed something:\n%s", diff)
			}
			for _, c := range []string{"web", "db", "pid:200"} {
				w.say(d, "detach "+c)
			}
			w.say(d, "hide")
			w.see(d)
			if got := w.space.live(); strings.Count(got, "\n") != 1 || !strings.Contains(got, elsewhere) {
				t.Errorf("still held:\n%s", got)
			}
			if len(d.locks.held) != 0 || len(d.flights.list) != 0 {
				t.Errorf("left: locks %v, requests %v", d.locks.held, d.flights.list)
			}
		})
	}
}

// TestSpaceErrors wants the class of the space's errors to reach the client.
func TestSpaceErrors(t *testing.T) {
	ctx := context.Background()
	w := spaceWorld(t)
	w.space.held[netip.MustParseAddr("10.32.0.250")] = fakeHolder{key: elsewhere, label: "web2 on host2"}
	d := w.restart()
	_, err := d.Attach(ctx, api.AttachRequest{Container: "web", Addresses: []string{"10.32.0.250/12"}})
	if !errors.Is(err, api.ErrConflict) {
		t.Errorf("another host's address: %v", err)
	}
	_, err = d.Attach(ctx, api.AttachRequest{Container: "web", Addresses: []string{"net:10.0.0.0/24"}})
	if !errors.Is(err, api.ErrUsage) {
		t.Errorf("another range: %v", err)
	}
	_, err = d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.250/12"}})
	if !errors.Is(err, api.ErrConflict) {
		t.Errorf("expose another host's address: %v", err)
	}
}

// TestSharedAddress is an address that two containers in one namespace have:
// it is free when both have let go, whoever goes first and in whatever way.
func TestSharedAddress(t *testing.T) {
	for _, lines := range [][]string{
		{"detach web", "detach side"},
		{"detach side", "detach web"},
		{"end web", "detach side"},
		{"detach 10.32.0.2/12 web", "detach side"},
	} {
		t.Run(strings.Join(lines, ", "), func(t *testing.T) {
			w := spaceWorld(t)
			w.stat(102, 5)
			w.paths[w.nspath(102)] = w.paths[w.nspath(100)]
			w.docker.set("side", Container{ID: strings.Repeat("c", 64), Name: "side", PID: 102, Running: true})
			d := w.restart()
			mustAttach(t, d, "web", "10.32.0.2/12")
			mustAttach(t, d, "side", "10.32.0.2/12")
			w.see(d)
			if lines[0] == "end web" { // its namespace lives on
				w.docker.set("web", Container{ID: webID, Name: "web"})
				check(t, d.ContainerDied(context.Background(), webID))
			} else {
				w.say(d, lines[0])
			}
			w.see(d)
			want := conflict("attach db: address 10.32.0.2 is held by container side of this host").Error()
			if lines[0] == "detach side" {
				want = strings.Replace(want, "side", "web", 1)
			}
			if got := w.say(d, "attach 10.32.0.2/12 db"); got != want {
				t.Errorf("while one has it: %s", got)
			}
			d = w.restart()
			w.see(d)
			w.say(d, lines[1])
			w.see(d)
			if got := w.say(d, "attach 10.32.0.2/12 db"); got != "10.32.0.2/12" {
				t.Errorf("when nobody has it: %s", got)
			}
		})
	}
}

// TestDebts lets the space refuse to take addresses back.
func TestDebts(t *testing.T) {
	ctx := context.Background()
	w := spaceWorld(t)
	d := w.restart()
	refusing := &refusingSpace{fakeSpace: w.space, refuses: true}
	d.space = refusing
	before := w.see(d)

	// The undo of an attach: its names cannot be set.
	names := d.names
	d.names = brokenNames{}
	if got := w.say(d, "attach web"); got != "attach web: register names: broken" {
		t.Errorf("attach: %s", got)
	}
	d.names = names
	if got := w.say(d, "expose"); got != "10.32.0.2/12" {
		t.Errorf("expose: %s", got)
	}
	if got := w.say(d, "hide"); got != "hide: disk full" {
		t.Errorf("hide: %s", got)
	}
	if _, err := d.Sweep(ctx); !errors.Is(err, errFull) {
		t.Errorf("sweep: %v", err)
	}
	// One of them is asked for again before it was taken back.
	if got := w.say(d, "expose"); got != "10.32.0.2/12" {
		t.Errorf("expose again: %s", got)
	}
	refusing.refuses = false
	_, err := d.Sweep(ctx)
	check(t, err)
	w.see(d)
	if got := w.say(d, "hide"); got != "10.32.0.2/12" {
		t.Errorf("hide: %s", got)
	}
	if diff := cmp.Diff(before, w.see(d)); diff != "" {
		t.Errorf("something is left:\n%s", diff)
	}
}

var errFull = errors.New("disk full")

type refusingSpace struct {
	*fakeSpace
	refuses bool
}

func (s *refusingSpace) Release(ctx context.Context, key string, addrs []netip.Addr) error {
	if s.refuses {
		return errFull
	}
	return s.fakeSpace.Release(ctx, key, addrs)
}

// TestHostRoutes wants no address on the host that cuts it off from its own
// networks.
func TestHostRoutes(t *testing.T) {
	w := spaceWorld(t)
	check(t, w.host.AddVXLAN("eth0", kernel.VXLAN{VNI: 1}))
	check(t, w.host.SetUp("eth0", true))
	for _, dst := range []string{"0.0.0.0/0", "128.0.0.0/1", "10.50.0.0/16", "192.0.2.0/24", "fd00::/8"} {
		check(t, w.host.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix(dst), Link: "eth0"}))
	}
	check(t, w.host.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("10.60.0.0/24"), Link: "weft"}))
	d := w.restart()
	tests := [][2]string{
		{"expose 10.50.1.1/24", "expose: address 10.50.1.1/24: its subnet overlaps 10.50.0.0/16, which this host reaches through eth0 and could not any more; expose an address of another subnet"},
		{"expose net:10.50.1.0/24", "expose: subnet 10.50.1.0/24 overlaps 10.50.0.0/16, which this host reaches through eth0 and could not any more; expose an address of another subnet"},
		{"expose 192.0.2.7/25", "expose: address 192.0.2.7/25: its subnet overlaps 192.0.2.0/24, which this host reaches through eth0 and could not any more; expose an address of another subnet"},
		{"expose 10.60.0.1/24", "10.60.0.1/24"}, // our own route
		{"expose", "10.32.0.1/12"},
		{"attach 10.50.1.1/24 web", "10.50.1.1/24"}, // the host has nothing to do with it
	}
	for _, tt := range tests {
		if got := w.say(d, tt[0]); got != tt[1] {
			t.Errorf("%s: %q, want %q", tt[0], got, tt[1])
		}
	}
	// An address that is there already is not asked about.
	check(t, w.host.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("10.32.0.0/12"), Link: "eth0"}))
	if got := w.say(d, "expose"); got != "10.32.0.1/12" {
		t.Errorf("again: %s", got)
	}
	w.see(d)
}

type brokenNames struct{}

func (brokenNames) Set(string, []dns.Record) error { return errBroken }

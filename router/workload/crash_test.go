package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// operation is something that somebody may ask for, on a machine prepared by
// crashWorld.
type operation struct {
	name string
	do   func(d *Workload) error
	// forward: once begun it is completed, not undone.
	forward bool
	// another: who asks again gets another answer.
	another bool
}

const crashMAC = "02:11:22:33:44:55"

func operations() []operation {
	ctx := context.Background()
	attach := func(r api.AttachRequest) func(*Workload) error {
		return func(d *Workload) error {
			_, err := d.Attach(ctx, r)
			return err
		}
	}
	detach := func(container string, addresses ...string) func(*Workload) error {
		return func(d *Workload) error {
			_, err := d.Detach(ctx, api.DetachRequest{Container: container, Addresses: addresses})
			return err
		}
	}
	printer := api.NameRequest{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, FQDN: "printer"}
	old := api.NameRequest{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, FQDN: "old"}
	return []operation{
		{name: "attach", do: attach(api.AttachRequest{Container: "db", Addresses: []string{"10.32.0.2/12"}, MAC: crashMAC})},
		{name: "attach a process", do: attach(api.AttachRequest{Container: "pid:200", Addresses: []string{"10.32.0.2/12", "10.32.0.5/12"}, MAC: crashMAC})},
		{name: "one more address", do: attach(api.AttachRequest{Container: "web", Addresses: []string{"10.32.0.1/12", "10.32.0.2/12"}})},
		{name: "ask again", do: attach(api.AttachRequest{Container: "web", Addresses: []string{"10.32.0.1/12"}})},
		{name: "detach one", do: detach("web", "10.32.0.1/12"), forward: true},
		{name: "detach all", do: detach("web"), forward: true},
		{name: "detach another", do: detach("web", "10.32.0.77/12"), forward: true},
		{name: "expose", do: func(d *Workload) error {
			_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.10/12"}, FQDN: "host1", WithoutMasquerade: true})
			return err
		}},
		{name: "hide", do: func(d *Workload) error {
			_, err := d.Hide(ctx, api.HideRequest{})
			return err
		}, forward: true},
		{name: "dns-add", do: func(d *Workload) error {
			return d.DNSAdd(ctx, api.NameRequest{Container: "web", FQDN: "www"})
		}},
		{name: "dns-add of a process", do: func(d *Workload) error {
			return d.DNSAdd(ctx, api.NameRequest{Container: "pid:200", FQDN: "box", Addresses: printer.Addresses})
		}},
		{name: "dns-add of nobody", do: func(d *Workload) error { return d.DNSAdd(ctx, printer) }},
		{name: "dns-remove", do: func(d *Workload) error {
			return d.DNSRemove(ctx, api.NameRequest{Container: "web"})
		}, forward: true},
		{name: "dns-remove of nobody", do: func(d *Workload) error { return d.DNSRemove(ctx, old) }},
	}
}

// allocations are operations that need a space.
func allocations() []operation {
	ctx := context.Background()
	attach := func(container string, addresses ...string) func(*Workload) error {
		return func(d *Workload) error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: container, Addresses: addresses, MAC: crashMAC})
			return err
		}
	}
	return []operation{
		{name: "allocate", do: attach("db")},
		{name: "allocate for a process", do: attach("pid:200", "net:10.48.0.0/24", "10.32.0.7/12", "net:10.49.0.0/24")},
		{name: "allocate what it has", do: func(d *Workload) error {
			_, err := d.Attach(ctx, api.AttachRequest{Container: "web"})
			return err
		}},
		{name: "detach a subnet", do: func(d *Workload) error {
			_, err := d.Detach(ctx, api.DetachRequest{Container: "web", Addresses: []string{"net:10.32.0.0/24"}})
			return err
		}, forward: true},
		{name: "allocate for the host", do: func(d *Workload) error {
			_, err := d.Expose(ctx, api.ExposeRequest{Addresses: []string{"net:10.48.0.0/24"}})
			return err
		}},
		{name: "hide a subnet", do: func(d *Workload) error {
			_, err := d.Hide(ctx, api.HideRequest{Addresses: []string{"net:default"}})
			return err
		}, forward: true},
	}
}

// variants are the worlds in which operations are tried.
func variants() map[string]func(w *world) {
	return map[string]func(w *world){
		"static":    func(*world) {},
		"allocator": func(w *world) { w.addSpace("10.32.0.0/11", "10.32.0.0/12") },
		"engine":    func(w *world) { w.addSpace("10.32.0.0/11", "10.32.0.0/12") },
	}
}

func operationsIn(variant string) []operation {
	switch variant {
	case "allocator":
		return append(operations(), allocations()...)
	case "engine":
		return engineOperations()
	}
	return operations()
}

// crashWorld is a machine on which something is attached, exposed and named.
func crashWorld(t *testing.T, prepare func(w *world)) (*world, *Workload) {
	t.Helper()
	ctx := context.Background()
	w := newWorld(t)
	prepare(w)
	w.run(webID, "web", 100)
	w.run(dbID, "db", 101)
	w.process(200, 7, "4:200")
	d := w.restart()
	_, err := d.Attach(ctx, api.AttachRequest{Container: "web", Addresses: []string{"10.32.0.1/12", "10.32.0.4/12"}, MAC: "02:11:22:33:44:00"})
	check(t, err)
	_, err = d.Expose(ctx, api.ExposeRequest{Addresses: []string{"10.32.0.9/12"}, FQDN: "host0"})
	check(t, err)
	check(t, d.DNSAdd(ctx, api.NameRequest{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, FQDN: "old"}))
	return w, d
}

// TestCrash cuts the power at every step of every operation, before and after
// the step has its effect, and lets a new daemon find what is left.
func TestCrash(t *testing.T) {
	for variant, prepare := range variants() {
		world := func(t *testing.T) (*world, *Workload) { return crashWorld(t, prepare) }
		if variant == "engine" {
			world = engineCrashWorld
		}
		for _, op := range operationsIn(variant) {
			t.Run(variant+"/"+op.name, func(t *testing.T) {
				crash(t, world, op)
			})
		}
	}
}

func crash(t *testing.T, world func(*testing.T) (*world, *Workload), op operation) {
	t.Helper()
	w, d := world(t)
	before := w.see(d)
	check(t, op.do(d))
	after := w.see(d)
	steps := 0
	for _, late := range []bool{false, true} {
		for n := 1; ; n++ {
			w, d := world(t)
			w.power.arm(n, late, false)
			err := op.do(d)
			if !w.power.hit() {
				check(t, err)
				break
			}
			steps++
			at := fmt.Sprintf("step %d, late %v, told %v", n, late, err)
			w.power.arm(0, false, false)
			d = w.restart()
			got := w.see(d)
			if got != before && got != after {
				t.Fatalf("%s: neither before nor after (-after +got):\n%s", at, cmp.Diff(after, got))
			}
			if err == nil && got != after {
				t.Fatalf("%s: told done, and is not:\n%s", at, cmp.Diff(after, got))
			}
			if op.another {
				continue
			}
			check(t, op.do(d))
			if diff := cmp.Diff(after, w.see(d)); diff != "" {
				t.Fatalf("%s: asking again does not help:\n%s", at, diff)
			}
		}
	}
	if steps == 0 {
		t.Error("no step was cut")
	}
	t.Logf("%d steps", steps)
}

// TestCrashInRestore cuts the power while a daemon repairs what a cut left.
func TestCrashInRestore(t *testing.T) {
	prepare := variants()["allocator"]
	ctx := context.Background()
	for first := 1; first < 60; first += 3 {
		for n := 1; ; n++ {
			w, d := crashWorld(t, prepare)
			before := w.see(d)
			w.power.arm(first, false, false)
			_, err := d.Attach(ctx, api.AttachRequest{Container: "web", Addresses: []string{"10.32.0.2/12"}})
			if err == nil {
				return
			}
			w.power.arm(n, true, false)
			d = w.start()
			err = d.Restore(ctx)
			cut := w.power.hit()
			w.power.arm(0, false, false)
			d = w.restart()
			if diff := cmp.Diff(before, w.see(d)); diff != "" {
				t.Fatalf("cut at %d, then at %d (%v):\n%s", first, n, err, diff)
			}
			if !cut {
				break
			}
		}
	}
}

// TestOneFailure lets every step fail once, with and without effect: what was
// begun is undone, or the next sweep completes it.
func TestOneFailure(t *testing.T) {
	for variant, world := range map[string]func(t *testing.T) (*world, *Workload){
		"allocator": func(t *testing.T) (*world, *Workload) { t.Helper(); return crashWorld(t, variants()["allocator"]) },
		"engine":    engineCrashWorld,
	} {
		for _, op := range operationsIn(variant) {
			t.Run(op.name, func(t *testing.T) { oneFailure(t, world, op) })
		}
	}
}

func oneFailure(t *testing.T, world func(*testing.T) (*world, *Workload), op operation) {
	t.Helper()
	w, d := world(t)
	before := w.see(d)
	check(t, op.do(d))
	after := w.see(d)
	for _, late := range []bool{false, true} {
		for n := 1; ; n++ {
			w, d := world(t)
			w.power.arm(n, late, true)
			err := op.do(d)
			if !w.power.hit() {
				check(t, err)
				break
			}
			at := fmt.Sprintf("step %d, late %v, told %v", n, late, err)
			w.power.arm(0, false, false)
			if err != nil && !errors.Is(err, errPower) {
				t.Errorf("%s: the reason is lost", at)
			}
			if op.forward || late {
				_, serr := d.Sweep(context.Background())
				check(t, serr)
			}
			got := w.see(d)
			switch {
			case err == nil && got != after:
				t.Fatalf("%s: told done, and is not:\n%s", at, cmp.Diff(after, got))
			case err != nil && got != before && !op.forward:
				t.Fatalf("%s: something is left (-before +got):\n%s", at, cmp.Diff(before, got))
			case got != before && got != after:
				t.Fatalf("%s: neither before nor after (-after +got):\n%s", at, cmp.Diff(after, got))
			}
		}
	}
}

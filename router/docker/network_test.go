package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

func (f *fakeEngine) NetworkList(_ context.Context, o client.NetworkListOptions) (r client.NetworkListResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.absent {
		return r, errors.New("no engine")
	}
	for _, n := range f.networks {
		for name := range o.Filters["name"] { // as an engine does
			if strings.Contains(n.Name, name) {
				r.Items = append(r.Items, network.Summary{Network: n})
			}
		}
		if o.Filters["driver"][n.Driver] {
			r.Items = append(r.Items, network.Summary{Network: n})
		}
	}
	return r, nil
}

func (f *fakeEngine) NetworkInspect(ctx context.Context, id string, _ client.NetworkInspectOptions) (r client.NetworkInspectResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.networks {
		if n.ID == id && n.Name != "removed" {
			return client.NetworkInspectResult{Network: network.Inspect{Network: n, Containers: f.places[id]}}, nil
		}
	}
	*ctx.Value(statusKey{}).(*int) = http.StatusNotFound
	return r, errors.New("no such network")
}

func (f *fakeEngine) NetworkCreate(_ context.Context, name string, o client.NetworkCreateOptions) (r client.NetworkCreateResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made++
	if f.refuses != nil {
		return r, f.refuses
	}
	r.ID = fmt.Sprint("made", f.made)
	n := network.Network{Name: name, ID: r.ID, Driver: o.Driver, IPAM: *o.IPAM, Labels: o.Labels}
	f.networks = append(f.networks, n)
	if f.rival {
		n.ID = "rival"
		f.networks = append(f.networks, n)
	}
	return r, nil
}

func (f *fakeEngine) NetworkRemove(_ context.Context, id string, _ client.NetworkRemoveOptions) (r client.NetworkRemoveResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.networks = slices.DeleteFunc(f.networks, func(n network.Network) bool { return n.ID == id })
	return r, nil
}

// has lists the networks as NAME DRIVER SUBNET.
func (f *fakeEngine) has() (list []string) {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.networks {
		subnet := netip.Prefix{}
		if len(n.IPAM.Config) > 0 {
			subnet = n.IPAM.Config[0].Subnet
		}
		list = append(list, fmt.Sprintf("%s %s/%s %s", n.Name, n.Driver, n.IPAM.Driver, subnet))
	}
	return list
}

// story is what an engine lives through; start begins to follow it.
type story func(t *testing.T, f *fakeEngine, start func() *follower, log *strings.Builder)

// stories are told in a bubble.
func stories() map[string]story {
	const made = "weft weft/weft 10.32.0.0/16"
	foreign := network.Network{Name: "weft", ID: "f", Driver: "bridge"}
	other := network.Network{Name: "weft2", ID: "o", Driver: "bridge"}
	return map[string]story{
		"made, and made again for an engine that lost everything": func(t *testing.T, f *fakeEngine, start func() *follower, _ *strings.Builder) {
			f.networks = []network.Network{other}
			d := start()
			if diff := cmp.Diff([]string{"weft2 bridge/ invalid Prefix", made}, f.has()); diff != "" {
				t.Error(diff)
			}
			f.set(func() { f.networks = nil })
			f.broken <- errors.New("lost")
			time.Sleep(time.Minute)
			if diff := cmp.Diff([]string{made}, f.has()); diff != "" || f.made != 2 {
				t.Errorf("made %d times: %s", f.made, diff)
			}
			f.broken <- errors.New("lost")
			time.Sleep(time.Minute)
			if f.has(); f.made != 2 {
				t.Error("made although it was there")
			}
			d.stop()
		},
		"removed by us": func(t *testing.T, f *fakeEngine, start func() *follower, _ *strings.Builder) {
			f.networks = []network.Network{
				other,
				{Name: "back", ID: "b", Driver: "weft"},
				{Name: "weft-10.32.2.0-24", ID: "p", Driver: "weft", Labels: map[string]string{"weft.proxy": "true"}},
			}
			d := start()
			f.has()
			d.stop()
			left, err := newClient(f, Config{}).RemoveOwn(t.Context(), "weft", "weft.proxy")
			check(t, err)
			if list := f.has(); len(list) != 2 || !slices.Equal(left, []string{"back"}) {
				t.Errorf("has %q, left %q", list, left)
			}
		},
		"removed by somebody": func(t *testing.T, f *fakeEngine, start func() *follower, _ *strings.Builder) {
			d := start()
			f.has()
			f.set(func() { f.networks = nil })
			f.tellNetwork(events.ActionDestroy, "weft", "weft", "")
			f.broken <- errors.New("lost")
			time.Sleep(time.Minute)
			if list := f.has(); len(list) > 0 {
				t.Errorf("made again: %q", list)
			}
			d.stop()
			d = start() // the daemon is started again
			if list := f.has(); len(list) != 1 {
				t.Errorf("after a new start: %q", list)
			}
			d.stop()
		},
		"of somebody else": func(t *testing.T, f *fakeEngine, start func() *follower, log *strings.Builder) {
			f.networks = []network.Network{foreign}
			d := start()
			f.has()
			for range 3 {
				f.broken <- errors.New("lost")
				time.Sleep(time.Minute)
			}
			if f.has(); f.made != 0 || strings.Count(log.String(), "it is not weft's (driver bridge)") != 1 {
				t.Errorf("made %d, log:\n%s", f.made, log)
			}
			// It goes, and ours can come.
			f.set(func() { f.networks = nil })
			f.tellNetwork(events.ActionDestroy, "weft", "bridge", "")
			f.broken <- errors.New("lost")
			time.Sleep(time.Minute)
			if list := f.has(); len(list) != 1 {
				t.Errorf("has %q", list)
			}
			d.stop()
		},
		"refused at first": func(t *testing.T, f *fakeEngine, start func() *follower, log *strings.Builder) {
			f.refuses = errors.New(`plugin "weft" not found`)
			d := start()
			time.Sleep(100 * time.Second)
			f.set(func() { f.refuses = nil })
			time.Sleep(time.Minute)
			if list := f.has(); !slices.Equal(list, []string{made}) || strings.Count(log.String(), "cannot make") != 1 || f.made > 12 {
				t.Errorf("has %q after %d tries, log:\n%s", list, f.made, log)
			}
			d.stop()
		},
		"made by two": func(t *testing.T, f *fakeEngine, start func() *follower, _ *strings.Builder) {
			f.rival = true
			d := start()
			if f.has(); len(f.networks) != 1 || f.networks[0].ID != "rival" {
				t.Errorf("there are %v", f.networks)
			}
			d.stop()
		},
		"another subnet": func(t *testing.T, f *fakeEngine, start func() *follower, log *strings.Builder) {
			n := network.Network{Name: "weft", ID: "w", Driver: "weft", IPAM: network.IPAM{Driver: "weft", Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.40.0.0/16")}}}}
			f.networks = []network.Network{n}
			d := start()
			if f.has(); f.made != 0 || !strings.Contains(log.String(), "another subnet than weft's default subnet 10.32.0.0/16") {
				t.Errorf("made %d, log:\n%s", f.made, log)
			}
			d.stop()
		},
	}
}

func TestDefaultNetwork(t *testing.T) {
	wanted := DefaultNetwork{Name: "weft", Driver: "weft", Subnet: netip.MustParsePrefix("10.32.0.0/16")}
	for name, tell := range stories() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				f := newFakeEngine()
				start := func() *follower {
					return follow(t, newClient(f, Config{Network: wanted, Log: slog.New(slog.NewTextHandler(&log, nil))}))
				}
				tell(t, f, start, &log)
			})
		})
	}
}

func TestEndpoints(t *testing.T) {
	f := newFakeEngine()
	f.networks = []network.Network{
		{Name: "weft", ID: "w", Driver: "weft"}, {Name: "removed", ID: "r", Driver: "weft"}, {Name: "x", ID: "x", Driver: "bridge"},
	}
	f.places = map[string]map[string]network.EndpointResource{
		"w": {"c1": {EndpointID: "e1"}, "ep-e2": {EndpointID: "e2"}}, "x": {"c1": {EndpointID: "e3"}},
	}
	d := newClient(f, Config{})
	names, err := d.Networks(t.Context(), "weft")
	check(t, err)
	if want := []string{"weft", "w", "removed", "r"}; !slices.Equal(names, want) {
		t.Errorf("networks %q, want %q", names, want)
	}
	endpoints, err := d.Endpoints(t.Context(), "weft")
	check(t, err)
	if diff := cmp.Diff(map[string]string{"e1": "c1", "e2": ""}, endpoints); diff != "" {
		t.Error(diff)
	}
	f.set(func() { f.absent = true })
	if _, err := d.Networks(t.Context(), "weft"); err == nil {
		t.Error("an engine that is not there has no networks")
	}
	if _, err := d.Endpoints(t.Context(), "weft"); err == nil {
		t.Error("an engine that is not there has no endpoints")
	}
}

package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/weftnet/weft/router/api"
)

// oldEngine answers as Docker Engine 20.10 does: API 1.41 and nothing newer.
func oldEngine(t *testing.T) (host string, events chan string) {
	t.Helper()
	events = make(chan string)
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Docker-Experimental", "false")
		_, _ = w.Write([]byte("OK"))
	})
	problem := func(w http.ResponseWriter, code int, text string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": text})
	}
	mux.HandleFunc("/v1.41/containers/{name}/json", func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("name") {
		case "web":
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{"Id":"0123456789abcdef","Name":"/web","HostsPath":"/var/lib/docker/containers/0123456789abcdef/hosts",
				"State":{"Status":"running","Running":true,"Paused":false,"Pid":4711},
				"HostConfig":{"NetworkMode":"weft"},"Config":{"Hostname":"shop","Domainname":"weft.internal"},"NetworkSettings":{"Networks":{
				"weft":{"IPAMConfig":{"IPv4Address":"10.32.7.7"},"Links":null,"Aliases":["zz","0123456789ab"],"NetworkID":"ead5","EndpointID":"4618","Gateway":"","IPAddress":"10.32.7.7",
					"IPPrefixLen":16,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"MacAddress":"02:aa:bb:cc:dd:ee","DriverOpts":null},
				"other":{"IPAMConfig":null,"Aliases":null,"NetworkID":"29ec","EndpointID":"","IPAddress":"","IPPrefixLen":0,"MacAddress":""}}}}`)
		case "hostnet":
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{"Id":"fedcba","Name":"/hostnet","State":{"Status":"created","Running":false},"HostConfig":{"NetworkMode":"host"},"Config":{}}`)
		case "01":
			problem(w, http.StatusInternalServerError, "Multiple IDs found with provided prefix: 01")
		case "broken":
			problem(w, http.StatusInternalServerError, "disk on fire")
		case "hangs":
			<-r.Context().Done()
		default:
			problem(w, http.StatusNotFound, "No such container: "+r.PathValue("name"))
		}
	})
	mux.HandleFunc("/v1.41/containers/json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, `[{"Id":"0123456789abcdef","Names":["/other/alias","/web"],"State":"running","HostConfig":{"NetworkMode":"default"},
			"NetworkSettings":{"Networks":{"weft":{"IPAMConfig":{"IPv4Address":"10.32.7.7"},"Aliases":null,"NetworkID":"ead5","EndpointID":"4618","IPAddress":"10.32.7.7","IPPrefixLen":16,"MacAddress":"02:aa:bb:cc:dd:ee"}}}},
			{"Id":"dead","Names":["/dead"],"State":"exited","HostConfig":{"NetworkMode":"host"}}]`)
	})
	mux.HandleFunc("/v1.41/events", func(w http.ResponseWriter, r *http.Request) {
		if since := r.URL.Query().Get("since"); since != "" && since != "1795218187.128216092" {
			t.Errorf("events since %q", since)
		}
		w.Header().Set("Content-Type", "application/json")
		w.(http.Flusher).Flush()
		for {
			select {
			case e := <-events:
				if e == "" {
					return
				}
				_, _ = fmt.Fprintln(w, e)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	check(t, err)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-served
	})
	return "unix://" + path, events
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quietEnvironment(t *testing.T) {
	t.Helper()
	for _, v := range []string{"DOCKER_HOST", "DOCKER_API_VERSION", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"} {
		t.Setenv(v, "")
	}
}

func TestInspect(t *testing.T) {
	quietEnvironment(t)
	host, _ := oldEngine(t)
	d, err := New(Config{Host: host, Timeout: 20 * time.Second})
	check(t, err)
	defer d.Close()
	hasty, err := New(Config{Host: host, Timeout: 100 * time.Millisecond}) // for who never answers
	check(t, err)
	defer hasty.Close()
	ctx := context.Background()

	got, err := d.Inspect(ctx, "web")
	check(t, err)
	want := Container{
		ID: "0123456789abcdef", Name: "web", Hostname: "shop", Domainname: "weft.internal",
		PID: 4711, Running: true, HostsPath: "/var/lib/docker/containers/0123456789abcdef/hosts",
		Networks: []Network{
			{ID: "29ec", Name: "other"},
			{ID: "ead5", Name: "weft", EndpointID: "4618", Address: netip.MustParsePrefix("10.32.7.7/16"), Aliases: []string{"zz"}, Pinned: netip.MustParseAddr("10.32.7.7")},
		},
	}
	addresses := cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})
	if diff := cmp.Diff(want, got, addresses); diff != "" {
		t.Errorf("Inspect (-want +got):\n%s", diff)
	}
	got, err = d.Inspect(ctx, "hostnet")
	check(t, err)
	want = Container{ID: "fedcba", Name: "hostnet", HostNetwork: true, Created: true}
	if diff := cmp.Diff(want, got, addresses); diff != "" {
		t.Errorf("Inspect (-want +got):\n%s", diff)
	}

	all, err := d.containers(ctx)
	check(t, err)
	place := Network{ID: "ead5", Name: "weft", EndpointID: "4618", Address: netip.MustParsePrefix("10.32.7.7/16"), Pinned: netip.MustParseAddr("10.32.7.7")}
	listed := []Container{{ID: "0123456789abcdef", Name: "web", Running: true, Networks: []Network{place}}, {ID: "dead", Name: "dead", HostNetwork: true}}
	if diff := cmp.Diff(listed, all, addresses); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}

	tests := []struct {
		name  string
		class error // nil: none
		text  string
	}{
		{"nobody", api.ErrNotFound, "No such container: nobody"},
		{"01", api.ErrNotFound, "Multiple IDs found with provided prefix: 01"},
		{"broken", nil, "disk on fire"},
		{"hangs", ErrUnavailable, "does not answer"},
		{"", api.ErrNotFound, "cannot be the name"},
		{"../info", api.ErrNotFound, "cannot be the name"},
		{"a/json?x=1#", api.ErrNotFound, "cannot be the name"},
		{"web\n", api.ErrNotFound, "cannot be the name"},
	}
	for _, tt := range tests {
		asked := d
		if tt.name == "hangs" {
			asked = hasty
		}
		_, err := asked.Inspect(ctx, tt.name)
		if err == nil || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Inspect(%q): %v, want one line with %q", tt.name, err, tt.text)
		}
		for _, class := range []error{api.ErrNotFound, ErrUnavailable} {
			if errors.Is(err, class) != errors.Is(tt.class, class) {
				t.Errorf("Inspect(%q): %v, want class %v", tt.name, err, tt.class)
			}
		}
	}
}

func TestAbsent(t *testing.T) {
	quietEnvironment(t)
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none.sock"))
	d, err := New(Config{})
	check(t, err)
	defer d.Close()
	_, err = d.Inspect(context.Background(), "web")
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, api.ErrNotFound) {
		t.Errorf("Inspect: %v", err)
	}
	if _, err := New(Config{Host: "nonsense"}); err == nil {
		t.Error("a nonsense host is taken")
	}
}

// TestRunOverSocket follows a real client over a real socket.
func TestRunOverSocket(t *testing.T) {
	quietEnvironment(t)
	host, stream := oldEngine(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d, err := New(Config{Host: host, Retry: time.Millisecond})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan Event, 16)
	done := make(chan error)
	go func() { done <- d.Run(ctx, func(e Event) { got <- e }, func(context.Context, Event) {}) }()
	next := func(want Event) {
		t.Helper()
		select {
		case e := <-got:
			if e != want {
				t.Errorf("event %+v, want %+v", e, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no event, want %+v", want)
		}
	}
	const id = "0123456789abcdef"
	next(Event{Kind: Started, ID: id, Name: "web"})
	stream <- `{"Type":"container","Action":"die","Actor":{"ID":"0123456789abcdef","Attributes":{"name":"web"}},"time":1795218187,"timeNano":1795218187128216092}`
	next(Event{Kind: Died, ID: id, Name: "web"})
	stream <- "" // the engine ends the stream; the list still has it
	next(Event{Kind: Started, ID: id, Name: "web"})
	stream <- `{"Type":"container","Action":"rename","Actor":{"ID":"0123456789abcdef","Attributes":{"name":"/shop","oldName":"/web"}}}`
	next(Event{Kind: Renamed, ID: id, Name: "shop"})
	stream <- `{"Type":"network","Action":"connect","Actor":{"ID":"ead5","Attributes":{"container":"0123456789abcdef","name":"weft","type":"weft"}},"time":2,"timeNano":2}`
	next(Event{Kind: Connected, ID: id, Name: "shop", Network: "weft"})
	cancel()
	check(t, <-done)
	check(t, d.Close())
}

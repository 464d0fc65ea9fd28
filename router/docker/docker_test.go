package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
				"HostConfig":{"NetworkMode":"default"},"Config":{"Hostname":"shop","Domainname":"weft.internal"},"NetworkSettings":{}}`)
		case "hostnet":
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{"Id":"fedcba","Name":"/hostnet","State":{"Running":false},"HostConfig":{"NetworkMode":"host"},"Config":{}}`)
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
		_, _ = fmt.Fprint(w, `[{"Id":"0123456789abcdef","Names":["/other/alias","/web"],"State":"running","NetworkSettings":{"Networks":{}}}]`)
	})
	mux.HandleFunc("/v1.41/events", func(w http.ResponseWriter, r *http.Request) {
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
	d, err := New(Config{Host: host, Timeout: 200 * time.Millisecond})
	check(t, err)
	defer d.Close()
	ctx := context.Background()

	got, err := d.Inspect(ctx, "web")
	check(t, err)
	want := Container{
		ID: "0123456789abcdef", Name: "web", Hostname: "shop", Domainname: "weft.internal",
		PID: 4711, Running: true, HostsPath: "/var/lib/docker/containers/0123456789abcdef/hosts",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Inspect (-want +got):\n%s", diff)
	}
	got, err = d.Inspect(ctx, "hostnet")
	check(t, err)
	if want := (Container{ID: "fedcba", Name: "hostnet", HostNetwork: true}); got != want {
		t.Errorf("Inspect = %+v, want %+v", got, want)
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
		_, err := d.Inspect(ctx, tt.name)
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
	go func() { done <- d.Run(ctx, func(e Event) { got <- e }) }()
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
	next(Event{Started, "0123456789abcdef", "web"})
	stream <- `{"Type":"container","Action":"die","Actor":{"ID":"0123456789abcdef","Attributes":{"name":"web"}},"time":1,"timeNano":1}`
	next(Event{Died, "0123456789abcdef", "web"})
	stream <- "" // the engine ends the stream; the list still has it
	next(Event{Started, "0123456789abcdef", "web"})
	stream <- `{"Type":"container","Action":"rename","Actor":{"ID":"0123456789abcdef","Attributes":{"name":"/shop","oldName":"/web"}}}`
	next(Event{Renamed, "0123456789abcdef", "shop"})
	cancel()
	check(t, <-done)
	check(t, d.Close())
}

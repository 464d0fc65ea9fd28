package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// ask makes one request and returns status and body.
func ask(t testing.TB, client *http.Client, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://docker"+path, strings.NewReader(body))
	check(t, err)
	r, err := client.Do(req)
	check(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	check(t, err)
	return r.StatusCode, string(b)
}

func (f *fakeEngine) only(t *testing.T) fakeContainer {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if len(f.containers) == 1 {
			return *c
		}
	}
	t.Fatalf("%d containers, want one", len(f.containers))
	return fakeContainer{}
}

func (f *fakeEngine) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

const emptyBody = `{"Domainname":"weft.internal","HostConfig":{"Dns":["169.254.67.83"],"DnsSearch":["weft.internal"]},"Hostname":"web"`

// TestCreate: when the client hears of the container it is connected.
func TestCreate(t *testing.T) {
	noLeaks(t)
	tests := []struct {
		name, cidr string
		change     func(*Config)
		calls      string
		network    string
		place      string
	}{
		{
			"plain", "", nil, "create, connect weft", "weft",
			`{"IPAMConfig":{"IPv4Address":"10.32.0.1"},"DriverOpts":{"weft-proxy.asked":"net:default","weft.container":"ID"}}`,
		},
		{
			"an address", "10.32.7.7/12", nil, "create, connect weft", "weft",
			`{"IPAMConfig":{"IPv4Address":"10.32.7.7"},"DriverOpts":{"weft-proxy.asked":"10.32.7.7/12","weft.container":"ID"}}`,
		},
		{
			"in a subnet", "net:10.32.2.0/24 10.9.0.1/16", nil,
			"network weft-10.32.2.0-24 weft weft [{10.32.2.0/24 }] map[weft.proxy:true], create, connect weft-10.32.2.0-24", "weft-10.32.2.0-24",
			`{"IPAMConfig":{"IPv4Address":"10.32.2.1"},"DriverOpts":{"weft-proxy.asked":"net:10.32.2.0/24","weft.addresses":"10.9.0.1/16","weft.container":"ID"}}`,
		},
		{
			"outside of the range", "10.9.0.1/16", nil, "network weft-10.9.0.0-16 weft default [{10.9.0.0/16 10.9.255.254}] map[weft.proxy:true], create, connect weft-10.9.0.0-16", "weft-10.9.0.0-16",
			`{"IPAMConfig":{"IPv4Address":"10.9.0.1"},"DriverOpts":{"weft-proxy.asked":"10.9.0.1/16","weft.container":"ID"}}`,
		},
		{
			"without names", "", func(c *Config) { c.WithoutDNS = true }, "create, connect weft", "weft",
			`{"IPAMConfig":{"IPv4Address":"10.32.0.1"},"DriverOpts":{"weft-proxy.asked":"net:default","weft.container":"ID","weft.nodns":"true"}}`,
		},
		{"none", "none", nil, "create", "", ""},
		{"none by default", "", func(c *Config) { c.NoDefault = true }, "create", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, b := newFakeEngine(t), &fakeBackend{notReady: 3}
			client := clientOf(t, start(t, f, b, tt.change))
			body := `{ "Image":"x"}`
			if tt.cidr != "" {
				body = fmt.Sprintf(`{"Env":["WEFT_CIDR=%s"], "Image":"x"}`, tt.cidr)
			}
			status, answer := ask(t, client, "POST", "/v1.41/containers/create?name=web", body)
			c := f.only(t)
			if want := `{"Id":"` + c.ID + `","Warnings":[]}` + "\n"; status != http.StatusCreated || answer != want {
				t.Fatalf("%d %s, want %s", status, answer, want)
			}
			if got := strings.Join(f.did(), ", "); got != tt.calls {
				t.Errorf("calls: %s\nwant   %s", got, tt.calls)
			}
			if f.version != "/v1.41" {
				t.Errorf("created with version %q", f.version)
			}
			want := body // as it came, also its blanks
			if tt.network != "" && tt.name != "without names" {
				want = emptyBody + `,"Image":"x"}`
				if tt.cidr != "" {
					want = strings.Replace(want, `,"HostConfig"`, `,"Env":["WEFT_CIDR=`+tt.cidr+`"],"HostConfig"`, 1)
				}
			}
			if diff := cmp.Diff(want, string(f.created)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if tt.network != "" {
				at, err := json.Marshal(c.Networks[tt.network])
				check(t, err)
				if diff := cmp.Diff(strings.ReplaceAll(tt.place, "ID", c.ID), string(at)); diff != "" {
					t.Errorf("place (-want +got):\n%s", diff)
				}
			}
			if held := b.holds(); len(held) > 0 {
				t.Errorf("still reserved: %v", held)
			}
		})
	}
}

// TestCreateFails: nothing half done is left, and the client is told why.
func TestCreateFails(t *testing.T) {
	noLeaks(t)
	const path = "/containers/create?name=web"
	tests := []struct {
		name, body string
		prepare    func(*fakeEngine, *fakeBackend)
		status     int
		text       string
		calls      string
	}{
		{
			"connect", `{}`, func(f *fakeEngine, _ *fakeBackend) { f.fail["connect weft"] = "plugin not found" }, 500,
			"weft: the container was not created: it cannot be connected to the network weft: plugin not found", "create, connect weft, remove container",
		},
		{"the engine's own refusal", `{}`, func(f *fakeEngine, _ *fakeBackend) { f.fail["create"] = "No such image: x" }, 400, "No such image: x", "create"},
		{"not JSON", `{`, nil, 400, "invalid character", "create"},
		{"of another type", `{"Env":"x"}`, nil, 201, "", "create"},
		{"wrong address", `{"Env":["WEFT_CIDR=nonsense"]}`, nil, 400, `weft: WEFT_CIDR=nonsense: address "nonsense": want ADDRESS/LENGTH such as 10.32.0.1/12`, ""},
		{
			"taken address", `{"Env":["WEFT_CIDR=10.32.0.1/12"]}`, func(_ *fakeEngine, b *fakeBackend) { b.held = append(b.held, netip.MustParseAddr("10.32.0.1")) }, 409,
			"weft: address 10.32.0.1 belongs to db: conflict", "",
		},
		{"no address", `{}`, func(_ *fakeEngine, b *fakeBackend) { b.full = true }, 503, "weft: no address is free in 10.32.0.0/12", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, b := newFakeEngine(t), &fakeBackend{}
			client := clientOf(t, start(t, f, b, nil))
			held := 0
			if tt.prepare != nil {
				tt.prepare(f, b)
				held = len(b.held)
			}
			status, answer := ask(t, client, "POST", path, tt.body)
			var m struct{ Message string }
			check(t, json.Unmarshal([]byte(answer), &m))
			if status != tt.status || m.Message != tt.text {
				t.Errorf("%d %s, want %d %s", status, answer, tt.status, tt.text)
			}
			if got := strings.Join(f.did(), ", "); got != tt.calls {
				t.Errorf("calls: %s, want %s", got, tt.calls)
			}
			if got := len(b.holds()); got != held {
				t.Errorf("%d addresses reserved, want %d", got, held)
			}
			// The connection's end is not the client's.
			if status, _ := ask(t, client, "GET", "/_ping", ""); status != http.StatusOK {
				t.Errorf("afterwards: %d", status)
			}
		})
	}
}

func TestCreateTooLong(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	client := clientOf(t, start(t, f, &fakeBackend{}, nil))
	long := `{"Image":"` + strings.Repeat("x", maxCreate) + `"}`
	for _, body := range []io.Reader{strings.NewReader(long), struct{ io.Reader }{strings.NewReader(long)}} {
		r, err := client.Post("http://docker/containers/create", "application/json", body)
		check(t, err)
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		want := `{"message":"weft: the request is longer than 4 MB, which no container needs"}`
		if r.StatusCode != http.StatusRequestEntityTooLarge || string(b) != want || err != nil {
			t.Errorf("%s %s %v", r.Status, b, err)
		}
	}
	if calls := f.did(); len(calls) > 0 {
		t.Errorf("the engine saw %v", calls)
	}
}

// TestExpect: a client that waits to be told to go on is told by us, because
// the engine has not seen anything yet.
func TestExpect(t *testing.T) {
	noLeaks(t)
	f := newFakeEngine(t)
	got := converse(t, start(t, f, &fakeBackend{}, nil), "POST /containers/create HTTP/1.1\r\nHost: docker\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
	if !strings.HasPrefix(got, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n") {
		t.Errorf("got %q", got)
	}
}

// TestStart: a container that was away keeps its address while nobody else has
// it; it gets another one if it did not choose it.
func TestStart(t *testing.T) {
	noLeaks(t)
	f, b := newFakeEngine(t), &fakeBackend{}
	client := clientOf(t, start(t, f, b, nil))
	begin := func(want int, calls string) string {
		t.Helper()
		f.did()
		status, answer := ask(t, client, "POST", "/v1.30/containers/web/start", "")
		if status != want {
			t.Errorf("start: %d %s, want %d", status, answer, want)
		}
		if got := strings.Join(f.did(), ", "); got != calls {
			t.Errorf("calls: %s, want %s", got, calls)
		}
		return answer
	}
	address := func() string { return f.only(t).Networks["weft"].IPAMConfig.IPv4Address }
	ask(t, client, "POST", "/containers/create?name=web", `{"Image":"x"}`)
	begin(http.StatusNoContent, "start")
	b.mu.Lock()
	b.held = append(b.held, netip.MustParseAddr("10.32.0.1"))
	b.mu.Unlock()
	begin(http.StatusNoContent, "disconnect weft, connect weft, start")
	if address() != "10.32.0.2" {
		t.Errorf("the address is %s", address())
	}
	if at := f.only(t).Networks["weft"]; at.DriverOpts[optAsked] != byDefault || at.DriverOpts[optContainer] != f.only(t).ID {
		t.Errorf("options %v", at.DriverOpts)
	}
	f.set(func() { // it has chosen
		for _, c := range f.containers {
			at := c.Networks["weft"]
			at.DriverOpts[optAsked] = "10.32.0.2/12"
		}
	})
	b.mu.Lock()
	b.held = append(b.held, netip.MustParseAddr("10.32.0.2"))
	b.mu.Unlock()
	if answer := begin(http.StatusConflict, ""); !strings.Contains(answer, "address 10.32.0.2 belongs to db") {
		t.Errorf("answer %s", answer)
	}
	f.set(func() {
		for _, c := range f.containers {
			c.Running = true
		}
	})
	begin(http.StatusNoContent, "start") // the engine's answer counts
	if status, _ := ask(t, client, "POST", "/containers/nobody/start", ""); status != http.StatusNoContent {
		t.Errorf("of nobody: %d", status)
	}
	if held := b.holds(); len(held) != 2 {
		t.Errorf("reserved: %v", held)
	}
}

// TestStartLate: a container that was created while weftd was away, and never
// ran, gets the switch when it starts; no other one does.
func TestStartLate(t *testing.T) {
	noLeaks(t)
	f, b := newFakeEngine(t), &fakeBackend{}
	client := clientOf(t, start(t, f, b, nil))
	for _, tt := range []struct {
		status, env, calls, address string
		running                     bool
	}{
		{status: "created", calls: "connect weft, start", address: "10.32.0.1"},
		{status: "created", env: "WEFT_CIDR=10.32.0.9/12", calls: "connect weft, start", address: "10.32.0.9"},
		{status: "created", env: "WEFT_CIDR=none", calls: "start"},
		{status: "exited", calls: "start"},
		{status: "running", running: true, calls: "start"},
	} {
		f.set(func() {
			clear(f.containers)
			f.containers["1"] = &fakeContainer{ID: "1", Name: "web", Status: tt.status, Env: tt.env, Running: tt.running, Networks: map[string]place{"bridge": {}}}
		})
		f.did()
		if status, answer := ask(t, client, "POST", "/containers/web/start", ""); status != http.StatusNoContent {
			t.Errorf("%+v: %d %s", tt, status, answer)
		}
		got := ""
		if at, ok := f.only(t).Networks["weft"]; ok {
			got = at.IPAMConfig.IPv4Address
		}
		if calls := strings.Join(f.did(), ", "); calls != tt.calls || got != tt.address {
			t.Errorf("%+v: calls: %s, address %s", tt, calls, got)
		}
	}
	if held := b.holds(); len(held) != 0 {
		t.Errorf("reserved: %v", held)
	}
}

func TestInspect(t *testing.T) {
	noLeaks(t)
	f, b := newFakeEngine(t), &fakeBackend{}
	through := start(t, f, b, func(c *Config) { c.RewriteInspect = true })
	client := clientOf(t, through)
	ask(t, client, "POST", "/containers/create?name=web", `{"Image":"x"}`)
	const request = "GET /v1.41/containers/web/json HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
	beside := converse(t, f.socket, request)
	if got := converse(t, through, request); got != beside {
		t.Errorf("of a container that is not attached:\n%s\nwant\n%s", got, beside)
	}
	b.attached = []api.Attachment{{ID: f.only(t).ID, MAC: "7a:00:00:00:00:05", Addresses: api.Addresses{netip.MustParsePrefix("10.32.0.5/12")}}}
	status, body := ask(t, client, "GET", "/containers/web/json", "")
	for _, want := range []string{`"IPAddress":"10.32.0.5"`, `"IPPrefixLen":12`, `"MacAddress":"7a:00:00:00:00:05"`, `"Odd":{"b":1,"a":2.0}`} {
		if !strings.Contains(body, want) {
			t.Errorf("%d %s: no %s", status, body, want)
		}
	}
	if got := converse(t, through, request); !strings.HasPrefix(got, strings.Split(beside, "Content-Length")[0]) || !strings.HasSuffix(got, "\r\n\r\n"+body) {
		t.Errorf("got %s", got)
	}
}

// TestNetworksGo: a network that was made for a subnet goes with the last
// container that has it.
func TestNetworksGo(t *testing.T) {
	f, b := newFakeEngine(t), &fakeBackend{}
	client := clientOf(t, start(t, f, b, nil))
	ask(t, client, "POST", "/containers/create?name=web", `{"Env":["WEFT_CIDR=10.2.1.1/24"]}`)
	p := New(Config{Dial: f.dial, Backend: b, NoRewriteHosts: true})
	f.did()
	check(t, p.sweep(t.Context(), true))
	if calls := f.did(); len(calls) > 0 {
		t.Errorf("in use: %v", calls)
	}
	f.set(func() { clear(f.containers) })
	p.enter("weft-10.2.1.0-24")
	check(t, p.sweep(t.Context(), false))
	p.leave("weft-10.2.1.0-24")
	if calls := f.did(); len(calls) > 0 {
		t.Errorf("about to be used: %v", calls)
	}
	check(t, p.sweep(t.Context(), false))
	if calls := f.did(); len(calls) != 1 || calls[0] != "remove network weft-10.2.1.0-24" {
		t.Errorf("unused: %v", calls)
	}
	p.engine.http.CloseIdleConnections()
}

func TestUnusedGateway(t *testing.T) {
	for first, want := range map[string]string{
		"10.9.0.1/16": "10.9.255.254", "10.9.255.254/16": "10.9.255.253", "10.9.0.1/30": "10.9.0.2", "10.9.0.2/30": "10.9.0.1",
		"10.9.0.1/31": "invalid IP", "10.9.0.0/31": "invalid IP", "10.9.0.1/32": "invalid IP", "0.0.0.1/32": "invalid IP", "255.255.255.9/24": "255.255.255.254",
	} {
		if got := unusedGateway(netip.MustParsePrefix(first)).String(); got != want {
			t.Errorf("%s: %s, want %s", first, got, want)
		}
	}
}

func TestPreferred(t *testing.T) {
	const head = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"
	tests := []struct{ in, want string }{
		{head + "172.17.0.2\tweb.weft.internal web\n10.32.0.1\tweb.weft.internal web\n", head + "10.32.0.1\tweb.weft.internal web\n172.17.0.2\tweb.weft.internal web\n"},
		{head + "10.32.0.1\tweb\n172.17.0.2\tweb\n", ""},
		{head + "192.0.2.1\tdb\n172.17.0.2\tweb\n172.18.0.2\tweb\n10.32.0.1\tweb # us\n# end\n", head + "192.0.2.1\tdb\n10.32.0.1\tweb # us\n172.17.0.2\tweb\n172.18.0.2\tweb\n# end\n"},
		{head + "172.17.0.2\tweb\n", ""},
		{head + "172.17.0.2\tweb\n10.32.0.1\tweb", ""}, // it is being written
		{"", ""},
	}
	for _, tt := range tests {
		if tt.want == "" {
			tt.want = tt.in
		}
		if got := string(preferred([]byte(tt.in), netip.MustParseAddr("10.32.0.1"))); got != tt.want {
			t.Errorf("%q becomes %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzPreferred(f *testing.F) {
	f.Add([]byte("172.17.0.2\tweb\n10.32.0.1\tweb\n"))
	addr := netip.MustParseAddr("10.32.0.1")
	f.Fuzz(func(t *testing.T, in []byte) {
		once := preferred(in, addr)
		if len(once) != len(in) {
			t.Fatalf("%q becomes %q", in, once)
		}
	})
}

// TestHostsKept: whoever starts a container, its address on the switch comes
// first in its hosts file at once.
func TestHostsKept(t *testing.T) {
	noLeaks(t)
	f, b := newFakeEngine(t), &fakeBackend{}
	client := clientOf(t, start(t, f, b, nil))
	id := fmt.Sprintf("%064x", 1)
	path := filepath.Join(f.root, "containers", id, "hosts")
	check(t, os.MkdirAll(filepath.Dir(path), 0o700))
	ask(t, client, "POST", "/containers/create?name=web", `{}`)
	for range 3 {
		check(t, os.WriteFile(path, []byte("127.0.0.1\tlocalhost\n"), 0o600)) // as the engine does at each start
		for _, line := range []string{"172.17.0.2\tweb.weft.internal web\n", "10.32.0.1\tweb.weft.internal web\n"} {
			h, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			check(t, err)
			_, err = io.WriteString(h, line)
			check(t, err)
			check(t, h.Close())
		}
		want := "127.0.0.1\tlocalhost\n10.32.0.1\tweb.weft.internal web\n172.17.0.2\tweb.weft.internal web\n"
		eventually(t, func() error {
			if got, err := os.ReadFile(path); string(got) != want {
				return fmt.Errorf("%s: %w", got, errors.Join(err, errors.New("not as wanted")))
			}
			return nil
		})
	}
}

// eventually polls until f is content.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for err := f(); err != nil; err = f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weftnet/weft/router/api"
)

// fakeBackend gives addresses and remembers endpoints as a daemon does.
type fakeBackend struct {
	mu        sync.Mutex // guards what follows
	reserved  map[netip.Addr]bool
	endpoints map[string]api.EndpointRequest
	joined    map[string]string // endpoint to sandbox
	calls     []string
	hangs     bool // until the caller gives up
	fail      error
}

func newFakeBackend() *fakeBackend {
	return &fakeBackend{reserved: map[netip.Addr]bool{}, endpoints: map[string]api.EndpointRequest{}, joined: map[string]string{}}
}

// set changes the daemon.
func (f *fakeBackend) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// begin locks the daemon, or says why it does not do what it was asked for.
func (f *fakeBackend) begin(ctx context.Context, format string, a ...any) (unlock func(), err error) {
	f.mu.Lock()
	f.calls = append(f.calls, strings.TrimSpace(fmt.Sprintf(format, a...)))
	if hangs := f.hangs; hangs {
		f.mu.Unlock()
		<-ctx.Done()
		return nil, fmt.Errorf("reserve: %w", context.Cause(ctx))
	}
	if f.fail != nil {
		defer f.mu.Unlock()
		return nil, f.fail
	}
	return f.mu.Unlock, nil
}

// took returns what was asked of the daemon, and forgets it.
func (f *fakeBackend) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *fakeBackend) Reserve(ctx context.Context, r api.ReserveRequest) (netip.Prefix, error) {
	unlock, err := f.begin(ctx, "reserve %s within=%v address=%v", r.Subnet, r.Within, r.Address)
	if err != nil {
		return netip.Prefix{}, err
	}
	defer unlock()
	from := r.Subnet
	if r.Within.IsValid() {
		from = r.Within
	}
	a := r.Address
	if !a.IsValid() {
		for a = from.Addr().Next(); f.reserved[a]; a = a.Next() {
			if !from.Contains(a.Next().Next()) {
				return netip.Prefix{}, &conflict{"no address is free in " + from.String()}
			}
		}
	}
	if f.reserved[a] {
		return netip.Prefix{}, &conflict{"address " + a.String() + " is held by web on host2"}
	}
	f.reserved[a] = true
	return netip.PrefixFrom(a, r.Subnet.Bits()), nil
}

func (f *fakeBackend) Unreserve(ctx context.Context, a netip.Addr) error {
	unlock, err := f.begin(ctx, "unreserve %s", a)
	if err != nil {
		return err
	}
	defer unlock()
	delete(f.reserved, a)
	return nil
}

func (f *fakeBackend) answer(id string) api.Endpoint {
	r := f.endpoints[id]
	e := api.Endpoint{ID: id, MAC: r.MAC, Addresses: r.Addresses, DNS: netip.MustParseAddr("169.254.67.83"), Multicast: !r.NoMulticastRoute}
	if e.MAC == "" {
		e.MAC = "0a:00:00:00:00:01"
	}
	for other, sandbox := range f.joined { // a container has its routes once
		if other != id && sandbox == f.joined[id] {
			e.DNS, e.Multicast = netip.Addr{}, false
		}
	}
	if _, ok := f.joined[id]; ok {
		e.Interface = "wvg" + id
	}
	return e
}

func (f *fakeBackend) AddEndpoint(ctx context.Context, r api.EndpointRequest) (api.Endpoint, error) {
	unlock, err := f.begin(ctx, "add %s mac=%s %v container=%s extra=%v nodns=%t nomulticast=%t", r.ID, r.MAC, r.Addresses, r.Container, r.Extra, r.WithoutDNS, r.NoMulticastRoute)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()
	f.endpoints[r.ID] = r
	return f.answer(r.ID), nil
}

func (f *fakeBackend) JoinEndpoint(ctx context.Context, r api.EndpointJoin) (api.Endpoint, error) {
	unlock, err := f.begin(ctx, "join %s %s", r.ID, r.Sandbox)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()
	if _, ok := f.endpoints[r.ID]; !ok {
		return api.Endpoint{}, &missing{"there is no endpoint " + r.ID}
	}
	f.joined[r.ID] = r.Sandbox
	return f.answer(r.ID), nil
}

func (f *fakeBackend) LeaveEndpoint(ctx context.Context, id string) error {
	unlock, err := f.begin(ctx, "leave %s", id)
	if err != nil {
		return err
	}
	defer unlock()
	delete(f.joined, id)
	return nil
}

func (f *fakeBackend) RemoveEndpoint(ctx context.Context, id string) error {
	unlock, err := f.begin(ctx, "remove %s", id)
	if err != nil {
		return err
	}
	defer unlock()
	delete(f.endpoints, id)
	return nil
}

// left lists what the daemon still holds.
func (f *fakeBackend) left() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for a := range f.reserved {
		list = append(list, a.String())
	}
	list = append(list, slices.Collect(maps.Keys(f.endpoints))...)
	return append(list, slices.Collect(maps.Keys(f.joined))...)
}

type conflict struct{ text string }

func (e *conflict) Error() string { return e.text }
func (e *conflict) Unwrap() error { return api.ErrConflict }

type missing struct{ text string }

func (e *missing) Error() string { return e.text }
func (e *missing) Unwrap() error { return api.ErrNotFound }

// rig is a plugin with a daemon behind it.
type rig struct {
	*Plugin
	t       testing.TB
	backend *fakeBackend
	config  Config
}

func newRig(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, backend: newFakeBackend()}
	r.config = Config{
		Backend:  func(context.Context) (Backend, error) { return r.backend, nil },
		Range:    netip.MustParsePrefix("10.32.0.0/12"),
		Subnet:   netip.MustParsePrefix("10.32.0.0/16"),
		StateDir: t.TempDir(),
	}
	for _, f := range change {
		f(&r.config)
	}
	r.again()
	return r
}

// again is a restart of the daemon.
func (r *rig) again() {
	r.t.Helper()
	var err error
	if r.Plugin, err = New(r.config); err != nil {
		r.t.Fatal(err)
	}
}

// post asks as an engine does; the error is what the engine would print.
func (r *rig) post(method, body string) (string, error) {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(body)))
	if got := w.Header().Get("Content-Type"); got != "application/vnd.docker.plugins.v1.1+json" && w.Code != 404 {
		r.t.Errorf("%s: content type %q", method, got)
	}
	text := strings.TrimSpace(w.Body.String())
	if w.Code == 200 {
		return text, nil
	}
	var f failure
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return "", fmt.Errorf("status %d: %s", w.Code, text)
	}
	return "", errors.New(f.Err)
}

// code posts, and returns the status of the answer.
func (r *rig) code(method, body string) int {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(body)))
	return w.Code
}

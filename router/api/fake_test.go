package api

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"sync"
	"time"
)

// fake answers what the test put into it and records what it was asked.
type fake struct {
	// Constant once it is used.
	status      Status
	why         Why
	addresses   Addresses
	attachments []Attachment
	token       Token
	removed     []Removed
	handOver    HandOver
	reserved    netip.Prefix
	endpoint    Endpoint
	events      []Event // before err
	diagnosis   Diagnosis
	reasons     []string // what Attach, Expose, Prime, RemovePeers and HandOver say on the way
	err         error
	log         func(ctx context.Context, w io.Writer) error
	block       bool          // Attach waits for the end of its context
	notice      chan struct{} // nil, or gets one for each call; has room for all

	mu    sync.Mutex
	calls []string
}

var _ Backend = (*fake)(nil)

func (f *fake) called(name string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	call := name
	for _, a := range args {
		call += fmt.Sprintf(" %+v", a)
	}
	f.calls = append(f.calls, call)
	if f.notice != nil {
		f.notice <- struct{}{}
	}
}

func (f *fake) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func (f *fake) Status(context.Context) (Status, error) {
	f.called("status")
	return f.status, f.err
}

func (f *fake) Why(_ context.Context, peer string) (Why, error) {
	f.called("why", peer)
	return f.why, f.err
}

func (f *fake) Connect(_ context.Context, r ConnectRequest) error {
	f.called("connect", r)
	return f.err
}

func (f *fake) Forget(_ context.Context, targets []string) error {
	f.called("forget", targets)
	return f.err
}

func (f *fake) Attach(ctx context.Context, r AttachRequest) (Addresses, error) {
	f.called("attach", r)
	f.wait(ctx)
	if f.block {
		<-ctx.Done()
		f.called("undone")
		return nil, ctx.Err()
	}
	return f.addresses, f.err
}

func (f *fake) Detach(_ context.Context, r DetachRequest) (Addresses, error) {
	f.called("detach", r)
	return f.addresses, f.err
}

func (f *fake) Reserve(_ context.Context, r ReserveRequest) (netip.Prefix, error) {
	f.called("reserve", r)
	return f.reserved, f.err
}

func (f *fake) Unreserve(_ context.Context, addr netip.Addr) error {
	f.called("unreserve", addr)
	return f.err
}

func (f *fake) AddEndpoint(_ context.Context, r EndpointRequest) (Endpoint, error) {
	f.called("add-endpoint", r)
	return f.endpoint, f.err
}

func (f *fake) JoinEndpoint(_ context.Context, r EndpointJoin) (Endpoint, error) {
	f.called("join-endpoint", r)
	return f.endpoint, f.err
}

func (f *fake) LeaveEndpoint(_ context.Context, id string) error {
	f.called("leave-endpoint", id)
	return f.err
}

func (f *fake) RemoveEndpoint(_ context.Context, id string) error {
	f.called("remove-endpoint", id)
	return f.err
}

func (f *fake) Expose(ctx context.Context, r ExposeRequest) (Addresses, error) {
	f.called("expose", r)
	f.wait(ctx)
	return f.addresses, f.err
}

func (f *fake) Hide(_ context.Context, r HideRequest) (Addresses, error) {
	f.called("hide", r)
	return f.addresses, f.err
}

func (f *fake) DNSAdd(_ context.Context, r NameRequest) error {
	f.called("dns-add", r)
	return f.err
}

func (f *fake) DNSRemove(_ context.Context, r NameRequest) error {
	f.called("dns-remove", r)
	return f.err
}

func (f *fake) DNSLookup(_ context.Context, name string) (Addresses, error) {
	f.called("dns-lookup", name)
	return f.addresses, f.err
}

func (f *fake) PS(_ context.Context, containers []string) ([]Attachment, error) {
	f.called("ps", containers)
	return f.attachments, f.err
}

func (f *fake) Prime(ctx context.Context) error {
	f.called("prime")
	f.wait(ctx)
	return f.err
}

func (f *fake) RemovePeers(ctx context.Context, r RemoveRequest) ([]Removed, error) {
	f.called("remove", r)
	f.wait(ctx)
	return f.removed, f.err
}

func (f *fake) HandOver(ctx context.Context) (HandOver, error) {
	f.called("handover")
	f.wait(ctx)
	return f.handOver, f.err
}

func (f *fake) wait(ctx context.Context) {
	for _, r := range f.reasons {
		Progress(ctx, r)
	}
}

func (f *fake) Token(context.Context) (Token, error) {
	f.called("token")
	return f.token, f.err
}

func (f *fake) Logs(ctx context.Context, follow bool, w io.Writer) error {
	f.called("logs", follow)
	if f.log != nil {
		return f.log(ctx, w)
	}
	return f.err
}

func (f *fake) Events(ctx context.Context, r EventRequest) iter.Seq2[Event, error] {
	f.called("events", r)
	return func(yield func(Event, error) bool) {
		for _, e := range f.events {
			if !yield(e, nil) {
				f.called("enough")
				return
			}
		}
		if f.err != nil {
			yield(Event{}, f.err)
		} else if r.Follow {
			<-ctx.Done()
		}
	}
}

func (f *fake) UI(context.Context, UIRequest) (UI, error) {
	f.called("ui")
	if f.err != nil {
		return UI{}, f.err
	}
	return UI{URL: "http://127.0.0.1:6782/ui/?code=a_b-c", Expires: time.Unix(1763600000, 5)}, nil
}

func (f *fake) Doctor(_ context.Context, r DoctorRequest) (Diagnosis, error) {
	f.called("doctor", r)
	return f.diagnosis, f.err
}

func (f *fake) Stop(context.Context) error {
	f.called("stop")
	return f.err
}

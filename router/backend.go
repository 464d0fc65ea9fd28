package router

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/netip"

	"github.com/weftnet/weft/router/api"
)

var _ api.Backend = (*Router)(nil)

// Observer is the part of [api.Backend] that tells of the daemon itself.
type Observer interface {
	Logs(ctx context.Context, follow bool, w io.Writer) error
	Events(ctx context.Context, q api.EventRequest) iter.Seq2[api.Event, error]
	Doctor(ctx context.Context, q api.DoctorRequest) (api.Diagnosis, error)
	// Findings is what is wrong, as of the last look. It must not block.
	Findings() []api.Finding
	UI(ctx context.Context, q api.UIRequest) (api.UI, error)
}

// Connect implements [api.Backend].
func (r *Router) Connect(_ context.Context, q api.ConnectRequest) error {
	return r.cfg.Mesh.Connect(q.Targets, q.Replace)
}

// Forget implements [api.Backend].
func (r *Router) Forget(_ context.Context, targets []string) error {
	return r.cfg.Mesh.Forget(targets)
}

// Attach implements [api.Backend].
func (r *Router) Attach(ctx context.Context, q api.AttachRequest) (api.Addresses, error) {
	return r.containers.Attach(ctx, q)
}

// Detach implements [api.Backend].
func (r *Router) Detach(ctx context.Context, q api.DetachRequest) (api.Addresses, error) {
	return r.containers.Detach(ctx, q)
}

// Reserve implements [api.Backend].
func (r *Router) Reserve(ctx context.Context, q api.ReserveRequest) (netip.Prefix, error) {
	return r.containers.Reserve(ctx, q)
}

// Unreserve implements [api.Backend].
func (r *Router) Unreserve(ctx context.Context, addr netip.Addr) error {
	return r.containers.Unreserve(ctx, addr)
}

// AddEndpoint implements [api.Backend].
func (r *Router) AddEndpoint(ctx context.Context, q api.EndpointRequest) (api.Endpoint, error) {
	return r.containers.AddEndpoint(ctx, q)
}

// JoinEndpoint implements [api.Backend].
func (r *Router) JoinEndpoint(ctx context.Context, q api.EndpointJoin) (api.Endpoint, error) {
	return r.containers.JoinEndpoint(ctx, q)
}

// LeaveEndpoint implements [api.Backend].
func (r *Router) LeaveEndpoint(ctx context.Context, id string) error {
	return r.containers.LeaveEndpoint(ctx, id)
}

// RemoveEndpoint implements [api.Backend].
func (r *Router) RemoveEndpoint(ctx context.Context, id string) error {
	return r.containers.RemoveEndpoint(ctx, id)
}

// Expose implements [api.Backend].
func (r *Router) Expose(ctx context.Context, q api.ExposeRequest) (api.Addresses, error) {
	return r.containers.Expose(ctx, q)
}

// Hide implements [api.Backend].
func (r *Router) Hide(ctx context.Context, q api.HideRequest) (api.Addresses, error) {
	return r.containers.Hide(ctx, q)
}

// DNSAdd implements [api.Backend].
func (r *Router) DNSAdd(ctx context.Context, q api.NameRequest) error {
	return r.containers.DNSAdd(ctx, q)
}

// DNSRemove implements [api.Backend].
func (r *Router) DNSRemove(ctx context.Context, q api.NameRequest) error {
	return r.containers.DNSRemove(ctx, q)
}

// DNSLookup implements [api.Backend].
func (r *Router) DNSLookup(ctx context.Context, name string) (api.Addresses, error) {
	if r.cfg.Names == nil {
		return nil, errors.New("the name server is off (--no-dns)")
	}
	list, err := r.cfg.Names.Server.Lookup(ctx, name)
	addrs := make(api.Addresses, len(list))
	for i, a := range list {
		addrs[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return addrs, err
}

// PS implements [api.Backend].
func (r *Router) PS(ctx context.Context, containers []string) ([]api.Attachment, error) {
	return r.containers.PS(ctx, containers)
}

// errNoSpace answers what needs the address allocator.
var errNoSpace = errors.New("the address allocator is off (--ipalloc-range=\"\")")

// Prime implements [api.Backend].
func (r *Router) Prime(ctx context.Context) error {
	if r.cfg.Space == nil {
		return errNoSpace
	}
	return r.cfg.Space.Prime(ctx)
}

// RemovePeers implements [api.Backend].
func (r *Router) RemovePeers(ctx context.Context, q api.RemoveRequest) ([]api.Removed, error) {
	if r.cfg.Space == nil {
		return nil, errNoSpace
	}
	return r.cfg.Space.RemovePeers(ctx, q)
}

// HandOver implements [api.Backend].
func (r *Router) HandOver(ctx context.Context) (h api.HandOver, err error) {
	if r.cfg.Space != nil {
		if h, err = r.cfg.Space.HandOver(ctx); err != nil {
			return h, err
		}
	}
	if err := r.cfg.Mesh.LeaveForGood(ctx); err != nil {
		r.log.Warn("the other hosts were not told that this one leaves for good", "err", err)
	}
	return h, nil
}

// Token implements [api.Backend].
func (r *Router) Token(context.Context) (api.Token, error) { return r.cfg.Token, nil }

// Stop implements [api.Backend].
func (r *Router) Stop(context.Context) error {
	r.cfg.Stop()
	return nil
}

package router

import (
	"context"
	"errors"
	"io"
	"net/netip"

	"github.com/weftnet/weft/router/api"
)

var _ api.Backend = (*Router)(nil)

// LogCopier copies the daemon's log.
type LogCopier interface {
	Copy(ctx context.Context, follow bool, w io.Writer) error
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

// Logs implements [api.Backend].
func (r *Router) Logs(ctx context.Context, follow bool, w io.Writer) error {
	return r.cfg.Logs.Copy(ctx, follow, w)
}

// Stop implements [api.Backend].
func (r *Router) Stop(context.Context) error {
	r.cfg.Stop()
	return nil
}

// Package router is what this host does about the cluster's view: it plans the
// kernel state from the view, applies it, drives the tunnels and implements
// [api.Backend] by delegating.
//
// It owns the order in which things happen and nothing else: devices belong to
// wireguard, vxlan, tap and bridge, containers to workload, membership to mesh,
// names to dns.
package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/bell"
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/tunnel"
	"github.com/weftnet/weft/router/wireguard"
)

// Mesh is what the router needs of the mesh.
type Mesh interface {
	Views() <-chan mesh.View
	OverlayReady()
	Connect(targets []string, replace bool) error
	Forget(targets []string) error
	Targets() []string
	Status() mesh.Status
	LeaveForGood(ctx context.Context) error
}

// Device is the WireGuard device.
type Device interface {
	Set(c wireguard.Config) error
	Check() (repaired []string, err error)
}

// Tunnels is the way to every peer of the device. Nothing of it blocks.
type Tunnels interface {
	// Adopt takes the first view, before Built: then Way tells which tunnels
	// of a former run stand. SetView takes the others.
	Adopt(v mesh.View)
	SetView(v mesh.View)
	// Moved says that addresses of this host may have changed.
	Moved()
	Way(id crypto.Identity) tunnel.Way
	// Changed is told when a Way is another than before.
	Changed() <-chan struct{}
	Snapshot() *tunnel.Snapshot
}

// Relay is what this host forwards for others.
type Relay interface{ Stats() relay.Stats }

// Port is the switch port through which frames come and go.
type Port interface {
	Set(c fdb.Config) error
	Check() (repaired []string, err error)
}

// Bridge is the bridge and the firewall around it.
type Bridge interface {
	Set(ctx context.Context, c bridge.Config) error
	CheckAfter(ctx context.Context, e kernel.Event) (repaired []string, err error)
	// Fragmented counts for the kernel's WireGuard, by endpoint.
	Fragmented(ctx context.Context) (map[netip.AddrPort]uint64, error)
}

// Containers is the container half of [api.Backend].
type Containers interface {
	Attach(ctx context.Context, r api.AttachRequest) (api.Addresses, error)
	Detach(ctx context.Context, r api.DetachRequest) (api.Addresses, error)
	Reserve(ctx context.Context, r api.ReserveRequest) (netip.Prefix, error)
	Unreserve(ctx context.Context, addr netip.Addr) error
	AddEndpoint(ctx context.Context, r api.EndpointRequest) (api.Endpoint, error)
	JoinEndpoint(ctx context.Context, r api.EndpointJoin) (api.Endpoint, error)
	LeaveEndpoint(ctx context.Context, id string) error
	RemoveEndpoint(ctx context.Context, id string) error
	Expose(ctx context.Context, r api.ExposeRequest) (api.Addresses, error)
	Hide(ctx context.Context, r api.HideRequest) (api.Addresses, error)
	DNSAdd(ctx context.Context, r api.NameRequest) error
	DNSRemove(ctx context.Context, r api.NameRequest) error
	PS(ctx context.Context, containers []string) ([]api.Attachment, error)
	// Exposed is what SetExposed was last told, also in a former run.
	Exposed() (addresses, masquerade []netip.Prefix)
	// Sweep looks at every attachment and may take long; LinksChanged looks
	// only at those whose link is not as it should be.
	Sweep(ctx context.Context) (repaired []string, err error)
	// Announce tells the switch again where the containers' addresses are.
	Announce(ctx context.Context) error
	LinksChanged(ctx context.Context) (repaired []string, err error)
}

// Addresses is the address space that containers get theirs from.
type Addresses interface {
	Prime(ctx context.Context) error
	RemovePeers(ctx context.Context, r api.RemoveRequest) ([]api.Removed, error)
	HandOver(ctx context.Context) (api.HandOver, error)
	Status() *api.IPAM
	// See takes every view of the cluster. It must not block.
	See(v mesh.View)
}

// Config is what a router is made of. Everything but the optional fields named
// so must be set.
type Config struct {
	Host   Host
	Kernel *kernel.Kernel
	Mesh   Mesh
	Device Device
	// Tunnels is to be run by the caller as soon as the router is Built.
	Tunnels  Tunnels
	Relay    Relay
	Observer Observer                 // of the daemon
	Switch   func() *api.SwitchStatus // optional: the kernel forwards
	Port     Port
	Bridge   Bridge
	Names    *NameServer // optional: no name server
	Space    Addresses   // optional: no address allocator
	Token    api.Token
	Status   Static
	Stop     func() // begins the daemon's end; must not block
	Log      *slog.Logger
}

// Static is the part of the status that does not change.
type Static struct {
	Version, Protocol, Cluster, Datapath string
	Nickname                             string
	Name                                 crypto.Name
	Discovery                            bool
	Warnings                             []string // for people
}

// Router runs one host. Make it with [New], give it its containers with
// [Router.SetContainers], then Run it.
type Router struct {
	// Constant after New, and after SetContainers.
	Observer
	cfg        Config
	containers Containers
	log        *slog.Logger
	changes    bell.Bell // the kernel changed something
	links      bell.Bell // a link changed, for the containers' task
	sweeps     bell.Bell // it is time for a sweep, for the same
	remotes    bell.Bell // frames reach another host, for the same
	exposures  chan exposeRequest
	built      chan struct{} // closed when the first plan stands
	complete   chan struct{} // closed by Complete
	ended      chan struct{} // closed when Run returns

	// Safe by itself: what the kernel changed and nobody looked at yet, the
	// bits of a kernel.Event.
	changed atomic.Uint32

	// Owned by the run loop.
	view     mesh.View
	applied  plan
	stands   bool // applied is what the last apply reached, whole
	retry    *time.Timer
	viewed   bool        // the tunnels are to be told of view
	due      *time.Timer // when to follow changes again, see soon
	rest     time.Time   // not before
	exposure exposure
	known    []fdb.Known // attachments of the other hosts, from the view
	badNames int         // entries of the last view that are no names
	badKnown int         // and those that are no attachments
}

type exposeRequest struct {
	exposure exposure
	answer   chan error
}

// New returns a router that has touched nothing yet.
func New(c Config) *Router {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	retry, due := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	retry.Stop()
	due.Stop()
	return &Router{
		Observer:  c.Observer,
		cfg:       c,
		log:       c.Log,
		changes:   bell.New(),
		links:     bell.New(),
		sweeps:    bell.New(),
		remotes:   bell.New(),
		exposures: make(chan exposeRequest),
		built:     make(chan struct{}),
		complete:  make(chan struct{}),
		ended:     make(chan struct{}),
		retry:     retry,
		due:       due,
	}
}

// SetContainers completes the router. It must be called once, before Run: the
// containers need the router (to expose the host) as the router needs them.
func (r *Router) SetContainers(c Containers) { r.containers = c }

// Built is closed when the switch stands for the first time: containers can be
// restored.
func (r *Router) Built() <-chan struct{} { return r.built }

// Complete says that the containers are restored: from now on the status is
// ready. It must be called once.
func (r *Router) Complete() { close(r.complete) }

// MAC returns the address of the bridge.
func (r *Router) MAC() kernel.MAC { return bridgeMAC(r.self()) }

// SetExposed gives the host exactly these addresses on the switch and
// masquerades the subnets named. It blocks until that is so or Run has ended.
func (r *Router) SetExposed(ctx context.Context, addresses, masquerade []netip.Prefix) error {
	req := exposeRequest{exposure{addresses, masquerade}, make(chan error, 1)}
	select {
	case r.exposures <- req:
	case <-r.ended:
		return errors.New("weftd is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-req.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The rhythm of the run loop.
const (
	sweepTime = 30 * time.Second       // finds what no notification told
	settle    = 50 * time.Millisecond  // changes of the kernel come in bursts
	calm      = 500 * time.Millisecond // after a burst was looked at
	retryTime = 2 * time.Second        // after a plan could not be applied
)

// Run makes the host what the view says until ctx ends. It leaves everything
// standing. The error says what could not be set up at all.
func (r *Router) Run(ctx context.Context) error {
	defer close(r.ended)
	if err := r.begin(ctx); err != nil {
		return err
	}
	r.cfg.Mesh.OverlayReady()
	close(r.built)

	sweep := time.NewTicker(sweepTime)
	defer sweep.Stop()
	defer r.retry.Stop()
	defer r.due.Stop()
	for {
		select {
		case <-ctx.Done():
			r.forgetKnown()
			return nil
		case r.view = <-r.cfg.Mesh.Views():
			r.feed()
			r.viewed = true
			r.soon(ctx)
		case <-r.cfg.Tunnels.Changed():
			r.soon(ctx)
		case <-r.due.C:
			r.soon(ctx)
		case req := <-r.exposures:
			before := r.exposure
			r.exposure = req.exposure
			err := r.apply(ctx)
			if err != nil {
				r.exposure = before
				err = errors.Join(err, r.reapply(ctx))
			}
			req.answer <- err
		case <-r.retry.C:
			r.follow(ctx)
		case <-r.changes:
			e := kernel.Event(r.changed.Swap(0))
			r.check(ctx, "notified", e)
			if e&kernel.LinkChanged != 0 {
				r.links.Ring()
			}
			if e&(kernel.LinkChanged|kernel.AddrChanged) != 0 {
				r.cfg.Tunnels.Moved()
			}
		case <-sweep.C:
			r.check(ctx, "swept", kernel.AllChanged)
			r.cfg.Tunnels.Moved()
			r.sweeps.Ring()
		}
	}
}

// forgetKnown leaves a switch that learns by itself: without a daemon nobody
// notices that a container of another host has moved.
func (r *Router) forgetKnown() {
	p := r.applied.port
	if p.Known = nil; len(r.applied.port.Known) == 0 {
		return
	}
	if err := r.cfg.Port.Set(p); err != nil {
		r.log.Warn("what is attached on other hosts stays in the switch port as it is now", "err", err)
	}
}

// follow makes the host what the view says. The tunnels are told afterwards,
// when the device has their peers, and also when that failed: the other hosts'
// reports need nothing of the kernel.
func (r *Router) follow(ctx context.Context) {
	_ = r.reapply(ctx) // it is logged and tried again
	r.cfg.Tunnels.SetView(r.view)
}

// check looks at what changes of these kinds may have broken and repairs it.
func (r *Router) check(ctx context.Context, how string, e kernel.Event) {
	repaired, err := r.cfg.Bridge.CheckAfter(ctx, e)
	r.report(ctx, "bridge", how, repaired, err)
	if e&^kernel.FirewallChanged == 0 {
		return
	}
	repaired, err = r.cfg.Port.Check()
	r.report(ctx, "switch port", how, repaired, err)
	repaired, err = r.cfg.Device.Check()
	r.report(ctx, "wireguard", how, repaired, err)
}

// report says what had to be repaired and what could not be.
func (r *Router) report(ctx context.Context, what, how string, repaired []string, err error) {
	for _, s := range repaired {
		r.log.Warn("repaired", "what", s, "how", how)
	}
	if err != nil && ctx.Err() == nil {
		r.log.Error("cannot repair", "what", what, "how", how, "err", err)
	}
}

// begin sets the host up for the first time. The mesh knows the peers of the
// former run already, and what a predecessor left is adopted: its tunnels stay,
// and frames go on to whoever the device says is reached.
func (r *Router) begin(ctx context.Context) error {
	select {
	case r.view = <-r.cfg.Mesh.Views():
		r.feed()
	default:
	}
	if r.containers != nil {
		r.exposure.addresses, r.exposure.masquerade = r.containers.Exposed()
	}
	p := makePlan(r.cfg.Host, r.view, r.known, r.exposure, r.cfg.Tunnels.Way)
	if err := r.cfg.Bridge.Set(ctx, p.bridge); err != nil {
		return fmt.Errorf("set up bridge %s: %w", BridgeName, err)
	}
	if err := r.cfg.Device.Set(p.wireguard); err != nil {
		return fmt.Errorf("set up %s: %w", WireGuardName, err)
	}
	r.applied, r.stands = plan{bridge: p.bridge, wireguard: p.wireguard}, true
	r.cfg.Tunnels.Adopt(r.view)
	return r.apply(ctx)
}

// feed shows a new view to the parts that need nothing of the kernel.
func (r *Router) feed() {
	r.feedZone()
	var bad int
	if r.known, bad = known(r.self(), r.view.Entries); bad > r.badKnown {
		r.log.Warn("entries of other hosts are no attachments", "count", bad)
	}
	r.badKnown = bad
	if r.cfg.Space != nil {
		r.cfg.Space.See(r.view)
	}
}

// reapply is apply; what fails is logged and tried again after a while.
func (r *Router) reapply(ctx context.Context) error {
	err := r.apply(ctx)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("the host is not what it should be; trying again", "err", err)
		r.retry.Reset(retryTime)
	}
	return err
}

// apply brings the host from what was applied to what is planned. A peer's
// tunnel is there before frames are sent to it, and the other way round. What
// the plan does not change is left to check, which says what it repairs.
func (r *Router) apply(ctx context.Context) error {
	p := makePlan(r.cfg.Host, r.view, r.known, r.exposure, r.cfg.Tunnels.Way)
	all := !r.stands
	r.stands = false
	if all || !reflect.DeepEqual(p.bridge, r.applied.bridge) {
		if err := r.cfg.Bridge.Set(ctx, p.bridge); err != nil {
			return fmt.Errorf("set up bridge %s: %w", BridgeName, err)
		}
	}
	fewer := p.port
	fewer.Remotes = both(r.applied.port.Remotes, p.port.Remotes)
	if len(fewer.Remotes) < len(r.applied.port.Remotes) {
		if err := r.cfg.Port.Set(fewer); err != nil {
			return fmt.Errorf("set up switch port %s: %w", VXLANName, err)
		}
	}
	if all || !reflect.DeepEqual(p.wireguard, r.applied.wireguard) {
		if err := r.cfg.Device.Set(p.wireguard); err != nil {
			return fmt.Errorf("set up %s: %w", WireGuardName, err)
		}
	}
	if all || !reflect.DeepEqual(p.port, r.applied.port) {
		if err := r.cfg.Port.Set(p.port); err != nil {
			return fmt.Errorf("set up switch port %s: %w", VXLANName, err)
		}
		if len(both(r.applied.port.Remotes, p.port.Remotes)) < len(p.port.Remotes) {
			r.remotes.Ring()
		}
	}
	r.applied, r.stands = p, true
	return nil
}

// both returns the entries of b that a has, too.
func both(a, b []fdb.Remote) []fdb.Remote {
	in := make(map[netip.Addr]bool, len(a))
	for _, x := range a {
		in[x.Overlay] = true
	}
	var out []fdb.Remote
	for _, x := range b {
		if in[x.Overlay] {
			out = append(out, x)
		}
	}
	return out
}

func (r *Router) self() crypto.Identity { return r.cfg.Host.Key.Identity() }

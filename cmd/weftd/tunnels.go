package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/ipam/wire"
	"github.com/weftnet/weft/router"
	"github.com/weftnet/weft/router/doctor"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/tap"
	"github.com/weftnet/weft/router/tunnel"
	"github.com/weftnet/weft/router/wireguard"
)

// wireDevices opens what has ports on the underlay: the WireGuard device and
// the relay. What comes to them is for the tunnels, which are made later and
// run last.
func (d *daemon) wireDevices() (err error) {
	s := d.settings
	if d.boot, err = randomID(); err != nil {
		return err
	}
	d.tap = tap.New(tap.Options{Kernel: d.kernel, Offload: offloadMode(s.Offload), Log: d.log.With("part", "tap")})
	d.device, err = wireguard.Open(wireguard.Options{
		WrapTUN: d.tap.Wrap, Plain: offloadMode(s.Offload) == tap.Off,
		Name: router.WireGuardName, Mode: datapathMode(s.Datapath), Links: d.kernel, Log: d.log.With("part", "wireguard"),
		Receive: func(from netip.AddrPort, to netip.Addr, b []byte) { d.tunnels.Receive(from, to, b) },
		Quiet: func(from netip.AddrPort, t time.Duration) error {
			return d.bridge.Quiet(from, t)
		},
	})
	if err != nil {
		return err
	}
	d.relay, err = relay.Open(relay.Options{
		Self: d.state.Key.Identity(), Boot: d.boot, Port: s.Port, Mark: router.FwMark, Usable: d.usable, Plain: offloadMode(s.Offload) == tap.Off,
		Receive: func(from netip.AddrPort, b []byte) { d.tunnels.ReceiveRelay(from, b) },
		Log:     d.log.With("part", "relay"),
	})
	if err != nil {
		return err
	}
	self := d.state.Key.Identity().Overlay()
	d.pinger, err = path.OpenPinger(self, router.WireGuardName, func(peer netip.Addr, number uint64, at time.Time) {
		d.tunnels.Echoed(peer, number, at)
	})
	return err
}

// usable says whether another host may be at an endpoint: not on the switch,
// or its packets would go through themselves.
func (d *daemon) usable(ep netip.AddrPort) bool {
	a, r := ep.Addr().Unmap(), d.settings.Range
	if !advert.Usable(ep) || r.IsValid() && r.Contains(a) {
		return false
	}
	inside := d.inside.Load()
	return inside == nil || !slices.ContainsFunc(*inside, func(p netip.Prefix) bool { return p.Contains(a) })
}

// wireTunnels joins the devices with the mesh.
func (d *daemon) wireTunnels(mtu int) {
	d.tunnels = tunnel.New(tunnel.Config{
		Key: d.state.Key, Keys: d.keys, Boot: d.boot, MTU: mtu,
		Mesh: d.mesh, Device: d.device, Relay: d.relay, Pinger: d.pinger,
		Endpoints: d.interfaces, Usable: d.usable, Ceiling: func() int { return router.UnderlayMTU(d.kernel) },
		Strange: func() { d.mesh.NotUnderstood("signal") },
		Log:     d.log.With("part", "tunnel"),
	})
}

// interfaces returns where we can be reached as far as this host knows.
func (d *daemon) interfaces() []netip.AddrPort {
	inside := router.Inside(d.kernel)
	d.inside.Store(&inside)
	return router.Endpoints(d.kernel, d.settings.Hosts, d.settings.WireGuardPort())
}

// endpoints returns where we can be reached: at our own addresses, and where
// others see us.
func (d *daemon) endpoints() []netip.AddrPort {
	own := d.interfaces()
	if d.tunnels == nil {
		return own
	}
	// Not last: a host takes the first ones of a list that is too long.
	seen := d.tunnels.Snapshot().Observed
	return slices.Insert(own[:min(len(own), advert.MaxEndpoints-len(seen))], min(2, len(own)), seen...)
}

// deliver gives a payload of another host to whom it is for.
func (d *daemon) deliver(from crypto.Identity, payload []byte) {
	switch {
	case len(payload) > 0 && payload[0] == tunnel.PunchByte:
		d.tunnels.Deliver(from, payload)
	case len(payload) > 0 && payload[0] == doctor.CheckupByte:
		d.doctor.Receive(from, payload)
	case len(payload) == 0 || payload[0] != wire.MessageByte:
		d.mesh.NotUnderstood("payload") // of a newer host
	case d.space != nil:
		d.space.Receive(from, payload)
	}
}

// runTunnels drives the paths to other hosts, once the switch stands.
func (d *daemon) runTunnels(ctx context.Context) error {
	select {
	case <-d.router.Built():
		return d.tunnels.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// runRelay relays for others. A host that cannot still serves its containers.
func (d *daemon) runRelay(ctx context.Context) {
	if err := d.relay.Run(ctx); err != nil {
		d.log.Error("this host relays for others no more, until weftd is started again", "err", err)
	}
}

// withdraw lets those who are relayed through us find another way first.
func (d *daemon) withdraw(ctx context.Context) {
	wait := d.tunnels.Withdraw()
	if wait == 0 {
		return
	}
	d.log.Info("others are relayed through this host; they are given time to find another way", "wait", wait)
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

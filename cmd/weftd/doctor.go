package main

import (
	"context"
	"net/netip"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/doctor"
	"github.com/weftnet/weft/router/kernel"
)

// patient is this daemon for the doctor.
type patient struct{ d *daemon }

func (d *daemon) newPhysician() *doctor.Physician {
	c := doctorConfig(d.settings)
	c.Patient, c.Log, c.Overlay = patient{d}, d.log.With("part", "doctor"), d.state.Key.Identity().Overlay()
	return doctor.NewPhysician(c)
}

func doctorConfig(s settings.Settings) doctor.Config {
	c := doctor.Config{
		Nickname: s.Nickname, Version: settings.Version, Datapath: s.Datapath, StateDir: s.StateDir, Port: s.Port, Plugin: s.Plugin, Domain: s.DNSDomain,
	}
	if !s.NoDNS {
		c.DNS = s.DNSListen.String()
	}
	return c
}

// Send implements [doctor.Sender].
func (p patient) Send(to crypto.Identity, payload []byte) { p.d.mesh.Send(to, payload) }

// Status implements [doctor.Patient].
func (p patient) Status(ctx context.Context) (api.Status, error) { return p.d.router.Status(ctx) }

// Why implements [doctor.Patient].
func (p patient) Why(ctx context.Context, peer string) (api.Why, error) {
	return p.d.router.Why(ctx, peer)
}

// Whys implements [doctor.Patient].
func (p patient) Whys(ctx context.Context, most int) []api.Why { return p.d.router.Whys(ctx, most) }

// Kernel implements [doctor.Patient].
func (p patient) Kernel() *kernel.Kernel { return p.d.kernel }

// Usable implements [doctor.Patient].
func (p patient) Usable(at netip.AddrPort) bool { return p.d.usable(at) }

// Exposed implements [doctor.Patient].
func (p patient) Exposed() bool {
	if p.d.work == nil {
		return false
	}
	addresses, masquerade := p.d.work.Exposed()
	return len(addresses) > 0 && len(masquerade) > 0
}

// Peers implements [doctor.Patient].
func (p patient) Peers() []doctor.Peer {
	list := p.d.tunnels.Snapshot().Peers
	out := make([]doctor.Peer, len(list))
	for i, t := range list {
		out[i] = doctor.Peer{
			Identity: t.Identity, Name: t.Name.String(), Version: t.Version, Alive: t.Alive,
			Path: t.Path, Endpoints: t.Endpoints, HelloPort: t.HelloPort,
		}
	}
	return out
}

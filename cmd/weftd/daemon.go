package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/router"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/docker"
	"github.com/weftnet/weft/router/doctor"
	"github.com/weftnet/weft/router/events"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/tap"
	"github.com/weftnet/weft/router/tunnel"
	"github.com/weftnet/weft/router/vxlan"
	"github.com/weftnet/weft/router/wireguard"
	"github.com/weftnet/weft/router/workload"
)

// leaveTime is how long a stopping daemon tries to tell the others.
const leaveTime = 2 * time.Second

// daemon is what serve wires together.
type daemon struct {
	settings settings.Settings
	log      *slog.Logger
	logFile  *logFile
	events   *events.Ring
	doctor   *doctor.Physician
	stop     context.CancelFunc

	hello   net.Listener // of introductions
	state   *crypto.State
	keys    crypto.Keys
	token   api.Token
	notes   []string // for people, shown by launch and status
	kernel  *kernel.Kernel
	boot    uint64 // random at each start
	device  *wireguard.Device
	tap     *tap.Port   // unused while the kernel forwards
	vxlan   *vxlan.Port // nil while this process forwards
	relay   *relay.Relay
	pinger  *path.Pinger
	bridge  *bridge.Bridge
	tunnels *tunnel.Tunnels
	mesh    *mesh.Mesh
	gossip  *mesh.GossipCounts
	watched *watchedTunnels // whether the router's loop goes round
	space   *addresses      // nil: the allocator is off
	names   *router.NameServer
	server  *dns.Server
	router  *router.Router
	work    *workload.Workload
	docker  *docker.Client
	proxy   *dockerProxy // nil: off
	picture picture
	built   chan struct{} // closed by wire: the router can be asked

	inside atomic.Pointer[[]netip.Prefix] // where no other host can be, see usable
}

// serve runs the daemon until ctx ends or somebody stops it. What stands on
// the host keeps standing.
func serve(ctx context.Context, s settings.Settings) error {
	said := events.New()
	log, err := newLogger(s.LogLevel, s.LogFormat, said)
	if err != nil {
		return err
	}
	if err := preflight(); err != nil {
		return err
	}
	asked, stop := context.WithCancel(ctx)
	defer stop()
	d := &daemon{settings: s, log: log, logFile: openLogFile(), events: said, stop: stop, built: make(chan struct{})}

	socket, err := api.Listen(s.Socket)
	if errors.Is(err, api.ErrConflict) {
		return fmt.Errorf("%w: %w", errRunning, err)
	}
	if err != nil {
		return err
	}
	defer socket.Close()
	// Before anything is changed: who has the port may be another weftd.
	d.hello, err = hello.Listen(asked, ":"+strconv.Itoa(int(s.Port)))
	if err != nil {
		return fmt.Errorf("listen for other hosts: %w; another program has the port: stop it, or choose one with --port", err)
	}
	defer d.hello.Close()
	if err := d.identify(); err != nil {
		return err
	}
	defer d.servePlugin(asked)()
	if err := d.prepareProxy(); err != nil {
		return err
	}
	defer d.close()
	d.doctor = d.newPhysician()
	if err := d.wire(); err != nil {
		return err
	}
	if err := d.wireProxy(asked); err != nil {
		return err
	}
	return d.run(asked, socket)
}

// close gives back what wire took; the switch stays.
func (d *daemon) close() {
	if d.pinger != nil {
		_ = d.pinger.Close()
	}
	if d.device != nil {
		if err := d.device.Close(); err != nil {
			d.log.Warn("cannot close the WireGuard device", "err", err)
		}
	}
	if d.vxlan != nil {
		if err := d.vxlan.Close(); err != nil {
			d.log.Warn("cannot stop pruning multicast", "err", err)
		}
	}
	if d.tap != nil {
		if err := d.tap.Close(); err != nil {
			d.log.Warn("cannot close the switch port", "err", err)
		}
	}
	if d.kernel != nil {
		_ = d.kernel.Close()
	}
}

// run starts everything in order and waits for the end. When asked ends, the
// other hosts are told first: nobody here answers for names any more.
func (d *daemon) run(asked context.Context, socket net.Listener) error {
	living, die := context.WithCancel(context.WithoutCancel(asked))
	defer die()
	group, ctx := errgroup.WithContext(living)
	group.Go(func() error {
		select {
		case <-ctx.Done(): // a task failed
			return nil
		case <-asked.Done():
		}
		d.withdraw(ctx)
		leave, cancel := context.WithTimeout(ctx, leaveTime)
		defer cancel()
		if err := d.mesh.Leave(leave); err != nil {
			d.log.Info("could not tell the other hosts that we go", "err", err)
		}
		die()
		return nil
	})
	if d.logFile != nil {
		group.Go(func() error { d.logFile.Run(ctx, d.log); return nil })
	}
	group.Go(func() error { return api.NewServer(d.router, d.log.With("part", "api")).Serve(ctx, socket) })
	group.Go(func() error { return d.mesh.Run(ctx) })
	if d.space != nil {
		group.Go(func() error { return d.space.Run(ctx) })
	}
	group.Go(func() error { return d.router.Run(ctx) })
	group.Go(func() error { return d.runTunnels(ctx) })
	group.Go(func() error { d.runRelay(ctx); return nil })
	group.Go(func() error { d.bridge.Run(ctx); return nil })
	group.Go(func() error { return d.pinger.Run(ctx) })
	group.Go(func() error { return d.router.Watch(ctx) })
	group.Go(func() error { return d.router.Tend(ctx) })
	group.Go(func() error { return d.work.Run(ctx) })
	group.Go(func() error { return d.runProxy(ctx) })
	group.Go(func() error { d.doctor.Run(ctx); return nil })
	group.Go(func() error { runProcessors(ctx, d.carried, d.log.With("part", "processors")); return nil })
	group.Go(func() error { d.runSystemd(ctx, asked); return nil })
	if d.settings.StatusAddr != "" {
		group.Go(func() error { return d.serveStatus(ctx) })
	}
	group.Go(func() error {
		select {
		case <-d.router.Built():
		case <-ctx.Done():
			return nil
		}
		if err := d.work.Restore(ctx); err != nil {
			d.log.Error("cannot restore every container", "err", err)
		}
		d.router.Complete()
		d.log.Info("ready", "name", d.state.Name, "nickname", d.settings.Nickname,
			"overlay", d.state.Key.Identity().Overlay(), "datapath", d.device.Mode())
		return d.docker.Run(ctx, d.noteContainer, d.follow)
	})
	if d.server != nil {
		group.Go(func() error { return d.server.Run(ctx) })
	}
	err := group.Wait()
	if err != nil {
		d.log.Error("weftd ends", "err", err)
	} else {
		d.log.Info("weftd ends; the switch stays", "datapath", d.device.Mode())
	}
	return err
}

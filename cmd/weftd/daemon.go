package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/router"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/docker"
	"github.com/weftnet/weft/router/kernel"
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
	stop     context.CancelFunc

	hello  net.Listener // of introductions
	state  *crypto.State
	keys   crypto.Keys
	token  api.Token
	notes  []string // for people, shown by launch and status
	kernel *kernel.Kernel
	device *wireguard.Device
	mesh   *mesh.Mesh
	names  *router.NameServer
	server *dns.Server
	router *router.Router
	work   *workload.Workload
	docker *docker.Client
}

// serve runs the daemon until ctx ends or somebody stops it. What stands on
// the host keeps standing.
func serve(ctx context.Context, s settings.Settings) error {
	log, err := newLogger(s.LogLevel, s.LogFormat)
	if err != nil {
		return err
	}
	if err := preflight(); err != nil {
		return err
	}
	asked, stop := context.WithCancel(ctx)
	defer stop()
	d := &daemon{settings: s, log: log, logFile: openLogFile(), stop: stop}

	socket, err := api.Listen(s.Socket)
	if errors.Is(err, api.ErrConflict) {
		return fmt.Errorf("%w: %w", errRunning, err)
	}
	if err != nil {
		return err
	}
	defer socket.Close()
	// Before anything is changed: who has the port may be another weftd.
	d.hello, err = (&net.ListenConfig{}).Listen(asked, "tcp", ":"+strconv.Itoa(int(s.Port)))
	if err != nil {
		return fmt.Errorf("listen for other hosts: %w; another program has the port: stop it, or choose one with --port", err)
	}
	defer d.hello.Close()
	if err := d.identify(); err != nil {
		return err
	}
	defer d.close()
	if err := d.wire(asked); err != nil {
		return err
	}
	return d.run(asked, socket)
}

// close gives back what wire took; the switch stays.
func (d *daemon) close() {
	if d.device != nil {
		if err := d.device.Close(); err != nil {
			d.log.Warn("cannot close the WireGuard device", "err", err)
		}
	}
	if d.kernel != nil {
		_ = d.kernel.Close()
	}
}

// identify opens the state directory: who we are and what the cluster shares.
func (d *daemon) identify() error {
	s := d.settings
	var err error
	if d.state, err = crypto.OpenState(s.StateDir, machineID()); err != nil {
		return err
	}
	if s.Name != (crypto.Name{}) && s.Name != d.state.Name {
		if err := d.state.SetName(s.Name); err != nil {
			return err
		}
		d.log.Info("peer name set by hand", "name", s.Name)
	}
	var secret crypto.Secret
	if s.Secret.IsZero() {
		made, err := s.CheckSecret()
		if err != nil {
			return err
		}
		if made {
			if secret, err = crypto.NewSecret(); err == nil {
				_, err = crypto.SaveSecret(s.StateDir, secret, s.Cluster)
			}
			if err != nil {
				return err
			}
			d.log.Info("made a cluster secret; 'weft token' prints it", "cluster", s.Cluster)
		} else if secret, err = d.keptSecret(); err != nil {
			return err
		}
	} else {
		if secret, _, err = s.Secret.Derive(s.Cluster, s.WeakPassword); err != nil {
			return err
		}
		replaced, err := crypto.SaveSecret(s.StateDir, secret, s.Cluster)
		if err != nil {
			return err
		}
		if replaced {
			d.log.Warn("the cluster secret was replaced by the one given", "cluster", s.Cluster)
			d.notes = append(d.notes, "the cluster secret that was kept here was replaced by the one given")
		}
	}
	d.keys = secret.Keys(s.Cluster)
	token := crypto.Token{Secret: secret, Issuer: d.state.Key.Identity()}.String()
	d.token = api.Token{Token: token}
	return nil
}

// keptSecret loads the secret of a former launch. One that came from a
// password belongs to the cluster that it was given for.
func (d *daemon) keptSecret() (crypto.Secret, error) {
	dir, want := d.settings.StateDir, d.settings.Cluster
	secret, err := crypto.LoadSecret(dir)
	if err != nil {
		return secret, err
	}
	if kept, err := crypto.LoadCluster(dir); err == nil && kept != want {
		d.log.Warn("the kept secret was given for another cluster", "kept", kept, "cluster", want)
		d.notes = append(d.notes, fmt.Sprintf("the kept secret was given for cluster %s: if it was a password, give it again for %s", kept, want))
	}
	return secret, nil
}

// wire makes everything and starts nothing.
func (d *daemon) wire(ctx context.Context) error {
	s := d.settings
	var err error
	if d.kernel, err = kernel.New(); err != nil {
		return err
	}
	d.device, err = wireguard.Open(wireguard.Options{
		Name: router.WireGuardName, Mode: datapathMode(s.Datapath), Links: d.kernel, Log: d.log.With("part", "wireguard"),
	})
	if err != nil {
		return err
	}
	boot, err := randomID()
	if err != nil {
		return err
	}
	endpoints := func() []netip.AddrPort { return router.Endpoints(d.kernel, s.Hosts, s.WireGuardPort()) }
	own := endpoints()
	d.token.Join = joinCommand(d.token.Token, own, s)
	mtu := s.MTU
	if mtu == 0 {
		mtu = router.DefaultMTU(own)
	}
	datapath := advert.Userspace
	if d.device.Mode() == wireguard.Kernel {
		datapath = advert.Kernel
	}
	greeter := hello.New(hello.Config{
		Key: d.state.Key, Keys: d.keys, Boot: boot, Log: d.log.With("part", "hello"),
		Adverts: func() []advert.Signed { return d.mesh.Adverts() },
		Check:   func(a advert.Signed) error { return d.mesh.Check(a) },
	})
	d.mesh, err = mesh.New(mesh.Config{
		Key: d.state.Key, Keys: d.keys, Boot: boot, Name: d.state.Name,
		Nickname: s.Nickname, Version: settings.Version, Datapath: datapath,
		StateDir: s.StateDir, Port: s.Port, Endpoints: endpoints, Hello: greeter, Listener: d.hello,
		Targets: s.Targets, Resume: s.Resume, Discovery: !s.NoDiscovery,
		ConnLimit: s.ConnLimit, Log: d.log.With("part", "mesh"),
	})
	if err != nil {
		return err
	}
	dnsAddr, err := d.wireNames()
	if err != nil {
		return err
	}
	changes, err := router.OpenChanges(s.StateDir)
	if err != nil {
		return err
	}
	d.router = router.New(router.Config{
		Host: router.Host{
			Key: d.state.Key, Keys: d.keys, Port: s.Port, MTU: mtu, DNS: dnsAddr,
		},
		Kernel: d.kernel, Mesh: d.mesh, Device: d.device,
		VXLAN:  vxlan.New(d.kernel, d.log.With("part", "vxlan")),
		Bridge: bridge.New(bridge.Deps{Kernel: d.kernel, Journal: changes, Log: d.log.With("part", "bridge")}),
		Names:  d.names, Token: d.token,
		Status: router.Static{
			Version: settings.Version, Protocol: settings.Protocol, Cluster: s.Cluster,
			Datapath: d.device.Mode().String(), Nickname: s.Nickname, Name: d.state.Name,
			Discovery: !s.NoDiscovery, Warnings: d.notes,
		},
		Logs: d.logFile, Stop: d.stop, Log: d.log.With("part", "router"),
	})
	if d.docker, err = docker.New(docker.Config{Log: d.log.With("part", "docker")}); err != nil {
		return err
	}
	reboot, err := bootID()
	if err != nil {
		return err
	}
	domain := s.DNSDomain
	if s.NoDNS {
		domain = ""
	}
	d.work, err = workload.New(workload.Config{
		StateDir: s.StateDir, BootID: reboot, Domain: domain, Docker: engine{d.docker},
		Attacher: attach.New(d.kernel, openGuest, attach.Config{
			Bridge: router.BridgeName, MTU: func() int { return mtu }, DNS: dnsAddr,
			Log: d.log.With("part", "attach"),
		}),
		Names: router.NewBook(d.mesh), Host: d.router, Log: d.log.With("part", "workload"),
	})
	if err != nil {
		return err
	}
	d.router.SetContainers(d.work)
	return nil
}

// wireNames makes the name server and returns the address that the bridge
// must carry for it; none when it listens elsewhere.
func (d *daemon) wireNames() (netip.Addr, error) {
	s := d.settings
	if s.NoDNS {
		return netip.Addr{}, nil
	}
	zone := dns.NewZone(s.DNSDomain)
	upstreams := dns.NewResolvConf(s.ResolvConf, d.log.With("part", "dns")).Upstreams
	server, err := dns.New(dns.Config{
		Zone: zone, Listen: []netip.AddrPort{s.DNSListen}, TTL: s.DNSTTL,
		Upstreams: upstreams, Log: d.log.With("part", "dns"),
	})
	if err != nil {
		return netip.Addr{}, err
	}
	d.server = server
	d.names = &router.NameServer{
		Zone: zone, Server: server, Address: s.DNSListen, TTL: s.DNSTTL, Upstreams: upstreams,
	}
	if s.DNSListen.Addr() == router.DNSAddress {
		return router.DNSAddress, nil
	}
	return netip.Addr{}, nil
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
	group.Go(func() error { return d.router.Run(ctx) })
	group.Go(func() error { return d.router.Watch(ctx) })
	group.Go(func() error { return d.router.Tend(ctx) })
	if d.settings.StatusAddr != "" {
		group.Go(func() error { return serveStatus(ctx, d.settings.StatusAddr, d.router, d.server, d.log) })
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
		return d.docker.Run(ctx, func(e docker.Event) { d.follow(ctx, e) })
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

// datapathMode turns the checked word of --datapath into the device's.
func datapathMode(word string) wireguard.Mode {
	switch word {
	case "kernel":
		return wireguard.Kernel
	case "userspace":
		return wireguard.Userspace
	}
	return wireguard.Auto
}

func randomID() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw a boot id: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// joinCommand is what somebody types on another host.
func joinCommand(token string, own []netip.AddrPort, s settings.Settings) string {
	host, err := os.Hostname()
	if err != nil || len(own) > 0 {
		host = "HOST"
	}
	if len(own) > 0 {
		host = own[0].Addr().String()
	}
	cmd := "weft launch --token " + token
	if s.Cluster != "weft" {
		cmd += " --cluster " + s.Cluster
	}
	if s.Port != 6783 {
		return cmd + " " + net.JoinHostPort(host, strconv.Itoa(int(s.Port)))
	}
	return cmd + " " + host
}

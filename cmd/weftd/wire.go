package main

import (
	"net/netip"
	"path/filepath"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/ipam"
	"github.com/weftnet/weft/mesh/ipam/wire"
	"github.com/weftnet/weft/router"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/changes"
	"github.com/weftnet/weft/router/docker"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/wireguard"
	"github.com/weftnet/weft/router/workload"
)

// wire makes everything and starts nothing.
func (d *daemon) wire() (err error) {
	s := d.settings
	d.picture.addr = s.StatusAddr
	to := &members{}
	if err := d.openSpace(to); err != nil {
		return err
	}
	if d.kernel, err = kernel.New(); err != nil {
		return err
	}
	if err := d.checkRange(); err != nil {
		return err
	}
	if err := d.wireDevices(); err != nil {
		return err
	}
	if err := d.wireBridge(); err != nil {
		return err
	}
	if err := d.wireMesh(to); err != nil {
		return err
	}
	mtu := s.MTU
	if mtu == 0 {
		mtu = router.SwitchMTU(d.kernel)
	}
	d.wireTunnels(mtu)
	dnsAddr, err := d.wireNames()
	if err != nil {
		return err
	}
	d.wireRouter(mtu, dnsAddr)
	d.picture.show(d.router, s.UI, d.log.With("part", "ui"))
	if err := d.wireContainers(mtu, dnsAddr); err != nil {
		return err
	}
	close(d.built)
	return nil
}

// wireBridge makes the bridge, and what remembers the settings of the host that
// are changed for it and for the device.
func (d *daemon) wireBridge() error {
	former, err := changes.Open(d.settings.StateDir)
	if err != nil {
		return err
	}
	if err := d.rememberRedirects(former); err != nil {
		return err
	}
	d.bridge = bridge.New(bridge.Deps{Kernel: d.kernel, Journal: former, Log: d.log.With("part", "bridge")})
	return nil
}

// wireRouter makes what joins all parts but the containers.
func (d *daemon) wireRouter(mtu int, dnsAddr netip.Addr) {
	s := d.settings
	config := router.Config{
		Host: router.Host{
			Key: d.state.Key, Keys: d.keys, Port: s.Port, MTU: mtu, DNS: dnsAddr,
			Userspace: d.device.Mode() == wireguard.Userspace,
		},
		Kernel: d.kernel, Mesh: d.mesh, Device: d.device, Tunnels: d.watchRouter(), Relay: d.relay,
		Bridge: d.bridge,
		Names:  d.names, Token: d.token,
		Status: router.Static{
			Version: settings.Version, Protocol: settings.Protocol, Cluster: s.Cluster,
			Datapath: d.device.Mode().String(), Nickname: s.Nickname, Name: d.state.Name,
			Discovery: !s.NoDiscovery, Warnings: d.notes,
		},
		Observer: observer{d.logFile, d.events, &d.picture, d.doctor}, Stop: d.stop, Log: d.log.With("part", "router"),
	}
	d.wireSwitch(&config)
	if d.space != nil { // a nil pointer in an interface is not nil
		config.Space = d.space
	}
	d.router = router.New(config)
}

// wireContainers makes what attaches containers, and the engine that it asks.
func (d *daemon) wireContainers(mtu int, dnsAddr netip.Addr) (err error) {
	s := d.settings
	if d.docker, err = docker.New(docker.Config{Network: d.defaultNetwork(), Log: d.log.With("part", "docker")}); err != nil {
		return err
	}
	c := workload.Config{
		StateDir: s.StateDir, Names: dns.NewBook(d.mesh), Attachments: fdb.NewRegister(d.mesh), DNS: dnsAddr,
		Docker: engine{d.docker, s.PluginName()}, Host: d.router, Log: d.log.With("part", "workload"),
		Attacher: attach.New(d.kernel, openGuest, d.guests(mtu, dnsAddr)),
	}
	if d.space != nil { // as above
		c.Space = d.space
	}
	if !s.NoDNS {
		c.Domain = s.DNSDomain
	}
	if c.BootID, err = bootID(); err != nil {
		return err
	}
	if d.work, err = workload.New(c); err != nil {
		return err
	}
	d.router.SetContainers(d.work)
	return nil
}

// guests says what containers find at their interface, and, where the name server
// is on the bridge, what leads their questions there.
func (d *daemon) guests(mtu int, dnsAddr netip.Addr) attach.Config {
	c := attach.Config{
		Bridge: router.BridgeName, MTU: func() int { return mtu }, DNS: dnsAddr, Log: d.log.With("part", "attach"),
	}
	if !dnsAddr.IsValid() {
		return c
	}
	var known []netip.Prefix
	if d.settings.Range.IsValid() {
		known = append(known, d.settings.Range)
	}
	redirect := bridge.NewRedirect(dnsAddr, known...)
	c.Redirect = func(g attach.Guest, link string) error { return redirect.Set(g, link) }
	c.Withdraw = func(g attach.Guest) error { return redirect.Remove(g) }
	return c
}

// members is the mesh for those that are made before it and run after it.
type members struct{ *mesh.Mesh }

// openSpace opens the address allocator, unless it is off. That comes before
// anything is changed: who has the database may be another weftd.
func (d *daemon) openSpace(to *members) (err error) {
	s := d.settings
	if !s.Range.IsValid() {
		return nil
	}
	d.space = &addresses{nickname: s.Nickname}
	d.space.Allocator, err = ipam.Open(ipam.Config{
		Self: d.state.Key.Identity(), Name: d.state.Name, Nickname: s.Nickname, New: d.state.Created,
		Range: s.Range, Subnet: s.DefaultSubnet, Mode: s.Division, ReclaimAfter: s.ReclaimAfter,
		Path: filepath.Join(s.StateDir, "ipam.db"), Mark: s.IPAMMark(),
		Net: to, Targets: func() int { return d.space.unmetTargets(d.mesh) }, Log: d.log.With("part", "ipam"),
	})
	return err
}

// sayNoSpace tells the others that they need not wait for this host's vote.
func (d *daemon) sayNoSpace() error {
	off, err := wire.Info{Role: wire.RoleOff}.Marshal()
	if err != nil {
		return err
	}
	return d.mesh.Put(wire.EntryInfo, off)
}

// wireMesh makes the mesh and what introduces us.
func (d *daemon) wireMesh(to *members) (err error) {
	s := d.settings
	own := d.interfaces()
	d.token.Join = joinCommand(d.token.Token, own, s)
	datapath := advert.Userspace
	if d.device.Mode() == wireguard.Kernel {
		datapath = advert.Kernel
	}
	versions := hello.Versions{Min: settings.OldestProtocol, Max: settings.NewestProtocol}
	greeter := hello.New(hello.Config{
		Key: d.state.Key, Keys: d.keys, Boot: d.boot, Versions: versions, Log: d.log.With("part", "hello"),
		Adverts: func() []advert.Signed { return d.mesh.Adverts() },
		Check:   func(a advert.Signed) error { return d.mesh.Check(a) },
	})
	if d.gossip, err = mesh.CountGossip(); err != nil {
		return err
	}
	d.mesh, err = mesh.New(mesh.Config{
		Key: d.state.Key, Keys: d.keys, Boot: d.boot, Name: d.state.Name,
		Nickname: s.Nickname, Version: settings.Version, Datapath: datapath,
		StateDir: s.StateDir, Port: s.Port, Endpoints: d.endpoints, Hello: greeter, Listener: d.hello,
		Targets: s.Targets, Resume: s.Resume, Discovery: !s.NoDiscovery,
		ConnLimit: s.ConnLimit, Log: d.log.With("part", "mesh"),
		Deliver: d.deliver, Usable: d.usable, Versions: versions, Counts: d.gossip,
	})
	if err != nil {
		return err
	}
	if to.Mesh = d.mesh; d.space == nil {
		return d.sayNoSpace()
	}
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
		Upstreams: upstreams, Range: s.Range, Log: d.log.With("part", "dns"),
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

// rememberRedirects records what the kernel's WireGuard changes by itself when
// its device comes up: it turns off ICMP redirects for the whole namespace.
func (d *daemon) rememberRedirects(journal *changes.Journal) error {
	const key = "net/ipv4/conf/all/send_redirects"
	if d.device.Mode() != wireguard.Kernel {
		return nil
	}
	former, err := d.kernel.Sysctl(key)
	if err != nil {
		return err
	}
	return journal.Record(key, former)
}

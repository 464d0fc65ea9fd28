package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/api"
)

// way is where a measurement goes.
type way struct {
	name, title, between    string
	from, to                *lab.Place
	at                      netip.Addr // of to, on this way
	sender, receiver, relay *daemon    // nil: there is none
	check                   func(context.Context) error
}

// The names of ways. That of a comparator is the name of its program.
const (
	veth      = "veth"
	vxlan     = "vxlan"
	weft      = "weft"
	weftRelay = "weft-relay"
	tinc      = "tinc"
	nebula    = "nebula"
)

// Ways returns the names of all ways, in the order of tables.
func Ways() []string {
	return []string{veth, vxlan, plainTunnel, routedTunnel, slowSwitch, weft, weftRelay, tinc, nebula}
}

// site is the lab with everything that runs in it.
type site struct {
	*lab.Lab
	o     Options
	dir   string // for files of programs
	plain [2]*lab.Host
	mesh  [3]*lab.Host // host1 reaches host2 directly and host3 through it
	ways  []*way
}

// newSite makes the lab. Weft has hosts of its own: its rules for packets would
// cost the others something.
func newSite(ctx context.Context, o Options) (*site, error) {
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return nil, err
	}
	t := lab.Flat(fmt.Sprintf("bench-%d", os.Getpid()), 5)
	t.Hosts[3].Name, t.Hosts[4].Name = "plain1", "plain2"
	t.Faults = []lab.Fault{{From: "host1", To: "host3", Percent: 100}, {From: "host3", To: "host1", Percent: 100}}
	l, err := lab.Up(ctx, t, lab.Options{BinDir: o.BinDir})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	h := l.Hosts()
	s := &site{Lab: l, o: o, dir: dir, plain: [2]*lab.Host{h[3], h[4]}, mesh: [3]*lab.Host{h[0], h[1], h[2]}}
	if err := s.setFilter(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// setFilter says on all hosts whether frames on bridges pass through the packet
// filter of IP (br_netfilter). They do in a new namespace where the kernel can,
// which is in most once a program of containers has asked for it.
func (s *site) setFilter(ctx context.Context) error {
	value := 0
	if s.o.Filter {
		value = 1
	}
	for _, h := range s.Hosts() {
		err := sh(ctx, h.Place, `
			for f in /proc/sys/net/bridge/bridge-nf-call-*; do
				if [ -e "$f" ]; then echo "$1" >"$f"; elif [ "$1" = 1 ]; then exit 1; fi
			done`, value)
		if err != nil {
			return fmt.Errorf("bridged frames through the packet filter of %s (is br_netfilter loaded?): %w", h.Name(), err)
		}
	}
	return nil
}

func (s *site) close() error { return errors.Join(s.Down(), os.RemoveAll(s.dir)) }

// build makes one way; the tunnel comes before what goes over it.
func (s *site) build(ctx context.Context, name string) error {
	f := map[string]func(context.Context) error{
		veth: s.addVeth, vxlan: s.addVXLAN, plainTunnel: s.addTunnel, routedTunnel: s.addRoutedTunnel, slowSwitch: s.addVXLANOverTunnel,
		weft: s.addWeft, weftRelay: s.addRelayed, tinc: s.addTinc, nebula: s.addNebula,
	}[name]
	if f == nil {
		return fmt.Errorf("there is no way %q: there are %v", name, Ways())
	}
	if err := f(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// add takes a way in: a server listens at its end, and packets pass.
func (s *site) add(ctx context.Context, w *way) error {
	if _, err := w.to.Start(ctx, s.file("iperf3-"+w.name+".log"), "iperf3", "--server", "--bind", w.at.String()); err != nil {
		return err
	}
	err := until(ctx, time.Minute, func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := w.from.Ping(ctx, w.at, 64, nil); err != nil {
			return err
		}
		if w.check != nil {
			return w.check(ctx)
		}
		return nil
	})
	s.ways = append(s.ways, w)
	return err
}

// until tries again while f gives an error.
func until(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

// sh runs a script in a place; words are its $1, $2, …
func sh(ctx context.Context, p *lab.Place, script string, words ...any) error {
	args := []string{"sh", "-euc", script, "sh"}
	for _, w := range words {
		args = append(args, fmt.Sprint(w))
	}
	return p.Run(ctx, args...).Err
}

func (s *site) addVeth(ctx context.Context) error {
	return s.add(ctx, &way{
		name: veth, title: "bare veth", between: "hosts",
		from: s.plain[0].Place, to: s.plain[1].Place, at: s.plain[1].Addr(),
	})
}

// switched connects a container of each plain host to a bridge that has the
// device as its port: network.n/24 is the container of the n-th host.
func (s *site) switched(ctx context.Context, device string, mtu int, network string) (boxes [2]*lab.Container, at netip.Addr, err error) {
	for i, h := range s.plain {
		c, err := h.Container(ctx, "box-"+device, lab.ContainerOptions{})
		if err != nil {
			return boxes, at, err
		}
		boxes[i] = c
		err = sh(ctx, h.Place, `
			ip link add "br-$1" type bridge
			ip link set "$1" mtu "$2" master "br-$1" up
			ip link add "to-$1" mtu "$2" type veth peer name eth0 mtu "$2" netns "$3"
			ip link set "to-$1" master "br-$1" up
			ip link set "br-$1" up`, device, mtu, c.PID())
		if err == nil {
			at, err = netip.ParseAddr(fmt.Sprintf("%s.%d", network, i+1))
		}
		if err == nil {
			err = sh(ctx, c.Place, `ip addr add "$1/24" dev eth0; ip link set eth0 up`, at)
		}
		if err != nil {
			return boxes, at, err
		}
	}
	return boxes, at, nil
}

func (s *site) addVXLAN(ctx context.Context) error {
	for i, h := range s.plain {
		err := sh(ctx, h.Place, `
			ip link add vx-bare type vxlan id 42 local "$1" dstport 4789
			bridge fdb append 00:00:00:00:00:00 dev vx-bare dst "$2"`, h.Addr(), s.plain[1-i].Addr())
		if err != nil {
			return err
		}
	}
	boxes, at, err := s.switched(ctx, "vx-bare", 1450, "10.98.0")
	if err != nil {
		return err
	}
	return s.add(ctx, &way{
		name: vxlan, title: "kernel VXLAN, not encrypted", between: "containers", from: boxes[0].Place, to: boxes[1].Place, at: at,
	})
}

const (
	tunnelMTU  = 1420 // what wg-quick takes on Ethernet
	tunnelPort = 51820
)

// tunnelEnds are the ends of the plain tunnel.
func (s *site) tunnelEnds() (e [2]tunnelEnd) {
	for i, h := range s.plain {
		e[i] = tunnelEnd{h.Addr(), []netip.Addr{
			netip.AddrFrom4([4]byte{10, 97, 0, byte(i + 1)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x97, 15: byte(i + 1)}),
			netip.AddrFrom4([4]byte{10, 94, 0, byte(i + 1)}), // of a container behind it
		}}
	}
	return e
}

func (s *site) addTunnel(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ends := s.tunnelEnds()
	var config, other string
	if config, other, err = tunnelConfigs(tunnelPort, ends[0], ends[1]); err != nil {
		return err
	}
	for i, h := range s.plain {
		f := s.file("wireguard-" + h.Name())
		if err := os.WriteFile(f, []byte([]string{config, other}[i]), 0o600); err != nil {
			return err
		}
		log := s.file("wireguard-" + h.Name() + ".log")
		if _, err := h.Start(ctx, log, exe, "bench", tunnelWord, "--name", "wg0", "--mtu", fmt.Sprint(tunnelMTU), f); err != nil {
			return err
		}
		err := until(ctx, 10*time.Second, func() error {
			b, err := os.ReadFile(log)
			if err == nil && !strings.Contains(string(b), tunnelReady) {
				err = fmt.Errorf("wireguard-go says: %s", b)
			}
			return err
		})
		if err == nil {
			err = sh(ctx, h.Place, `ip addr add "$1/24" dev wg0; ip addr add "$2/64" dev wg0 nodad; ip link set wg0 up`, ends[i].inside[0], ends[i].inside[1])
		}
		if err != nil {
			return err
		}
	}
	w := &way{
		name: plainTunnel, title: "wireguard-go, L3", between: "hosts",
		from: s.plain[0].Place, to: s.plain[1].Place, at: ends[1].inside[0],
	}
	return errors.Join(s.daemons(w, tunnelWord), s.add(ctx, w))
}

// daemons finds what carries the packets of a way between the plain hosts.
func (s *site) daemons(w *way, words ...string) error {
	var err1, err2 error
	w.sender, err1 = findDaemon(s.plain[0].Place, words...)
	w.receiver, err2 = findDaemon(s.plain[1].Place, words...)
	return errors.Join(err1, err2)
}

// addRoutedTunnel leads from container to container through the plain tunnel, by
// routes: no Ethernet between the hosts, and no switch.
func (s *site) addRoutedTunnel(ctx context.Context) error {
	if err := s.needsTunnel(); err != nil {
		return err
	}
	ends := s.tunnelEnds()
	var boxes [2]*lab.Container
	for i, h := range s.plain {
		c, err := h.Container(ctx, "box-routed", lab.ContainerOptions{})
		if err != nil {
			return err
		}
		boxes[i] = c
		own, other := ends[i].inside[2], ends[1-i].inside[2]
		err = sh(ctx, h.Place, `
			ip link add to-routed mtu "$3" type veth peer name eth0 mtu "$3" netns "$4"
			ip addr add 169.254.1.1/32 dev to-routed
			ip link set to-routed up
			ip route add "$1" dev to-routed
			ip route add "$2" dev wg0
			sysctl -qw net.ipv4.ip_forward=1`, own, other, tunnelMTU, c.PID())
		if err == nil {
			err = sh(ctx, c.Place, `
				ip addr add "$1/32" dev eth0
				ip link set eth0 up
				ip route add 169.254.1.1 dev eth0
				ip route add default via 169.254.1.1 src "$1"`, own)
		}
		if err != nil {
			return err
		}
	}
	w := &way{
		name: routedTunnel, title: "wireguard-go, L3, routed", between: "containers",
		from: boxes[0].Place, to: boxes[1].Place, at: ends[1].inside[2],
	}
	return errors.Join(s.daemons(w, tunnelWord), s.add(ctx, w))
}

// needsTunnel is an error unless the plain tunnel is there.
func (s *site) needsTunnel() error {
	if _, err := s.plain[0].Index("wg0"); err != nil {
		return fmt.Errorf("it goes over the tunnel of %s, which is needed: %w", plainTunnel, err)
	}
	return nil
}

// addVXLANOverTunnel makes what a host without WireGuard in its kernel would
// have without weft's own switch port, with the settings of router/vxlan.
func (s *site) addVXLANOverTunnel(ctx context.Context) error {
	if err := s.needsTunnel(); err != nil {
		return err
	}
	ends := s.tunnelEnds()
	for i, h := range s.plain {
		err := sh(ctx, h.Place, `
			ip link add vx-sealed type vxlan id 7 local "$1" dstport 6785 srcport 512 1023 udp6zerocsumtx udp6zerocsumrx maxaddress 65536
			bridge fdb append 00:00:00:00:00:00 dev vx-sealed dst "$2"`, ends[i].inside[1], ends[1-i].inside[1])
		if err != nil {
			return err
		}
	}
	boxes, at, err := s.switched(ctx, "vx-sealed", tunnelMTU-70, "10.99.0")
	if err != nil {
		return err
	}
	w := &way{
		name: slowSwitch, title: "kernel VXLAN over wireguard-go", between: "containers",
		from: boxes[0].Place, to: boxes[1].Place, at: at,
	}
	return errors.Join(s.daemons(w, tunnelWord), s.add(ctx, w))
}

// launch starts the daemons of weft and attaches a container on each host.
func (s *site) launch(ctx context.Context) error {
	secret, err := crypto.NewSecret()
	if err != nil {
		return err
	}
	token := crypto.Token{Secret: secret}.String()
	for _, i := range []int{1, 0, 2} { // the relay first: both others reach it
		h := s.mesh[i]
		args := []string{"weft", "launch", "--plugin=false", "--token", token, "--datapath", s.o.Datapath}
		if i != 1 {
			args = append(args, s.mesh[1].Addr().String())
		}
		if err := h.Run(ctx, args...).Err; err != nil {
			return err
		}
	}
	for i, h := range s.mesh {
		c, err := h.Container(ctx, "box", lab.ContainerOptions{})
		if err != nil {
			return err
		}
		if err := h.Run(ctx, "weft", "attach", boxAddr(i).String()+"/12", c.Ref()).Err; err != nil {
			return err
		}
	}
	return nil
}

// boxAddr is the address of the container on the i-th host of weft.
func boxAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 32, 0, byte(i + 1)}) }

func (s *site) addWeft(ctx context.Context) error {
	return s.addMesh(ctx, &way{name: weft, title: "weft", between: "containers"}, 1, api.Established)
}

func (s *site) addRelayed(ctx context.Context) error {
	w := &way{name: weftRelay, title: "weft through a relay", between: "containers"}
	return s.addMesh(ctx, w, 2, api.Relayed)
}

// addMesh adds the way from the first of weft's hosts to another one of them.
func (s *site) addMesh(ctx context.Context, w *way, to int, state api.State) error {
	if s.mesh[0].Containers()["box"] == nil {
		if err := s.launch(ctx); err != nil {
			return err
		}
	}
	w.from, w.to, w.at = s.mesh[0].Containers()["box"].Place, s.mesh[to].Containers()["box"].Place, boxAddr(to)
	w.check = func(ctx context.Context) error { return s.isPath(ctx, s.mesh[to].Name(), state) }
	var errs [3]error
	w.sender, errs[0] = findDaemon(s.mesh[0].Place, "weftd")
	w.receiver, errs[1] = findDaemon(s.mesh[to].Place, "weftd")
	if state == api.Relayed {
		w.relay, errs[2] = findDaemon(s.mesh[1].Place, "weftd")
	}
	return errors.Join(errors.Join(errs[:]...), s.add(ctx, w))
}

// isPath is an error unless the first host reaches a peer in that way.
func (s *site) isPath(ctx context.Context, peer string, state api.State) error {
	st, err := api.NewClient(filepath.Join(s.mesh[0].Root(), "run/weft/weft.sock")).Status(ctx)
	if err != nil {
		return err
	}
	for _, c := range st.Connections {
		if c.Nickname == peer {
			if c.State != state {
				return fmt.Errorf("%s is %s %s, not %s", peer, c.State, c.Info, state)
			}
			return nil
		}
	}
	return fmt.Errorf("%s is not known", peer)
}

// mtu returns the MTU of the interface that leads to the end of a way.
func (w *way) mtu() (int, error) {
	links, err := w.to.Netlink().LinkList()
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		addrs, err := w.to.Addrs(l.Attrs().Name)
		if err != nil {
			return 0, err
		}
		for _, a := range addrs {
			if a.Addr() == w.at {
				return l.Attrs().MTU, nil
			}
		}
	}
	return 0, fmt.Errorf("no interface has %s", w.at)
}

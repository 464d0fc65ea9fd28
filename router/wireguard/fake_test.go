package wireguard

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weft/router/kerneltest"
)

const name = "weft-wg"

var (
	private = key(1)
	own     = netip.MustParseAddr("fd77:6566:7400::1")
	one     = netip.MustParseAddrPort("192.0.2.1:6784")
	two     = netip.MustParseAddrPort("[2001:db8::2]:6784")
)

func key(b byte) [32]byte {
	var k [32]byte
	for i := range k {
		k[i] = b
	}
	return k
}

// public is a public key that is easy to tell from others.
func public(b byte) [32]byte { return key(0xa0 + b) }

func overlay(b byte) netip.Addr {
	a := own.As16()
	a[14], a[15] = b, 0
	return netip.AddrFrom16(a)
}

func peer(b byte) Peer {
	return Peer{
		PublicKey: public(b), PresharedKey: key(b), Overlay: overlay(b),
		Keepalive: 25 * time.Second, MTU: 1444,
	}
}

func config(peers ...Peer) Config {
	return Config{PrivateKey: private, ListenPort: 6784, MTU: 1444, Address: own, FwMark: 0x77650000, Peers: peers}
}

// fakeWG is a kernel's WireGuard seen through wgctrl: it keeps one device,
// obeys as the kernel does, and records what it was told as `wg` commands.
type fakeWG struct {
	dev   wgtypes.Device
	calls []string
	reads int
	err   error // of the next ConfigureDevice
}

func (f *fakeWG) Device(n string) (*wgtypes.Device, error) {
	f.reads++
	if n != name {
		return nil, os.ErrNotExist
	}
	d := f.dev
	d.Peers = slices.Clone(f.dev.Peers)
	return &d, nil
}

func (f *fakeWG) Close() error { return nil }

func (f *fakeWG) ConfigureDevice(n string, c wgtypes.Config) error {
	if n != name {
		return os.ErrNotExist
	}
	if err := f.err; err != nil {
		f.err = nil
		return err
	}
	if len(c.Peers) > 32 {
		return fmt.Errorf("%d peers: wgctrl would split that", len(c.Peers))
	}
	f.calls = append(f.calls, command(c))
	if c.PrivateKey != nil {
		f.dev.PrivateKey = *c.PrivateKey
	}
	if c.ListenPort != nil {
		f.dev.ListenPort = *c.ListenPort
	}
	if c.FirewallMark != nil {
		f.dev.FirewallMark = *c.FirewallMark
	}
	for _, p := range c.Peers {
		f.configurePeer(p)
	}
	return nil
}

func (f *fakeWG) configurePeer(p wgtypes.PeerConfig) {
	is := f.peer(p.PublicKey)
	if p.Remove {
		f.dev.Peers = slices.DeleteFunc(f.dev.Peers, func(x wgtypes.Peer) bool { return x.PublicKey == p.PublicKey })
		return
	}
	if is == nil {
		if p.UpdateOnly {
			return
		}
		f.dev.Peers = append(f.dev.Peers, wgtypes.Peer{PublicKey: p.PublicKey})
		is = f.peer(p.PublicKey)
	}
	if p.PresharedKey != nil {
		is.PresharedKey = *p.PresharedKey
	}
	if p.Endpoint != nil {
		is.Endpoint = p.Endpoint
	}
	if p.PersistentKeepaliveInterval != nil {
		is.PersistentKeepaliveInterval = *p.PersistentKeepaliveInterval
	}
	if p.ReplaceAllowedIPs {
		is.AllowedIPs = nil
	}
	for _, n := range p.AllowedIPs { // taken from whoever had it
		for i := range f.dev.Peers {
			x := &f.dev.Peers[i]
			x.AllowedIPs = slices.DeleteFunc(x.AllowedIPs, func(o net.IPNet) bool { return o.String() == n.String() })
		}
		is.AllowedIPs = append(is.AllowedIPs, n)
	}
}

func (f *fakeWG) peer(k wgtypes.Key) *wgtypes.Peer {
	for i := range f.dev.Peers {
		if f.dev.Peers[i].PublicKey == k {
			return &f.dev.Peers[i]
		}
	}
	return nil
}

// roam is what a packet from elsewhere does.
func (f *fakeWG) roam(k [32]byte, ep netip.AddrPort) {
	f.peer(k).Endpoint = net.UDPAddrFromAddrPort(ep)
}

func (f *fakeWG) take() []string {
	c := f.calls
	f.calls = nil
	return c
}

// command is a configuration as `wg set` takes it, with keys cut short.
func command(c wgtypes.Config) string {
	w := []string{"wg set"}
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	if c.PrivateKey != nil {
		add("private-key %s", short(*c.PrivateKey))
	}
	if c.ListenPort != nil {
		add("listen-port %d", *c.ListenPort)
	}
	if c.FirewallMark != nil {
		add("fwmark %#x", *c.FirewallMark)
	}
	if c.ReplacePeers {
		add("replace-peers")
	}
	for _, p := range c.Peers {
		add("peer %s", short(p.PublicKey))
		if p.Remove {
			add("remove")
		}
		if p.UpdateOnly {
			add("update-only")
		}
		if p.PresharedKey != nil {
			add("preshared-key %s", short(*p.PresharedKey))
		}
		if p.Endpoint != nil {
			add("endpoint %s", p.Endpoint)
		}
		if p.PersistentKeepaliveInterval != nil {
			add("persistent-keepalive %.0f", p.PersistentKeepaliveInterval.Seconds())
		}
		if p.ReplaceAllowedIPs {
			add("allowed-ips %s", strings.Trim(strings.ReplaceAll(fmt.Sprint(ips(p.AllowedIPs)), " ", ","), "[]"))
		} else if len(p.AllowedIPs) > 0 {
			add("allowed-ips +%s", ips(p.AllowedIPs))
		}
	}
	return strings.Join(w, " ")
}

func short(k wgtypes.Key) string { return base64.StdEncoding.EncodeToString(k[:])[:4] }

func ips(list []net.IPNet) []string {
	var s []string
	for _, n := range list {
		s = append(s, n.String())
	}
	return s
}

// openFake returns a kernel device on fakes, made by us.
func openFake(t testing.TB) (*Device, *fakeWG, *kerneltest.Fake) {
	t.Helper()
	links := kerneltest.New("host")
	d, wg := takeOver(t, links, new(fakeWG))
	return d, wg, links
}

// takeOver is a restart of the daemon: a new device on what is there.
func takeOver(t testing.TB, links *kerneltest.Fake, wg *fakeWG) (*Device, *fakeWG) {
	t.Helper()
	d := newDevice(Options{Name: name, Links: links})
	if err := d.openKernel(); err != nil {
		t.Fatal(err)
	}
	d.wg = wg
	return d, wg
}

package wireguard

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weft/router/kerneltest"
)

// network carries packets between binds, each a constant delay later.
type network struct {
	delay time.Duration

	mu    sync.Mutex // guards what follows
	binds map[netip.AddrPort]*memoryBind
	sent  map[byte]int // by the type of WireGuard message
	tap   func(packet) // sees every packet sent; may be nil
}

func newNetwork(delay time.Duration) *network {
	return &network{delay: delay, binds: make(map[netip.AddrPort]*memoryBind), sent: make(map[byte]int)}
}

// memoryBind is a conn.Bind with one address on a network.
type memoryBind struct {
	net  *network
	addr netip.AddrPort

	mu     sync.Mutex // guards what follows
	in     chan packet
	closed chan struct{}
}

type packet struct {
	from netip.AddrPort
	b    []byte
}

func (n *network) bind(addr netip.AddrPort) *memoryBind {
	b := &memoryBind{net: n, addr: addr}
	n.mu.Lock()
	n.binds[addr] = b
	n.mu.Unlock()
	return b
}

func (b *memoryBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	in, closed := make(chan packet, 1024), make(chan struct{})
	b.in, b.closed = in, closed
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case <-closed:
			return 0, net.ErrClosed
		case p := <-in:
			sizes[0] = copy(bufs[0], p.b)
			eps[0] = memoryEndpoint(p.from)
			return 1, nil
		}
	}}, port, nil
}

func (b *memoryBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		close(b.closed)
	}
	b.in, b.closed = nil, nil
	return nil
}

func (b *memoryBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to := netip.AddrPort(ep.(memoryEndpoint))
	for _, buf := range bufs {
		p := packet{b.addr, append([]byte(nil), buf...)}
		b.net.mu.Lock()
		b.net.sent[buf[0]]++
		if b.net.tap != nil {
			b.net.tap(p)
		}
		b.net.mu.Unlock()
		time.AfterFunc(b.net.delay, func() { b.net.deliver(to, p) })
	}
	return nil
}

func (n *network) deliver(to netip.AddrPort, p packet) {
	n.mu.Lock()
	b := n.binds[to]
	n.mu.Unlock()
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.in <- p:
	default: // closed, or full
	}
}

func (b *memoryBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	ep, err := netip.ParseAddrPort(s)
	return memoryEndpoint(ep), err
}

func (*memoryBind) SetMark(uint32) error { return nil }
func (*memoryBind) BatchSize() int       { return 1 }

type memoryEndpoint netip.AddrPort

func (e memoryEndpoint) where() netip.AddrPort { return netip.AddrPort(e) }

func (e memoryEndpoint) ClearSrc()           {}
func (e memoryEndpoint) SrcToString() string { return "" }
func (e memoryEndpoint) DstToString() string { return netip.AddrPort(e).String() }
func (e memoryEndpoint) DstIP() netip.Addr   { return netip.AddrPort(e).Addr() }
func (e memoryEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }
func (e memoryEndpoint) DstToBytes() []byte {
	b, _ := netip.AddrPort(e).MarshalBinary()
	return b
}

// memoryTUN is a TUN device whose host sends what is put into out and counts
// what it receives.
type memoryTUN struct {
	out    chan []byte
	events chan tun.Event
	closed chan struct{}
	once   sync.Once
	got    atomic.Int64
}

func newMemoryTUN() *memoryTUN {
	return &memoryTUN{out: make(chan []byte), events: make(chan tun.Event), closed: make(chan struct{})}
}

func (t *memoryTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-t.closed:
		return 0, os.ErrClosed
	case p := <-t.out:
		sizes[0] = copy(bufs[0][offset:], p)
		return 1, nil
	}
}

func (t *memoryTUN) Write(bufs [][]byte, _ int) (int, error) {
	t.got.Add(int64(len(bufs)))
	return len(bufs), nil
}

func (t *memoryTUN) Close() error {
	t.once.Do(func() { close(t.closed); close(t.events) })
	return nil
}

func (t *memoryTUN) File() *os.File           { return nil }
func (t *memoryTUN) MTU() (int, error)        { return 1444, nil }
func (t *memoryTUN) Name() (string, error)    { return name, nil }
func (t *memoryTUN) Events() <-chan tun.Event { return t.events }
func (t *memoryTUN) BatchSize() int           { return 1 }

// send makes the host send an IPv6 packet every interval until the TUN closes.
func (t *memoryTUN) send(src, dst netip.Addr, every time.Duration) {
	p := make([]byte, 40)
	p[0], p[6], p[7] = 6<<4, 59, 64 // no next header
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-t.closed:
			return
		case t.out <- p:
		}
		select {
		case <-t.closed:
			return
		case <-tick.C:
		}
	}
}

// ipc drives wireguard-go as wgctrl does, without a socket.
type ipc struct {
	dev *device.Device
	// removed is told of every peer before it goes.
	removed func(*device.Peer)
}

func (c *ipc) Close() error { return nil }

func (c *ipc) ConfigureDevice(_ string, cfg wgtypes.Config) error {
	var b strings.Builder
	hexKey := func(k string, v wgtypes.Key) { fmt.Fprintf(&b, "%s=%s\n", k, hex.EncodeToString(v[:])) }
	if cfg.PrivateKey != nil {
		hexKey("private_key", *cfg.PrivateKey)
	}
	if cfg.ListenPort != nil {
		fmt.Fprintf(&b, "listen_port=%d\n", *cfg.ListenPort)
	}
	if cfg.FirewallMark != nil {
		fmt.Fprintf(&b, "fwmark=%d\n", *cfg.FirewallMark)
	}
	for _, p := range cfg.Peers {
		hexKey("public_key", p.PublicKey)
		if p.Remove {
			if x := c.dev.LookupPeer(device.NoisePublicKey(p.PublicKey)); x != nil && c.removed != nil {
				c.removed(x)
			}
			b.WriteString("remove=true\n")
		}
		if p.UpdateOnly {
			b.WriteString("update_only=true\n")
		}
		if p.PresharedKey != nil {
			hexKey("preshared_key", *p.PresharedKey)
		}
		if p.Endpoint != nil {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
		if p.PersistentKeepaliveInterval != nil {
			fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", int(p.PersistentKeepaliveInterval.Seconds()))
		}
		if p.ReplaceAllowedIPs {
			b.WriteString("replace_allowed_ips=true\n")
		}
		for _, n := range p.AllowedIPs {
			fmt.Fprintf(&b, "allowed_ip=%s\n", &n)
		}
	}
	return c.dev.IpcSet(b.String())
}

func (c *ipc) Device(string) (*wgtypes.Device, error) {
	text, err := c.dev.IpcGet()
	if err != nil {
		return nil, err
	}
	d := &wgtypes.Device{}
	var p *wgtypes.Peer
	var sec int64
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		k, v, _ := strings.Cut(s.Text(), "=")
		n, _ := strconv.ParseInt(v, 10, 64)
		switch k {
		case "private_key":
			_, _ = hex.Decode(d.PrivateKey[:], []byte(v))
		case "listen_port":
			d.ListenPort = int(n)
		case "fwmark":
			d.FirewallMark = int(n)
		case "public_key":
			d.Peers = append(d.Peers, wgtypes.Peer{})
			p = &d.Peers[len(d.Peers)-1]
			_, _ = hex.Decode(p.PublicKey[:], []byte(v))
		case "preshared_key":
			_, _ = hex.Decode(p.PresharedKey[:], []byte(v))
		case "endpoint":
			p.Endpoint = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(v))
		case "last_handshake_time_sec":
			sec = n
		case "last_handshake_time_nsec":
			if sec != 0 {
				p.LastHandshakeTime = time.Unix(sec, n)
			}
		case "tx_bytes":
			p.TransmitBytes = n
		case "rx_bytes":
			p.ReceiveBytes = n
		case "persistent_keepalive_interval":
			p.PersistentKeepaliveInterval = time.Duration(n) * time.Second
		case "allowed_ip":
			_, ipnet, err := net.ParseCIDR(v)
			if err != nil {
				return nil, err
			}
			p.AllowedIPs = append(p.AllowedIPs, *ipnet)
		}
	}
	return d, nil
}

// memoryHost is a whole device in memory.
type memoryHost struct {
	*Device
	tun     *memoryTUN
	wgo     *device.Device
	addr    netip.AddrPort
	private wgtypes.Key
	overlay netip.Addr
}

// openMemory returns the b-th host on a network.
func openMemory(t testing.TB, n *network, b byte) *memoryHost {
	t.Helper()
	links := kerneltest.New(strconv.Itoa(int(b)))
	must(t, links.AddTUN(name, MinMTU))
	h := &memoryHost{
		tun: newMemoryTUN(), addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, b}), 6784),
		private: clamp(key(b)), overlay: overlay(b),
	}
	h.Device = newDevice(Options{Name: name, Links: links})
	h.door = &door{Bind: n.bind(h.addr)}
	local := startLocal(h.tun, h.door, h.log)
	h.wgo = local.dev
	h.mode, h.local, h.wg = Userspace, local, &ipc{dev: local.dev}
	return h
}

// peer is how others configure this host.
func (h *memoryHost) peer() Peer {
	return Peer{
		PublicKey: h.private.PublicKey(), PresharedKey: key(99), Overlay: h.overlay,
		Keepalive: 25 * time.Second, MTU: 1444,
	}
}

func (h *memoryHost) config(peers ...Peer) Config {
	return Config{PrivateKey: h.private, ListenPort: 6784, MTU: 1444, Address: h.overlay, FwMark: 7, Peers: peers}
}

package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Ports that a host has open to everybody.
const (
	helloPort  = 6783
	tunnelPort = 6784
)

// A host that strangers flood, on every port that is open to them, goes on:
// its tunnels carry, another host joins, and it does not grow.
func TestHostileFlood(t *testing.T) {
	parallelAs(t, racing, 10*time.Second)
	c := newCluster(t, 4)
	host, peer, joiner, stranger := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	host.launch()
	peer.launch(host.Addr().String())
	c.waitMesh(host, peer)
	a, b := host.attach("a", "10.32.0.1"), peer.attach("b", "10.32.0.2")
	f := &flood{host, peer, stranger, []netip.Addr{stranger.Addr(), stranger.Addr6()}}
	before := host.daemonUse(t)

	started := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var attackers sync.WaitGroup
	for _, attack := range f.attacks(t) {
		attackers.Go(func() { attack(ctx) })
	}
	pings := make(chan [2]int, 1)
	go func() {
		sent, lost := 0, 0
		for ; ctx.Err() == nil; sent++ {
			one, cancel := tries(t, 5*time.Second)
			if _, err := a.Ping(one, b.addr, 64, nil); err != nil {
				lost++
			}
			cancel()
			time.Sleep(20 * time.Millisecond)
		}
		pings <- [2]int{sent, lost}
	}()
	// Longer than a stranger may take for his proof.
	enough := time.After(7 * time.Second)
	time.Sleep(time.Second) // let it come down on the host
	joiner.launch(host.Addr().String())
	c.wait("a host joins in the middle of it", 3*time.Second, func() error { return c.isMesh(host, peer, joiner) })
	<-enough
	during, took := host.daemonUse(t), time.Since(started)
	stop()
	attackers.Wait()
	if p := <-pings; p[1] > 2+p[0]/50 { // a machine that has nothing else to do loses none
		t.Errorf("%d of %d pings between containers were lost", p[1], p[0])
	} else {
		t.Logf("%d pings between containers meanwhile", p[0])
	}
	var after use
	c.wait("its connections are gone", 6*time.Second, func() error {
		if after = host.daemonUse(t); after.descriptors > before.descriptors+20 {
			return fmt.Errorf("%d descriptors, before it were %d", after.descriptors, before.descriptors)
		}
		return nil
	})
	t.Logf("before %s; during %s; after %s", before, during, after)
	// 64 connections in the middle of TLS may cost 100 kB each.
	for _, u := range []use{during, after} {
		if u.memory > before.memory+48<<20 {
			t.Errorf("the daemon grew from %s to %s", before, u)
		}
	}
	if after.logLines-before.logLines > 400*int(1+took/(15*time.Second)) {
		t.Errorf("strangers wrote %d lines into the log", after.logLines-before.logLines)
	}
	c.waitMesh(host, peer, joiner)
}

// flood is a machine that wants to bring a host down.
type flood struct {
	host, peer, stranger *node
	sources              []netip.Addr // what counts by source sees as many
}

// dial connects from one of the addresses; nil when the host does not want to.
func (f *flood) dial(ctx context.Context, number int) net.Conn {
	from := f.sources[number%len(f.sources)]
	to := netip.AddrPortFrom(f.host.Addr(), helloPort)
	if from.Is6() {
		to = netip.AddrPortFrom(f.host.Addr6(), helloPort)
	}
	var c net.Conn
	_ = f.stranger.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: time.Second}
		c, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	return c
}

// attacks returns what strangers do; each runs until its context ends.
func (f *flood) attacks(t testing.TB) []func(context.Context) {
	out := []func(context.Context){}
	// 200 connections that are never used, from both addresses, and some that
	// are used badly; who is thrown out comes back.
	for i := range 200 {
		out = append(out, func(ctx context.Context) { f.hold(ctx, i, func(context.Context, net.Conn) {}) })
	}
	certificate := selfSigned(t)
	for i := range 20 {
		out = append(out,
			func(ctx context.Context) { f.hold(ctx, i, slowWriter) },
			func(ctx context.Context) { f.hold(ctx, i, garbage) },
			func(ctx context.Context) { f.hold(ctx, i, slowReader(certificate)) })
	}
	w := openWire(t, f.stranger.Place, "eth0")
	mac := macOf(t, f.host.Place, "eth0")
	return append(out,
		f.datagrams(t, helloPort), f.datagrams(t, tunnelPort),
		func(ctx context.Context) { f.halfOpen(ctx, w, mac) },
		func(ctx context.Context) { f.inTheNameOf(ctx, w, mac) })
}

// hold connects again and again, and keeps each connection until the host ends
// it.
func (f *flood) hold(ctx context.Context, number int, use func(context.Context, net.Conn)) {
	for ctx.Err() == nil {
		if c := f.dial(ctx, number); c != nil {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			use(ctx, c)
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, _ = c.Read(make([]byte, 1))
			stop()
			_ = c.Close()
		}
		rest(ctx, 100*time.Millisecond)
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// slowWriter begins a TLS record and never ends it.
func slowWriter(ctx context.Context, c net.Conn) {
	for _, b := range append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, make([]byte, 200)...) {
		if _, err := c.Write([]byte{b}); err != nil || ctx.Err() != nil {
			return
		}
		rest(ctx, 100*time.Millisecond)
	}
}

func garbage(_ context.Context, c net.Conn) {
	b := make([]byte, 64<<10)
	_, _ = rand.Read(b)
	switch b[0] % 3 {
	case 0:
		copy(b, "GET / HTTP/1.1\r\nHost: weft\r\n\r\n")
	case 1:
		copy(b, []byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3}) // a TLS record of random content
	}
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Write(b)
}

// slowReader completes TLS, says as much as a stranger may, and does not read.
func slowReader(certificate tls.Certificate) func(context.Context, net.Conn) {
	return func(ctx context.Context, c net.Conn) {
		_ = c.(*net.TCPConn).SetReadBuffer(1)
		s := tls.Client(c, &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // a stranger does not care who it is
			MinVersion:         tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
		})
		if s.HandshakeContext(ctx) == nil {
			_, _ = s.Write(make([]byte, 1000))
			rest(ctx, 10*time.Second)
		}
	}
}

func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// datagrams sends 2,000 a second, of every type that WireGuard and weft have.
func (f *flood) datagrams(t testing.TB, port uint16) func(context.Context) {
	t.Helper()
	u, err := f.stranger.ListenUDP(t.Context(), netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	to := netip.AddrPortFrom(f.host.Addr(), port)
	return func(ctx context.Context) {
		for i := 0; ctx.Err() == nil; i++ {
			_, _ = u.WriteToUDPAddrPort(strangePacket(i), to)
			if i%20 == 0 {
				rest(ctx, 10*time.Millisecond)
			}
		}
	}
}

// strangePacket has the looks of a WireGuard message, a probe or nothing.
func strangePacket(i int) []byte {
	sizes := map[int]int{1: 148, 2: 92, 3: 64, 4: 32 + 16*(i%80), 5: 100}
	kind := i % 6
	b := make([]byte, sizes[kind]+i/6%2)
	_, _ = rand.Read(b)
	copy(b, [][]byte{{}, {1, 0, 0, 0}, {2, 0, 0, 0}, {3, 0, 0, 0}, {4, 0, 0, 0}, {0x57, 0, 0, 0}}[kind])
	return b
}

// halfOpen begins 200 connections a second and never answers.
func (f *flood) halfOpen(ctx context.Context, w *wire, mac net.HardwareAddr) {
	for i := 0; ctx.Err() == nil; i++ {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(60 + i%100)}), uint16(1024+i))
		segment := binary.BigEndian.AppendUint16(nil, from.Port())
		segment = binary.BigEndian.AppendUint16(segment, helloPort)
		segment = append(binary.BigEndian.AppendUint32(segment, uint32(i)), 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
		_ = w.send(ethernet(mac, w.mac, ip4Packet(tcp, from.Addr(), f.host.Addr(), segment, 16)))
		rest(ctx, 5*time.Millisecond)
	}
}

// inTheNameOf sends what looks like the peer's tunnel.
func (f *flood) inTheNameOf(ctx context.Context, w *wire, mac net.HardwareAddr) {
	for i := 0; ctx.Err() == nil; i++ {
		d := datagram{src: netip.AddrPortFrom(f.peer.Addr(), tunnelPort), dst: netip.AddrPortFrom(f.host.Addr(), tunnelPort)}
		for _, p := range d.packets(strangePacket(i)) {
			_ = w.send(ethernet(mac, w.mac, p))
		}
		rest(ctx, 2*time.Millisecond)
	}
}

// use is what a daemon takes of its machine.
type use struct{ memory, descriptors, logLines int }

func (u use) String() string {
	return fmt.Sprintf("%d MB, %d descriptors, %d lines of log", u.memory>>20, u.descriptors, u.logLines)
}

// daemonUse measures a host's daemon.
func (n *node) daemonUse(t testing.TB) use {
	t.Helper()
	u := use{logLines: strings.Count(n.log(), "\n")}
	for pid, name := range n.processes() {
		if name != "weftd" {
			continue
		}
		proc := filepath.Join(n.Root(), "proc", pid)
		statm, err := os.ReadFile(filepath.Join(proc, "statm"))
		if err != nil {
			t.Fatal(err)
		}
		pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := os.ReadDir(filepath.Join(proc, "fd"))
		if err != nil {
			t.Fatal(err)
		}
		u.memory, u.descriptors = pages*unix.Getpagesize(), len(fds)
		return u
	}
	t.Fatalf("%s has no daemon any more", n.Name())
	return u
}

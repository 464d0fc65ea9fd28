package wireguard

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/weftnet/weft/router/udp"
)

// inbox collects what a bind receives.
type inbox struct {
	got  chan received
	done sync.WaitGroup
}

type received struct {
	b  []byte
	ep conn.Endpoint
}

func collect(fns []conn.ReceiveFunc, batch int) *inbox {
	in := &inbox{got: make(chan received, 1<<14)}
	for _, fn := range fns {
		in.done.Go(func() {
			bufs := make([][]byte, batch)
			for i := range bufs {
				bufs[i] = make([]byte, 1<<16)
			}
			sizes, eps := make([]int, batch), make([]conn.Endpoint, batch)
			for {
				n, err := fn(bufs, sizes, eps)
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						panic(err)
					}
					return
				}
				for i := range n {
					in.got <- received{bytes.Clone(bufs[i][:sizes[i]]), eps[i]}
				}
			}
		})
	}
	return in
}

func (in *inbox) next(t *testing.T) received {
	t.Helper()
	select {
	case r := <-in.got:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		return received{}
	}
}

func openBind(t *testing.T, b conn.Bind) (port uint16, in *inbox) {
	t.Helper()
	fns, port, err := b.Open(0)
	must(t, err)
	in = collect(fns, b.BatchSize())
	t.Cleanup(func() {
		must(t, b.Close())
		in.done.Wait()
	})
	return port, in
}

func parse(t *testing.T, b conn.Bind, host string, port uint16) conn.Endpoint {
	t.Helper()
	ep, err := b.ParseEndpoint(net.JoinHostPort(host, fmt.Sprint(port)))
	must(t, err)
	return ep
}

// addAddr gives an interface an address and waits until it counts.
func addAddr(t *testing.T, dev, prefix string) {
	t.Helper()
	a := netip.MustParsePrefix(prefix).Addr()
	if a.Is4() {
		run(t, "ip", "addr", "add", prefix, "dev", dev)
		return
	}
	run(t, "ip", "addr", "add", prefix, "dev", dev, "nodad")
	must(t, waitUsable(a))
}

// Batches of any sizes arrive whole and in order, over both protocols in turn.
func TestBindBatches(t *testing.T) {
	a, b := newBind(), newBind()
	_, back := openBind(t, a)
	port, in := openBind(t, b)
	eps := []conn.Endpoint{parse(t, a, "127.0.0.1", port), parse(t, a, "::1", port)}
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		batch := make([][]byte, 1+r.IntN(a.BatchSize()))
		size := 1 + r.IntN(1500)
		for i := range batch {
			if r.IntN(10) == 0 {
				size = 1 + r.IntN(1500)
			}
			batch[i] = make([]byte, size)
			for k := range batch[i] {
				batch[i][k] = byte(round + i + k)
			}
		}
		sent := slices.Clone(batch)
		for i := range sent {
			sent[i] = bytes.Clone(sent[i])
		}
		must(t, a.Send(batch, eps[round%2]))
		var last received
		for i := range sent {
			last = in.next(t)
			if !bytes.Equal(last.b, sent[i]) {
				t.Fatalf("round %d: packet %d of %d has %d bytes, want %d", round, i, len(sent), len(last.b), len(sent[i]))
			}
			if !bytes.Equal(batch[i], sent[i]) {
				t.Fatalf("round %d: sending changed packet %d", round, i)
			}
		}
		if ip := last.ep.DstIP(); ip != eps[round%2].DstIP() || last.ep.SrcIP() != ip {
			t.Fatalf("round %d: from %s to %s", round, ip, last.ep.SrcIP())
		}
		must(t, b.Send([][]byte{{1}}, last.ep))
		if answer := back.next(t); answer.ep.DstIP() != eps[round%2].DstIP() {
			t.Fatalf("round %d: answered from %s", round, answer.ep.DstIP())
		}
	}
}

// An IPv6 address is not mixed up with the IPv4 one used before it.
func TestBindMixesNoAddresses(t *testing.T) {
	if !alone(t) {
		return
	}
	for _, a := range []string{"2001:db8:1:2:3:4:5:6", "2001:db8:f:e:d:c:b:a"} {
		addAddr(t, "lo", a+"/128")
	}
	a, b := newBind(), newBind()
	openBind(t, a)
	port, in := openBind(t, b)
	for _, to := range []string{"127.0.0.1", "2001:db8:1:2:3:4:5:6", "127.0.0.2", "2001:db8:f:e:d:c:b:a", "127.0.0.1", "::1"} {
		must(t, a.Send([][]byte{[]byte(to)}, parse(t, a, to, port)))
		if got := in.next(t); string(got.b) != to || got.ep.SrcIP() != netip.MustParseAddr(to) {
			t.Errorf("sent to %s, %q came to %s", to, got.b, got.ep.SrcIP())
		}
	}
}

func TestBindOpen(t *testing.T) {
	b := newBind()
	port, _ := openBind(t, b)
	if _, _, err := b.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
		t.Errorf("open twice: %v", err)
	}
	other := newBind()
	if _, _, err := other.Open(port); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a port in use: %v", err)
	}
	if other.v4 != nil || other.v6 != nil {
		t.Error("a failed Open leaves sockets")
	}
	// IPv6 alone is taken: IPv4 must not stay open.
	c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	must(t, err)
	taken := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	if _, _, err := other.Open(taken); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a port in use by IPv6: %v", err)
	}
	must(t, c.Close())
	for range 3 { // as wireguard-go does when the port is set
		fns, p, err := other.Open(taken)
		must(t, err)
		if p != taken || len(fns) != 2 {
			t.Errorf("opened port %d with %d receivers", p, len(fns))
		}
		in := collect(fns, other.BatchSize())
		must(t, other.Close())
		in.done.Wait()
	}
	if err := other.Send([][]byte{{1}}, parse(t, other, "127.0.0.1", port)); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Errorf("send when closed: %v", err)
	}
	if err := b.Send([][]byte{{1}}, conn.Endpoint(memoryEndpoint{})); !errors.Is(err, conn.ErrWrongEndpointType) {
		t.Errorf("a foreign endpoint: %v", err)
	}
}

func TestBindEndpoint(t *testing.T) {
	b := newBind()
	for in, want := range map[string]string{
		"192.0.2.1:80":          "192.0.2.1:80",
		"[2001:db8::1]:80":      "[2001:db8::1]:80",
		"[::ffff:192.0.2.1]:80": "192.0.2.1:80",
		"192.0.2.1":             "",
		"host:80":               "",
		"[fe80::1%nowhere]:80":  "",
	} {
		ep, err := b.ParseEndpoint(in)
		if (err == nil) != (want != "") || err == nil && ep.DstToString() != want {
			t.Errorf("endpoint %q: %v, %v, want %q", in, ep, err, want)
		}
	}
}

// A local address that goes away takes no tunnel with it.
func TestBindSourceGone(t *testing.T) {
	if !alone(t) {
		return
	}
	for _, c := range []struct{ gone, peer string }{{"10.1.0.1", "10.1.0.2"}, {"2001:db8:1::1", "2001:db8:1::2"}} {
		bits := map[bool]string{true: "/32", false: "/128"}[netip.MustParseAddr(c.gone).Is4()]
		for _, a := range []string{c.gone, c.peer} {
			addAddr(t, "lo", a+bits)
		}
		ours, theirs := newBind(), newBind()
		port, in := openBind(t, ours)
		_, back := openBind(t, theirs)
		from := &endpoint{dst: netip.AddrPortFrom(netip.MustParseAddr(c.gone), port), src: netip.MustParseAddr(c.peer)}
		must(t, theirs.Send([][]byte{{1}}, from))
		ep := in.next(t).ep
		if ep.SrcIP().String() != c.gone {
			t.Fatalf("came to %s", ep.SrcIP())
		}
		must(t, ours.Send([][]byte{{2}}, ep))
		if got := back.next(t).ep.DstIP().String(); got != c.gone {
			t.Errorf("answered from %s, want %s", got, c.gone)
		}
		run(t, "ip", "addr", "del", c.gone+bits, "dev", "lo")
		must(t, ours.Send([][]byte{{3}, {4}}, ep))
		for range 2 {
			if got := back.next(t).ep.DstIP().String(); got == c.gone {
				t.Errorf("answered from %s, which is gone", got)
			}
		}
		ep.ClearSrc()
		if ep.SrcIP().IsValid() {
			t.Errorf("source after ClearSrc: %s", ep.SrcIP())
		}
	}
}

// A learnt path MTU must not matter: the route to the peer has one here, as a
// forged "fragmentation needed" would give it. wireguard-go's own Bind is the
// control: if it passed, this test would show nothing.
func TestBindIgnoresPathMTU(t *testing.T) {
	if !alone(t) {
		return
	}
	run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "v1")
	run(t, "ip", "link", "set", "v1", "up")
	run(t, "ip", "link", "set", "v0", "up")
	addAddr(t, "v0", "10.1.0.1/24")
	addAddr(t, "v0", "2001:db8:1::1/64")
	run(t, "ip", "route", "add", "10.1.0.2/32", "dev", "v0", "mtu", "1300")
	run(t, "ip", "-6", "route", "add", "2001:db8:1::2/128", "dev", "v0", "mtu", "1300")
	batch := make([][]byte, 20)
	for i := range batch {
		batch[i] = make([]byte, 1400, 1<<16)
	}
	for _, to := range []string{"10.1.0.2", "2001:db8:1::2"} {
		for _, c := range []struct {
			name string
			bind conn.Bind
			ok   bool
		}{{"ours", newBind(), true}, {"wireguard-go's", conn.NewStdNetBind(), false}} {
			openBind(t, c.bind)
			err := c.bind.Send(slices.Clone(batch), parse(t, c.bind, to, 6784))
			if (err == nil) != c.ok {
				t.Errorf("%s, to %s: %v", c.name, to, err)
			}
		}
	}
}

// A packet larger than the interface is fragmented, and does not take its batch
// with it.
func TestBindTooLarge(t *testing.T) {
	if !alone(t) {
		return
	}
	run(t, "ip", "link", "set", "lo", "mtu", "1500")
	a, b := newBind(), newBind()
	openBind(t, a)
	port, in := openBind(t, b)
	for _, to := range []string{"127.0.0.1", "::1"} {
		batch := [][]byte{make([]byte, 1400), make([]byte, 1400), make([]byte, 2000), make([]byte, 2000), make([]byte, 2000), make([]byte, 700)}
		if err := a.Send(batch, parse(t, a, to, port)); err != nil {
			t.Errorf("to %s: %v", to, err)
		}
		for _, want := range []int{1400, 1400, 2000, 2000, 2000, 700} {
			if got := in.next(t); len(got.b) != want {
				t.Errorf("to %s: %d bytes came, want %d", to, len(got.b), want)
			}
		}
	}
}

func TestBindMark(t *testing.T) {
	if !alone(t) {
		return
	}
	b := newBind()
	openBind(t, b)
	must(t, b.SetMark(0x77650000))
	for _, s := range []*udp.Socket{b.v4, b.v6} {
		if mark, err := s.Option(unix.SOL_SOCKET, unix.SO_MARK); err != nil || mark != 0x77650000 {
			t.Errorf("mark %#x, %v", mark, err)
		}
		if gro, gso := s.Coalesces(); !gso || !gro {
			t.Errorf("this kernel has UDP GSO and GRO, but: %t, %t", gso, gro)
		}
	}
}

// Without offload the kernel, too, is asked for none.
func TestBindPlain(t *testing.T) {
	if !alone(t) {
		return
	}
	b := &bind{plain: true}
	openBind(t, b)
	for _, s := range []*udp.Socket{b.v4, b.v6} {
		on, err := s.Option(unix.IPPROTO_UDP, unix.UDP_GRO)
		if gro, gso := s.Coalesces(); err != nil || on != 0 || gso || gro {
			t.Errorf("UDP_GRO %d, %v; GRO %t, GSO %t", on, err, gro, gso)
		}
	}
}

// BenchmarkBind compares a batch of full packets over loopback with the same
// by wireguard-go's Bind.
func BenchmarkBind(b *testing.B) {
	for _, c := range []struct {
		name string
		make func() conn.Bind
	}{{"ours", func() conn.Bind { return newBind() }}, {"wireguard-go", conn.NewStdNetBind}} {
		b.Run(c.name, func(b *testing.B) {
			from, to := c.make(), c.make()
			fns, port, err := to.Open(0)
			must(b, err)
			_, _, err = from.Open(0)
			must(b, err)
			n := to.BatchSize()
			bufs, sizes, eps := make([][]byte, n), make([]int, n), make([]conn.Endpoint, n)
			batch := make([][]byte, n)
			for i := range bufs {
				bufs[i] = make([]byte, 1<<16)
				batch[i] = make([]byte, 1452, 1<<16)
			}
			ep, err := from.ParseEndpoint(fmt.Sprintf("127.0.0.1:%d", port))
			must(b, err)
			v4 := fns[len(fns)-1]
			if c.name != "ours" {
				v4 = fns[0]
			}
			b.SetBytes(int64(n * 1452))
			b.ReportAllocs()
			for b.Loop() {
				must(b, from.Send(batch, ep))
				for got := 0; got < n; {
					k, err := v4(bufs, sizes, eps)
					must(b, err)
					got += k
				}
			}
			must(b, from.Close())
			must(b, to.Close())
		})
	}
}

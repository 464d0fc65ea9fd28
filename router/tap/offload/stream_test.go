package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// switchMTU is that of the switch in the tests: what fits a tunnel over 1500.
const switchMTU = 1370

// counts are of both directions.
type counts struct{ read, supers, segments, marked, reduced, written, joined atomic.Int64 }

// pump carries frames from one TAP to another as a tunnel would: 128 segments
// at a time, which are cut at one end and joined at the other. Every so often
// it says that there is congestion (RFC 3168) to who wants to know.
type pump struct {
	from, to int
	counts   *counts
	cut      Cut
	join     *Join
	raw      []byte
	buffers  [128][2048]byte
	err      error
}

func (p *pump) run(stop <-chan struct{}) {
	p.raw = make([]byte, HeaderLen+70000)
	rest := false
	for p.err == nil {
		n := 0
		for n < len(p.buffers) {
			if !rest {
				size, err := unix.Read(p.from, p.raw)
				if err != nil {
					p.fail(err)
					break
				}
				var h Header
				p.fail(h.Parse(p.raw))
				p.fail(p.cut.Start(h, p.raw[HeaderLen:size]))
				p.counts.read.Add(1)
				if h.GSOType != GSONone {
					p.counts.supers.Add(1)
				}
			}
			size, ok := p.cut.Next(p.buffers[n][:switchMTU+14])
			if rest = ok; !ok {
				p.fail(p.cut.Err())
				continue
			}
			f := p.buffers[n][:size]
			p.congest(f)
			p.join.Add(f)
			n++
			p.counts.segments.Add(1)
		}
		p.join.Flush(p.write)
		if n > 0 {
			continue
		}
		select {
		case <-stop:
			return
		default:
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.from), Events: unix.POLLIN}}, 50)
		}
	}
}

func (p *pump) fail(err error) {
	if p.err == nil && err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		p.err = err
	}
}

func (p *pump) write(h Header, parts [][]byte) {
	var b [HeaderLen]byte
	h.Put(b[:])
	_, err := unix.Writev(p.to, append([][]byte{b[:]}, parts...))
	p.fail(err)
	p.counts.written.Add(1)
	if len(parts) > 1 {
		p.counts.joined.Add(1)
	}
}

// congest marks one of 200 frames with data whose sender understands it.
func (p *pump) congest(f []byte) {
	be := binary.BigEndian
	tcp := 34
	switch {
	case f[12] == 0x08 && f[13] == 0 && f[23] == 6:
	case f[12] == 0x86 && f[20] == 6:
		tcp = 54
	default:
		return
	}
	if f[tcp+13]&0x82 == 0x80 { // CWR without SYN
		p.counts.reduced.Add(1)
	}
	if len(f) < 500 || p.counts.segments.Load()%200 != 0 {
		return
	}
	if tcp == 34 && f[15]&3 == 2 {
		f[15] |= 3
		be.PutUint16(f[24:], 0)
		be.PutUint16(f[24:], ^slowSum(f[14:34]))
		p.counts.marked.Add(1)
	} else if tcp == 54 && f[15]>>4&3 == 2 {
		f[15] |= 0x30
		p.counts.marked.Add(1)
	}
}

// world is two containers at bridges that are connected by pumps.
type world struct {
	ends   [2]*kernel.Kernel
	taps   [2]int
	counts *counts
	pumps  []*pump
	stop   chan struct{}
	done   chan struct{}
}

func newWorld(t *testing.T) *world {
	w := &world{}
	host := kerneltest.Fresh(t)
	for i := range w.ends {
		bridge, port := fmt.Sprintf("br%d", i), fmt.Sprintf("port%d", i)
		addBridge(t, host, bridge, switchMTU)
		w.taps[i] = openTAP(t, host, fmt.Sprintf("tap%d", i), bridge, 0)
		w.ends[i] = kerneltest.Fresh(t)
		ok(t, host.AddVeth(port, switchMTU, w.ends[i], "eth0", kernel.MAC{}))
		ok(t, host.SetMaster(port, bridge))
		up(t, host, port)
		ok(t, w.ends[i].SetUp("eth0", true))
		for _, v4 := range []bool{true, false} {
			a := w.addr(i, v4)
			ok(t, w.ends[i].AddAddr("eth0", netip.PrefixFrom(a, map[bool]int{true: 24, false: 64}[v4]), true))
		}
	}
	return w
}

// addr is that of an end.
func (w *world) addr(i int, v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte{10, 32, 0, byte(1 + i)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(1 + i)})
}

// start pumps with these offloads until halt.
func (w *world) start(t *testing.T, offloads int) {
	w.counts, w.stop, w.done, w.pumps = new(counts), make(chan struct{}), make(chan struct{}), nil
	for i := range w.taps {
		ok(t, unix.IoctlSetInt(w.taps[i], unix.TUNSETOFFLOAD, offloads))
		p := &pump{from: w.taps[i], to: w.taps[1-i], counts: w.counts, join: New(offloads&withUSO != 0)}
		w.pumps = append(w.pumps, p)
		go func() {
			p.run(w.stop)
			w.done <- struct{}{}
		}()
	}
}

func (w *world) halt(t *testing.T) {
	t.Helper()
	close(w.stop)
	for _, p := range w.pumps {
		<-w.done
		if p.err != nil {
			t.Error("pump:", p.err)
		}
	}
}

// source is a stream that both ends can make.
func source() io.Reader { return rand.NewChaCha8([32]byte{7}) }

// What a kernel sends over TCP arrives as it was, and as super-frames if the
// TAP may give them.
func TestStreamTCP(t *testing.T) {
	const total = 64 << 20
	w := newWorld(t)
	for _, ecn := range []string{"0", "1"} {
		for _, k := range w.ends {
			ok(t, k.SetSysctl("net/ipv4/tcp_ecn", ecn)) // of both families
		}
		for _, v4 := range []bool{true, false} {
			for _, offloads := range []int{0, withTSO, withTSO | withUSO} {
				t.Run(fmt.Sprintf("IPv4=%v,ECN=%s,offloads=%#x", v4, ecn, offloads), func(t *testing.T) {
					w.start(t, offloads)
					took := w.tcp(t, v4, total)
					w.halt(t)
					c := w.counts
					t.Logf("%.0f MB/s; read %d (super-frames %d), segments %d (marked %d, CWR %d), written %d (super-frames %d)", float64(total)/took.Seconds()/1e6,
						c.read.Load(), c.supers.Load(), c.segments.Load(), c.marked.Load(), c.reduced.Load(), c.written.Load(), c.joined.Load())
					if (offloads == 0) != (c.supers.Load() == 0) {
						t.Errorf("%d super-frames", c.supers.Load())
					}
					// Frames that come one by one may be read one by one.
					if offloads != 0 && (c.joined.Load() == 0 || c.written.Load() > c.segments.Load()/2) {
						t.Error("hardly anything was coalesced")
					}
					if (ecn == "1") != (c.marked.Load() > 0 && c.reduced.Load() > 0) {
						t.Error("congestion was not seen, or without being asked for")
					}
				})
			}
		}
	}
}

// tcp sends a stream from the first end to the second one.
func (w *world) tcp(t *testing.T, v4 bool, total int) time.Duration {
	t.Helper()
	var listener net.Listener
	var conn net.Conn
	ok(t, w.ends[1].Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(w.addr(1, v4), 0).String())
		return err
	}))
	defer listener.Close()
	ok(t, w.ends[0].Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), 10*time.Second)
		return err
	}))
	defer conn.Close()
	other, err := listener.Accept()
	ok(t, err)
	defer other.Close()
	deadline := time.Now().Add(2 * time.Minute)
	ok(t, errors.Join(conn.SetDeadline(deadline), other.SetDeadline(deadline)))
	start := time.Now()
	failed := make(chan error, 1)
	go func() {
		r, from, b := rand.New(rand.NewPCG(1, 9)), source(), make([]byte, 200000)
		for left := total; left > 0; {
			n := min(left, 1+r.IntN(len(b)))
			if chance(r, 10) {
				n = min(left, 1+r.IntN(3000))
			}
			_, _ = from.Read(b[:n])
			if _, err := conn.Write(b[:n]); err != nil {
				failed <- err
				return
			}
			left -= n
		}
		failed <- conn.(*net.TCPConn).CloseWrite()
	}()
	want, a, b := source(), make([]byte, 100000), make([]byte, 100000)
	for got := 0; ; {
		n, err := other.Read(a)
		_, _ = want.Read(b[:n])
		if !bytes.Equal(a[:n], b[:n]) {
			t.Fatalf("other bytes after %d", got)
		}
		if got += n; errors.Is(err, io.EOF) {
			if got != total {
				t.Fatalf("%d bytes arrived", got)
			}
			break
		}
		ok(t, err)
	}
	ok(t, <-failed)
	return time.Since(start)
}

// The same for datagrams, which a kernel is given 40 at a time.
func TestStreamUDP(t *testing.T) {
	const total, size, burst = 64 << 20, 1300, 40
	w := newWorld(t)
	for _, v4 := range []bool{true, false} {
		for _, offloads := range []int{0, withTSO, withTSO | withUSO} {
			t.Run(fmt.Sprintf("IPv4=%v,offloads=%#x", v4, offloads), func(t *testing.T) {
				w.start(t, offloads)
				defer w.halt(t)
				var conns [2]*net.UDPConn
				for i, k := range w.ends {
					ok(t, k.Do(func() (err error) {
						conns[i], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.addr(i, v4), 5000)))
						return err
					}))
					defer conns[i].Close()
					ok(t, conns[i].SetDeadline(time.Now().Add(2*time.Minute)))
				}
				raw, err := conns[0].SyscallConn()
				ok(t, err)
				ok(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) }))
				ok(t, err)
				start := time.Now()
				from, b, a := source(), make([]byte, size*burst), make([]byte, 2000)
				for sent := 0; sent < total; {
					n := len(b) - sent%size // the last one is shorter
					_, _ = from.Read(b[:n])
					_, err := conns[0].WriteToUDPAddrPort(b[:n], netip.AddrPortFrom(w.addr(1, v4), 5000))
					ok(t, err)
					for rest := b[:n]; len(rest) > 0; {
						n, err := conns[1].Read(a)
						ok(t, err)
						if n != min(size, len(rest)) || !bytes.Equal(a[:n], rest[:n]) {
							t.Fatalf("other datagram of %d bytes after %d", n, sent)
						}
						rest = rest[n:]
					}
					sent += n
				}
				c := w.counts
				t.Logf("%.0f MB/s; read %d (super-frames %d), segments %d, written %d (super-frames %d)", float64(total)/time.Since(start).Seconds()/1e6,
					c.read.Load(), c.supers.Load(), c.segments.Load(), c.written.Load(), c.joined.Load())
				if uso := offloads&withUSO != 0; uso != (c.supers.Load() > 1000) || uso != (c.joined.Load() > 1000) {
					t.Errorf("%d super-frames read, %d written", c.supers.Load(), c.joined.Load())
				}
			})
		}
	}
}

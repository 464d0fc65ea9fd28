package wireguard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/signal"
)

// heard is a packet that a Receive function was given.
type heard struct {
	from netip.AddrPort
	to   netip.Addr
	b    string
}

func hear(signals chan<- heard) func(netip.AddrPort, netip.Addr, []byte) {
	return func(from netip.AddrPort, to netip.Addr, b []byte) { signals <- heard{from, to, string(b)} }
}

// standIn opens a device of either mode on a port, as far as packets that are
// none of WireGuard's are concerned: what is WireGuard's goes to wg. For the
// kernel's an ordinary socket stands in.
func standIn(t *testing.T, mode Mode, signals chan<- heard) (d *Device, port uint16, wg <-chan string) {
	t.Helper()
	d = newDevice(Options{Name: name, Receive: hear(signals)})
	d.mode, d.raw = mode, &rawPort{log: d.log}
	got := make(chan string, 100)
	if mode == Kernel {
		d.raw.receive = d.receive
		c, err := net.ListenUDP("udp", nil)
		must(t, err)
		t.Cleanup(func() { must(t, c.Close()) })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, _, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				got <- string(b[:n])
			}
		}()
		port = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	} else {
		d.door = &door{Bind: newBind(), receive: d.receive, raw: d.raw}
		var in *inbox
		port, in = openBind(t, d.door)
		go func() {
			for r := range in.got {
				if len(r.b) > 0 { // as wireguard-go does
					got <- string(r.b)
				}
			}
		}()
	}
	must(t, d.raw.set(port, 7))
	t.Cleanup(func() { must(t, d.raw.close()) })
	return d, port, got
}

func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// wiretap sees the packets to a UDP port of this host, IPv4 with the header.
func wiretap(t *testing.T, ipv6 bool, port uint16) (next func() (ttl int, dontFragment bool, packet []byte)) {
	t.Helper()
	network, level, option := "ip4:17", unix.IPPROTO_IP, unix.IP_RECVTTL
	if ipv6 {
		network, level, option = "ip6:17", unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT
	}
	pc, err := net.ListenPacket(network, "")
	must(t, err)
	c := pc.(*net.IPConn)
	t.Cleanup(func() { must(t, c.Close()) })
	raw, err := c.SyscallConn()
	must(t, err)
	must(t, control(raw, func(fd int) error { return unix.SetsockoptInt(fd, level, option, 1) }))
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	return func() (ttl int, dontFragment bool, packet []byte) {
		b, oob := make([]byte, 1<<16), make([]byte, 100)
		for {
			var n, oobn int
			var rerr error
			must(t, raw.Read(func(fd uintptr) bool {
				n, oobn, _, _, rerr = unix.Recvmsg(int(fd), b, oob, unix.MSG_DONTWAIT)
				return !errors.Is(rerr, unix.EAGAIN)
			}))
			must(t, rerr)
			packet := b[:n]
			if !ipv6 {
				packet = packet[20:]
			}
			if binary.BigEndian.Uint16(packet[2:]) != port {
				continue
			}
			if !ipv6 {
				return int(b[8]), b[6]&0x40 != 0, packet
			}
			messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
			must(t, err)
			return int(binary.NativeEndian.Uint32(messages[0].Data)), true, packet
		}
	}
}

// What is WireGuard's and what is not go different ways, in and out, in both
// modes and by both protocols.
func TestSignals(t *testing.T) {
	for _, mode := range []Mode{Kernel, Userspace} {
		t.Run(mode.String(), func(t *testing.T) {
			if !alone(t) {
				return
			}
			run(t, "ip", "link", "set", "lo", "mtu", "1500")
			signals := make(chan heard, 100)
			d, port, wg := standIn(t, mode, signals)
			_, otherPort, _ := standIn(t, mode, make(chan heard, 100))
			for _, host := range []string{"127.0.0.1", "::1"} {
				a := netip.MustParseAddr(host)
				testSignals(t, d, netip.AddrPortFrom(a, port), otherPort, signals, wg)
			}
			must(t, d.raw.close())
			if mode == Kernel {
				if err := d.Send(netip.MustParseAddrPort("127.0.0.1:9"), nil, SendOptions{}); !errors.Is(err, net.ErrClosed) {
					t.Errorf("closed: %v", err)
				}
			}
			if err := d.raw.set(port, 7); !errors.Is(err, net.ErrClosed) {
				t.Errorf("set when closed: %v", err)
			}
		})
	}
}

func testSignals(t *testing.T, d *Device, at netip.AddrPort, otherPort uint16, signals <-chan heard, wg <-chan string) {
	t.Helper()
	a := at.Addr()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	must(t, err)
	defer func() { must(t, c.Close()) }()
	me := c.LocalAddr().(*net.UDPAddr).AddrPort()
	write := func(to netip.AddrPort, s string) {
		t.Helper()
		_, err := c.WriteToUDPAddrPort([]byte(s), to)
		must(t, err)
	}
	write(netip.AddrPortFrom(a, otherPort), "Wrong port")
	write(at, "")
	write(at, "W")
	if got := next(t, signals); got != (heard{me, a, "W"}) {
		t.Errorf("a signal of one byte came as %+v", got)
	}
	long := "W" + strings.Repeat("x", 5000) // in fragments
	write(at, long)
	if got := next(t, signals); got != (heard{me, a, long}) {
		t.Errorf("a long signal came as %d bytes from %s", len(got.b), got.from)
	}
	// A row that leaves in one piece reaches who listens beside the socket uncut.
	row := string(signal.Packet{Kind: signal.Probe, Number: 1, Size: 400}.Append(nil, [32]byte{}))
	_, _, err = c.WriteMsgUDPAddrPort([]byte(row+row+row), appendControl(nil, unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, 400)), at)
	must(t, err)
	for i := range 3 {
		if got := next(t, signals); got != (heard{me, a, row}) {
			t.Errorf("probe %d of a row of 400 bytes each came as %d bytes", i, len(got.b))
		}
	}
	write(at, "\x04 for WireGuard")
	for got := next(t, wg); got != "\x04 for WireGuard"; got = next(t, wg) {
		if d.mode == Userspace || got != "" && got[0] != 'W' { // the kernel's sees all and knows nothing of these
			t.Errorf("WireGuard got %q", got)
		}
	}

	tap := wiretap(t, a.Is6(), me.Port())
	header := headers(a)
	for _, c := range []struct {
		o       SendOptions
		payload int
		ttl     int
	}{
		{SendOptions{}, 100, 64},
		{SendOptions{TTL: 4}, 101, 4},
		{SendOptions{DontFragment: true}, 102, 64},
		{SendOptions{TTL: 200, DontFragment: true}, 1500 - header, 200},
		{SendOptions{}, 3001, 64},
		{SendOptions{TTL: 9}, 3002, 9},
	} {
		payload := bytes.Repeat([]byte("W"), c.payload)
		must(t, d.Send(me, payload, c.o))
		ttl, df, packet := tap()
		if ttl != c.ttl || a.Is4() && df != c.o.DontFragment {
			t.Errorf("%+v: TTL %d, don't fragment %t", c.o, ttl, df)
		}
		from, got, ok := afterUDP(packet)
		if !ok || from != at.Port() || !bytes.Equal(got, payload) {
			t.Errorf("%+v: %d bytes from port %d, want %d from %d", c.o, len(got), from, len(payload), at.Port())
		}
	}
	for _, size := range []int{1500 - header + 1, 65000} {
		if err := d.Send(me, make([]byte, size), SendOptions{DontFragment: true}); !errors.Is(err, ErrTooLarge) || !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("%d bytes in one piece: %v", size, err)
		}
	}
	// The ordinary socket has taken all of it, so the checksums are right.
	b := make([]byte, 1<<16)
	for range 6 {
		n, from, err := c.ReadFromUDPAddrPort(b)
		must(t, err)
		if n < 100 || from != at {
			t.Errorf("%d bytes came from %s, want some from %s", n, from, at)
		}
	}
}

// The raw socket follows the device's port and mark.
func TestRawFollows(t *testing.T) {
	if !alone(t) {
		return
	}
	signals := make(chan heard, 100)
	d, _, _ := standIn(t, Kernel, signals)
	c, err := net.ListenUDP("udp", nil)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	must(t, d.raw.set(port, 99))
	for _, s := range []*rawSocket{d.raw.v4, d.raw.v6} {
		var mark int
		must(t, control(s.raw, func(fd int) (err error) {
			mark, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
			return err
		}))
		if mark != 99 {
			t.Errorf("mark %d", mark)
		}
		a := netip.MustParseAddr("127.0.0.1")
		if s.ipv6 {
			a = netip.IPv6Loopback()
		}
		to := netip.AddrPortFrom(a, port)
		must(t, d.Send(to, []byte("W from myself"), SendOptions{}))
		if got := next(t, signals); got != (heard{to, a, "W from myself"}) {
			t.Errorf("came: %+v", got)
		}
	}
}

// A source that is gone is left out; one that is there is used.
func TestRawSource(t *testing.T) {
	if !alone(t) {
		return
	}
	signals := make(chan heard, 100)
	d, port, _ := standIn(t, Kernel, signals)
	for _, c := range []struct{ to, own, gone string }{
		{"127.0.0.1", "127.0.0.5", "192.0.2.77"}, {"::1", "2001:db8::5", "2001:db8::77"},
	} {
		to := netip.AddrPortFrom(netip.MustParseAddr(c.to), port)
		if to.Addr().Is6() {
			addAddr(t, "lo", c.own+"/128")
		}
		for from, want := range map[string]string{c.own: c.own, c.gone: c.to} {
			must(t, d.raw.send(flow{to: to, from: netip.MustParseAddr(from)}, [][]byte{[]byte("W")}, SendOptions{}))
			if got := next(t, signals); got.from.Addr().String() != want {
				t.Errorf("from %s to %s: it came from %s", from, c.to, got.from)
			}
		}
	}
}

// Without a port, or any socket, there is an error and nothing else.
func TestRawUnavailable(t *testing.T) {
	p := &rawPort{log: newDevice(Options{}).log}
	f := flow{to: netip.MustParseAddrPort("127.0.0.1:9")}
	if err := p.send(f, [][]byte{{1}}, SendOptions{}); err == nil || !strings.Contains(err.Error(), "no port yet") {
		t.Errorf("before set: %v", err)
	}
	d := newDevice(Options{Name: name})
	if err := d.Send(f.to, []byte("W"), SendOptions{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without any socket: %v", err)
	}
}

// As long as a raw UDP socket believes what it is told, a "fragmentation
// needed" about any UDP packet counts. Ours does not; the control does.
func TestRawIgnoresPathMTU(t *testing.T) {
	if !alone(t) {
		return
	}
	run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "v1")
	run(t, "ip", "link", "set", "v1", "up")
	run(t, "ip", "link", "set", "v0", "up")
	addAddr(t, "v0", "10.1.0.1/24")
	forge := func(dst string) {
		t.Helper()
		embedded := make([]byte, 28)
		embedded[0], embedded[8], embedded[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(embedded[2:], 1400)
		copy(embedded[12:], netip.MustParseAddr("10.1.0.1").AsSlice())
		copy(embedded[16:], netip.MustParseAddr(dst).AsSlice())
		binary.BigEndian.PutUint16(embedded[20:], 1) // nobody's
		b := append([]byte{3, 4, 0, 0, 0, 0, 2, 88}, embedded...)
		sum := addWords(0, b)
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
		c, err := net.Dial("ip4:icmp", "10.1.0.1")
		must(t, err)
		before := unreachables(t)
		_, err = c.Write(b)
		must(t, errors.Join(err, c.Close()))
		waitFor(t, "the message to arrive", func() bool { return unreachables(t) > before })
	}
	learnt := func(dst string) bool { return strings.Contains(run(t, "ip", "route", "get", dst), "mtu") }
	forge("10.1.0.9")
	if learnt("10.1.0.9") {
		t.Skip("SKIPPED: this kernel believes it without any socket") // 6.1 does
	}
	standIn(t, Kernel, make(chan heard, 1))
	forge("10.1.0.2")
	control, err := net.ListenPacket("ip4:17", "")
	must(t, err)
	forge("10.1.0.3")
	waitFor(t, "the control to believe it", func() bool { return learnt("10.1.0.3") })
	if learnt("10.1.0.2") {
		t.Error("our socket believed it")
	}
	must(t, control.Close())
}

// unreachables is how many ICMP "destination unreachable" came to this host.
func unreachables(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/snmp")
	must(t, err)
	var icmp [][]string // names, values
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Icmp:") {
			icmp = append(icmp, strings.Fields(line))
		}
	}
	n, err := strconv.Atoi(icmp[1][slices.Index(icmp[0], "InDestUnreachs")])
	must(t, err)
	return n
}

// The sum over a whole packet and its pseudo header is zero when the checksum
// in it is right (RFC 768).
func TestUDPHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		four := func(label string) netip.Addr {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
		}
		f := flow{to: netip.AddrPortFrom(four("to"), rapid.Uint16().Draw(t, "port")), from: four("from")}
		payload := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload")
		h := udpHeader(f, 6784, payload)
		b := append(h[:], payload...)
		src, dst := f.from.As4(), f.to.Addr().As4()
		sum := uint64(unix.IPPROTO_UDP) + uint64(len(b))
		sum = addWords(addWords(addWords(sum, src[:]), dst[:]), b)
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		if sum != 0xffff || h[6] == 0 && h[7] == 0 {
			t.Fatalf("checksum %x%x, sum %x", h[6], h[7], sum)
		}
		port, got, ok := afterUDP(b)
		if !ok || port != 6784 || !bytes.Equal(got, payload) {
			t.Fatalf("read back: port %d, %d bytes, %t", port, len(got), ok)
		}
	})
}

func FuzzRawPacket(f *testing.F) {
	h := udpHeader(flow{to: one, from: one.Addr()}, 6784, []byte("Whatever"))
	packet := append(h[:], "Whatever"...)
	f.Add(packet)
	f.Add(append(append([]byte{0x45}, make([]byte, 19)...), packet...))
	f.Add(append(append([]byte{0x46}, make([]byte, 23)...), packet...))
	f.Fuzz(func(t *testing.T, in []byte) {
		if rest, to, ok := afterIP(in); ok != to.IsValid() || ok && len(in)-len(rest) < 20 {
			t.Errorf("a header of %d bytes, to %s", len(in)-len(rest), to)
		}
		receivedAt(in)
		if _, payload, ok := afterUDP(in); ok && !bytes.HasPrefix(in[headerSize:], payload) {
			t.Errorf("%x is not the payload of %x", payload, in)
		}
	})
}

package udp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair returns two sockets of one protocol, and the flow from the first to the
// second.
func pair(t testing.TB, network, host string) (from, to *Socket, f Flow) {
	t.Helper()
	var err error
	from, err = Listen(network, 0)
	must(t, err)
	to, err = Listen(network, 0)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(from.Close(), to.Close())) })
	return from, to, Flow{Remote: netip.AddrPortFrom(netip.MustParseAddr(host), to.Port())}
}

func buffers(n int) [][]byte {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	return bufs
}

// packets cuts a message up.
func packets(m Message) (list [][]byte) {
	for b := m.Bytes; ; b = b[m.Segment:] {
		if m.Segment <= 0 || len(b) <= m.Segment {
			return append(list, bytes.Clone(b))
		}
		list = append(list, bytes.Clone(b[:m.Segment]))
	}
}

// collect receives n packets.
func collect(t testing.TB, s *Socket, n int) (list [][]byte, flows []Flow) {
	t.Helper()
	must(t, s.conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	r, bufs, into := s.NewReceiver(), buffers(8), make([]Message, 8)
	for len(list) < n {
		k, err := r.Receive(bufs, into)
		must(t, err)
		for _, m := range into[:k] {
			for _, b := range packets(m) {
				list, flows = append(list, b), append(flows, m.Flow)
			}
		}
	}
	return list, flows
}

// What is received can be sent on as it is: nothing is lost, cut or mixed up
// when messages of two flows alternate, coalesced or not.
func TestForward(t *testing.T) {
	for network, host := range map[string]string{"udp4": "127.0.0.1", "udp6": "::1"} {
		from, one, f1 := pair(t, network, host)
		_, two, f2 := pair(t, network, host)
		rapid.Check(t, func(t *rapid.T) {
			n := rapid.IntRange(1, 40).Draw(t, "messages")
			list := make([]Message, n)
			want := map[Flow][][]byte{}
			for i := range list {
				f := rapid.SampledFrom([]Flow{f1, f2}).Draw(t, "flow")
				size := rapid.SampledFrom([]int{0, 1, 500, 1400, 1400, 1400}).Draw(t, "size")
				b := make([]byte, size)
				segment := 0
				if size > 1 && rapid.Bool().Draw(t, "coalesced") {
					segment = size
					b = make([]byte, rapid.IntRange(1, min(64*size, maxPayload)).Draw(t, "length"))
				}
				for k := range b {
					b[k] = byte(k/max(size, 1) + 7*i)
				}
				list[i] = Message{Flow: f, Bytes: b, Segment: segment}
				want[f] = append(want[f], packets(list[i])...)
			}
			if err := from.Forward(list); err != nil {
				t.Fatal(err)
			}
			for f, s := range map[Flow]*Socket{f1: one, f2: two} {
				_ = s.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				r, bufs, into := s.NewReceiver(), buffers(8), make([]Message, 8)
				for done := 0; done < len(want[f]); {
					k, err := r.Receive(bufs, into)
					if err != nil {
						t.Fatalf("after %d of %d: %v", done, len(want[f]), err)
					}
					for _, m := range into[:k] {
						for _, b := range packets(m) {
							if done == len(want[f]) || !bytes.Equal(b, want[f][done]) {
								t.Fatalf("packet %d of %d: %d bytes came", done, len(want[f]), len(b))
							}
							done++
						}
					}
				}
			}
		})
	}
}

// More packets than go through one system call arrive, in order and joined.
func TestSend(t *testing.T) {
	from, to, f := pair(t, "udp4", "127.0.0.1")
	var list [][]byte
	for i := range 2*Batch + 10 {
		list = append(list, bytes.Repeat([]byte{byte(i)}, 100+i%70/69))
	}
	must(t, from.Send(list, f))
	got, _ := collect(t, to, len(list))
	for i := range list {
		if !bytes.Equal(got[i], list[i]) {
			t.Fatalf("packet %d: %d bytes of %d", i, len(got[i]), got[i][0])
		}
	}
	if received, sent := from.Coalesces(); !received || !sent {
		t.Errorf("this kernel has UDP GSO and GRO, but: %t, %t", sent, received)
	}
}

// A flow that does not work takes nothing of the others with it.
func TestForwardFails(t *testing.T) {
	from, to, good := pair(t, "udp4", "127.0.0.1")
	must(t, from.SetOption(unix.SOL_SOCKET, unix.SO_BROADCAST, 0))
	bad := Flow{Remote: netip.MustParseAddrPort("255.255.255.255:9")}
	list := []Message{{bad, []byte("a"), 0}, {good, []byte("b"), 0}, {bad, []byte("cd"), 1}, {bad, []byte("e"), 0}, {good, []byte("fg"), 1}}
	if err := from.Forward(list); !errors.Is(err, unix.EACCES) {
		t.Errorf("to broadcast: %v", err)
	}
	got, _ := collect(t, to, 3)
	if s := fmt.Sprintf("%s", got); s != "[b f g]" {
		t.Errorf("came: %s", s)
	}
	// An address that is not ours is left out.
	gone := good
	gone.Local = netip.MustParseAddr("192.0.2.77")
	must(t, from.Forward([]Message{{gone, []byte("h"), 0}, {good, []byte("i"), 0}, {gone, []byte("j"), 0}}))
	got, flows := collect(t, to, 3)
	if s := fmt.Sprintf("%s", got); s != "[h i j]" || flows[0].Local != good.Remote.Addr() {
		t.Errorf("came: %s, to %s", s, flows[0].Local)
	}
}

func TestClosed(t *testing.T) {
	s, err := Listen("udp4", 0)
	must(t, err)
	done := make(chan error)
	go func() {
		_, err := s.NewReceiver().Receive(buffers(1), make([]Message, 1))
		done <- err
	}()
	must(t, s.Close())
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("who waits gets %v", err)
	}
	f := Flow{Remote: netip.MustParseAddrPort("127.0.0.1:9")}
	if err := s.Forward([]Message{{f, []byte("k"), 0}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("who sends gets %v", err)
	}
}

func TestListenBoth(t *testing.T) {
	v4, v6, err := ListenBoth(0)
	must(t, err)
	defer func() { must(t, errors.Join(v4.Close(), v6.Close())) }()
	if v4.Port() == 0 || v4.Port() != v6.Port() {
		t.Errorf("ports %d and %d", v4.Port(), v6.Port())
	}
	if _, _, err := ListenBoth(v4.Port()); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a port in use: %v", err)
	}
}

// Groups hold what the kernel can cut up again: packets of one size, the last
// one maybe shorter, of one flow, and nothing is left out.
func TestFill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flows := []Flow{{Remote: netip.MustParseAddrPort("192.0.2.1:1")}, {Remote: netip.MustParseAddrPort("192.0.2.2:1")}}
		gso := rapid.Bool().Draw(t, "gso")
		o := newOutgoing().(*outgoing)
		if rapid.Bool().Draw(t, "narrow") {
			o.single = flows[1]
		}
		var list []Message
		var want [][]byte
		for range rapid.IntRange(1, 300).Draw(t, "messages") {
			m := Message{Flow: rapid.SampledFrom(flows).Draw(t, "flow")}
			m.Bytes = make([]byte, rapid.OneOf(rapid.Just(1400), rapid.IntRange(0, 2000), rapid.IntRange(0, 65535)).Draw(t, "length"))
			if rapid.Bool().Draw(t, "coalesced") {
				m.Segment = rapid.OneOf(rapid.Just(1400), rapid.IntRange(0, 70000)).Draw(t, "segment")
			}
			list = append(list, m)
			want = append(want, packets(m)...)
		}
		for at := (position{}); at.message < len(list); {
			n := o.fill(list, at, gso)
			if n == 0 {
				t.Fatal("nothing done")
			}
			for i := range n {
				h := o.headers[i]
				size := segmentSize(t, o.control[i][:h.Controllen])
				total, f := 0, list[at.message].Flow
				for _, p := range o.pieces[o.offset(h.Iov):][:h.Iovlen] {
					total += int(p.Len)
				}
				limit := MaxSegments
				if !gso || f == o.single {
					limit = 1
				}
				if o.groups[i].coalesced != (size > 0) || size > 0 && (total > limit*size || total > maxPayload) {
					t.Fatalf("%d bytes in packets of %d, limit %d", total, size, limit)
				}
				for first := true; first || total > 0; first = false {
					k := total
					if size > 0 {
						k = min(total, size)
					}
					if len(want) == 0 || len(want[0]) != k {
						t.Fatalf("a packet of %d bytes, want %d", k, len(want[0]))
					}
					want, total = want[1:], total-k
				}
				if dst, _ := parseName(o.names[i][:h.Namelen]); dst != f.Remote {
					t.Fatalf("sent to %s, want %s", dst, f.Remote)
				}
				at = o.groups[i].end
			}
		}
		if len(want) > 0 {
			t.Fatalf("%d packets left", len(want))
		}
	})
}

// segmentSize reads what putSegmentSize wrote, if anything.
func segmentSize(t *rapid.T, b []byte) int {
	list, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Header.Level == unix.IPPROTO_UDP && m.Header.Type == unix.UDP_SEGMENT {
			return int(binary.NativeEndian.Uint16(m.Data))
		}
	}
	return 0
}

func (o *outgoing) offset(p *unix.Iovec) int {
	for i := range o.pieces {
		if &o.pieces[i] == p {
			return i
		}
	}
	return -1
}

func TestName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &Flow{Remote: netip.AddrPortFrom(
			netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "IPv6"))), rapid.Uint16().Draw(t, "port"))}
		if rapid.Bool().Draw(t, "IPv4") {
			a := f.Remote.Addr().As16()
			f.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[:4])), f.Remote.Port())
		} else {
			f.Scope = rapid.Uint32().Draw(t, "scope")
		}
		b := bytes.Repeat([]byte{0xff}, nameSize) // what another use left
		if dst, scope := parseName(putName(b, f)); dst != f.Remote || scope != f.Scope {
			t.Fatalf("%s scope %d became %s scope %d", f.Remote, f.Scope, dst, scope)
		}
	})
}

// FuzzParseControl wants control messages to be read as by the manual, and what
// was read to be read again when it is written.
func FuzzParseControl(f *testing.F) {
	var b [controlSize]byte
	f.Add(putSegmentSize(putSource(b[:0], netip.MustParseAddr("192.0.2.1"), 0), 1400))
	f.Add(putSource(make([]byte, 0, controlSize), netip.MustParseAddr("2001:db8::1"), 7))
	f.Add(putControl(make([]byte, 0, controlSize), unix.IPPROTO_UDP, unix.UDP_GRO, []byte{1, 2, 3, 4}))
	f.Add(putName(make([]byte, nameSize), &Flow{Remote: netip.MustParseAddrPort("192.0.2.1:6784")}))
	f.Add(putName(make([]byte, nameSize), &Flow{Remote: netip.MustParseAddrPort("[fe80::1]:6784"), Scope: 7}))
	f.Fuzz(func(t *testing.T, in []byte) {
		to, segment := parseControl(in)
		if wantTo, want := slowControl(in); to != wantTo || segment != want {
			t.Errorf("%x: %s, %d; want %s, %d", in, to, segment, wantTo, want)
		}
		if again, _ := parseControl(putSource(make([]byte, 0, controlSize), to, 0)); again != to {
			t.Errorf("%s was written, and %s read", to, again)
		}
		ap, scope := parseName(in)
		if !ap.IsValid() {
			return
		}
		out := putName(make([]byte, nameSize), &Flow{Remote: ap, Scope: scope})
		if again, s := parseName(out); again != ap || s != scope {
			t.Errorf("%s scope %d was written, and %s scope %d read", ap, scope, again, s)
		}
	})
}

// slowControl is the naive twin of parseControl, by cmsg(3): header, data, and as
// much more as makes the length a multiple of a word's.
func slowControl(b []byte) (to netip.Addr, segment int) {
	const word = unix.SizeofCmsghdr - 8 // that the length takes
	for len(b) >= unix.SizeofCmsghdr {
		length := uint64(binary.NativeEndian.Uint32(b))
		if word == 8 {
			length = binary.NativeEndian.Uint64(b)
		}
		if length < unix.SizeofCmsghdr || length > uint64(len(b)) {
			break
		}
		level, kind := binary.NativeEndian.Uint32(b[word:]), binary.NativeEndian.Uint32(b[word+4:])
		data := b[unix.SizeofCmsghdr:length]
		switch {
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= 12:
			to, _ = netip.AddrFromSlice(data[4:8])
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= 20:
			to, _ = netip.AddrFromSlice(data[:16])
		case level == unix.IPPROTO_UDP && kind == unix.UDP_GRO && len(data) >= 4:
			segment = int(binary.NativeEndian.Uint32(data))
		}
		for length%word != 0 {
			length++
		}
		b = b[min(length, uint64(len(b))):]
	}
	return to, segment
}

// BenchmarkForward sends on what it receives, coalesced as it came: 64 packets
// of 1452 bytes per turn.
func BenchmarkForward(b *testing.B) {
	from, relay, in := pair(b, "udp4", "127.0.0.1")
	_, to, out := pair(b, "udp4", "127.0.0.1")
	batch := make([][]byte, 40)
	for i := range batch {
		batch[i] = make([]byte, 1452)
	}
	r1, r2 := relay.NewReceiver(), to.NewReceiver()
	bufs, into := buffers(8), make([]Message, 8)
	turn := func(r *Receiver, then func([]Message)) {
		for got := 0; got < len(batch)*1452; {
			n, err := r.Receive(bufs, into)
			must(b, err)
			for i := range into[:n] {
				got += len(into[i].Bytes)
				into[i].Flow = out
			}
			then(into[:n])
		}
	}
	b.SetBytes(int64(len(batch) * 1452))
	b.ReportAllocs()
	for b.Loop() {
		must(b, from.Send(batch, in))
		turn(r1, func(m []Message) { must(b, relay.Forward(m)) })
		turn(r2, func([]Message) {})
	}
}

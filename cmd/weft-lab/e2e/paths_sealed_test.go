package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// What two hosts say through a relay is on none of the relay's interfaces, and
// not in its memory, and the networks on both sides of it see tunnels only.
func TestRelaySeesNothing(t *testing.T) {
	parallel(t)
	c := newGraph(t, func(name string) lab.Topology { return lab.Chain(name, 3) })
	underlay, err := c.Capture("", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.joinGraph(inOrder(3))
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon) // with a marker of its own: switches flood what they do not know
	const sealed = "weft-sealed-marker-5d11f0"
	relay, a, b := c.nodes[1], boxes[0], boxes[2]
	seen := hearMarker(t, relay.Place, sealed)
	ctx, cancel := tries(t, time.Minute)
	defer cancel()
	for _, d := range [][2]*box{{a, b}, {b, a}} {
		if err := lab.TransferTCP(ctx, d[0].Place, d[1].Place, d[1].addr, lab.Payload(2<<20, sealed)); err != nil {
			t.Error(err)
		}
		wholeUDP(t, d[0], d[1], lab.Payload(1<<18, sealed), 1100, time.Millisecond)
		wait(t, "a large ping is answered", time.Second, func() error {
			ctx, cancel := tries(t, time.Second)
			defer cancel()
			_, err := d[0].Ping(ctx, d[1].addr, 5000, []byte(sealed))
			return err
		})
	}
	c.within("it is relayed", reachSoon, func() error { return usesPath(c.nodes[0], c.nodes[2], relay.Name()) })
	if n := relay.inMemory(t, sealed); n > 0 {
		t.Errorf("the relay's daemon has it %d times in its memory", n)
	}
	if n := c.nodes[0].inMemory(t, sealed); n == 0 && run.datapath == "userspace" {
		t.Error("not even the sender's daemon has it in its memory: the search finds nothing")
	}
	if where := seen(); len(where) > 0 {
		t.Errorf("the relay sees it on %v", where)
	}
	// What the relay may see, it does: the ear is no deaf one.
	heard := hearMarker(t, relay.Place, "weft-for-the-relay-8a41")
	wait(t, "the relay hears what is for its own container", time.Second, func() error {
		ctx, cancel := tries(t, time.Second)
		defer cancel()
		if _, err := a.Ping(ctx, boxes[1].addr, 200, []byte("weft-for-the-relay-8a41")); err != nil {
			return err
		}
		if len(heard()) == 0 {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	checkUnderlay(t, underlay, marker, sealed)
}

// hearMarker listens on all interfaces of a host, and returns a func that tells
// on which of them the text was.
func hearMarker(t testing.TB, p *lab.Place, text string) func() []string {
	t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	var fd int
	err := p.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "marker")
	t.Cleanup(func() { _ = file.Close() })
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	where := map[string]bool{}
	go func() {
		buf := make([]byte, 1<<18)
		for closed := error(nil); closed == nil; {
			closed = raw.Read(func(fd uintptr) bool {
				n, from, err := unix.Recvfrom(int(fd), buf, 0)
				if err != nil {
					return false
				}
				if sa, ok := from.(*unix.SockaddrLinklayer); ok && bytes.Contains(buf[:n], []byte(text)) {
					name := strconv.Itoa(sa.Ifindex)
					if l, err := p.Netlink().LinkByIndex(sa.Ifindex); err == nil {
						name = l.Attrs().Name
					}
					mu.Lock()
					where[name] = true
					mu.Unlock()
				}
				return true
			})
		}
	}()
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		var out []string
		for name := range where {
			out = append(out, name)
		}
		return out
	}
}

// inMemory counts how often a text is in the memory of the host's daemon.
func (n *node) inMemory(t testing.TB, text string) int {
	t.Helper()
	count := 0
	for pid, name := range n.processes() {
		if name != "weftd" {
			continue
		}
		proc := filepath.Join(n.Root(), "proc", pid)
		maps, err := os.ReadFile(filepath.Join(proc, "maps"))
		if err != nil {
			t.Fatal(err)
		}
		mem, err := os.Open(filepath.Join(proc, "mem"))
		if err != nil {
			t.Fatal(err)
		}
		read := 0
		for line := range strings.Lines(string(maps)) {
			var from, to int64
			var mode string
			if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
				continue
			}
			b := make([]byte, to-from)
			got, err := mem.ReadAt(b, from)
			if err != nil && got == 0 {
				continue // the kernel's own
			}
			read += got
			count += bytes.Count(b[:got], []byte(text))
		}
		_ = mem.Close()
		if read < 1<<20 {
			t.Fatalf("only %d bytes of the memory of %s's daemon could be read", read, n.Name())
		}
	}
	return count
}

// A relay that changes, repeats, delays and loses what it relays makes packets
// arrive late or not at all, never another one, nor one twice.
func TestRelayTampers(t *testing.T) {
	parallelAs(t, calm, 20*time.Second)
	c := newGraph(t, func(name string) lab.Topology { return lab.Chain(name, 3) })
	c.joinGraph(inOrder(3))
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	a, b := boxes[0], boxes[2]
	var changed, repeated, lost atomic.Int64
	tamper := func(frame []byte, send func([]byte)) {
		p := parse(frame)
		if p.kind != "udp" || p.dstPort != tunnelPort || len(frame) < 14+20+8+32 {
			send(frame)
			return
		}
		switch rand.IntN(20) {
		case 0:
			lost.Add(1)
		case 1, 2: // any byte of what the tunnel sends
			changed.Add(1)
			frame[14+20+8+rand.IntN(len(frame)-14-20-8)] ^= 1 << rand.IntN(8)
			send(frame)
		case 3, 4:
			repeated.Add(1)
			send(frame)
			for _, after := range []time.Duration{0, 10 * time.Millisecond, time.Second} {
				time.AfterFunc(after, func() { send(frame) })
			}
		case 5, 6:
			time.AfterFunc(time.Duration(rand.IntN(50))*time.Millisecond, func() { send(frame) })
		default:
			send(frame)
		}
	}
	for host, network := range map[string]string{"host1": "net1-2", "host3": "net2-3"} {
		stop, err := c.Intercept(host, network, tamper)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}()
	}
	ctx, cancel := tries(t, 2*time.Minute)
	defer cancel()
	if err := lab.TransferTCP(ctx, a.Place, b.Place, b.addr, lab.Payload(1<<19, marker)); err != nil {
		t.Errorf("TCP gets through neither: %v", err)
	}
	came, wrong, twice := numbered(t, a, b, 4000)
	t.Logf("of 4000 datagrams %d came; the relay changed %d packets, repeated %d, lost %d", came, changed.Load(), repeated.Load(), lost.Load())
	if wrong > 0 || twice > 0 {
		t.Errorf("%d datagrams came changed, %d twice", wrong, twice)
	}
	if came < 2000 || came == 4000 || changed.Load() < 100 || repeated.Load() < 100 {
		t.Errorf("this was no tampering, or too much of it")
	}
}

// roomy makes the kernel keep what comes while nobody has time to read it.
func roomy(t testing.TB, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) })
	if err := errors.Join(err, set); err != nil {
		t.Fatal(err)
	}
}

// numbered sends datagrams whose content can be foretold, and says how many came
// at least once, how many came that nobody sent, and how many came again.
func numbered(t *testing.T, a, b *box, total int) (came, wrong, twice int) {
	t.Helper()
	in, err := b.ListenUDP(t.Context(), netip.AddrPortFrom(b.addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	roomy(t, in)
	out, err := a.Dial(t.Context(), "udp", netip.AddrPortFrom(b.addr, uint16(in.LocalAddr().(*net.UDPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	datagram := func(i uint64) []byte {
		d := binary.BigEndian.AppendUint64(nil, i)
		r := rand.New(rand.NewPCG(i, 57))
		for len(d) < 200 {
			d = binary.BigEndian.AppendUint64(d, r.Uint64())
		}
		return d
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range uint64(total) {
			_, _ = out.Write(datagram(i)) // what is refused is lost
			time.Sleep(time.Millisecond)
		}
	}()
	heard := map[uint64]bool{}
	buf := make([]byte, 1500)
	for {
		if err := in.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, _, err := in.ReadFromUDPAddrPort(buf)
		if err != nil {
			select {
			case <-sent:
				return len(heard), wrong, twice
			default: // more may come
				continue
			}
		}
		i := binary.BigEndian.Uint64(buf)
		switch {
		case n < 8 || i >= uint64(total) || !bytes.Equal(buf[:n], datagram(i)):
			wrong++
		case heard[i]:
			twice++
		default:
			heard[i] = true
		}
	}
}

package hello

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
)

// Serve ends when its context does, with every connection, at any stage.
func TestServeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l := newHost(t, network, hostConfig{n: 2})
		stop := l.serve(t, network.listen(l.addr))
		silent, err := network.dial(hostAddr(3).Addr(), l.addr)
		if err != nil {
			t.Fatal(err)
		}
		inTLS, err := fakeDialler(network, l.addr, key(4), 1)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start := time.Now()
		stop()
		if took := time.Since(start); took > 0 {
			t.Errorf("it took %s", took)
		}
		for _, c := range []net.Conn{silent, inTLS} {
			if _, err := io.ReadAll(c); err != nil {
				t.Logf("read: %v", err)
			}
			_ = c.Close()
		}
		if _, err := network.dial(hostAddr(3).Addr(), l.addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the listener is still open: %v", err)
		}
		if l.logs.String() != "" {
			t.Errorf("logged at the end: %s", l.logs)
		}
	})
}

// A listener that somebody else closes is an error.
func TestServeClosed(t *testing.T) {
	h := newHost(t, nil, hostConfig{n: 1})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := h.Serve(context.Background(), ln, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// failingListener has no descriptors left for a while.
type failingListener struct {
	*memListener
	failures int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.memListener.Accept()
}

func TestServeOutOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l, d := newHost(t, network, hostConfig{n: 2}), newHost(t, network, hostConfig{n: 1})
		stop := l.serve(t, &failingListener{network.listen(l.addr), 9})
		start := time.Now()
		if _, err := d.Dial(t.Context(), l.addr, nil); err != nil {
			t.Error(err)
		}
		// 5 ms doubling to 1 s: neither a busy loop nor the end.
		if took := time.Since(start); took < time.Second || took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
		stop()
		if n := strings.Count(l.logs.String(), "too many open files"); n != 1 {
			t.Errorf("%d lines:\n%s", n, l.logs)
		}
	})
}

// Members that behave badly after their proof.
func TestHostileMember(t *testing.T) {
	own := func(t *testing.T) []byte { return signAdvert(t, key(1), 1, 1).Bytes() }
	for _, tt := range []struct {
		name   string
		send   func(t *testing.T, c *tls.Conn)
		log    string // of the listener, part
		answer string // part of what the member is told
	}{
		{"no adverts", func(_ *testing.T, c *tls.Conn) {
			_ = writeFrame(c, frameAdverts, body{}.encode(nil))
		}, "first advert is not its own", "the first advert is not its sender's"},
		{"first does not verify", func(t *testing.T, c *tls.Conn) {
			b := own(t)
			b[len(b)-1] ^= 1
			_ = writeFrame(c, frameAdverts, body{}.encode([][]byte{b}))
		}, "first advert is not its own", "the first advert is not its sender's"},
		{"malformed", func(_ *testing.T, c *tls.Conn) {
			_ = writeFrame(c, frameAdverts, []byte{9, 9, 9})
		}, "malformed message", "malformed adverts"},
		{"one too many", func(t *testing.T, c *tls.Conn) {
			all := make([][]byte, MaxAdverts+1)
			for i := range all {
				all[i] = own(t)
			}
			_ = writeFrame(c, frameAdverts, body{}.encode(all))
		}, "1025 adverts", "malformed adverts"},
		{"more than a mebibyte", func(_ *testing.T, c *tls.Conn) {
			h := binary.BigEndian.AppendUint32([]byte{frameAdverts}, maxBody+1)
			_, _ = c.Write(h)
		}, "at most 1048576", ""},
		{"done too early", func(_ *testing.T, c *tls.Conn) {
			_ = writeFrame(c, frameDone, nil)
		}, "type 4, want 3", ""},
		{"silence", func(_ *testing.T, _ *tls.Conn) {}, "stopped answering", ""},
		{"never done", func(t *testing.T, c *tls.Conn) {
			_ = writeFrame(c, frameAdverts, body{}.encode([][]byte{own(t)}))
			_, _, _ = readFrame(c, frameAdverts, maxBody)
		}, "stopped answering", ""},
		{"done with content", func(t *testing.T, c *tls.Conn) {
			_ = writeFrame(c, frameAdverts, body{}.encode([][]byte{own(t)}))
			_, _, _ = readFrame(c, frameAdverts, maxBody)
			_ = writeFrame(c, frameDone, []byte{1})
		}, "at most 0", ""},
		{"refuses with a forged line", func(_ *testing.T, c *tls.Conn) {
			_ = writeRefusal(c, refusePeer, "x\nlevel=ERROR msg=fire")
		}, "introduction refused by the peer: x?level=ERROR msg=fire", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet()
				l, m := newHost(t, network, hostConfig{n: 2}), newHost(t, network, hostConfig{n: 1})
				stop := l.serve(t, network.listen(l.addr))
				start := time.Now()
				conn := prove(t, network, m, l)
				tt.send(t, conn)
				rest, _ := io.ReadAll(conn)
				if tt.answer != "" && !strings.Contains(string(rest), tt.answer) {
					t.Errorf("the member is told %q", rest)
				}
				if took := time.Since(start); took > 15*time.Second {
					t.Errorf("it took %s", took)
				}
				_ = conn.Close()
				synctest.Wait()
				stop()
				if got := l.logs.String(); !strings.Contains(got, tt.log) || strings.Count(got, "\n") != 1 {
					t.Errorf("log:\n%s", got)
				}
				if len(l.got()) != 0 {
					t.Error("introduced all the same")
				}
			})
		})
	}
}

// prove connects m to l, up to the end of both proofs.
func prove(t *testing.T, network *memNet, m, l *host) *tls.Conn {
	t.Helper()
	tcp, err := network.dial(m.addr.Addr(), l.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(tcp, m.client)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	s, err := m.newSession(conn, &meteredConn{Conn: tcp, lifted: true}, true)
	if err != nil {
		t.Fatal(err)
	}
	_ = writePreamble(conn, s.preamble())
	if _, err := readPreamble(conn, Versions{}); err != nil {
		t.Fatal(err)
	}
	_ = writeFrame(conn, frameProof, s.prove(labelDialler))
	if p, err := s.expect(frameProof, proofSize); err != nil || !s.verify(labelListener, p) {
		t.Fatal(err)
	}
	return conn
}

// A member may take its time: what counts before the proof ends with it.
func TestSlowMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l, m := newHost(t, network, hostConfig{n: 2}), newHost(t, network, hostConfig{n: 1})
		stop := l.serve(t, network.listen(l.addr))
		conn := prove(t, network, m, l)
		time.Sleep(9 * time.Second)
		_ = writeFrame(conn, frameAdverts, body{}.encode([][]byte{signAdvert(t, key(1), 1, 1).Bytes()}))
		_, _, _ = readFrame(conn, frameAdverts, maxBody)
		_ = writeFrame(conn, frameDone, nil)
		_, _ = io.ReadAll(conn)
		_ = conn.Close()
		stop()
		if len(l.got()) != 1 {
			t.Errorf("log: %s", l.logs)
		}
	})
}

// The log says a thing once, and again when it worked in between.
func TestLogAfterSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l := newHost(t, network, hostConfig{n: 2})
		stop := l.serve(t, network.listen(l.addr))
		for _, secret := range []byte{9, 9, 1, 9, 9} {
			_, _ = newHost(t, network, hostConfig{n: 1, secret: secret}).Dial(t.Context(), l.addr, nil)
			synctest.Wait()
		}
		stop()
		if n := strings.Count(l.logs.String(), "wrong password"); n != 2 {
			t.Errorf("%d lines:\n%s", n, l.logs)
		}
	})
}

// Adverts of others that do not verify are left out, with a line in the log.
func TestBadAdvertsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l, m := newHost(t, network, hostConfig{n: 2}), newHost(t, network, hostConfig{n: 1})
		stop := l.serve(t, network.listen(l.addr))
		conn := prove(t, network, m, l)
		good, bad := signAdvert(t, key(3), 1, 1), signAdvert(t, key(4), 1, 1).Bytes()
		bad[60] ^= 1
		_ = writeFrame(conn, frameAdverts, body{}.encode([][]byte{signAdvert(t, key(1), 1, 1).Bytes(), bad, good.Bytes()}))
		_, _, _ = readFrame(conn, frameAdverts, maxBody)
		_ = writeFrame(conn, frameDone, nil)
		_, _ = io.ReadAll(conn)
		_ = conn.Close()
		stop()
		got := l.got()
		if len(got) != 1 || len(got[0].Adverts) != 2 || got[0].Adverts[1].Identity != good.Identity {
			t.Fatalf("got %v", got)
		}
		if !strings.Contains(l.logs.String(), "adverts that do not verify were dropped") || !strings.Contains(l.logs.String(), "count=1") {
			t.Errorf("log: %s", l.logs)
		}
	})
}

// A full table of adverts travels both ways.
func TestManyAdverts(t *testing.T) {
	var known []advert.Signed
	for i := range 1500 {
		known = append(known, signAdvertN(t, i))
	}
	more := func(own advert.Signed) []advert.Signed { return append([]advert.Signed{own}, known...) }
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l, d := newHost(t, network, hostConfig{n: 2, adverts: more}), newHost(t, network, hostConfig{n: 1, adverts: more})
		stop := l.serve(t, network.listen(l.addr))
		r, err := d.Dial(t.Context(), l.addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		stop()
		if len(r.Adverts) != MaxAdverts || len(l.got()[0].Adverts) != MaxAdverts {
			t.Errorf("dialler got %d, listener %d", len(r.Adverts), len(l.got()[0].Adverts))
		}
		if r.Adverts[0].Identity != l.self || r.Adverts[5].Identity != known[4].Identity {
			t.Error("out of order")
		}
	})
}

// signAdvertN is the advert of one of many hosts that are nobody else's.
func signAdvertN(t *testing.T, i int) advert.Signed {
	seed := [32]byte{31: 1}
	binary.BigEndian.PutUint32(seed[:], uint32(i))
	return signAdvert(t, crypto.KeyFromSeed(seed), uint64(i), 1)
}

// Too many members at once are told to come again.
func TestTooManyMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		l := newHost(t, network, hostConfig{n: 2})
		stop := l.serve(t, network.listen(l.addr))
		var held []net.Conn
		for i := range l.gate.maxProven {
			m := newHost(t, network, hostConfig{n: byte(10 + i)})
			held = append(held, prove(t, network, m, l))
		}
		d := newHost(t, network, hostConfig{n: 1})
		if _, err := d.Dial(t.Context(), l.addr, nil); !errors.Is(err, ErrRefused) {
			t.Errorf("got %v", err)
		}
		for _, c := range held {
			_ = c.Close()
		}
		synctest.Wait()
		if _, err := d.Dial(t.Context(), l.addr, nil); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		stop()
		if l.gate.total != 0 || l.gate.proven != 0 || len(l.gate.pending) != 0 {
			t.Errorf("left: %d, %d, %d", l.gate.total, l.gate.proven, len(l.gate.pending))
		}
	})
}

// Many hosts introduce themselves to each other over real sockets at once.
func TestCrowd(t *testing.T) {
	const n = 8
	var hosts []*host
	var addrs []netip.AddrPort
	var stops []func()
	for i := range n {
		h := newHost(t, nil, hostConfig{n: byte(i + 1)})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		hosts, addrs = append(hosts, h), append(addrs, ln.Addr().(*net.TCPAddr).AddrPort())
		h.gate.maxPerSource = 64
		// All at once want the processor, which may be slow.
		h.limits.beforeProof, h.limits.afterProof, h.limits.dial = time.Minute, time.Minute, 2*time.Minute
		stops = append(stops, h.serve(t, ln))
	}
	var wg sync.WaitGroup
	for i, h := range hosts {
		for j, addr := range addrs {
			wg.Go(func() {
				_, err := h.Dial(context.Background(), addr, nil)
				if i == j && !errors.Is(err, ErrSelf) || i != j && err != nil {
					t.Errorf("%d to %d: %v", i, j, err)
				}
			})
		}
	}
	wg.Wait()
	for i, stop := range stops {
		stop()
		if got := len(hosts[i].got()); got != n-1 {
			t.Errorf("host %d was introduced to %d", i, got)
		}
	}
}

// A busy listener's answer arrives over real sockets, where the connection is
// reset right behind it.
func TestBusyOverTCP(t *testing.T) {
	l, d := newHost(t, nil, hostConfig{n: 2}), newHost(t, nil, hostConfig{n: 1})
	l.gate.maxPending = 0
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := l.serve(t, ln)
	for range 200 {
		if _, err := d.Dial(context.Background(), ln.Addr().(*net.TCPAddr).AddrPort(), nil); !errors.Is(err, ErrRefused) {
			t.Fatalf("got %v", err)
		}
	}
	stop()
}

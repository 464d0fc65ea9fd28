package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

const (
	bulkSize  = 1200 // bytes of UDP payload; it fits the least MTU, Nebula's 1300
	smallSize = 64   // the same where packets count
	patience  = time.Second
	drain     = 200 * time.Millisecond // for what is still on its way
	pause     = 100 * time.Microsecond
	givenUp   = 50 * time.Millisecond
	onTheWay  = 256 // datagrams at once: less than the queue of a TUN device, 500
)

// stream is what came of one run of iperf3.
type stream struct {
	rate float64       // bits a second that the other end got
	cpu  time.Duration // of iperf3 at both ends
	// again counts the segments that were sent more than once.
	again float64
}

// stream runs iperf3 once.
func (w *way) stream(ctx context.Context, streams int, back bool, d time.Duration) (stream, error) {
	ctx, cancel := context.WithTimeout(ctx, d+15*time.Second)
	defer cancel()
	args := []string{
		"iperf3", "--json", "--client", w.at.String(), "--parallel", strconv.Itoa(streams),
		"--time", strconv.Itoa(max(1, int(d.Seconds()))),
	}
	if back {
		args = append(args, "--reverse")
	}
	for {
		var out struct {
			Error string
			End   struct {
				Sent struct {
					Again float64 `json:"retransmits"`
				} `json:"sum_sent"`
				Received struct {
					Rate    float64 `json:"bits_per_second"`
					Seconds float64
				} `json:"sum_received"`
				CPU struct {
					Host   float64 `json:"host_total"`
					Remote float64 `json:"remote_total"`
				} `json:"cpu_utilization_percent"`
			}
		}
		r := w.from.Run(ctx, args...)
		err := json.Unmarshal([]byte(r.Stdout), &out)
		if err == nil && out.Error == "" && r.Err == nil && out.End.Received.Rate > 0 {
			e := out.End
			percent := (e.CPU.Host + e.CPU.Remote) * e.Received.Seconds
			return stream{rate: e.Received.Rate, again: e.Sent.Again, cpu: time.Duration(percent / 100 * float64(time.Second))}, nil
		}
		// The server may still be busy with the end of the last one.
		if ctx.Err() != nil || !strings.Contains(out.Error, "busy") && !strings.Contains(out.Error, "refused") {
			return stream{}, fmt.Errorf("iperf3: %w: %s", errors.Join(err, r.Err), out.Error)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// datagrams is what came of a way that carried UDP.
type datagrams struct {
	rate float64 // packets that arrived, a second
	loss float64 // share of those sent, 0 to 1
}

// send sends datagrams of size bytes for d and counts what arrives. With a
// window the sender waits while that many are on their way, so that it finds
// what the way carries; without, it sends as fast as one process can.
func (w *way) send(size, window int, d time.Duration) (datagrams, error) {
	to, port, err := socket(w.to, unix.SOCK_DGRAM, w.at)
	if err != nil {
		return datagrams{}, err
	}
	defer func() { _ = unix.Close(to) }()
	// The receiver must neither lose nor cost much: it looks now and then, into a
	// buffer that holds what comes meanwhile.
	if err := unix.SetsockoptInt(to, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
		return datagrams{}, err
	}
	from, err := connected(w.from, unix.SOCK_DGRAM, w.at, port)
	if err != nil {
		return datagrams{}, err
	}
	defer func() { _ = unix.Close(from) }()
	var sent, got atomic.Int64
	ended := make(chan error, 1)
	go func() { ended <- sendFor(from, size, window, d, &sent, &got) }()
	b := make([]byte, size+1)
	var first, last, over time.Time // over: when nothing more was sent
	for over.IsZero() || time.Since(over) < drain {
		n, err := receive(to, b)
		if err != nil {
			return datagrams{}, err
		}
		now := time.Now()
		if n > 0 && first.IsZero() {
			first = now
		}
		if n > 0 {
			got.Add(n)
			last = now
		}
		if over.IsZero() {
			select {
			case err := <-ended:
				if err != nil {
					return datagrams{}, err
				}
				over = now
			default:
			}
		}
		time.Sleep(pause)
	}
	if got.Load() == 0 {
		return datagrams{}, fmt.Errorf("none of %d datagrams arrived", sent.Load())
	}
	n := float64(got.Load())
	// What arrived is spread over the time of sending and the queues after it.
	return datagrams{rate: n / max(last.Sub(first), d).Seconds(), loss: 1 - n/float64(sent.Load())}, nil
}

// sendFor sends for d. What has not arrived when nothing has for a while is
// taken for lost.
func sendFor(fd, size, window int, d time.Duration, sent, got *atomic.Int64) error {
	b := make([]byte, size)
	var lost, seen int64
	moved := time.Now()
	for begun := moved; time.Since(begun) < d; {
		if window > 0 && sent.Load()-got.Load()-lost >= int64(window) {
			if n := got.Load(); n != seen {
				seen, moved = n, time.Now()
			} else if time.Since(moved) > givenUp {
				lost = sent.Load() - n
				moved = time.Now()
			}
			time.Sleep(pause)
			continue
		}
		switch _, err := unix.Write(fd, b); {
		case err == nil:
			sent.Add(1)
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// receive counts what is in a socket's buffer now.
func receive(fd int, b []byte) (n int64, err error) {
	for {
		switch _, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT); {
		case err == nil:
			n++
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case !errors.Is(err, unix.EINTR):
			return n, fmt.Errorf("receive: %w", err)
		}
	}
}

// trips are round trips of one byte and its answer, sorted.
type trips []time.Duration

// at returns the time within which that share of the round trips was.
func (t trips) at(share float64) time.Duration {
	return t[min(int(share*float64(len(t))), len(t)-1)]
}

// ask sends requests one after the other for d, each when the last one was
// answered. kind is SOCK_STREAM or SOCK_DGRAM; a datagram that is lost counts as
// nothing but the time it took.
func (w *way) ask(ctx context.Context, kind int, d time.Duration) (trips, error) {
	to, port, err := socket(w.to, kind, w.at)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	answered := make(chan error, 1)
	go func() { answered <- answer(to, kind, done) }()
	t, err := asked(ctx, w.from, kind, w.at, port, d)
	close(done)
	err = errors.Join(err, <-answered, unix.Close(to))
	if err == nil && len(t) < 5 {
		err = fmt.Errorf("only %d requests were answered within %s", len(t), d)
	}
	slices.Sort(t)
	return t, err
}

func asked(ctx context.Context, from *lab.Place, kind int, at netip.Addr, port int, d time.Duration) (trips, error) {
	fd, err := connected(from, kind, at, port)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	var t trips
	b := make([]byte, 8)
	size := 1 // of a request on a stream
	if kind == unix.SOCK_DGRAM {
		size = 8 // a number, to know late answers
	}
	for begun, n := time.Now(), uint64(0); time.Since(begun) < d && ctx.Err() == nil; n++ {
		sent := time.Now()
		binary.LittleEndian.PutUint64(b, n)
		if _, err := unix.Write(fd, b[:size]); err != nil && !errors.Is(err, unix.EINTR) {
			return t, fmt.Errorf("request: %w", err)
		}
		for {
			_, err := unix.Read(fd, b)
			if errors.Is(err, unix.EINTR) || err == nil && size == 8 && binary.LittleEndian.Uint64(b) != n {
				continue
			}
			if err == nil {
				t = append(t, time.Since(sent))
			} else if kind != unix.SOCK_DGRAM || !errors.Is(err, unix.EAGAIN) {
				return t, fmt.Errorf("wait for an answer: %w", err)
			}
			break
		}
	}
	return t, nil
}

// load fills a way with one stream until the function that it returns is called,
// which gives what had arrived of it. It has begun when load returns.
func (w *way) load() (stop func() (int64, error), err error) {
	to, port, err := socket(w.to, unix.SOCK_STREAM, w.at)
	if err != nil {
		return nil, err
	}
	from, err := connected(w.from, unix.SOCK_STREAM, w.at, port)
	if err != nil {
		return nil, errors.Join(err, unix.Close(to))
	}
	var got atomic.Int64
	done, ended := make(chan struct{}), make(chan error, 2)
	go func() {
		b := make([]byte, 1<<17)
		for !isClosed(done) {
			if _, err := unix.Write(from, b); err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
				ended <- fmt.Errorf("stream: %w", err)
				return
			}
		}
		ended <- nil
	}()
	go func() {
		c, err := accept(to, done)
		if err != nil {
			ended <- err
			return
		}
		b := make([]byte, 1<<17)
		for !isClosed(done) {
			if n, err := unix.Read(c, b); err == nil {
				got.Add(int64(n))
			} else if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
				ended <- errors.Join(fmt.Errorf("stream: %w", err), unix.Close(c))
				return
			}
		}
		ended <- unix.Close(c)
	}()
	stop = func() (int64, error) {
		close(done)
		err := errors.Join(<-ended, <-ended)
		return got.Load(), errors.Join(err, unix.Close(from), unix.Close(to))
	}
	for begun := time.Now(); got.Load() < 1<<20 && time.Since(begun) < 2*time.Second; {
		time.Sleep(time.Millisecond)
	}
	return stop, nil
}

// accept takes the one connection of a listening socket. It ends with an error
// when done is closed before.
func accept(fd int, done <-chan struct{}) (int, error) {
	for {
		c, _, err := unix.Accept(fd)
		switch {
		case err == nil:
			err = errors.Join(timeout(c, patience), unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
			return c, err
		case isClosed(done), !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("accept: %w", err)
		}
	}
}

// answer sends back what arrives at a socket until done is closed. It takes
// one connection.
func answer(fd, kind int, done <-chan struct{}) error {
	if kind == unix.SOCK_STREAM {
		c, err := accept(fd, done)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(c) }()
		fd = c
	}
	b := make([]byte, 64)
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		switch {
		case err == nil && n == 0 && kind == unix.SOCK_STREAM:
			return nil
		case err == nil && kind == unix.SOCK_DGRAM:
			err = unix.Sendto(fd, b[:n], 0, from)
		case err == nil:
			_, err = unix.Write(fd, b[:n])
		}
		if isClosed(done) {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// socket opens a blocking socket in a place, bound to a free port of an address
// of it; a stream's listens. Its reads time out.
func socket(p *lab.Place, kind int, at netip.Addr) (fd, port int, err error) {
	err = p.Do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err := unix.Bind(fd, &unix.SockaddrInet4{Addr: at.As4()})
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, 1)
		}
		var own unix.Sockaddr
		if err == nil {
			own, err = unix.Getsockname(fd)
		}
		if err = errors.Join(err, timeout(fd, patience/4)); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		port = own.(*unix.SockaddrInet4).Port
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("%s: socket at %s: %w", p.Name(), at, err)
	}
	return fd, port, nil
}

// connected opens a blocking socket in a place that is connected to another one.
func connected(p *lab.Place, kind int, at netip.Addr, port int) (fd int, err error) {
	err = p.Do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err := timeout(fd, patience)
		for {
			if err == nil {
				err = unix.Connect(fd, &unix.SockaddrInet4{Addr: at.As4(), Port: port})
			}
			if !errors.Is(err, unix.EINTR) {
				break
			}
			err = nil
		}
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
		if err != nil && !errors.Is(err, unix.EISCONN) {
			return errors.Join(err, unix.Close(fd))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("%s: connect to %s port %d: %w", p.Name(), at, port, err)
	}
	return fd, nil
}

// timeout bounds how long reading, connecting and writing may block.
func timeout(fd int, d time.Duration) error {
	tv := unix.NsecToTimeval(d.Nanoseconds())
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
}

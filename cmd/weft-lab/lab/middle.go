package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Middle sees every frame that the network sends to a host before the host does,
// one at a time, in order. What it does not send on is lost; what it sends, at
// once or later, any number of times, arrives. Both may be kept. It must not
// block for long. Checksums of what it changes are made right, except where they
// were wrong or absent.
type Middle func(frame []byte, send func(frame []byte))

// Intercept puts somebody between a network and a host, until stop is called or
// the host is unplugged. There is one at most, and none together with a delay
// that the kernel cannot make. It works in this process, so not for a lab that
// is kept.
func (l *Lab) Intercept(host, network string, m Middle) (stop func() error, err error) {
	if l.keep {
		return nil, fmt.Errorf("%s on %s: a lab that is kept cannot be intercepted", host, network)
	}
	l.mu.Lock()
	i, j, err := l.link(host, network)
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	p := portOf(i, j, l.hosts[host].Spec())
	if err := l.intercept(p, &interceptor{middle: m, end: func() {}}); err != nil {
		return nil, err
	}
	return func() error { return l.release(p.Name) }, nil
}

// interceptor is one who is between a network and a host.
type interceptor struct {
	middle Middle
	end    func() // ends what the middle has begun
	delays bool   // it is a delay

	port, near, far string
	in              *os.File // what comes from the network
	out             int      // to the host
	done            chan struct{}

	mu     sync.Mutex
	closed bool
}

// vnetHeader is how long the header is that the kernel puts before frames: it
// says which checksums are still to be made.
const vnetHeader = 10

// intercept leads what a port sends to its host to c.
func (l *Lab) intercept(p port, c *interceptor) error {
	l.middle.Lock()
	defer l.middle.Unlock()
	if l.interceptors[p.Name] != nil {
		return fmt.Errorf("%s on %s: somebody is in the middle already", p.Host, p.Network)
	}
	c.port, c.near, c.far = p.Name, "x"+p.Name[1:], "y"+p.Name[1:]
	c.out, c.done = -1, make(chan struct{})
	if err := l.redirect(c); err != nil {
		return fmt.Errorf("%s on %s: intercept: %w", p.Host, p.Network, errors.Join(err, l.removeRedirect(c)))
	}
	if l.interceptors == nil {
		l.interceptors = map[string]*interceptor{}
	}
	l.interceptors[p.Name] = c
	go c.run()
	return nil
}

// redirect makes the kernel hand what the port sends to a pair of interfaces
// with our sockets at its end.
func (l *Lab) redirect(c *interceptor) error {
	port, err := l.sw.nl.LinkByName(c.port)
	if err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = c.near, 1<<15
	if err := l.sw.nl.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: c.far, PeerMTU: 1 << 15}); err != nil {
		return err
	}
	near, err := l.sw.nl.LinkByName(c.near)
	if err != nil {
		return err
	}
	far, err := l.sw.nl.LinkByName(c.far)
	if err != nil {
		return err
	}
	err = errors.Join(
		l.sw.nl.LinkSetGSOMaxSegs(near, 1), // frames, not super-frames
		l.sw.nl.LinkSetUp(near), l.sw.nl.LinkSetUp(far))
	if err != nil {
		return err
	}
	var in int
	if in, err = l.packetSocket(far.Attrs().Index, unix.ETH_P_ALL); err != nil {
		return err
	}
	c.in = os.NewFile(uintptr(in), "middle")
	if c.out, err = l.packetSocket(port.Attrs().Index, 0); err != nil {
		return err
	}
	// What we send must not come to us again.
	if err := unix.SetsockoptInt(c.out, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return err
	}
	index := port.Attrs().Index
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(near.Attrs().Index)},
	}
	if err := l.sw.nl.QdiscAdd(qdisc); err != nil {
		return err
	}
	return l.sw.nl.FilterAdd(filter)
}

// packetSocket opens a socket for whole frames on an interface of the switch.
func (l *Lab) packetSocket(index int, protocol uint16) (fd int, err error) {
	err = l.sw.Do(func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: htons(protocol)}))
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (c *interceptor) run() {
	defer close(c.done)
	raw, err := c.in.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 1<<17)
	for {
		err := raw.Read(func(fd uintptr) bool {
			n, from, err := unix.Recvfrom(int(fd), buf, 0)
			if errors.Is(err, unix.EAGAIN) {
				return false
			}
			if sa, ok := from.(*unix.SockaddrLinklayer); ok && err == nil && sa.Pkttype != unix.PACKET_OUTGOING && n > vnetHeader {
				all := append([]byte(nil), buf[:n]...)
				c.middle(all[vnetHeader:], func(frame []byte) { c.send(all[:vnetHeader:vnetHeader], frame) })
			}
			return true
		})
		if err != nil {
			return
		}
	}
}

func (c *interceptor) send(header, frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		_, _ = unix.Write(c.out, append(header, frame...))
	}
}

// release ends the interception of a port; none is no error.
func (l *Lab) release(port string) error {
	l.middle.Lock()
	defer l.middle.Unlock()
	c := l.interceptors[port]
	if c == nil {
		return nil
	}
	delete(l.interceptors, port)
	err := l.removeRedirect(c)
	<-c.done
	c.end()
	return err
}

// removeRedirect undoes redirect, however far that came.
func (l *Lab) removeRedirect(c *interceptor) error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock() // the reader may want to send once more before it ends
	var errs []error
	if port, err := l.sw.nl.LinkByName(c.port); err == nil {
		qdiscs, err := l.sw.nl.QdiscList(port)
		errs = append(errs, err)
		for _, q := range qdiscs {
			if q.Type() == "clsact" {
				errs = append(errs, l.sw.nl.QdiscDel(q))
			}
		}
	}
	if near, err := l.sw.nl.LinkByName(c.near); err == nil {
		errs = append(errs, l.sw.nl.LinkDel(near))
	}
	if c.in != nil {
		errs = append(errs, c.in.Close())
	}
	if c.out >= 0 {
		errs = append(errs, unix.Close(c.out))
	}
	return errors.Join(errs...)
}

// delay makes the delay of a port by hand; zero ends that.
func (l *Lab) delay(p port, d time.Duration) error {
	l.middle.Lock()
	c := l.interceptors[p.Name]
	l.middle.Unlock()
	if c != nil && c.delays {
		if err := l.release(p.Name); err != nil {
			return err
		}
	}
	if d == 0 {
		return nil
	}
	if l.keep {
		return fmt.Errorf("delay %s on %s: netem is %w", p.Host, p.Network, ErrUnavailable)
	}
	m, end := later(d)
	return l.intercept(p, &interceptor{middle: m, end: end, delays: true})
}

// later returns a [Middle] that sends everything on after the delay, until end
// is called.
func later(delay time.Duration) (m Middle, end func()) {
	type held struct {
		due   time.Time
		frame []byte
		send  func([]byte)
	}
	queue, ended := make(chan held, 100_000), make(chan struct{})
	go func() {
		for {
			select {
			case h := <-queue:
				time.Sleep(time.Until(h.due))
				h.send(h.frame)
			case <-ended:
				return
			}
		}
	}()
	m = func(frame []byte, send func([]byte)) {
		select {
		case queue <- held{time.Now().Add(delay), frame, send}:
		default: // as netem does when it is full
		}
	}
	return m, func() { close(ended) }
}

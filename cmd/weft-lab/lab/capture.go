package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// drainTime bounds how long frames are read after a capture was stopped, should
// there be no end of them.
const drainTime = time.Second

// Frame is one Ethernet frame as a host handed it to a network.
type Frame struct {
	Time    time.Time
	Network string
	From    string // the host
	Data    []byte
}

// Capture records every frame that enters a network, also those that a fault
// drops afterwards.
type Capture struct {
	// Constant after the capture was started.
	file  *os.File
	conn  int
	ports map[int]port // by interface index
	done  chan struct{}

	mu      sync.Mutex
	stopped bool
	frames  []Frame
	dropped int
	pcap    io.Writer
}

// Capture starts to record what enters a network, or all of them when network
// is empty. Hosts must not be rebooted while it runs. With pcap, frames are
// written there in the form that tcpdump reads, and are not kept.
func (l *Lab) Capture(network string, pcap io.Writer) (*Capture, error) {
	c := &Capture{ports: map[int]port{}, done: make(chan struct{}), pcap: pcap}
	for _, p := range l.ports() {
		if network != "" && p.Network != network {
			continue
		}
		link, err := l.sw.nl.LinkByName(p.Name)
		if err != nil {
			continue // halted
		}
		c.ports[link.Attrs().Index] = p
	}
	if len(c.ports) == 0 {
		return nil, fmt.Errorf("capture: nothing is plugged into network %q", network)
	}
	err := l.sw.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		c.conn = fd
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	})
	if err != nil {
		return nil, fmt.Errorf("capture: open a packet socket: %w", err)
	}
	if pcap != nil {
		h := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
		h = binary.LittleEndian.AppendUint32(h, 2|4<<16)
		h = append(h, make([]byte, 8)...)
		h = binary.LittleEndian.AppendUint32(h, 1<<18)
		h = binary.LittleEndian.AppendUint32(h, 1)
		if _, err := pcap.Write(h); err != nil {
			return nil, err
		}
	}
	c.file = os.NewFile(uintptr(c.conn), "capture")
	l.mu.Lock()
	l.captures = append(l.captures, c)
	l.mu.Unlock()
	go c.run()
	return c, nil
}

func (c *Capture) run() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 1<<18)
	receive := func(fd uintptr) bool {
		n, from, err := unix.Recvfrom(int(fd), buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if sa, ok := from.(*unix.SockaddrLinklayer); ok && err == nil && sa.Pkttype != unix.PACKET_OUTGOING {
			c.add(sa.Ifindex, buf[:n])
		}
		return true
	}
	for raw.Read(receive) == nil {
	}
	// What was on the wire before the end has arrived, but may not be read yet.
	_ = raw.Control(func(fd uintptr) {
		for begun := time.Now(); time.Since(begun) < drainTime && receive(fd); {
		}
	})
}

func (c *Capture) add(index int, data []byte) {
	p, ok := c.ports[index]
	if !ok {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pcap == nil {
		c.frames = append(c.frames, Frame{Time: now, Network: p.Network, From: p.Host, Data: append([]byte(nil), data...)})
		return
	}
	h := binary.LittleEndian.AppendUint32(nil, uint32(now.Unix()))
	h = binary.LittleEndian.AppendUint32(h, uint32(now.Nanosecond()/1000))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(data)))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(data)))
	if _, err := c.pcap.Write(append(h, data...)); err != nil {
		c.dropped++
	}
}

// Frames returns what was recorded so far.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clip(c.frames)
}

// Stop ends the recording and returns everything recorded, to the last frame that
// was on the wire before, and how many frames were missed: a test that claims
// what was not on the wire wants zero.
func (c *Capture) Stop() (frames []Frame, missed int) {
	_ = c.file.SetReadDeadline(time.Now()) // it fails when somebody has stopped it
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.stopped = true
		if st, err := unix.GetsockoptTpacketStats(c.conn, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			c.dropped += int(st.Drops)
		}
		_ = c.file.Close()
	}
	return c.frames, c.dropped
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

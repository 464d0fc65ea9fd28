package tap

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Which device is ready.
const (
	fromTUN = 1 << iota
	fromTAP
)

// poller waits for two devices at once, in the runtime's own poller: the set
// of both (epoll) can itself be waited for. So a goroutine that waits blocks no
// thread, and runs as soon after a packet has come as that of a single device.
type poller struct {
	// Constant after newPoller.

	set *os.File
	raw syscall.RawConn

	// Owned by the goroutine that reads.

	events [4]unix.EpollEvent
	found  uint32
	ask    func(uintptr)      // p.look
	turn   func(uintptr) bool // calls try
	try    func() bool
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or the runtime does not wait for it
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	p := &poller{set: os.NewFile(uintptr(fd), "epoll")}
	p.ask = p.look
	p.turn = func(uintptr) bool { return p.try() }
	if p.raw, err = p.set.SyscallConn(); err != nil {
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	return p, nil
}

// add and remove may be called from any goroutine. What is added ready wakes
// who waits.
func (p *poller) add(f *file) error { return p.addFD(f.fd, fromTAP) }

func (p *poller) addFD(fd int, as uint32) (err error) {
	cerr := p.raw.Control(func(set uintptr) {
		err = unix.EpollCtl(int(set), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(as)})
	})
	if cerr != nil {
		return cerr
	}
	return err
}

func (p *poller) remove(f *file) {
	_ = p.raw.Control(func(set uintptr) {
		_ = unix.EpollCtl(int(set), unix.EPOLL_CTL_DEL, f.fd, nil)
	})
}

// ready says which devices can be read now, or have an error to tell.
func (p *poller) ready() uint32 {
	p.found = 0
	_ = p.raw.Control(p.ask)
	return p.found
}

func (p *poller) look(set uintptr) {
	n, _ := unix.EpollWait(int(set), p.events[:], 0)
	for i := range max(n, 0) {
		p.found |= uint32(p.events[i].Fd)
	}
}

// wait blocks until try says that it found something; it is called again after
// each event of a device. The error says that the set was closed.
//
// The runtime waits for changes (EPOLLET), so try must have looked at both
// devices before it says no.
func (p *poller) wait(try func() bool) error {
	p.try = try
	return p.raw.Read(p.turn)
}

// close ends a wait, and those to come.
func (p *poller) close() error { return p.set.Close() }

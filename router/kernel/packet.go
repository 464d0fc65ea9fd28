package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Ear hears packets that come in by an interface.
type Ear interface {
	// Read waits for one packet; what does not fit into b is cut off. An
	// interface that goes down or away is an error, and so is Close.
	Read(b []byte) (int, error)
	// Lost says how many packets were lost since it was last asked, because
	// nobody read in time.
	Lost() (int, error)
	// Close ends a Read that waits.
	Close() error
}

// earMemory is what an ear keeps until it is read, in bytes.
const earMemory = 4 << 20

type ear struct{ f *os.File }

// Overhear hears what a filter (classic BPF) lets through of the packets of a
// protocol (ETH_P_IPV6, say) that come in by an interface, without a link header.
// With protocol 0 it is Ethernet frames of all kinds, and the filter sees those
// that are sent there, too, and has to keep them out; such an ear costs time for
// everything that leaves by the interface.
func (k *Kernel) Overhear(link string, protocol uint16, filter []unix.SockFilter) (Ear, error) {
	l, err := k.find(link)
	if err != nil {
		return nil, fmt.Errorf("overhear: %w", err)
	}
	kind := unix.SOCK_DGRAM
	if protocol == 0 {
		kind, protocol = unix.SOCK_RAW, unix.ETH_P_ALL
	}
	e := new(ear)
	err = k.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		err = errors.Join(
			unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, earMemory),
			// Only now does it receive.
			unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index, Protocol: protocol<<8 | protocol>>8}), // in network order
		)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		e.f = os.NewFile(uintptr(fd), "packets of "+link)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("overhear %s: %w", link, translate(err))
	}
	return e, nil
}

func (e *ear) Read(b []byte) (int, error) { return e.f.Read(b) }

func (e *ear) Close() error { return e.f.Close() }

func (e *ear) Lost() (lost int, err error) {
	raw, err := e.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var s *unix.TpacketStats
		if s, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			lost = int(s.Drops)
		}
	})
	return lost, errors.Join(cerr, err)
}

// SendFrames sends Ethernet frames by interfaces, given by their index. One
// that is gone or down gets none, which is no error.
func (k *Kernel) SendFrames(links []int, frames ...[]byte) error {
	err := k.sending(func(fd int) error {
		for _, l := range links {
			for _, frame := range frames {
				err := sendFrame(fd, l, frame)
				if err != nil && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("send frames: %w", err)
	}
	return nil
}

// sending lends a socket to f that frames can be sent by.
func (k *Kernel) sending(f func(fd int) error) error {
	return k.Do(func() error {
		// Protocol 0: the socket never receives anything.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return f(fd)
	})
}

package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/tap/offload"
)

const (
	clonePath = "/dev/net/tun"

	offloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	offloadUDP = unix.TUN_F_USO4 | unix.TUN_F_USO6 // since Linux 6.2
)

// What the kernel says of a device and of frames for it.
var (
	errGone    = errors.New("the device was deleted")
	errDown    = errors.New("the device is down")
	errRefused = errors.New("the kernel does not take this super-frame")
)

// file is an open TAP device, or what a test has in its place: one frame per
// system call, each behind an [offload.Header], and nothing that blocks.
type file struct {
	// Constant after open.

	fd   int
	fake bool // of a test: no device behind it

	mu     sync.RWMutex // held by who uses fd; guards closed
	closed bool
}

// openTAP attaches to the TAP device called name, and makes it if there is
// none. It stays when the file is closed once keep was called. A device of that
// name of another kind gives [unix.EINVAL], one that is in use [unix.EBUSY].
func openTAP(k Kernel, name string) (*file, error) {
	fd := -1
	err := k.Do(func() (err error) {
		fd, err = attach(name)
		return err
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("make TAP device %s: it takes root (CAP_NET_ADMIN) and access to %s: %w", name, clonePath, err)
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("open TAP device %s: another process holds it, stop that one: %w", name, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("make TAP device %s: this kernel has no TUN devices, try 'modprobe tun': %w", name, err)
	case err != nil:
		return nil, fmt.Errorf("make TAP device %s: %w", name, err)
	}
	return &file{fd: fd}, nil
}

// attach does it in the namespace of the calling thread.
func attach(name string) (int, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, offload.HeaderLen)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// offer tells the kernel which super-frames we take from it, and returns
// whether those of UDP are among them.
func (f *file) offer(can abilities) (uso bool, err error) {
	bits := 0
	if can.tcp {
		bits = offloadTCP
	}
	if can.tcp && can.udp && unix.IoctlSetInt(f.fd, unix.TUNSETOFFLOAD, bits|offloadUDP) == nil {
		return true, nil
	}
	if err := unix.IoctlSetInt(f.fd, unix.TUNSETOFFLOAD, bits); err != nil {
		return false, fmt.Errorf("set offloads of the TAP device to %#x: %w", bits, err)
	}
	return false, nil
}

// keep makes the device outlive the file.
func (f *file) keep() error {
	if err := unix.IoctlSetInt(f.fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make the TAP device persistent: %w", err)
	}
	return nil
}

// name returns that of the device; errGone when there is none any more.
func (f *file) name() (string, error) {
	r, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(f.fd, unix.TUNGETIFF, r)
	}
	switch {
	case errors.Is(err, unix.EBADFD):
		return "", errGone
	case err != nil:
		return "", fmt.Errorf("ask a TAP device for its name: %w", err)
	}
	return r.Name(), nil
}

// read takes one frame with its header; [unix.EAGAIN] when there is none.
func (f *file) read(b []byte) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return 0, errGone
	}
	for {
		n, err := unix.Read(f.fd, b)
		switch err {
		case unix.EINTR:
		case unix.EBADFD:
			return 0, errGone
		default:
			return n, err
		}
	}
}

// writev gives one frame, header first, in pieces.
func (f *file) writev(v []unix.Iovec) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return errGone
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(f.fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return asError(errno)
		}
	}
}

// asError avoids that errors which come often are allocated each time.
func asError(errno syscall.Errno) error {
	known := [...]struct {
		errno syscall.Errno
		err   error
	}{{unix.EINVAL, errRefused}, {unix.EIO, errDown}, {unix.EBADFD, errGone}}
	for _, x := range known {
		if x.errno == errno {
			return x.err
		}
	}
	return errno
}

// close waits for those who use the file.
func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	return unix.Close(f.fd)
}

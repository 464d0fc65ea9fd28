package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Kernel is one network namespace of this machine. Its methods may be called
// from any goroutine. As long as it is open, the namespace lives on, even when
// its last process has ended.
type Kernel struct {
	// Constant after New or Open.

	ns netns.NsHandle
	id string
	nl *netlink.Handle // sockets opened inside the namespace; locks itself
}

// New opens the namespace that the calling thread is in.
func New() (*Kernel, error) {
	return Open("/proc/thread-self/ns/net")
}

// ErrNoNamespace says that a path leads to something else: whoever mounts a
// namespace on a file has to make the file first.
var ErrNoNamespace = errors.New("not a namespace")

// Open opens the namespace behind a path such as /proc/123/ns/net or
// /run/netns/blue. A path that does not exist gives an error wrapping
// [fs.ErrNotExist].
func Open(path string) (*Kernel, error) {
	// Without O_NONBLOCK a path that names a FIFO would block for ever.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	k := &Kernel{ns: netns.NsHandle(fd)}
	if err := k.init(); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return k, nil
}

func (k *Kernel) init() error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(k.ns), &fs); err != nil {
		return err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return ErrNoNamespace
	}
	kind, err := unix.IoctlRetInt(int(k.ns), unix.NS_GET_NSTYPE)
	if err != nil {
		return err
	}
	if kind != unix.CLONE_NEWNET {
		return errors.New("not a network namespace")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(k.ns), &st); err != nil {
		return err
	}
	k.id = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	return k.Do(func() error {
		k.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
}

// Close lets go of the namespace. No other method may be called afterwards.
func (k *Kernel) Close() error {
	k.nl.Close()
	return k.ns.Close()
}

// ID is the identity of the namespace, "device:inode": two Kernels of one
// namespace have the same, and no other living namespace has it.
func (k *Kernel) ID() string { return k.id }

// Do runs f on a thread inside the namespace and returns its error. Whatever f
// itself does happens there: system calls, sockets it opens, processes it
// starts, files it opens below /proc/sys/net. Goroutines that f starts are
// elsewhere. f must not panic.
func (k *Kernel) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			k.do(f, done)
			return
		}
		// The first thread shows in /proc where the process is; whoever looks
		// there must not see a container's namespace. It is ours now, so f
		// gets another.
		defer runtime.UnlockOSThread()
		other := make(chan struct{})
		go func() {
			defer close(other)
			runtime.LockOSThread()
			k.do(f, done)
		}()
		<-other
	}()
	err, ok := <-done
	if !ok {
		return errors.New("the function did not return")
	}
	return err
}

// do is Do on a thread that the calling goroutine has locked, and that no
// other goroutine gets unless it is back where it was.
func (k *Kernel) do(f func() error, done chan<- error) {
	before, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		done <- fmt.Errorf("enter network namespace: %w", err)
		return
	}
	defer func() { _ = before.Close() }()
	if err := netns.Set(k.ns); err != nil {
		runtime.UnlockOSThread()
		done <- fmt.Errorf("enter network namespace: %w", err)
		return
	}
	// A goroutine that ends while locked takes its thread with it: so a thread
	// which cannot go back, or whose f never returned, serves nobody else.
	err = f()
	if netns.Set(before) == nil {
		runtime.UnlockOSThread()
	}
	done <- err
}

// Sysctl reads a setting of the namespace by its path below /proc/sys, such as
// "net/ipv4/ip_forward". One that this kernel does not have gives
// [fs.ErrNotExist].
func (k *Kernel) Sysctl(key string) (string, error) {
	path, err := sysctlPath(key)
	if err != nil {
		return "", err
	}
	var value string
	err = k.Do(func() error {
		b, err := os.ReadFile(path)
		value = trimNewline(string(b))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return value, nil
}

// SetSysctl writes a setting of the namespace.
func (k *Kernel) SetSysctl(key, value string) error {
	path, err := sysctlPath(key)
	if err != nil {
		return err
	}
	err = k.Do(func() error {
		// Not os.WriteFile: that would create what does not exist.
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(value)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return fmt.Errorf("set sysctl to %s: %w", value, err)
	}
	return nil
}

package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// hostsKeeper lets containers find themselves at their address on the switch.
// The engine writes a line for every network into their /etc/hosts, and the one
// of its own bridge first. It does so each time a container starts, whoever
// starts it, tens of milliseconds before the container's process: the keeper
// watches for it and changes the order of the lines.
type hostsKeeper struct {
	// Constant after newHostsKeeper.
	log    *slog.Logger
	events *os.File // inotify's; nil: there is none
	fd     int

	mu   sync.Mutex // guards what follows
	root string     // the engine's directory; empty: not asked yet
	kept map[int]keptHosts
}

// keptHosts is one container's.
type keptHosts struct {
	path string
	addr netip.Addr
}

const (
	hostsName = "hosts"
	maxHosts  = 1 << 20 // bytes
)

func newHostsKeeper(log *slog.Logger) *hostsKeeper {
	k := &hostsKeeper{log: log, kept: make(map[int]keptHosts)}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		log.Warn("containers find themselves at their address on Docker's bridge first", "err", err)
		return k
	}
	k.fd, k.events = fd, os.NewFile(uintptr(fd), "inotify")
	return k
}

// watch looks after a container from now on.
func (k *hostsKeeper) watch(ctx context.Context, e *engine, id string, addr netip.Addr) {
	if k.events == nil {
		return
	}
	root, err := k.rootOf(ctx, e)
	if err != nil {
		k.log.Debug("cannot look after a container's hosts file", "container", id, "err", err)
		return
	}
	dir := filepath.Join(root, "containers", id)
	c := keptHosts{filepath.Join(dir, hostsName), addr}
	k.mu.Lock()
	wd, err := unix.InotifyAddWatch(k.fd, dir, unix.IN_CLOSE_WRITE|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
	if err == nil {
		k.kept[wd] = c
	}
	k.mu.Unlock()
	if err != nil {
		k.log.Debug("cannot look after a container's hosts file", "container", id, "err", err)
		return
	}
	k.mend(c)
}

// rootOf returns the directory in which the engine keeps its containers.
func (k *hostsKeeper) rootOf(ctx context.Context, e *engine) (string, error) {
	k.mu.Lock()
	root := k.root
	k.mu.Unlock()
	if root != "" {
		return root, nil
	}
	var info struct{ DockerRootDir string }
	if err := e.call(ctx, http.MethodGet, "/info", nil, &info); err != nil {
		return "", err
	}
	if !filepath.IsAbs(info.DockerRootDir) {
		return "", errors.New("the engine does not say where it keeps its containers")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.root = info.DockerRootDir
	return k.root, nil
}

// run follows the changes until ctx ends.
func (k *hostsKeeper) run(ctx context.Context) {
	if k.events == nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = k.events.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := k.events.Read(buf)
		if err != nil {
			return // it was closed
		}
		for _, e := range inotifyEvents(buf[:n]) {
			k.mu.Lock()
			c, ok := k.kept[e.wd]
			if e.mask&unix.IN_IGNORED != 0 {
				delete(k.kept, e.wd) // the container was removed
			}
			var list []keptHosts
			if e.mask&unix.IN_Q_OVERFLOW != 0 { // there were more than the kernel remembers
				list = slices.Collect(maps.Values(k.kept))
			} else if ok && e.name == hostsName {
				list = append(list, c)
			}
			k.mu.Unlock()
			for _, c := range list {
				k.mend(c)
			}
		}
	}
}

type inotifyEvent struct {
	wd   int
	mask uint32
	name string
}

// inotifyEvents reads what inotify(7) describes.
func inotifyEvents(b []byte) (list []inotifyEvent) {
	for len(b) >= unix.SizeofInotifyEvent {
		n := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if n > len(b) {
			return list
		}
		list = append(list, inotifyEvent{
			wd:   int(int32(binary.NativeEndian.Uint32(b))),
			mask: binary.NativeEndian.Uint32(b[4:]),
			name: string(bytes.TrimRight(b[unix.SizeofInotifyEvent:n], "\x00")),
		})
		b = b[n:]
	}
	return list
}

// mend puts a container's address on the switch first. The file is mounted
// into the container and the engine may append to it meanwhile, so it is
// changed in place, and only within what was read.
func (k *hostsKeeper) mend(c keptHosts) {
	err := func() error {
		f, err := os.OpenFile(c.path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil // it has never started
		}
		if err != nil {
			return err
		}
		defer f.Close()
		old, err := io.ReadAll(io.LimitReader(f, maxHosts))
		if err != nil {
			return err
		}
		if mended := preferred(old, c.addr); !bytes.Equal(old, mended) {
			_, err = f.WriteAt(mended, 0)
		}
		return err
	}()
	if err != nil {
		k.log.Warn("a container finds itself at its address on Docker's bridge first", "hosts", c.path, "err", err)
	}
}

// preferred returns a hosts file in which the line of addr comes before lines
// that give its names to other addresses. No byte is added or lost.
func preferred(hosts []byte, addr netip.Addr) []byte {
	lines := slices.Collect(bytes.Lines(hosts))
	own := slices.IndexFunc(lines, func(l []byte) bool { a, _ := hostsLine(l); return a == addr })
	if own < 0 || !bytes.HasSuffix(lines[own], []byte("\n")) {
		return hosts
	}
	_, names := hostsLine(lines[own])
	other := slices.IndexFunc(lines[:own], func(l []byte) bool {
		a, theirs := hostsLine(l)
		return a.IsValid() && slices.ContainsFunc(theirs, func(n string) bool { return slices.Contains(names, n) })
	})
	if other < 0 {
		return hosts
	}
	line := lines[own]
	return bytes.Join(slices.Insert(slices.Delete(slices.Clone(lines), own, own+1), other, line), nil)
}

// hostsLine returns the address and the names of a line, if it has any.
func hostsLine(line []byte) (netip.Addr, []string) {
	text, _, _ := strings.Cut(string(line), "#")
	f := strings.Fields(text)
	if len(f) < 2 {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(f[0])
	if err != nil {
		return netip.Addr{}, nil
	}
	return a, f[1:]
}

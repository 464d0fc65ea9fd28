package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Host is a machine of the lab. Its methods are safe for concurrent use, but
// nothing may run in it while it is switched off or rebooted.
type Host struct {
	// Place is what the host is made of now; it changes with a reboot.
	*Place

	// Constant after Up or Open.
	lab  *Lab
	disk string

	spec atomic.Pointer[HostSpec] // replaced as a whole

	mu         sync.Mutex
	containers map[string]*Container
	docker     *Process
	edged      bool // there is a table of the edge; under the lab's mutex
}

func newHost(l *Lab, spec HostSpec, p *Place) *Host {
	h := &Host{Place: p, lab: l, disk: filepath.Join(diskRoot, l.topology.Name, spec.Name), containers: map[string]*Container{}}
	h.spec.Store(&spec)
	return h
}

// Spec returns what the host is made of now.
func (h *Host) Spec() HostSpec { return *h.spec.Load() }

// Addr returns the host's first IPv4 address.
func (h *Host) Addr() netip.Addr { return h.first(netip.Addr.Is4) }

// Addr6 returns the host's first IPv6 address.
func (h *Host) Addr6() netip.Addr { return h.first(netip.Addr.Is6) }

// AddrFor returns the address by which another host reaches this one: on a
// network that both are on, IPv4 rather than IPv6, otherwise the first.
func (h *Host) AddrFor(o *Host) netip.Addr {
	shared := between(o.Spec(), h.Spec())
	for _, is := range []func(netip.Addr) bool{netip.Addr.Is4, netip.Addr.Is6} {
		if i := slices.IndexFunc(shared, is); i >= 0 {
			return shared[i]
		}
	}
	if a := h.Addr(); a.IsValid() {
		return a
	}
	return h.Addr6()
}

func (h *Host) first(is func(netip.Addr) bool) netip.Addr {
	a := h.Spec().Addrs()
	if i := slices.IndexFunc(a, is); i >= 0 {
		return a[i]
	}
	return netip.Addr{}
}

// LogFile returns a path for output that stays as long as the lab.
func (h *Host) LogFile(name string) string { return filepath.Join(h.disk, name+".log") }

// WriteFile writes a file of the host; its directory must be there.
func (h *Host) WriteFile(path, text string) error {
	return os.WriteFile(filepath.Join(h.Root(), path), []byte(text), 0o644)
}

// overlays are the directories of which the host has its own version.
func (h *Host) overlays() []string {
	if h.Spec().Systemd {
		return []string{"/"}
	}
	return overlayDirs()
}

// etc is where the host's changes to /etc are kept.
func (h *Host) etc() string {
	if h.Spec().Systemd {
		return filepath.Join(overlayOf(h.disk, "/"), "upper/etc")
	}
	return filepath.Join(overlayOf(h.disk, "/etc"), "upper")
}

// install prepares the host's disk: what differs from the machine's own files.
func (h *Host) install() error {
	for _, dir := range h.overlays() {
		for _, sub := range []string{"upper", "work"} {
			if err := os.MkdirAll(filepath.Join(overlayOf(h.disk, dir), sub), 0o755); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(h.etc(), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(h.disk, "docker"), 0o710); err != nil {
		return err
	}
	id := sha256.Sum256([]byte(h.lab.topology.Name + "/" + h.name))
	var hosts strings.Builder
	hosts.WriteString(localhost)
	for _, o := range h.lab.topology.Hosts {
		for _, a := range o.Addrs() {
			hosts.WriteString(a.String() + " " + o.Name + "\n")
		}
	}
	for name, text := range map[string]string{
		"hostname": h.name + "\n", "machine-id": hex.EncodeToString(id[:16]) + "\n", "hosts": hosts.String(), "resolv.conf": resolvConf(h.Spec().Resolvers, nil),
	} {
		if err := os.WriteFile(filepath.Join(h.etc(), name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if h.Spec().Systemd {
		return nil
	}
	// What the machine itself may keep there is not this host's.
	for _, dir := range []string{"/etc/weft", "/var/lib/weft"} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		parent := filepath.Dir(dir)
		if err := unix.Mknod(filepath.Join(overlayOf(h.disk, parent), "upper", filepath.Base(dir)), unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	return nil
}

// boot starts the first process, plugs the host in and starts its containers.
func (h *Host) boot(ctx context.Context) error {
	spec := h.Spec()
	cfg := initConfig{Kind: "host", Hostname: h.name, Disk: h.disk, Sysctls: maps.Clone(spec.Sysctls)}
	if spec.Forward {
		if cfg.Sysctls == nil {
			cfg.Sysctls = map[string]string{}
		}
		cfg.Sysctls["net/ipv4/ip_forward"] = "1"
		cfg.Sysctls["net/ipv6/conf/all/forwarding"] = "1"
	}
	p, err := h.firstProcess(ctx, cfg)
	if err != nil {
		return err
	}
	if h.lab.binDir != "" && !spec.Systemd {
		p.SetPath(h.lab.binDir)
	}
	h.mu.Lock()
	h.Place, h.containers = p, map[string]*Container{}
	h.mu.Unlock()
	if err := h.lab.plug(ctx, h); err != nil {
		return err
	}
	for _, c := range spec.Containers {
		if _, err := h.Container(ctx, c, ContainerOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// Halt is a power cut: the cables are dead before the processes are, so nobody
// hears them end.
func (h *Host) Halt() error {
	for _, p := range h.lab.ports() {
		if p.Host == h.name {
			h.lab.unplugPort(p)
		}
	}
	return h.end()
}

func (h *Host) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pid <= 0 {
		return nil
	}
	err := h.kill()
	for _, c := range h.containers {
		c.close()
	}
	h.containers, h.docker = nil, nil
	h.close()
	h.Place = &Place{name: h.name, pid: -1, pidfd: -1}
	return err
}

// Boot starts a halted host again, with its disk and nothing else.
func (h *Host) Boot(ctx context.Context) error {
	if h.pid > 0 {
		return fmt.Errorf("boot %s: it is running", h.name)
	}
	if err := h.boot(ctx); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if err := h.lab.applyFaults(ctx); err != nil {
		return err
	}
	return h.lab.save()
}

// Reboot halts the host and boots it.
func (h *Host) Reboot(ctx context.Context) error {
	return errors.Join(h.Halt(), h.Boot(ctx))
}

// Container is a process in namespaces of its own inside a host.
type Container struct {
	*Place
	host  *Host
	short string
	inner int
}

// ContainerOptions say what is special about a container.
type ContainerOptions struct {
	// Resolvers and Search go into its resolv.conf.
	Resolvers []netip.Addr
	Search    []string
	Hostname  string            // empty: the container's name
	Sysctls   map[string]string // e.g. Docker's net/ipv6/conf/all/disable_ipv6 = 1
}

const localhost = "127.0.0.1 localhost\n::1 localhost\n"

func resolvConf(servers []netip.Addr, search []string) string {
	var b strings.Builder
	b.WriteString("# written by weft-lab\n")
	for _, s := range servers {
		b.WriteString("nameserver " + s.String() + "\n")
	}
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	return b.String()
}

// Container starts a container. It has no interface but its loopback.
func (h *Host) Container(ctx context.Context, name string, o ContainerOptions) (*Container, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.containers[name] != nil {
		return nil, fmt.Errorf("host %s has a container %s already", h.name, name)
	}
	if o.Hostname == "" {
		o.Hostname = name
	}
	// It shares its host's PID namespace: only a process that lives in one can
	// make another below it.
	p, err := spawn(ctx, h.Place, h.name+"/"+name, allNamespaces&^unix.CLONE_NEWPID, initConfig{
		Kind: "container", Hostname: o.Hostname, Sysctls: o.Sysctls, Files: map[string]string{
			"/etc/resolv.conf": resolvConf(o.Resolvers, o.Search),
			"/etc/hosts":       localhost,
			"/etc/hostname":    o.Hostname + "\n",
		},
	}, nil)
	if err != nil {
		return nil, err
	}
	c, err := newContainer(h, name, p)
	if err != nil {
		return nil, errors.Join(err, p.kill())
	}
	if err := setUp(p.nl, "lo"); err != nil {
		return nil, errors.Join(fmt.Errorf("container %s: %w", p.name, err), p.kill())
	}
	h.containers[name] = c
	return c, nil
}

// newContainer finds out under which number the host knows the process.
func newContainer(h *Host, name string, p *Place) (*Container, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(status)) {
		var outer, inner int
		if n, _ := fmt.Sscanf(line, "NSpid: %d %d", &outer, &inner); n == 2 {
			return &Container{Place: p, host: h, short: name, inner: inner}, nil
		}
	}
	return nil, fmt.Errorf("container %s: /proc/%d/status has no NSpid", p.name, p.pid)
}

// Host returns the host that runs the container.
func (c *Container) Host() *Host { return c.host }

// PID returns the number of the container's first process inside its host.
func (c *Container) PID() int { return c.inner }

// Ref names the container the way weft's commands take it: pid:N.
func (c *Container) Ref() string { return fmt.Sprintf("pid:%d", c.inner) }

// Kill ends the container and everything started in it. Its namespaces go too,
// once sockets that were opened in it from outside are closed.
func (c *Container) Kill() error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.host.containers[c.short] != c {
		return nil
	}
	delete(c.host.containers, c.short)
	others, err := c.others()
	err = errors.Join(err, c.kill())
	for _, pid := range others {
		if e := unix.Kill(pid, unix.SIGKILL); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill process %d of %s: %w", pid, c.name, e))
		}
	}
	c.close()
	return err
}

// others lists the processes that share the container's mounts.
func (c *Container) others() ([]int, error) {
	mine, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", c.pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it has ended by itself
	}
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || pid == c.pid {
			continue
		}
		if theirs, err := os.Readlink(d + "/ns/mnt"); err == nil && theirs == mine {
			out = append(out, pid)
		}
	}
	return out, nil
}

// Containers returns the host's containers by name.
func (h *Host) Containers() map[string]*Container {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.containers)
}

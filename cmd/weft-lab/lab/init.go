package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName is argument zero of a first process.
const initName = "weft-lab-init"

// The file descriptors of a first process.
const (
	fdConfig = 3 // reads initConfig
	fdReady  = 4 // writes an error text, or nothing, then closes
	fdOwner  = 5 // reads end of file when the owner is gone; may be absent
)

// initConfig tells a first process what to be.
type initConfig struct {
	Kind     string // host | system | container | switch | guard
	Hostname string
	Disk     string // of a host: where its overlays are kept
	// Files of a container, by absolute path; they must exist in the host.
	Files   map[string]string
	Sysctls map[string]string
	Owned   bool // fdOwner is there
	// Of a system: its files, before its own changes, and what names this boot.
	Root, BootID, Cgroup string
	Guarded              process // of a guard: whom it ends
}

// Init makes the program a lab's first process when it was started as one, and
// does not return then. Otherwise it does nothing.
func Init() {
	if len(os.Args) == 0 || os.Args[0] != initName {
		return
	}
	cfg, err := readConfig()
	if err == nil {
		err = cfg.setUp()
	}
	ready := os.NewFile(fdReady, "ready")
	if err == nil && cfg.Kind == "system" {
		err = execSystemd() // and closes ready
	}
	if err != nil {
		_, _ = io.WriteString(ready, err.Error())
		os.Exit(1)
	}
	_ = ready.Close()
	if cfg.Kind == "guard" {
		cfg.Guarded.guard()
		os.Exit(0)
	}
	if cfg.Owned {
		go func() {
			_, _ = os.NewFile(fdOwner, "owner").Read(make([]byte, 1))
			os.Exit(0) // and the kernel ends everybody else here
		}()
	}
	reap()
}

func readConfig() (initConfig, error) {
	var cfg initConfig
	if err := json.NewDecoder(os.NewFile(fdConfig, "config")).Decode(&cfg); err != nil {
		return cfg, fmt.Errorf("read configuration: %w", err)
	}
	return cfg, nil
}

// reap waits for ever, and for every orphan of the namespace.
func reap() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	for {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
		}
		<-died
	}
}

func (c initConfig) setUp() error {
	if c.Kind == "guard" {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if c.Kind == "system" {
		return c.setUpSystem()
	}
	if c.Kind != "container" { // which shares its host's PID namespace
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
	}
	if err := mountSys(); err != nil {
		return err
	}
	if c.Kind == "host" {
		if err := c.overlays(); err != nil {
			return err
		}
	}
	if c.Kind != "switch" {
		if err := mountRun(); err != nil {
			return err
		}
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if err := c.bindFiles(); err != nil {
		return err
	}
	if c.Kind == "switch" {
		if err := asWire(); err != nil {
			return err
		}
	}
	return c.setSysctls()
}

func (c initConfig) setSysctls() error {
	for k, v := range c.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", k), []byte(v), 0); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", k, v, err)
		}
	}
	return nil
}

// asWire makes a network a wire: neither the machine's packet filters nor IPv6
// have a part in it, where the kernel has them.
func asWire() error {
	for k, v := range map[string]string{
		"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0", "bridge/bridge-nf-call-arptables": "0",
		"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1",
	} {
		err := os.WriteFile(filepath.Join("/proc/sys/net", k), []byte(v), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// mountSys mounts the sysfs of the new network namespace and keeps the
// control groups of the machine visible in it.
func mountSys() error {
	const cgroups = "/sys/fs/cgroup"
	tree := -1
	var st unix.Statfs_t
	if err := unix.Statfs(cgroups, &st); err == nil && st.Type != unix.SYSFS_MAGIC {
		tree, err = unix.OpenTree(unix.AT_FDCWD, cgroups, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("keep %s: %w", cgroups, err)
		}
		defer func() { _ = unix.Close(tree) }()
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if tree >= 0 {
		if err := unix.MoveMount(tree, "", unix.AT_FDCWD, cgroups, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("keep %s: %w", cgroups, err)
		}
	}
	return nil
}

func mountRun() error {
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return err
	}
	// Debian's /var/run is a link to /run; elsewhere it becomes the same place.
	if st, err := os.Lstat("/var/run"); err == nil && st.IsDir() {
		if err := unix.Mount("/run", "/var/run", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount /var/run: %w", err)
		}
	}
	return nil
}

// overlayDirs are the directories of which each host has its own version.
func overlayDirs() []string { return []string{"/etc", "/var/lib"} }

// overlayOf returns the directory below a host's disk that keeps its changes
// to dir.
func overlayOf(disk, dir string) string {
	return filepath.Join(disk, strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-"))
}

func (c initConfig) overlays() error {
	// Docker cannot keep images on an overlay.
	docker, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(c.Disk, "docker"), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open the disk of %s: %w", c.Hostname, err)
	}
	defer func() { _ = unix.Close(docker) }()
	for _, dir := range overlayDirs() {
		d := overlayOf(c.Disk, dir)
		opt := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", dir, d, d)
		if err := unix.Mount("overlay", dir, "overlay", 0, opt); err != nil {
			return fmt.Errorf("mount an overlay on %s (needs overlayfs): %w", dir, err)
		}
	}
	if err := os.MkdirAll("/var/lib/docker", 0o710); err != nil {
		return err
	}
	if err := unix.MoveMount(docker, "", unix.AT_FDCWD, "/var/lib/docker", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount /var/lib/docker: %w", err)
	}
	return nil
}

// bindFiles gives a container files of its own; they live on its /run.
func (c initConfig) bindFiles() error {
	for path, text := range c.Files {
		own := filepath.Join("/run/weft-lab", filepath.Base(path))
		if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	return nil
}

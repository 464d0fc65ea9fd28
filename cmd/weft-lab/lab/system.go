package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// setUpSystem makes the file system of a host in which systemd is to run and
// moves there. It is the first process of its PID namespace and runs on its main
// thread, which then becomes systemd.
func (c initConfig) setUpSystem() error {
	root := filepath.Join(c.Disk, "mnt")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	d := overlayOf(c.Disk, "/")
	opt := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", c.Root, d, d)
	if err := unix.Mount("overlay", root, "overlay", 0, opt); err != nil {
		return fmt.Errorf("mount the root of %s (needs overlayfs): %w", c.Hostname, err)
	}
	if err := errors.Join(mountProc(root, c.BootID), mountDev(root)); err != nil {
		return err
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// Read-only, so that no udevd gets the idea that devices are its business.
	if err := unix.Mount("sysfs", root+"/sys", "sysfs", quiet|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := mountCgroup(root+"/sys/fs/cgroup", c.Cgroup); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", root+"/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("move into the root of %s: %w", c.Hostname, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	// As systemd itself would have it on a machine: services see what is mounted.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	return errors.Join(os.Chdir("/"), c.setSysctls())
}

// mountProc mounts /proc. Only what belongs to the network namespace can be
// written below sys: everything else is the machine's.
func mountProc(root, bootID string) error {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	proc := root + "/proc"
	if err := unix.Mount("proc", proc, "proc", quiet, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, m := range []struct {
		path  string
		flags uintptr
	}{{proc + "/sys", unix.MS_RDONLY}, {proc + "/sys/net", 0}} {
		if err := unix.Mount(m.path, m.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("protect %s: %w", m.path, err)
		}
		if err := unix.Mount("", m.path, "", unix.MS_REMOUNT|unix.MS_BIND|quiet|m.flags, ""); err != nil {
			return fmt.Errorf("protect %s: %w", m.path, err)
		}
	}
	if err := unix.Mount(bootID, proc+"/sys/kernel/random/boot_id", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("name this boot: %w", err)
	}
	return nil
}

func mountDev(root string) error {
	dev := root + "/dev"
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, dir := range []string{"pts", "shm", "net", "mqueue"} {
		if err := os.Mkdir(filepath.Join(dev, dir), 0o755); err != nil {
			return err
		}
	}
	nodes := map[string][2]uint32{
		"null": {1, 3}, "zero": {1, 5}, "full": {1, 7}, "random": {1, 8}, "urandom": {1, 9}, "tty": {5, 0},
		"console": {1, 3}, // what is written there is for nobody
		"net/tun": {10, 200},
	}
	for name, n := range nodes {
		path := filepath.Join(dev, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(n[0], n[1]))); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", dev+"/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	for link, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(to, filepath.Join(dev, link)); err != nil {
			return err
		}
	}
	return unix.Mount("tmpfs", dev+"/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
}

// mountCgroup makes a control group of its own the root of the tree that the
// host sees.
func mountCgroup(at, group string) error {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("cgroup2", at, "cgroup2", quiet, ""); err != nil {
		return fmt.Errorf("mount control groups (needs cgroup2): %w", err)
	}
	own := filepath.Join(at, group)
	if err := os.MkdirAll(own, 0o755); err != nil {
		return fmt.Errorf("make control group %s: %w", group, err)
	}
	if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter control group %s: %w", group, err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make %s the root of control groups: %w", group, err)
	}
	if err := unix.Mount("cgroup2", at, "cgroup2", quiet, ""); err != nil {
		return fmt.Errorf("mount control groups: %w", err)
	}
	return nil
}

// execSystemd makes this process systemd. It returns only when that fails.
func execSystemd() error {
	for _, fd := range []int{fdConfig, fdReady, fdOwner} {
		unix.CloseOnExec(fd)
	}
	const path = "/lib/systemd/systemd"
	env := []string{"container=weft-lab", "PATH=" + defaultPath}
	return fmt.Errorf("execute %s: %w", path, syscall.Exec(path, []string{path, "--system"}, env))
}

// guard ends a process that cannot look after its owner itself when the owner
// has gone, and returns when either has.
func (p process) guard() {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil || !p.alive() {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: fdOwner, Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil, fds[0].Revents != 0:
			return
		default: // nobody ever writes there: it is the end of the file
			_ = killWait(fd)
			return
		}
	}
}

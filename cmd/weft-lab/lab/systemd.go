package lab

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What hosts with systemd begin with. Nothing of it starts by itself that would
// take the machine for its own.
const (
	systemSuite  = "bookworm"
	systemMirror = "http://deb.debian.org/debian"
)

func systemPackages() []string {
	return []string{"systemd", "systemd-sysv", "nftables", "iproute2", "iputils-ping", "iptables", "procps"}
}

func systemMasked() []string {
	return []string{
		"systemd-sysctl.service", "systemd-modules-load.service", "systemd-udevd.service", "systemd-udev-trigger.service",
		"systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-logind.service", "systemd-remount-fs.service",
		"systemd-random-seed.service", "systemd-binfmt.service", "systemd-hwdb-update.service", "systemd-networkd.service",
		"console-getty.service", "getty@tty1.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount",
		"sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "apt-daily.timer", "apt-daily-upgrade.timer",
		"dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "systemd-tmpfiles-clean.timer",
		"systemd-journal-flush.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "nftables.service",
	}
}

// SystemRoot returns the directory of a small Debian with systemd; hosts with
// systemd are layers above it. It is made with debootstrap when it is not there,
// which takes a minute and needs a mirror (WEFT_MIRROR names another one), and
// is kept below the user's cache. The error wraps [exec.ErrNotFound] where
// debootstrap is not installed.
func SystemRoot(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	made := sha256.Sum256([]byte(strings.Join(slices.Concat(systemPackages(), systemMasked()), " ")))
	dir := filepath.Join(cache, "weft/debian", systemSuite+"-"+hex.EncodeToString(made[:4]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(dir), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("wait for whoever makes %s: %w", dir, err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	begun := dir + ".begun"
	if err := os.RemoveAll(begun); err != nil {
		return "", err
	}
	if err := bootstrap(ctx, begun); err != nil {
		return "", fmt.Errorf("make %s: %w", dir, err)
	}
	return dir, os.Rename(begun, dir)
}

func bootstrap(ctx context.Context, dir string) error {
	path := "/usr/sbin/debootstrap"
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath("debootstrap"); err != nil {
			return fmt.Errorf("%w: install debootstrap", err)
		}
	}
	mirror := systemMirror
	if m := os.Getenv("WEFT_MIRROR"); m != "" {
		mirror = m
	}
	cmd := exec.CommandContext(ctx, path, "--variant=minbase", "--include="+strings.Join(systemPackages(), ","), systemSuite, dir, mirror)
	cmd.Env = []string{"PATH=" + defaultPath, "LC_ALL=C", "HOME=/root"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("debootstrap: %w: %s", err, out[max(0, len(out)-500):])
	}
	units := filepath.Join(dir, "etc/systemd/system")
	for _, u := range systemMasked() {
		if err := errors.Join(removeIfThere(filepath.Join(units, u)), os.Symlink("/dev/null", filepath.Join(units, u))); err != nil {
			return err
		}
	}
	if err := removeIfThere(filepath.Join(units, "default.target")); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(dir, "var/cache/apt/archives/*.deb"))
	for _, a := range archives {
		err = errors.Join(err, os.Remove(a))
	}
	return errors.Join(err, os.Symlink("/lib/systemd/system/multi-user.target", filepath.Join(units, "default.target")))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// firstProcess starts the host's first process.
func (h *Host) firstProcess(ctx context.Context, cfg initConfig) (*Place, error) {
	if !h.Spec().Systemd {
		return spawn(ctx, nil, h.name, allNamespaces, cfg, h.lab.owner)
	}
	root, err := SystemRoot(ctx)
	if err != nil {
		return nil, err
	}
	cfg.Kind, cfg.Root, cfg.Cgroup = "system", root, h.cgroup()
	if cfg.BootID, err = newBootID(h.disk); err != nil {
		return nil, err
	}
	p, err := spawn(ctx, nil, h.name, allNamespaces, cfg, nil)
	if err != nil {
		return nil, err
	}
	p.own = true
	if h.lab.owner == nil {
		return p, nil
	}
	// systemd does not look after its owner.
	g, err := spawn(ctx, nil, h.name+"'s guard", 0, initConfig{Kind: "guard", Guarded: process{p.pid, p.start}}, h.lab.owner)
	if err != nil {
		return nil, errors.Join(err, p.kill())
	}
	g.close()
	return p, nil
}

// newBootID writes what names one boot of one host.
func newBootID(disk string) (path string, err error) {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	path = filepath.Join(disk, "boot_id")
	return path, os.WriteFile(path, fmt.Appendf(nil, "%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), 0o444)
}

// AwaitSystem waits until systemd of the host has started everything, and
// returns the units that failed.
func (h *Host) AwaitSystem(ctx context.Context) (failed string, err error) {
	for {
		r := h.Run(ctx, "/usr/bin/systemctl", "is-system-running")
		switch state := strings.TrimSpace(r.Stdout); state {
		case "running":
			return "", nil
		case "degraded":
			r = h.Run(ctx, "/usr/bin/systemctl", "list-units", "--failed", "--plain", "--no-legend")
			return r.Stdout, r.Err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s: systemd is not up: %w: %s", h.name, ctx.Err(), r)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Shutdown lets systemd of the host end everything in order, and waits for it.
// Then the host is halted. [Host.Boot] starts it again.
func (h *Host) Shutdown(ctx context.Context) error {
	if r := h.Run(ctx, "/usr/bin/systemctl", "poweroff", "--no-block"); r.Err != nil {
		return r.Err
	}
	for p := (process{h.pid, h.start}); p.alive(); {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not shut down: %w", h.name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return h.Halt()
}

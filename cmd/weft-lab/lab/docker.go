package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DockerImage is what [Host.DockerRun] starts; it is busybox and nothing else.
const DockerImage = "weft-lab/busybox"

// dockerCLI is the engine's own client; one that comes earlier in PATH may be
// too new for it.
const dockerCLI = "/usr/bin/docker"

// StartDocker starts a Docker engine of the host's own and waits until it
// answers. Its images outlive a reboot, the engine does not. The error wraps
// [exec.ErrNotFound] where no engine is installed.
func (h *Host) StartDocker(ctx context.Context, flags ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.docker != nil {
		return fmt.Errorf("host %s has an engine already", h.name)
	}
	// /run/docker.sock of the machine is not seen here, /sys/fs/cgroup is.
	args := append([]string{
		"dockerd", "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent=/" + h.cgroup(),
		"--host=unix:///run/docker.sock", "--storage-driver=overlay2",
	}, flags...)
	p, err := h.Start(context.WithoutCancel(ctx), h.LogFile("dockerd"), args...)
	if err != nil {
		return err
	}
	if err := h.awaitDocker(ctx, p); err != nil {
		return errors.Join(err, p.Signal(os.Kill))
	}
	h.docker = p
	if r := h.Run(ctx, dockerCLI, "image", "inspect", DockerImage); r.Err == nil {
		return nil
	}
	image, err := busyboxImage()
	if err != nil {
		return err
	}
	return h.RunInput(ctx, string(image), dockerCLI, "import", "-", DockerImage).Err
}

func (h *Host) awaitDocker(ctx context.Context, p *Process) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		r := h.Run(ctx, dockerCLI, "version")
		if r.Err == nil {
			return nil
		}
		select {
		case <-p.Done():
			log, _ := os.ReadFile(p.Log)
			return fmt.Errorf("%s: the Docker engine ended: %s", h.name, bytes.TrimSpace(log))
		case <-ctx.Done():
			return fmt.Errorf("%s: the Docker engine does not answer: %w", h.name, r.Err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// StopDocker ends the host's engine; its containers end with it.
func (h *Host) StopDocker() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.docker == nil {
		return nil
	}
	p := h.docker
	h.docker = nil
	if err := p.Signal(os.Interrupt); err != nil {
		return err
	}
	select {
	case <-p.Done():
		return nil
	case <-time.After(2 * time.Minute): // it gives its containers 10 s
		return errors.Join(fmt.Errorf("%s: the Docker engine does not end", h.name), p.Signal(os.Kill))
	}
}

// Docker runs a command of the engine's client, e.g. "ps", "-q".
func (h *Host) Docker(ctx context.Context, args ...string) Result {
	return h.Run(ctx, append([]string{dockerCLI}, args...)...)
}

// DockerRun starts a container of [DockerImage] that sleeps, with further flags
// of docker run, and returns its full id.
func (h *Host) DockerRun(ctx context.Context, flags ...string) (string, error) {
	args := append(append([]string{"run", "-d"}, flags...), DockerImage, "sleep", "1000000")
	r := h.Docker(ctx, args...)
	return strings.TrimSpace(r.Stdout), r.Err
}

// cgroup names the control group that holds the host's engine's containers.
func (h *Host) cgroup() string { return filepath.Join("weft-lab", h.lab.topology.Name, h.name) }

// removeCgroups removes what an engine left of the lab's control groups; their
// processes have ended.
func removeCgroups(name string) error {
	var errs []error
	roots, err := filepath.Glob("/sys/fs/cgroup/*/weft-lab")
	if err != nil {
		return err
	}
	for _, root := range append(roots, "/sys/fs/cgroup/weft-lab") {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			if e := os.Remove(d); e != nil && !errors.Is(e, fs.ErrNotExist) {
				errs = append(errs, e)
			}
		}
		errs = append(errs, err)
		_ = os.Remove(root) // when it is empty
	}
	return errors.Join(errs...)
}

// busyboxImage is a root file system with every command of a static busybox.
func busyboxImage() ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("make an image: %s --list: %w", path, err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = errors.Join(
		w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}),
		w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}),
		w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}),
	)
	if err == nil {
		_, err = w.Write(program)
	}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			err = errors.Join(err, w.WriteHeader(&tar.Header{
				Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777,
			}))
		}
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	return b.Bytes(), nil
}

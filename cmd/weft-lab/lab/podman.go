package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// podmanFiles are what podman has to know: to keep everything in the host's own
// directories, also locks, which it would share with the whole machine.
func podmanFiles() map[string]string {
	return map[string]string{
		"storage.conf":    "[storage]\ndriver = \"vfs\"\ngraphroot = \"/var/lib/containers/storage\"\nrunroot = \"/run/containers/storage\"\n",
		"containers.conf": "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\n",
	}
}

// SetUpPodman lets podman, which needs no daemon, work in the host, with the
// image of [DockerImage] under the name busybox. Containers have to be started
// with [Host.PodmanFlags]. The error wraps [exec.ErrNotFound] where podman is
// not installed.
func (h *Host) SetUpPodman(ctx context.Context) error {
	dir := filepath.Join(h.Root(), "etc/containers")
	err := os.MkdirAll(dir, 0o755)
	for name, text := range podmanFiles() {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	if err != nil {
		return fmt.Errorf("%s: set up podman: %w", h.name, err)
	}
	image, err := busyboxImage()
	if err != nil {
		return err
	}
	return h.RunInput(ctx, string(image), "podman", "import", "-q", "-", "docker.io/library/busybox").Err
}

// PodmanFlags is what podman run needs: a control group that ends with the lab.
func (h *Host) PodmanFlags() []string { return []string{"--cgroup-parent", "/" + h.cgroup()} }

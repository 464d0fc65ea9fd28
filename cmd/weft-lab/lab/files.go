package lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// OwnFiles lists everything in /run, /etc and /var/lib, or anywhere in a host
// with systemd, that is this host's own, not the machine's, with mode and content: "/etc/hosts -rw-r--r-- 1f3c…". What
// Docker keeps is left out.
func (h *Host) OwnFiles() ([]string, error) {
	var out []string
	for _, dir := range h.overlays() {
		found, err := filesBelow(filepath.Join(overlayOf(h.disk, dir), "upper"), dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.name, err)
		}
		out = append(out, found...)
	}
	found, err := filesBelow(filepath.Join(h.Root(), "run"), "/run")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.name, err)
	}
	return append(out, found...), nil
}

// filesBelow lists the files below dir as if that were called as.
func filesBelow(dir, as string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || path == dir {
			return nil // it has just gone
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has just gone
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line := filepath.Join(as, rel) + " " + info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // it has just gone
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(b))[:17]
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return nil //nolint:nilerr // it has just gone
			}
			line += " -> " + to
		}
		out = append(out, line)
		return nil
	})
	return out, err
}

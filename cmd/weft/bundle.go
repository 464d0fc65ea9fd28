package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
)

// The limits of a bundle: it is to be sent by mail.
const (
	bundleStep  = 5 * time.Second  // for each part
	bundleSlow  = 30 * time.Second // for the doctor, which has limits of its own
	bundleFile  = 2 << 20          // bytes of a part, the last ones of the log
	bundleWhys  = 64
	bundleEvent = 1000
)

// bundlePart is one file of a bundle.
type bundlePart struct {
	name string
	make func(ctx context.Context, w io.Writer) error
	long time.Duration // zero: bundleStep
}

// bundle writes everything that helps to understand a host into an archive that
// only its owner can read, and nothing that is secret. What cannot be had is
// noted in the archive, and said; also that the configuration is broken, which
// may be why somebody wants help.
func (p *program) bundle(cmd *cobra.Command, path string) error {
	s, broken := settings.Load(settings.Client, p.source(cmd), nil)
	if broken != nil {
		var err error
		if s, err = settings.LoadWithoutFile(settings.Client, p.source(cmd)); err != nil {
			return broken // it is not the file
		}
	}
	d := p.dial(s.Socket)
	ctx := cmd.Context()
	hide := newRedactor()
	asking, cancel := context.WithTimeout(ctx, bundleStep)
	if t, err := d.Token(asking); err == nil { // so that it is known what must not be in it
		hide.add(t.Token)
	}
	cancel()
	config, err := os.ReadFile(s.Config)
	if err != nil {
		config = []byte("# " + err.Error() + "\n")
	}
	config = hide.addConfig(config)
	if broken != nil { // and its text may be quoted
		p.say("%s; the bundle is made without it", hide.clean([]byte(broken.Error())))
		config = append([]byte("# "+broken.Error()+"\n"), config...)
	}

	tmp, err := os.CreateTemp(filepath.Dir(path), ".weft-report-*") // 0600
	if err != nil {
		return fmt.Errorf("report --bundle: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // it has another name by then
	failed, err := writeBundle(ctx, tmp, bundler{p, cmd, d, s, config}.parts(), hide)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("report --bundle: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("report --bundle: %w", err)
	}
	for _, f := range failed {
		p.say("not in the bundle: %s", hide.clean([]byte(f)))
	}
	return nil
}

// writeBundle makes the parts at the same time, and writes them in their order.
func writeBundle(ctx context.Context, w io.Writer, parts []bundlePart, hide *redactor) (failed []string, err error) {
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	now := time.Now()
	add := func(name string, b []byte) error {
		b = hide.clean(b)
		if err := archive.WriteHeader(&tar.Header{Name: "weft-report/" + name, Mode: 0o600, Size: int64(len(b)), ModTime: now}); err != nil {
			return err
		}
		_, err := archive.Write(b)
		return err
	}
	type result struct {
		b   []byte
		err error
	}
	results := make([]chan result, len(parts))
	for i, part := range parts {
		results[i] = make(chan result, 1)
		go func() {
			b, err := part.run(ctx)
			results[i] <- result{b, err}
		}()
	}
	for i, part := range parts {
		r := <-results[i]
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
		b := r.b
		if r.err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", part.name, r.err))
		}
		if len(b) > 0 {
			if err := add(part.name, b); err != nil {
				return failed, err
			}
		}
	}
	if err := add("missing.txt", []byte(strings.Join(append(failed, ""), "\n"))); err != nil {
		return failed, err
	}
	return failed, errors.Join(archive.Close(), zip.Close())
}

// run makes one part in its time. A part that hangs is given up, and writes into
// nothing that anybody reads.
func (part bundlePart) run(ctx context.Context) ([]byte, error) {
	limit := part.long
	if limit == 0 {
		limit = bundleStep
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		var b tail
		err := part.make(ctx, &b)
		done <- result{b.bytes(), err}
	}()
	patience := time.NewTimer(limit + time.Second)
	defer patience.Stop()
	select {
	case r := <-done:
		return r.b, r.err
	case <-patience.C:
		return nil, fmt.Errorf("no answer within %s; it was given up", limit)
	}
}

// tail keeps the last bytes that are written to it.
type tail struct {
	b   []byte
	cut bool
}

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if len(t.b) > 2*bundleFile {
		t.b, t.cut = append([]byte(nil), t.b[len(t.b)-bundleFile:]...), true
	}
	return len(b), nil
}

// bytes begins with a whole line.
func (t *tail) bytes() []byte {
	if len(t.b) > bundleFile {
		t.b, t.cut = t.b[len(t.b)-bundleFile:], true
	}
	if i := bytes.IndexByte(t.b, '\n'); t.cut && i >= 0 {
		return append([]byte("(cut)\n"), t.b[i+1:]...)
	}
	return t.b
}

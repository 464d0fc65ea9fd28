package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/weftnet/weft/router/events"
)

// The log file is cut to its last logKeep bytes when it grows beyond logMax.
const (
	logMax  = 16 << 20
	logKeep = 4 << 20
)

// newLogger writes key-value lines to stderr in the format named, and keeps the
// last ones as events.
func newLogger(level, format string, keep *events.Ring) (*slog.Logger, error) {
	var l slog.Level
	switch level {
	case "debug":
		l = slog.LevelDebug
	case "", "info":
		l = slog.LevelInfo
	case "warning":
		l = slog.LevelWarn
	case "error":
		l = slog.LevelError
	default:
		return nil, fmt.Errorf("--log-level=%s: want debug, info, warning or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(keep.Handler(slog.NewJSONHandler(os.Stderr, o))), nil
	}
	return slog.New(keep.Handler(slog.NewTextHandler(os.Stderr, o))), nil
}

// logFile is the daemon's log when stderr is a regular file, as `weft launch`
// makes it. Everything else (systemd, a terminal) keeps its own log.
type logFile struct {
	path string // constant
}

// openLogFile returns nil when stderr is not a regular file.
func openLogFile() *logFile {
	info, err := os.Stderr.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	path, err := os.Readlink("/proc/self/fd/2")
	if err != nil {
		return nil
	}
	return &logFile{path: path}
}

// Run keeps the file below its limit until ctx ends. A failure is logged once,
// and no reason to end: the disk may be full.
func (l *logFile) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	failed := false
	for {
		err := cutLog(l.path, logMax, logKeep)
		if err != nil && !failed {
			log.Warn("cannot cut the log", "file", l.path, "err", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// cutLog keeps the last keep bytes, from the start of a line, of a file larger
// than limit. The writers have it open for appending, so it is cut in place; a
// line written meanwhile may be lost.
func cutLog(path string, limit, keep int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= limit {
		return err
	}
	tail := make([]byte, keep)
	n, err := f.ReadAt(tail, info.Size()-keep)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	tail = tail[:n]
	for i, b := range tail {
		if b == '\n' {
			tail = tail[i+1:]
			break
		}
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(tail, 0)
	return err
}

// Copy writes the log to w and, with follow, what comes until ctx ends.
func (l *logFile) Copy(ctx context.Context, follow bool, w io.Writer) error {
	if l == nil {
		return errors.New("the daemon's log is not a file: under systemd see 'journalctl -u weft'")
	}
	f, err := os.Open(l.path)
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	defer f.Close()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var at int64
	for {
		n, err := io.Copy(w, f)
		if err != nil || !follow {
			return err
		}
		at += n
		if info, err := f.Stat(); err == nil && info.Size() < at { // it was cut
			if at, err = f.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

package dns

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
)

// dnsPort is the port of a resolver named in resolv.conf.
const dnsPort = 53

// maxUpstreams is how many resolvers of a resolv.conf count; the C library
// stops at the same number.
const maxUpstreams = 3

// ReadUpstreams returns the resolvers that the resolv.conf(5) at path names, in
// order and at most three. Lines that it does not understand are skipped. The
// error is that of reading the file.
func ReadUpstreams(path string) ([]netip.AddrPort, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read upstream resolvers: %w", err)
	}
	return parseResolvConf(string(text)), nil
}

func parseResolvConf(text string) []netip.AddrPort {
	var list []netip.AddrPort
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(words[1])
		if err != nil {
			continue
		}
		up := netip.AddrPortFrom(addr.Unmap(), dnsPort)
		if !slices.Contains(list, up) {
			list = append(list, up)
		}
		if len(list) == maxUpstreams {
			break
		}
	}
	return list
}

// ResolvConf follows the resolvers of a resolv.conf(5) as the file changes. It
// is safe for concurrent use.
type ResolvConf struct {
	// Constant after NewResolvConf.
	path string
	log  *slog.Logger

	// mu guards the fields below.
	mu     sync.Mutex
	seen   os.FileInfo // of the file as last read; nil before
	list   []netip.AddrPort
	failed bool
}

// NewResolvConf follows the file at path. It need not exist; a nil logger is
// silent.
func NewResolvConf(path string, log *slog.Logger) *ResolvConf {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &ResolvConf{path: path, log: log}
}

// Upstreams returns the resolvers that the file names now. It looks at the file
// every time, reads it when it changed, and keeps the last answer while it
// cannot be read.
func (r *ResolvConf) Upstreams() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.path)
	if err == nil && r.seen != nil && sameFile(info, r.seen) {
		return slices.Clone(r.list)
	}
	var list []netip.AddrPort
	if err == nil {
		list, err = ReadUpstreams(r.path)
	}
	if err != nil {
		r.failedLocked(err)
		return slices.Clone(r.list)
	}
	if r.seen == nil || r.failed || !slices.Equal(list, r.list) {
		r.log.Info("upstream resolvers", "file", r.path, "servers", list)
	}
	r.seen, r.list, r.failed = info, list, false
	return slices.Clone(list)
}

func (r *ResolvConf) failedLocked(err error) {
	if !r.failed {
		r.log.Warn("upstream resolvers cannot be read: keeping the last ones", "file", r.path, "servers", r.list, "err", err)
	}
	r.failed, r.seen = true, nil
}

// sameFile reports whether the file was not touched: same inode, size and time.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

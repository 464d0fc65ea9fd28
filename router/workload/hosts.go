package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/api"
)

// hostLine is one line of a hosts file.
type hostLine struct {
	addr  netip.Addr
	names []string
}

// The lines between which a hosts file is ours.
const (
	hostsBegin = "# weft: begin"
	hostsEnd   = "# weft: end"
	maxHosts   = 1 << 20 // bytes
)

// parseHosts reads --add-host=NAME:IP.
func parseHosts(typed []string) ([]hostLine, error) {
	var lines []hostLine
	for _, s := range typed {
		host, ip, _ := strings.Cut(s, ":")
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, usage("--add-host=%s: want NAME:IP", s)
		}
		if _, err := api.ParseFQDN(host); err != nil {
			return nil, err
		}
		lines = append(lines, hostLine{a, []string{strings.TrimSuffix(host, ".")}})
	}
	return lines, nil
}

// renderHosts returns old with our block replaced by lines. The names of the
// container itself vanish from other lines, where Docker put them next to
// another address; everything else stays.
func renderHosts(old []byte, own []string, lines []hostLine) []byte {
	var out bytes.Buffer
	ours := false
	for line := range strings.Lines(string(old)) {
		switch strings.TrimSpace(line) {
		case hostsBegin:
			ours = true
			continue
		case hostsEnd:
			ours = false
			continue
		}
		if !ours {
			out.WriteString(withoutHosts(line, own))
		}
	}
	if n := out.Len(); n > 0 && out.Bytes()[n-1] != '\n' {
		out.WriteByte('\n')
	}
	fmt.Fprintln(&out, hostsBegin)
	for _, l := range lines {
		fmt.Fprintf(&out, "%s\t%s\n", l.addr, strings.Join(l.names, " "))
	}
	fmt.Fprintln(&out, hostsEnd)
	return out.Bytes()
}

// withoutHosts returns a line without some names, or nothing when no other
// name is in it.
func withoutHosts(line string, names []string) string {
	text, comment, hasComment := strings.Cut(strings.TrimRight(line, "\r\n"), "#")
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return line
	}
	isOwn := func(s string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, s) })
	}
	kept := slices.DeleteFunc(slices.Clone(fields[1:]), isOwn)
	switch {
	case len(kept) == len(fields)-1:
		return line
	case len(kept) == 0:
		return ""
	}
	line = fields[0] + "\t" + strings.Join(kept, " ")
	if hasComment {
		line += " #" + comment
	}
	return line + "\n"
}

// hostNames returns what the container calls itself: full name first.
func hostNames(t target, names []name) []string {
	var own []string
	add := func(s string) {
		if s = strings.TrimSuffix(s, "."); s != "" && !slices.Contains(own, s) {
			own = append(own, s)
		}
	}
	if t.docker != nil && t.docker.Domainname != "" {
		add(t.docker.Hostname + "." + t.docker.Domainname)
	}
	if t.docker != nil && strings.Contains(t.docker.Hostname, ".") {
		add(t.docker.Hostname)
	}
	for _, n := range names {
		add(n.Hostname)
	}
	if t.docker != nil {
		short, _, _ := strings.Cut(t.docker.Hostname, ".")
		add(short)
	}
	return own
}

// rewriteHosts puts the container's addresses on the switch, under its names,
// and the lines asked for into its /etc/hosts. The file belongs to the
// container: nobody takes the lines out again, except what is returned when
// the attach fails after all.
func (w *Workload) rewriteHosts(t target, q wish, e entry) (restore func() error, err error) {
	own := hostNames(t, e.Names)
	var lines []hostLine
	if len(own) > 0 {
		for _, p := range union(e.Addresses, e.Adding) {
			lines = append(lines, hostLine{p.Addr(), own})
		}
	}
	lines = append(lines, q.hosts...)
	f, err := w.openHosts(t)
	if err != nil {
		return nil, fmt.Errorf("rewrite its /etc/hosts: %w", err)
	}
	defer f.Close()
	old, err := readHosts(f)
	if err == nil {
		err = overwrite(f, renderHosts(old, own, lines))
	}
	if err != nil {
		return nil, fmt.Errorf("rewrite its /etc/hosts: %w", err)
	}
	return func() error {
		f, err := w.openHosts(t)
		if err != nil {
			return err
		}
		return errors.Join(overwrite(f, old), f.Close())
	}, nil
}

// openHosts opens the file that the container sees as /etc/hosts. Docker says
// where its is. Of a process it is reached through its root directory, where
// everything is under the container's control: links that lead out of it are
// refused, and so is the file that is the host's own.
func (w *Workload) openHosts(t target) (*os.File, error) {
	const flags = os.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK
	var f *os.File
	var err error
	if t.docker != nil {
		if t.docker.HostsPath == "" {
			return nil, errors.New("the engine manages none for this container")
		}
		f, err = os.OpenFile(t.docker.HostsPath, flags, 0)
	} else {
		var root *os.Root
		root, err = os.OpenRoot(filepath.Join(w.proc, strconv.Itoa(t.pid), "root"))
		if err != nil {
			return nil, err
		}
		defer root.Close()
		f, err = root.OpenFile("etc/hosts", os.O_RDWR|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := w.checkHosts(f, t); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (w *Workload) checkHosts(f *os.File, t target) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() > maxHosts {
		return errors.New("it is not a file of reasonable size")
	}
	if host, err := os.Stat("/etc/hosts"); err == nil && os.SameFile(st, host) {
		return errors.New("the container shares the host's file, which is not ours to change")
	}
	if t.docker != nil {
		return nil
	}
	if start, err := w.startTime(t.pid); err != nil || start != t.start {
		return errors.New("the process has just ended")
	}
	return nil
}

func readHosts(f *os.File) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxHosts+1))
	if err == nil && len(b) > maxHosts {
		err = errors.New("it grows while it is read")
	}
	return b, err
}

// overwrite replaces the contents and keeps the file: it is mounted into the
// container.
func overwrite(f *os.File, b []byte) error {
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(b)))
}

package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/router/kernel"
)

// stepTime is how long one step may take.
const stepTime = 3 * time.Second

// maxOutput bounds what a program may print, in bytes.
const maxOutput = 8 << 20

// Step looks at one thing. What it found is set by the gatherer, and only when
// it came in time: a step that hangs (a disk, a program) changes nothing later.
type Step struct {
	Name string
	// Variant tells steps of one name apart that do not look at the same.
	Variant string
	// Run may be run once for several lookers: the context ends with none of
	// them, and set only reads what it brings.
	Run func(ctx context.Context) (set func(*Facts), err error)
}

// Gatherer runs steps. Who wants a step that runs already gets what that finds;
// one that hangs is not begun again while it does. It is safe for concurrent use.
type Gatherer struct {
	mu      sync.Mutex
	flights map[string]*flight
}

// flight is a step on its way. set and err are there when done is closed.
type flight struct {
	begun time.Time
	done  chan struct{}
	set   func(*Facts)
	err   error
}

// NewGatherer returns one that runs nothing yet.
func NewGatherer() *Gatherer { return &Gatherer{flights: make(map[string]*flight)} }

// Gather runs all steps at once and returns when the last has ended or been
// given up, which is after [stepTime], or when ctx ends. Facts is what is known
// before.
func (g *Gatherer) Gather(ctx context.Context, facts Facts, steps ...Step) Facts {
	flights := make([]*flight, len(steps))
	for i, s := range steps {
		if flights[i] = g.board(ctx, s); flights[i] == nil {
			facts.Stuck = append(facts.Stuck, Stuck{s.Name, "it hangs since an earlier look"})
		}
	}
	// A step that heeds the deadline may say why it failed, a little later.
	patience, cancel := context.WithTimeout(ctx, stepTime+stepTime/4)
	defer cancel()
	for i, f := range flights {
		if f == nil {
			continue
		}
		select {
		case <-f.done:
		case <-patience.Done():
		}
		select {
		case <-f.done:
			if f.err != nil {
				facts.Stuck = append(facts.Stuck, Stuck{steps[i].Name, f.err.Error()})
			}
			if f.set != nil {
				f.set(&facts)
			}
		default:
			facts.Stuck = append(facts.Stuck, Stuck{steps[i].Name, fmt.Sprintf("no answer within %s; it was given up", stepTime)})
		}
	}
	return facts
}

// board returns the flight of a step, which it begins unless it is on its way;
// nil: it is, and should have ended.
func (g *Gatherer) board(ctx context.Context, s Step) *flight {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := s.Name + "\x00" + s.Variant
	if f := g.flights[key]; f != nil {
		if time.Since(f.begun) < stepTime {
			return f
		}
		return nil
	}
	f := &flight{begun: time.Now(), done: make(chan struct{})}
	g.flights[key] = f
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTime)
		defer cancel()
		f.set, f.err = s.Run(ctx)
		close(f.done)
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.flights, key)
	}()
	return f
}

// Output runs a program and returns what it printed, with an error that says
// what it complained of. What is too long is cut.
func Output(ctx context.Context, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // a user's PATH may lack them
			if _, serr := os.Stat(dir + name); serr == nil {
				path, err = dir+name, nil
				break
			}
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s is not in PATH", name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	var out, said limited
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		if ctx.Err() != nil {
			first = "it did not end in time"
		}
		return out.String(), fmt.Errorf("%s: %w: %s", name, err, first)
	}
	if out.cut {
		err = fmt.Errorf("%s: %w", name, errTooLarge)
	}
	return out.String(), err
}

// errTooLarge says that there is more than is read.
var errTooLarge = errors.New("it is too large to be read")

// limited keeps the first bytes that are written to it. It embeds no buffer:
// that would be read into past the limit.
type limited struct {
	b   bytes.Buffer
	cut bool
}

func (l *limited) String() string { return l.b.String() }

func (l *limited) Write(b []byte) (int, error) {
	l.cut = l.cut || len(b) > maxOutput-l.b.Len()
	if room := maxOutput - l.b.Len(); room > 0 {
		l.b.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// Settings reads the host's sysctls.
func Settings(k *kernel.Kernel) Step {
	return Step{Name: "sysctls", Run: func(context.Context) (func(*Facts), error) {
		got := make(map[string]string)
		for _, key := range sysctls() {
			if v, err := k.Sysctl(key); err == nil {
				got[key] = strings.TrimSpace(v)
			}
		}
		return func(f *Facts) { f.Sysctls = got }, nil
	}}
}

// Abilities tries what the kernel can make, in a namespace of its own. It may
// load modules, as a launch would.
func Abilities() Step {
	return Step{Name: "kernel", Run: func(ctx context.Context) (func(*Facts), error) {
		k := Kernel{Looked: true}
		fresh, err := kernel.Fresh()
		if err != nil {
			return nil, err
		}
		defer fresh.Close()
		try := func(err error) string {
			if err == nil {
				return ""
			}
			return err.Error()
		}
		k.Bridge = try(fresh.AddBridge("probe-br", kernel.MAC{2, 0, 0, 0, 0, 1}, 1500))
		k.WireGuard = try(fresh.AddWireGuard("probe-wg", 1420))
		k.VXLAN = try(fresh.AddVXLAN("probe-vx", kernel.VXLAN{VNI: 1, Port: 6785, MTU: 1500}))
		if _, err := Output(ctx, "nft", "list", "tables"); err != nil {
			k.NFT = err.Error()
		}
		if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
			k.TUN = err.Error()
		} else {
			_ = f.Close()
		}
		if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
			k.IPv6 = "it was switched off when the machine started"
		}
		return func(f *Facts) { f.Kernel = k }, nil
	}}
}

// Engine reads how Docker is set up; root is before the path of its files.
func Engine(root string, plugin bool) Step {
	return Step{Name: "docker", Run: func(context.Context) (func(*Facts), error) {
		d := Docker{Config: "/etc/docker/daemon.json", IPTables: true, Plugin: plugin}
		_, err := os.Stat(filepath.Join(root, "/var/run/docker.sock"))
		d.Present = err == nil
		b, err := os.ReadFile(filepath.Join(root, d.Config))
		switch {
		case err == nil:
			d.parse(b)
		case !errors.Is(err, fs.ErrNotExist):
			d.Err = err.Error()
		}
		var resolv []netip.Addr
		if list, err := dns.ReadUpstreams(filepath.Join(root, "/etc/resolv.conf")); err == nil {
			for _, u := range list {
				resolv = append(resolv, u.Addr())
			}
		}
		return func(f *Facts) { f.Docker, f.Resolv = d, resolv }, nil
	}}
}

func (d *Docker) parse(b []byte) {
	var c struct {
		IPTables *bool    `json:"iptables"`
		Live     bool     `json:"live-restore"`
		DNS      []string `json:"dns"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		d.Err = err.Error()
		return
	}
	d.Live, d.DNS = c.Live, c.DNS
	d.IPTables = c.IPTables == nil || *c.IPTables
}

// Room looks at the disk below a directory: how much is free, and whether a
// small file can be written. With sync it is brought to the disk, for somebody
// who asks and waits; a look every 30 s must not.
func Room(dir string, sync bool) Step {
	variant := ""
	if sync {
		variant = "sync"
	}
	return Step{Name: "disk " + dir, Variant: variant, Run: func(context.Context) (func(*Facts), error) {
		d := Disk{Path: dir}
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err == nil {
			d.Free, d.Total = s.Bfree*uint64(s.Bsize), s.Blocks*uint64(s.Bsize)
			d.Inodes, d.NoInodes = s.Ffree, s.Files > 0 && s.Ffree == 0
		}
		if err := tryWrite(dir, sync, nameless); err != nil {
			d.Err = err.Error()
		}
		return func(f *Facts) { f.Disks = append(f.Disks, d) }, nil
	}}
}

// probeName is the one file that is left behind at most.
const probeName = ".doctor"

// tryWrite writes a block of a file and forgets it.
func tryWrite(dir string, sync bool, open func(dir string) (*os.File, error)) error {
	f, err := open(dir)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) {
		path := filepath.Join(dir, probeName)
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
		defer func() { _ = os.Remove(path) }()
	}
	if err != nil {
		return reason(err)
	}
	_, err = f.Write(make([]byte, 4096))
	if err == nil && sync {
		err = f.Sync()
	}
	return reason(errors.Join(err, f.Close()))
}

// nameless opens a file that is gone when it is closed, however this ends. Not
// every file system can.
func nameless(dir string) (*os.File, error) {
	return os.OpenFile(dir, os.O_WRONLY|unix.O_TMPFILE, 0o600)
}

// reason takes the name of a file out of an error.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// Resolvers asks the embedded name server, and the resolvers that it asks.
func Resolvers(address, domain string, upstreams []string) Step {
	return Step{Name: "names", Run: func(ctx context.Context) (func(*Facts), error) {
		n := Names{Address: address, Looked: true, Upstreams: make([]Upstream, len(upstreams))}
		var wait sync.WaitGroup
		wait.Go(func() { n.Err = Answers(ctx, address, "weft-doctor."+domain) })
		for i, u := range upstreams {
			wait.Go(func() { n.Upstreams[i] = Upstream{u, Answers(ctx, u, "weft-doctor.invalid.")} })
		}
		wait.Wait()
		return func(f *Facts) { f.Names = n }, nil
	}}
}

// Answers asks a name server for a name and says why no answer came; that
// there is no such name is one.
func Answers(ctx context.Context, server, name string) string {
	if _, _, err := net.SplitHostPort(server); err != nil {
		server = net.JoinHostPort(server, "53")
	}
	ctx, cancel := context.WithTimeout(ctx, stepTime*2/3)
	defer cancel()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server)
	}}
	_, err := r.LookupNetIP(ctx, "ip4", name)
	var d *net.DNSError
	switch {
	case err == nil, errors.As(err, &d) && d.IsNotFound:
		return ""
	case errors.As(err, &d) && d.IsTimeout, ctx.Err() != nil:
		return "no answer"
	case errors.As(err, &d) && strings.Contains(d.Err, "server misbehaving"):
		return "" // it answers that it does not know
	case errors.As(err, &d):
		return d.Err
	}
	return err.Error()
}

// Package bridge is the switch of this host and the walls around it: the
// bridge interface, the address of the name server on it with the routes that
// lead its answers back, the host's own addresses when it is exposed,
// three nftables tables, and the one accept that Docker's FORWARD policy forces.
//
// It does not own the ports of the bridge, the tunnels behind them, or any
// rule of anybody else.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/router/bell"
	"github.com/weftnet/weft/router/kernel"
)

const (
	// DefaultName is the bridge that Remove removes when Set was never called.
	DefaultName = "weft"

	// portPrefix begins the names of the host's ends of container interfaces.
	portPrefix = "wv"

	// minMSS leaves segments that TCP can live with.
	minMSS = 128
)

// Config is the desired state.
type Config struct {
	Name string     // of the bridge, "weft"
	MAC  kernel.MAC // fixed: a bridge would follow its ports otherwise
	MTU  int
	// MSS bounds the TCP segments, over IPv4, of connections that begin between
	// containers of different hosts, in bytes; over IPv6 they are 20 less. 0:
	// they may fill the MTU.
	MSS int
	// Told is the least size of packets inside the tunnels about which somebody is
	// told that they are too big for a path, in bytes: the routes for FrameMark and
	// WholeMark are there. 0: there are none.
	Told int
	// Cuts are the ways that do not carry every packet of WireGuard whole, and the
	// largest IP packet that they do carry, in bytes. What exceeds it is counted.
	Cuts map[netip.AddrPort]int
	DNS  netip.Addr // of the name server, on this bridge only; zero: none

	Overlay    netip.Addr // ours; its /48 is everybody's
	WireGuard  string     // device names; they need not exist yet
	VXLAN      string
	Port       uint16 // WireGuard, UDP on the underlay
	RelayPort  uint16 // of relays, UDP on the underlay; 0: none
	VXLANPort  uint16 // inside the tunnels
	GossipPort uint16 // inside the tunnels
	Exposed    []netip.Prefix
	Masquerade []netip.Prefix // subnets of Exposed whose traffic leaves the host under the host's address
}

// Kernel is what this package needs of a network namespace.
type Kernel interface {
	Do(f func() error) error
	Links() ([]kernel.Link, error)
	Link(name string) (kernel.Link, error)
	AddBridge(name string, mac kernel.MAC, mtu int) error
	DelLink(name string) error
	SetUp(name string, up bool) error
	SetMTU(name string, mtu int) error
	SetMAC(name string, mac kernel.MAC) error
	Addrs(link string) ([]netip.Prefix, error)
	AddAddr(link string, p netip.Prefix, nodad bool) error
	DelAddr(link string, p netip.Prefix) error
	Routes(table int) ([]kernel.Route, error)
	ReplaceRoute(r kernel.Route) error
	DelRoute(r kernel.Route) error
	Rules() ([]kernel.Rule, error)
	AddRule(r kernel.Rule) error
	DelRule(r kernel.Rule) error
	Sysctl(key string) (string, error)
	SetSysctl(key, value string) error
	Announce(link string, a netip.Addr) error
	FirewallGeneration() (uint32, error)
}

// Journal keeps the former values of what was changed on the host and does not
// vanish with an interface of ours, beyond the life of the daemon.
type Journal interface {
	// Record keeps the former value of a sysctl, unless one is kept already:
	// the oldest is the host's own.
	Record(key, former string) error
	// Recorded returns everything that is kept.
	Recorded() (map[string]string, error)
	// Forget drops what is kept of a sysctl; nil when there is nothing.
	Forget(key string) error
}

// Deps is what a bridge works with.
type Deps struct {
	Kernel  Kernel
	Journal Journal // nil: nothing is kept, so Remove restores no sysctl
	Log     *slog.Logger

	// Omit names rules, by their comments, that are left out. It is for tests
	// which show that something bad happens without them.
	Omit []string
}

// Bridge is the switch of one host. Its methods, save Quiet, block for some
// netlink calls and runs of nft and iptables. They may be called from any
// goroutine.
type Bridge struct {
	// Constant after New.

	kernel  Kernel
	journal Journal
	log     *slog.Logger
	omit    []string
	quiets  quiets // has its own mutex

	fragments fragments // likewise

	mu       sync.Mutex // guards what follows
	cfg      *Config    // what Set was last asked for; nil: nothing yet
	stale    bool       // the walls are not those of cfg
	uplinked []string   // the uplinks that the walls know
	walls    walls
	accept   accept
}

// walls are the nftables tables; a test puts its own in their place.
type walls interface {
	set(ctx context.Context, r ruleset) (repaired []string, err error)
	quiet(ctx context.Context, list []quiet) error
	counts(ctx context.Context) (map[netip.AddrPort]uint64, error)
	remove(ctx context.Context) error
}

// accept is the accept in iptables.
type accept interface {
	set(ctx context.Context) (repaired []string, err error)
	remove(ctx context.Context) error
}

// New returns a bridge that has touched nothing yet.
func New(d Deps) *Bridge {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Journal == nil {
		d.Journal = noJournal{}
	}
	changes := &commits{generation: d.Kernel.FirewallGeneration}
	return &Bridge{
		kernel:  d.Kernel,
		journal: d.Journal,
		log:     d.Log,
		omit:    d.Omit,
		quiets:  quiets{wake: bell.New(), limit: quietLimit, waiting: make(map[netip.AddrPort]time.Time)},
		walls:   &tables{kernel: d.Kernel, commits: changes},
		accept:  &dockerAccept{kernel: d.Kernel, commits: changes, log: d.Log},
	}
}

// Set makes the host what c says, and changes nothing when it is that already.
// What a predecessor left is adopted. On error as much as possible is done,
// and Check tries again. Without nft nothing at all is done.
func (b *Bridge) Set(ctx context.Context, c Config) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	c.Exposed = slices.Clone(c.Exposed)
	c.Masquerade = slices.Clone(c.Masquerade)
	c.Cuts = maps.Clone(c.Cuts)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cfg, b.stale = &c, true
	changes, err := b.reconcile(ctx, c, kernel.AllChanged)
	for _, what := range changes {
		b.log.Debug("set up", "what", what)
	}
	return err
}

// Check looks at everything that Set made, repairs it, and says in words what
// was wrong, one for each line of a log. Without a Set before, there is
// nothing to look at.
func (b *Bridge) Check(ctx context.Context) (repaired []string, err error) {
	return b.CheckAfter(ctx, kernel.AllChanged)
}

// CheckAfter is Check of no more than what events of these kinds can have
// changed. Only [kernel.FirewallChanged] runs nft and iptables, and some
// changes of iptables send no event: so Check must be called from time to time
// as well.
func (b *Bridge) CheckAfter(ctx context.Context, e kernel.Event) (repaired []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cfg == nil {
		return nil, nil
	}
	return b.reconcile(ctx, *b.cfg, e)
}

// Remove takes everything away that any Set ever made, and gives the sysctls
// their former values. It needs no Set before, and is nil when there is
// nothing. An interface of our name that is no bridge is not ours and stays.
func (b *Bridge) Remove(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := DefaultName
	if b.cfg != nil {
		name = b.cfg.Name
	}
	b.cfg = nil
	// First the traffic, then what holds it off.
	return errors.Join(
		b.accept.remove(ctx),
		b.removeLink(name),
		b.removeRoutes(),
		b.restoreSysctls(),
		b.walls.remove(ctx),
	)
}

// reconcile goes from what is to what c says, and names the differences. The
// walls stand before anything can come through, and nothing is put up without
// them.
func (b *Bridge) reconcile(ctx context.Context, c Config, e kernel.Event) (repaired []string, err error) {
	if b.stale {
		e = kernel.AllChanged
	}
	if e&(kernel.FirewallChanged|kernel.RouteChanged) != 0 {
		uplinks, err := b.uplinks(c)
		if err != nil {
			return nil, fmt.Errorf("bridge: %w", err)
		}
		if e&kernel.FirewallChanged != 0 || !slices.Equal(uplinks, b.uplinked) {
			if repaired, err = b.walls.set(ctx, makeRuleset(c, uplinks, b.omit)); err != nil {
				return nil, fmt.Errorf("bridge: %w", err)
			}
			b.uplinked, b.stale = uplinks, false
		}
	}
	var errs []error
	if e&^(kernel.FirewallChanged|kernel.NeighChanged) != 0 {
		for _, step := range []func(Config) ([]string, error){
			b.setLink, b.setAddrs, b.setRoutes, b.setForwarding,
		} {
			words, err := step(c)
			repaired = append(repaired, words...)
			if err != nil {
				errs = append(errs, fmt.Errorf("bridge: %w", err))
			}
		}
	}
	if e&kernel.FirewallChanged != 0 {
		words, err := b.accept.set(ctx)
		repaired, errs = append(repaired, words...), append(errs, err)
	}
	return repaired, errors.Join(errs...)
}

// uplinks are the interfaces with a default route.
func (b *Bridge) uplinks(c Config) ([]string, error) {
	if len(c.Exposed) == 0 {
		return nil, nil // nobody asks
	}
	routes, err := b.kernel.Routes(0)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range routes {
		if r.Dst.Bits() == 0 && interfaceName.MatchString(r.Link) {
			names = append(names, r.Link)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

var interfaceName = regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,15}$`)

func (c Config) check() error {
	for _, name := range []string{c.Name, c.WireGuard, c.VXLAN} {
		if !interfaceName.MatchString(name) {
			return fmt.Errorf("%q cannot name an interface", name)
		}
	}
	if c.MAC == (kernel.MAC{}) || c.MTU == 0 || c.VXLANPort == 0 || c.GossipPort == 0 {
		return errors.New("incomplete configuration")
	}
	if c.MSS != 0 && c.MSS < minMSS {
		return fmt.Errorf("TCP segments of %d bytes are too small", c.MSS)
	}
	if !c.Overlay.Is6() {
		return fmt.Errorf("overlay address %s is not IPv6", c.Overlay)
	}
	if c.DNS.IsValid() && !c.DNS.Is4() {
		return fmt.Errorf("address of the name server %s is not IPv4", c.DNS)
	}
	for _, p := range slices.Concat(c.Exposed, c.Masquerade) {
		if !p.Addr().Is4() {
			return fmt.Errorf("the host carries no IPv6 on the switch: %s cannot be exposed", p)
		}
	}
	return nil
}

type noJournal struct{}

func (noJournal) Record(string, string) error          { return nil }
func (noJournal) Recorded() (map[string]string, error) { return nil, nil }
func (noJournal) Forget(string) error                  { return nil }

// isPort says whether an interface name is one of a container's host ends.
func isPort(name string) bool { return strings.HasPrefix(name, portPrefix) }

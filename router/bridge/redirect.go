package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/weftnet/weft/router/kernel"
)

// Redirect leads what a container asks of any name server to ours, by a table
// and two rules in the container's own namespace. On networks of a plugin
// Docker's resolver (127.0.0.11) asks the host's name servers from inside the
// container, where they may be out of reach, and they would not know our names.
// What is asked of a loopback address is left alone, for Docker's own rules for
// its resolver are about that; so are name servers on the switch. It is safe
// for concurrent use.
type Redirect struct {
	server netip.Addr     // constant; IPv4
	except []netip.Prefix // constant; IPv4

	mu  sync.Mutex          // guards what follows
	nft knftables.Interface // nil: not tried yet
}

// redirectTime is how long nft may take.
const redirectTime = 5 * time.Second

// Inside is a container's network namespace; [kernel.Kernel] satisfies it.
type Inside interface {
	Do(f func() error) error
	ReplaceRoute(r kernel.Route) error
	AddRule(r kernel.Rule) error
	DelRule(r kernel.Rule) error
}

// NewRedirect returns what leads to the name server at an IPv4 address. What is
// asked of an address in except is left alone.
func NewRedirect(server netip.Addr, except ...netip.Prefix) *Redirect {
	return &Redirect{server: server, except: except}
}

// Set makes the rules be in a namespace whose interface on the switch is link,
// replacing a table of that name.
func (r *Redirect) Set(g Inside, link string) error {
	// What has no route is refused before it gets as far as the table, and on
	// an internal network nothing outside has one.
	way := kernel.Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Link: link, Table: table, Scope: kernel.ScopeLink}
	if err := g.ReplaceRoute(way); err != nil {
		return fmt.Errorf("a way to name servers: %w", err)
	}
	for _, rule := range redirectRules() {
		if err := g.AddRule(rule); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("a way to name servers: %w", err)
		}
	}
	return r.run(g, func(tx *knftables.Transaction) {
		rules := ruleset{chains: redirectChains(r.server, r.except)}
		rules.write(tx, places[0])
	})
}

// redirectRules send what no other route is for to the interface.
func redirectRules() []kernel.Rule {
	return []kernel.Rule{
		{Priority: priorityMain, DestPort: 53, SuppressPrefix: 0},
		{Priority: priorityOurs, DestPort: 53, Table: table, SuppressPrefix: -1},
	}
}

// Remove takes them away; there need not be any.
func (r *Redirect) Remove(g Inside) error {
	var errs []error
	for _, rule := range redirectRules() {
		if err := g.DelRule(rule); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, r.run(g, func(tx *knftables.Transaction) {
		t := &knftables.Table{Family: places[0].family, Name: places[0].name}
		tx.Add(t) // deleting what is not there is an error
		tx.Delete(t)
	}))...)
}

func (r *Redirect) run(g Inside, fill func(tx *knftables.Transaction)) error {
	nft, err := r.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), redirectTime)
	defer cancel()
	tx := nft.NewTransaction()
	fill(tx)
	if err := g.Do(func() error { return nft.Run(ctx, tx) }); err != nil {
		return fmt.Errorf("write nftables rules of a container: %w", err)
	}
	return nil
}

// open finds nft once: that is a process, too.
func (r *Redirect) open() (knftables.Interface, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nft != nil {
		return r.nft, nil
	}
	nft, err := openNFT()
	if err != nil {
		return nil, err
	}
	r.nft = nft
	return nft, nil
}

// redirectChains are pure. The address of a container's way to the outside may
// be the source of what is led elsewhere, hence the second chain: the answer
// would go there, and strict reverse path filters would drop both.
func redirectChains(server netip.Addr, except []netip.Prefix) []chain {
	to := chain{
		family: knftables.InetFamily, name: "weft-names",
		kind: knftables.NATType, hook: knftables.OutputHook, priority: "dstnat",
	}
	from := chain{
		family: knftables.InetFamily, name: "weft-names-from",
		kind: knftables.NATType, hook: knftables.PostroutingHook, priority: "srcnat",
	}
	for _, p := range append([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, except...) {
		to.add("names-elsewhere", `ip daddr %s return`, p.Masked())
	}
	for _, l4 := range []string{"udp", "tcp"} {
		to.add("names", `meta nfproto ipv4 %s dport 53 dnat ip to %s`, l4, server)
		from.add("names", `ip daddr %s %s dport 53 masquerade`, server, l4)
	}
	return []chain{to, from}
}

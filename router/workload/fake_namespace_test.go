package workload

import (
	"net/netip"

	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// namespace is a fake namespace on a power line.
type namespace struct {
	*kerneltest.Fake
	power *power
	added func(n *namespace, p netip.Prefix) // nil: nobody asks
}

func (n *namespace) Do(f func() error) error {
	return n.power.use(func() error { return n.Fake.Do(f) })
}

func (n *namespace) Links() ([]kernel.Link, error) { return get(n.power, n.Fake.Links) }

func (n *namespace) Link(name string) (kernel.Link, error) {
	return get(n.power, func() (kernel.Link, error) { return n.Fake.Link(name) })
}

func (n *namespace) Addrs(link string) ([]netip.Prefix, error) {
	return get(n.power, func() ([]netip.Prefix, error) { return n.Fake.Addrs(link) })
}

func (n *namespace) Routes(table int) ([]kernel.Route, error) {
	return get(n.power, func() ([]kernel.Route, error) { return n.Fake.Routes(table) })
}

func (n *namespace) Sysctl(key string) (string, error) {
	return get(n.power, func() (string, error) { return n.Fake.Sysctl(key) })
}

func (n *namespace) SetSysctl(key, value string) error {
	return n.power.use(func() error { return n.Fake.SetSysctl(key, value) })
}

func (n *namespace) AddVeth(host string, mtu int, guest kernel.Guest, name string, mac kernel.MAC) error {
	return n.power.use(func() error { return n.Fake.AddVeth(host, mtu, guest.(*namespace).Fake, name, mac) })
}

func (n *namespace) DelLink(name string) error {
	return n.power.use(func() error { return n.Fake.DelLink(name) })
}

func (n *namespace) SetUp(name string, up bool) error {
	return n.power.use(func() error { return n.Fake.SetUp(name, up) })
}

func (n *namespace) SetMTU(name string, mtu int) error {
	return n.power.use(func() error { return n.Fake.SetMTU(name, mtu) })
}

func (n *namespace) SetMaster(name, master string) error {
	return n.power.use(func() error { return n.Fake.SetMaster(name, master) })
}

func (n *namespace) SetAlias(name, alias string) error {
	return n.power.use(func() error { return n.Fake.SetAlias(name, alias) })
}

func (n *namespace) AddAddr(link string, p netip.Prefix, nodad bool) error {
	if n.added != nil {
		n.added(n, p)
	}
	return n.power.use(func() error { return n.Fake.AddAddr(link, p, nodad) })
}

func (n *namespace) DelAddr(link string, p netip.Prefix) error {
	return n.power.use(func() error { return n.Fake.DelAddr(link, p) })
}

func (n *namespace) ReplaceRoute(r kernel.Route) error {
	return n.power.use(func() error { return n.Fake.ReplaceRoute(r) })
}

func (n *namespace) DelRoute(r kernel.Route) error {
	return n.power.use(func() error { return n.Fake.DelRoute(r) })
}

// lead notes what a resolver in a namespace was led to.
func (w *world) lead(g attach.Guest, to int) error {
	return w.power.use(func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.led[g.ID()] = to
		return nil
	})
}

func (n *namespace) Announce(link string, a netip.Addr) error {
	return n.power.use(func() error { return n.Fake.Announce(link, a) })
}

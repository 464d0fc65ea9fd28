package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/kernel"
)

// Sight is what an interface is found to be.
type Sight struct {
	Interface string     // inside
	MAC       kernel.MAC // inside
	Addresses []netip.Prefix
	Multicast bool // 224.0.0.0/4 is routed through it
}

// Look says what the interface of the namespace at path is by now. It gives
// [ErrChanged] when path is no longer ns, and [fs.ErrNotExist] when path is
// gone or there is no interface.
func (a *Attacher) Look(path string, ns Namespace) (Sight, error) {
	return a.lookAt(path, ns, ns.HostEnd())
}

// LookEndpoint is [Attacher.Look] for the interface of an endpoint.
func (a *Attacher) LookEndpoint(path string, ns Namespace, id string) (Sight, error) {
	end, _ := EndpointEnds(id)
	return a.lookAt(path, ns, end)
}

func (a *Attacher) lookAt(path string, ns Namespace, name string) (Sight, error) {
	g, now, err := a.enter(path)
	if err != nil {
		return Sight{}, err
	}
	defer g.Close()
	if now != ns {
		return Sight{}, ErrChanged
	}
	end, err := a.host.Link(name)
	if err != nil {
		return Sight{}, err
	}
	links, err := g.Links()
	if err != nil {
		return Sight{}, fmt.Errorf("list links of the container: %w", err)
	}
	inside := match(end, links)
	if inside == nil {
		return Sight{}, fmt.Errorf("the other end of %s: %w", end.Name, fs.ErrNotExist)
	}
	s := Sight{Interface: inside.Name, MAC: inside.MAC}
	if s.Addresses, err = g.Addrs(inside.Name); err != nil {
		return Sight{}, err
	}
	routes, err := g.Routes(0)
	if err != nil {
		return Sight{}, fmt.Errorf("list routes of the container: %w", err)
	}
	s.Multicast = slices.ContainsFunc(routes, func(r kernel.Route) bool {
		return r.Link == inside.Name && r.Dst == multicast()
	})
	return s, nil
}

// Strangers lists every host end whose name is not in keep.
func (a *Attacher) Strangers(keep []string) ([]kernel.Link, error) {
	return strangers(a.host, keep)
}

func strangers(host Host, keep []string) ([]kernel.Link, error) {
	links, err := host.Links()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return slices.DeleteFunc(links, func(l kernel.Link) bool {
		return l.Kind != "veth" || !isHostEnd(l.Name) || slices.Contains(keep, l.Name)
	}), nil
}

// Sweep deletes every host end whose name is not in keep, and returns their
// names.
func (a *Attacher) Sweep(keep []string) ([]string, error) { return sweep(a.host, keep) }

// Reset deletes every host end in host's namespace, whoever knows of it.
func Reset(host Host) error {
	_, err := sweep(host, nil)
	return err
}

func sweep(host Host, keep []string) ([]string, error) {
	links, err := strangers(host, keep)
	if err != nil {
		return nil, err
	}
	var gone []string
	var errs []error
	for _, l := range links {
		if err := host.DelLink(l.Name); err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", l.Name, err))
			continue
		}
		gone = append(gone, l.Name)
	}
	return gone, errors.Join(errs...)
}

// HostRoutes lists the routes of the host that do not lead to the switch.
func (a *Attacher) HostRoutes() ([]kernel.Route, error) {
	routes, err := a.host.Routes(0)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return slices.DeleteFunc(routes, func(r kernel.Route) bool { return r.Link == a.bridge }), nil
}

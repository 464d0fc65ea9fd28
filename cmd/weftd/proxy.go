package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/weftnet/weft/router/docker/proxy"
)

// dockerProxy is the proxy of Docker's API and where it listens.
type dockerProxy struct {
	*proxy.Proxy
	doors []*proxy.Door
}

// prepareProxy is for what others read before the proxy is made: who starts us
// may have pointed his Docker client at us, and people must know what they
// opened.
func (d *daemon) prepareProxy() error {
	const host, former = "DOCKER_HOST", "ORIG_DOCKER_HOST"
	s := d.settings
	if at := os.Getenv(host); at == s.ProxyEndpoint() || at == "unix://"+s.ProxySocket() {
		if err := os.Setenv(host, os.Getenv(former)); err != nil { //nolint:forbidigo // nothing else runs yet
			return err
		}
	}
	tcp := slices.IndexFunc(s.Proxy.Listen, func(e string) bool { return strings.HasPrefix(e, "tcp://") })
	if s.Proxy.On && s.Plugin && tcp >= 0 && !s.Proxy.TLS {
		d.notes = append(d.notes, "Docker's API is served without TLS at "+s.Proxy.Listen[tcp]+": whoever reaches that port is root on this host")
	}
	return nil
}

// wireProxy opens the proxy's doors. That its own cannot be opened is no reason
// for containers to lose their network; one that somebody asked for is.
func (d *daemon) wireProxy(ctx context.Context) error {
	s := d.settings
	if !s.Proxy.On || !s.Plugin { // it connects containers to a network of the plugin
		return nil
	}
	dial, socket, err := proxy.Dialer()
	if err != nil {
		return err
	}
	c := proxy.Config{
		Dial: dial, Socket: socket, Backend: d.router,
		Name: s.PluginName(), Range: s.Range, Subnet: s.DefaultSubnet, NoDefault: s.Proxy.NoDefaultIPAlloc, WithoutDNS: s.WithoutDNS,
		NoRewriteHosts: s.Proxy.NoRewriteHosts, RewriteInspect: s.Proxy.RewriteInspect,
		Label: s.Proxy.HostnameFromLabel, Replacement: s.Proxy.HostnameReplacement,
		Log: d.log.With("part", "proxy"),
	}
	if c.Match, err = regexp.Compile(s.Proxy.HostnameMatch); err != nil {
		return err
	}
	if !s.NoDNS {
		c.Domain = s.DNSDomain
		c.DNS = resolverAddress(s.DNSListen)
	}
	p := &dockerProxy{Proxy: proxy.New(c)}
	door, err := p.Open(ctx, s.ProxySocket())
	if err != nil {
		d.log.Error("no proxy for Docker's clients", "err", err)
	} else {
		p.doors = append(p.doors, door)
	}
	lock := proxy.TLS{}
	if s.Proxy.TLS {
		lock.Cert, lock.Key = s.Proxy.TLSCert, s.Proxy.TLSKey
	}
	if s.Proxy.TLSVerify {
		lock.CA = s.Proxy.TLSCACert
	}
	for _, endpoint := range s.Proxy.Listen {
		door, err := p.OpenEndpoint(ctx, endpoint, lock)
		if err != nil {
			return errors.Join(fmt.Errorf("serve Docker's API: %w", err), p.close())
		}
		p.doors = append(p.doors, door)
	}
	d.proxy = p
	return nil
}

// resolverAddress returns the name server's address if a container can ask it:
// Docker always asks port 53.
func resolverAddress(at netip.AddrPort) netip.Addr {
	if at.Port() != 53 || at.Addr().IsUnspecified() {
		return netip.Addr{}
	}
	return at.Addr()
}

// close closes the doors of a proxy that never ran.
func (p *dockerProxy) close() error {
	var errs []error
	for _, door := range p.doors {
		errs = append(errs, door.Close())
	}
	return errors.Join(errs...)
}

// runProxy serves Docker's clients until ctx ends.
func (d *daemon) runProxy(ctx context.Context) error {
	if d.proxy == nil {
		return nil
	}
	return d.proxy.Run(ctx, d.proxy.doors)
}

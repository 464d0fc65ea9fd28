package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/ui"
)

// picture is the page on the status address.
type picture struct {
	addr string // constant: of --status-addr; empty: there is none
	page *ui.UI // constant after show
}

// show makes the page of a backend. It is off until somebody turns it on.
func (p *picture) show(b ui.Backend, on bool, log *slog.Logger) {
	p.page = ui.New(ui.Config{Backend: b, Log: log})
	if !on {
		return
	}
	if _, err := p.local(); err != nil {
		log.Warn("the picture is not shown", "err", err)
	}
	p.page.TurnOn()
}

// handler serves everything below [ui.Root].
func (p *picture) handler() http.Handler { return p.page }

// UI implements [api.Backend].
func (p *picture) UI(_ context.Context, q api.UIRequest) (api.UI, error) {
	if q.Off {
		p.page.TurnOff()
		return api.UI{}, nil
	}
	at, err := p.local()
	if err != nil {
		return api.UI{}, err
	}
	path, expires := p.page.Invite()
	return api.UI{URL: "http://" + at + path, Expires: expires.Truncate(time.Second)}, nil
}

// local is where a browser of this host finds the page. It is not encrypted on
// its way, so it is served on loopback only.
func (p *picture) local() (string, error) {
	if p.addr == "" {
		return "", fmt.Errorf("%w: the picture is on the status address, and there is none: 'weft stop', then 'weft launch --resume --status-addr=127.0.0.1:6782'", api.ErrConflict)
	}
	host, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		return "", fmt.Errorf("status address: %w", err)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && addr.IsUnspecified() && addr.Is4():
		return net.JoinHostPort("127.0.0.1", port), nil
	case err == nil && addr.IsUnspecified():
		return net.JoinHostPort("::1", port), nil
	case err == nil && addr.IsLoopback():
		return p.addr, nil
	}
	return "", fmt.Errorf("%w: the picture is shown on loopback only, and the status address is %s: choose 127.0.0.1:6782, or :6782 for both", api.ErrConflict, p.addr)
}

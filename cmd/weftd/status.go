package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weftnet/weft/router/ui"
)

// healthTime is how long the daemon may take to answer whoever asks whether it
// is alive.
const healthTime = 5 * time.Second

// serveStatus serves --status-addr until ctx ends.
func (d *daemon) serveStatus(ctx context.Context) error {
	registry := prometheus.NewPedanticRegistry()
	for _, c := range []prometheus.Collector{
		newMetrics(d.router, d.server, d.gossip),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	mux := http.NewServeMux()
	recent := newRecentStatus(d.router)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: scrapes}))
	mux.Handle("GET /healthz", healthz(recent))
	mux.Handle("GET /readyz", readyz(recent))
	doors := http.NewServeMux()
	doors.Handle("/", readWithin(readTime, ownHostOnly(mux)))
	doors.Handle(ui.Root, readWithin(0, d.picture.handler())) // stricter, but a browser names the page's own origin
	srv := newStatusServer(doors, d.log)
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", d.settings.StatusAddr)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w; choose another --status-addr, or an empty one for none", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(limitListener(ln, statusConnections)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// healthz answers 200 as long as the daemon's loops answer: what does not for
// some time is to be restarted.
func healthz(status statusReader) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTime)
		defer cancel()
		if _, err := status.Status(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
}

// readyz answers 200 when containers of this host can use the switch, and else
// says what is waited for.
func readyz(status statusReader) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTime)
		defer cancel()
		s, err := status.Status(ctx)
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case !s.Ready:
			http.Error(w, "not ready: "+s.Waiting, http.StatusServiceUnavailable)
		default:
			_, _ = fmt.Fprintln(w, "ready")
		}
	})
}

// ownHostOnly refuses foreign Host and Origin headers: they are what a page of
// another site sends when it uses a name of its own for our address.
func ownHostOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.Trim(host, "[]")
		if r.Header.Get("Origin") != "" || (net.ParseIP(host) == nil && host != "localhost") {
			http.Error(w, "this address is for programs of this host", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

package socket

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Serve answers on ln until ctx ends, gives requests that are under way then a
// grace, and returns when they are done or it is over. It closes ln, and returns
// nil when ctx was the reason. Who makes h says whether the contexts of requests
// end with ctx.
func Serve(ctx context.Context, h *http.Server, ln net.Listener, grace time.Duration) error {
	stopped := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(stopped)
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if h.Shutdown(short) != nil {
			_ = h.Close() // whoever still asks has had the grace
		}
	})
	err := h.Serve(ln)
	if unhook() {
		return err // ctx goes on: the listener failed
	}
	<-stopped
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

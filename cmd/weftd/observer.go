package main

import (
	"context"
	"io"

	"github.com/weftnet/weft/router/doctor"
	"github.com/weftnet/weft/router/events"
)

// observer tells of the daemon itself.
type observer struct {
	log *logFile // nil: the log is kept by somebody else
	*events.Ring
	*picture
	*doctor.Physician
}

// Logs implements [api.Backend].
func (o observer) Logs(ctx context.Context, follow bool, w io.Writer) error {
	return o.log.Copy(ctx, follow, w)
}

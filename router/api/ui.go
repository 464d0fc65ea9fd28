package api

import (
	"context"
	"time"
)

// UI is the way to the picture.
type UI struct {
	URL     string    // opens it once; whoever holds it can look
	Expires time.Time // until when
}

// UIRequest says what to do with the picture.
type UIRequest struct {
	Off bool // turn it off
}

// UI implements [Backend].
func (c *Client) UI(ctx context.Context, r UIRequest) (UI, error) {
	return post[UI](ctx, c, "/v1/ui", r)
}

package tap

import (
	"context"
	"net/netip"
	"time"

	"github.com/weftnet/weft/router/fdb"
)

// sweepTime is the step in which the table sees time pass; queries are due at
// multiples of it.
const sweepTime = fdb.QueryAtStart * time.Second

// beginQueries starts the goroutine that asks the containers of this host
// which groups they are in, and ages the table. What they answer goes to the
// other hosts, which know then what this one wants.
func (p *Port) beginQueries() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.queries(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (p *Port) queries(ctx context.Context) {
	tick := time.NewTicker(sweepTime)
	defer tick.Stop()
	var w writer
	var v4, v6 [256]byte
	for n := 0; ; n++ {
		if fdb.QueryDue(n) {
			n4, n6 := fdb.Queries(v4[:], v6[:], p.querier())
			if f := p.tap.Load(); f != nil {
				for _, b := range [][]byte{v4[:n4], v6[:n6]} {
					if len(b) > 0 {
						_ = w.plain(f, b)
					}
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.table.Sweep()
		}
	}
}

// querier is the address that queries come from.
func (p *Port) querier() (m fdb.MAC) {
	if q := p.plane.Load(); q != nil {
		m = fdb.Querier(netip.AddrFrom16(q.local))
	}
	return m
}

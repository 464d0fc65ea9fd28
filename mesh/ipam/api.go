package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// Request says for whom an address is wanted.
type Request struct {
	Key    string       // who holds it: "docker:ID", "ns:DEV:INO", "weft:expose"; at most 255 bytes
	Label  string       // for people
	Subnet netip.Prefix // of [Allocator.Allocate]; zero: the default one
	// Waiting is told why it takes so long, in the goroutine of the caller,
	// once per change; nil: nobody asks.
	Waiting func(reason string)
}

func (r Request) check() error {
	if r.Key == "" || wire.Printable(r.Key) != r.Key {
		return fmt.Errorf("holder %q: want 1 to %d bytes of printable text", r.Key, wire.MaxText)
	}
	return nil
}

// Range returns the range, host bits zero.
func (a *Allocator) Range() netip.Prefix { return a.cfg.Range }

// Subnet returns the subnet of requests that name none.
func (a *Allocator) Subnet() netip.Prefix { return a.cfg.Subnet }

// Status returns the latest state. It does not block.
func (a *Allocator) Status() Status { return *a.published.Load() }

// Receive takes a message from a peer. It copies and does not block; too many
// at once are dropped.
func (a *Allocator) Receive(from crypto.Identity, msg []byte) { a.desk.receive(from, msg) }

// SetPeers replaces the list of all known peers. Nothing is given before its
// first call. The list must not be modified later. It does not block.
func (a *Allocator) SetPeers(list []Peer) {
	e := peersEvent{Peers: list}
	if a.cfg.Targets != nil {
		e.Targets = a.cfg.Targets()
	}
	a.desk.leave(e)
}

// SetEntries replaces the list of the entries of others; those that are not
// of this package are passed over. The list must not be modified later. It
// does not block.
func (a *Allocator) SetEntries(list []Entry) { a.desk.leave(entriesEvent{list}) }

// Allocate gives the key an address in a subnet, the lowest that is free. If
// it has one there, also while it counts as dead, it gets that one. It blocks
// until there is one or ctx ends, and then leaves nothing. Subnets outside the
// range give [ErrRange].
func (a *Allocator) Allocate(ctx context.Context, r Request) (netip.Prefix, error) {
	if err := r.check(); err != nil {
		return netip.Prefix{}, err
	}
	res, err := a.do(ctx, r.Waiting, func(t ticket) event {
		return allocateEvent{Ticket: t, Key: r.Key, Label: wire.Printable(r.Label), Subnet: r.Subnet}
	})
	if err == nil && res.Fresh && ctx.Err() != nil {
		return netip.Prefix{}, a.undo(ctx, r.Key, res.Addr.Addr())
	}
	return res.Addr, err
}

// Claim gives the key this address. It fails with [ErrConflict] when somebody
// else has it, whom the error names, and with [ErrUnreachable] when whoever
// would know is out of reach; else it may wait like Allocate, up to 15 s for
// one that is just known and was never met. Addresses outside the range are
// nobody's business here.
func (a *Allocator) Claim(ctx context.Context, r Request, addr netip.Addr) error {
	if err := r.check(); err != nil {
		return err
	}
	res, err := a.do(ctx, r.Waiting, func(t ticket) event {
		return claimEvent{Ticket: t, Key: r.Key, Label: wire.Printable(r.Label), Addr: addr}
	})
	if err == nil && res.Fresh && ctx.Err() != nil {
		return a.undo(ctx, r.Key, addr)
	}
	return err
}

// undo gives back what came too late: nobody waits for it any more.
func (a *Allocator) undo(ctx context.Context, key string, addr netip.Addr) error {
	_, err := a.Release(context.WithoutCancel(ctx), key, []netip.Addr{addr})
	return errors.Join(context.Cause(ctx), err)
}

// Release takes addresses from the key at once, nil: all it has. It returns
// those that it had.
func (a *Allocator) Release(ctx context.Context, key string, addrs []netip.Addr) ([]netip.Addr, error) {
	addrs = slices.Clone(addrs)
	res, err := a.do(ctx, nil, func(t ticket) event { return releaseEvent{Ticket: t, Key: key, Addrs: addrs} })
	return res.Released, err
}

// Move gives addresses of one key to another one of this host, so that nobody
// can have them in between. What the former does not have stays where it is.
func (a *Allocator) Move(ctx context.Context, from string, r Request, addrs []netip.Addr) error {
	if err := r.check(); err != nil {
		return err
	}
	addrs = slices.Clone(addrs)
	_, err := a.do(ctx, nil, func(t ticket) event {
		return moveEvent{Ticket: t, From: from, Key: r.Key, Label: wire.Printable(r.Label), Addrs: addrs}
	})
	return err
}

// Died releases what the key has after 30 s, but for the addresses that it is
// given again until then. It does not block.
func (a *Allocator) Died(key string) { a.desk.leave(diedEvent{key}) }

// Adopt says who holds what on this host, by key. It is called once after the
// start, also with nobody: what the database knows beyond it counts as dead
// then, and without it nothing is given where the database was lost. When it
// returns, nothing of that is given to others here. Addresses that another
// host gives away are asked for until it agrees.
func (a *Allocator) Adopt(ctx context.Context, live map[string]Found) error {
	copied := make(map[string]Found, len(live))
	for key, f := range live {
		if err := (Request{Key: key}).check(); err != nil {
			return err
		}
		copied[key] = Found{Label: wire.Printable(f.Label), Addrs: slices.Clone(f.Addrs)}
	}
	_, err := a.do(ctx, nil, func(t ticket) event { return adoptEvent{Ticket: t, Live: copied} })
	return err
}

// Prime waits until the range has been divided, and divides it.
func (a *Allocator) Prime(ctx context.Context, waiting func(reason string)) error {
	_, err := a.do(ctx, waiting, func(t ticket) event { return primeEvent{t} })
	return err
}

// Remove takes over the space of peers that are gone for good. While one of
// them answers, and, without force, while others are out of reach that might
// have got space from them, it fails with [ErrRefused].
func (a *Allocator) Remove(ctx context.Context, peers []crypto.Identity, force bool, waiting func(reason string)) ([]Taken, error) {
	peers = slices.Clone(peers)
	res, err := a.do(ctx, waiting, func(t ticket) event { return removeEvent{Ticket: t, Peers: peers, Force: force} })
	return res.Taken, err
}

// HandOver gives all blocks of this host to a peer in reach, which it returns
// with the number of addresses; zero: there was nothing to give. After that
// this host gives no addresses any more.
func (a *Allocator) HandOver(ctx context.Context, waiting func(reason string)) (to crypto.Identity, ips uint64, err error) {
	res, err := a.do(ctx, waiting, func(t ticket) event { return handOverEvent{t} })
	return res.To, res.IPs, err
}

// do leaves a request with the loop and waits for the answer. When ctx ends it
// is cancelled, and its error is that of ctx unless it was done already.
func (a *Allocator) do(ctx context.Context, waiting func(string), build func(ticket) event) (result, error) {
	if ctx.Err() != nil {
		return result{}, context.Cause(ctx)
	}
	c := a.desk.request(build)
	if c == nil {
		return result{}, ErrClosed
	}
	ended := ctx.Done()
	for {
		select {
		case r := <-c.done:
			if errors.Is(r.Err, errCancelled) {
				r.Err = context.Cause(ctx)
			}
			return r, r.Err
		case why := <-c.reasons:
			if waiting != nil {
				waiting(why)
			}
		case <-ended:
			if a.desk.withdraw(c) {
				return result{}, context.Cause(ctx)
			}
			ended = nil // now the answer comes
		}
	}
}

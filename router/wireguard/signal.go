package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// SendOptions say how a packet leaves. The zero value is as WireGuard's own
// packets do.
type SendOptions struct {
	TTL int // hops that the packet may take; 0: the system's default
	// DontFragment sets the bit of that name (an IPv6 packet has no need of
	// one): whoever cannot send the packet on whole drops it.
	DontFragment bool
	// From is the address of this host to send from. Zero, or one that does not
	// work (any more): the kernel chooses.
	From netip.Addr
	// Segment says that these are several packets, each of so many bytes but
	// the last, which may be shorter; 0: it is one. It does not go with TTL and
	// DontFragment, and needs an in-process device.
	Segment int
	// Coalesced gives the kernel several packets in one piece, if this host can
	// do that, whether they arrive ([Peer.Single]) or not; else each is sent by
	// itself.
	Coalesced bool
}

// ErrTooLarge is returned for a packet that must not be fragmented and exceeds
// the MTU of the interface that it would leave by.
var ErrTooLarge = errors.New("larger than the MTU of the interface")

// Send sends a packet that is none of WireGuard's from WireGuard's port, with
// the device's mark: for everybody on the way it belongs to the same flow. It
// needs a Set before. It does not wait for an answer, nor for any other method
// of the device. Sent is not received; an error is of this host: ErrTooLarge,
// no way there, a closed device, or [errors.ErrUnsupported] when the host lacks
// the protocol. A packet with TTL or DontFragment takes a raw socket
// (CAP_NET_RAW), in kernel mode any packet does.
func (d *Device) Send(to netip.AddrPort, b []byte, o SendOptions) error {
	var err error
	to = unmap(to)
	if o.From = o.From.Unmap().WithZone(""); o.From.Is4() != to.Addr().Is4() {
		o.From = netip.Addr{}
	}
	switch {
	case o.Segment > 0 && (d.door == nil || o.TTL != 0 || o.DontFragment):
		err = errors.ErrUnsupported
	case d.door != nil:
		err = d.door.signal(to, b, o)
	case d.raw != nil:
		err = d.raw.send(flow{to: to, from: o.From}, [][]byte{b}, o)
	default:
		err = errors.ErrUnsupported
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EMSGSIZE):
		err = fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, unix.EAFNOSUPPORT):
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return fmt.Errorf("device %s: send to %s: %w", d.name, to, err)
}

// Quiet drops what WireGuard would receive from an address, for a while:
// every authentic packet from there would be taken for a move of the peer
// (docs/protocol.md#signals). Packets of other kinds still come. A second call for
// an address replaces the first; 0 ends it.
func (d *Device) Quiet(from netip.AddrPort, t time.Duration) error {
	from = unmap(from)
	var err error
	switch {
	case !from.IsValid():
		err = fs.ErrInvalid
	case d.door != nil:
		d.door.quiet.set(from, t)
	case d.quiet != nil:
		err = d.quiet(from, t)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("device %s: drop what comes from %s: %w", d.name, from, err)
	}
	return nil
}

package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// PeerStatus is what the device says of a peer.
type PeerStatus struct {
	PublicKey [32]byte
	Endpoint  netip.AddrPort // where its packets go now; zero: not known
	// LastHandshake is the time of the last one since the peer was added or
	// re-added; zero: none.
	LastHandshake time.Time
	// RxBytes and TxBytes count on over re-adds.
	RxBytes, TxBytes uint64
	// Fragmented counts the packets that left in fragments to where the peer is
	// now, because they were larger than its path; peers behind one relay share
	// it. The kernel's WireGuard does not tell: 0.
	Fragmented uint64
}

// known is what we remember of a peer that the device does not.
type known struct {
	endpoint  netip.AddrPort // as last read or written
	rx, tx    uint64         // as last read, since the last re-add
	rx0, tx0  uint64         // of the time before
	handshake time.Time      // as last read, since the last re-add
	read      time.Time
	initiated time.Time // the last initiation that we caused
}

// initiationGap keeps two initiations to a peer apart: WireGuard's timestamps
// tell 16 ms apart and a receiver drops what comes within 20 ms, so a second
// one too soon is refused, and has voided the first.
const initiationGap = 100 * time.Millisecond

// stale is when what was read of a peer is read again before a re-add: that
// much of its traffic may be missing from the counters. A start with a
// thousand peers re-adds hundreds in a second, and one read tells of all.
const stale = 200 * time.Millisecond

// errNoPeer is returned for a peer that Set has not been told of.
var errNoPeer = errors.New("no such peer")

// Peers returns what the device says of its peers, in no order.
func (d *Device) Peers() ([]PeerStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("device %s: %w", d.name, fs.ErrClosed)
	}
	is, err := d.readLocked()
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", d.name, err)
	}
	list := make([]PeerStatus, 0, len(is.Peers))
	for _, p := range is.Peers {
		k := d.known[p.PublicKey]
		s := PeerStatus{
			PublicKey:     p.PublicKey,
			Endpoint:      k.endpoint,
			LastHandshake: p.LastHandshakeTime,
			RxBytes:       k.rx0 + k.rx,
			TxBytes:       k.tx0 + k.tx,
		}
		if d.door != nil {
			if n := d.door.counter(k.endpoint); n != nil {
				s.Fragmented = n.Load()
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// noteLocked remembers what was read.
func (d *Device) noteLocked(is *wgtypes.Device, at time.Time) {
	for _, p := range is.Peers {
		k := d.knownLocked(p.PublicKey)
		k.endpoint = toAddrPort(p.Endpoint)
		rx, tx := uint64(p.ReceiveBytes), uint64(p.TransmitBytes)
		if rx < k.rx || tx < k.tx { // re-added by somebody else
			k.rx0, k.tx0 = k.rx0+k.rx, k.tx0+k.tx
		}
		k.rx, k.tx, k.handshake, k.read = rx, tx, p.LastHandshakeTime, at
	}
}

func (d *Device) knownLocked(key wgtypes.Key) *known {
	k := d.known[key]
	if k == nil {
		k = &known{}
		d.known[key] = k
	}
	return k
}

// SetEndpoint sets where the packets to a peer go, until the peer is heard
// from another place. It begins no handshake, with one exception: a kernel
// peer that has had none is re-added, which begins one. The kernel would do so
// by itself when something waits to be sent, and an [Device.Initiate] right
// after would void it by one that the other end refuses for coming too soon.
func (d *Device) SetEndpoint(key [32]byte, ep netip.AddrPort) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.setEndpointLocked(key, ep); err != nil {
		return fmt.Errorf("device %s: set endpoint %s: %w", d.name, ep, err)
	}
	return nil
}

func (d *Device) setEndpointLocked(key wgtypes.Key, ep netip.AddrPort) error {
	if err := d.usableLocked(key); err != nil {
		return err
	}
	if !ep.IsValid() {
		return errors.New("no address")
	}
	ep = unmap(ep)
	k := d.knownLocked(key)
	if d.local != nil {
		ok, err := d.local.SetEndpoint(key, ep)
		if err == nil && !ok {
			err = errNoPeer
		}
		if err == nil {
			k.endpoint = ep
		}
		return err
	}
	if err := d.refreshLocked(k); err != nil {
		return err
	}
	if k.handshake.IsZero() && time.Since(k.initiated) >= initiationGap {
		p := d.wanted[key]
		p.Endpoint = ep
		return d.readdLocked(p)
	}
	err := d.configureLocked(wgtypes.Config{Peers: []wgtypes.PeerConfig{
		{PublicKey: key, UpdateOnly: true, Endpoint: toUDP(ep)},
	}})
	if err == nil {
		k.endpoint = ep
	}
	return err
}

// refreshLocked reads the device unless what is known of the peer is recent.
func (d *Device) refreshLocked(k *known) error {
	if time.Since(k.read) < stale {
		return nil
	}
	_, err := d.readLocked()
	return err
}

// usableLocked says why nothing can be done to a peer.
func (d *Device) usableLocked(key wgtypes.Key) error {
	if d.closed {
		return fs.ErrClosed
	}
	if _, ok := d.wanted[key]; !ok {
		return errNoPeer
	}
	return nil
}

// Readd removes a peer and adds it again as p says: handshake, session, the
// timestamp of its last initiation and its endpoint are forgotten. With an
// endpoint a handshake begins at once; without one the peer waits until it is
// initiated to or gets one. The peer must be one of the last Set.
//
// If an initiation to it was caused less than 100 ms ago and p has an
// endpoint, Readd waits for the rest of that time.
func (d *Device) Readd(p Peer) error {
	err := p.check()
	if err == nil {
		err = d.readd(p)
	}
	if err != nil {
		return fmt.Errorf("device %s: re-add peer %s: %w", d.name, p.Overlay, err)
	}
	return nil
}

func (d *Device) readd(p Peer) error {
	for {
		wait, err := d.tryReadd(p)
		if wait <= 0 {
			return err
		}
		time.Sleep(wait)
	}
}

// tryReadd says how long to wait before trying again; 0: it is done.
func (d *Device) tryReadd(p Peer) (wait time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usableLocked(p.PublicKey); err != nil {
		return 0, err
	}
	if p.Endpoint.IsValid() {
		if wait := initiationGap - time.Since(d.knownLocked(p.PublicKey).initiated); wait > 0 {
			return wait, nil
		}
	}
	return 0, d.readdLocked(p)
}

func (d *Device) readdLocked(p Peer) error {
	k := d.knownLocked(p.PublicKey)
	if err := d.refreshLocked(k); err != nil {
		return err
	}
	// One call, so that the peer is never missing; and of its own, since
	// wgctrl strips key and endpoint from the second of two entries in a
	// call that it splits.
	add := p.full()
	starter := time.Second
	if p.Endpoint.IsValid() && p.Keepalive == 0 {
		add.PersistentKeepaliveInterval = &starter // makes it send at once
	}
	err := d.configureLocked(wgtypes.Config{Peers: []wgtypes.PeerConfig{
		{PublicKey: p.PublicKey, Remove: true},
		add,
	}})
	if err != nil {
		return err
	}
	k.rx0, k.tx0 = k.rx0+k.rx, k.tx0+k.tx
	k.rx, k.tx, k.handshake = 0, 0, time.Time{}
	k.endpoint = unmap(p.Endpoint)
	if p.Endpoint.IsValid() {
		k.initiated = time.Now()
	}
	if p.Endpoint.IsValid() && p.Keepalive == 0 {
		err = d.configureLocked(wgtypes.Config{Peers: []wgtypes.PeerConfig{
			{PublicKey: p.PublicKey, UpdateOnly: true, PersistentKeepaliveInterval: &p.Keepalive},
		}})
	}
	return err
}

// Initiate begins a new handshake with a peer now; the one under way is void,
// and so may be the session. It needs an endpoint. Less than 100 ms after an
// initiation that we caused it does nothing: that one is still under way.
//
// The kernel can only be made to do this by re-adding the peer.
func (d *Device) Initiate(key [32]byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.initiateLocked(key); err != nil {
		return fmt.Errorf("device %s: initiate: %w", d.name, err)
	}
	return nil
}

func (d *Device) initiateLocked(key wgtypes.Key) error {
	if err := d.usableLocked(key); err != nil {
		return err
	}
	k := d.knownLocked(key)
	if time.Since(k.initiated) < initiationGap {
		return nil
	}
	if d.local == nil {
		if err := d.refreshLocked(k); err != nil { // it may have moved
			return err
		}
		p := d.wanted[key]
		p.Endpoint = k.endpoint
		if !p.Endpoint.IsValid() {
			return errors.New("the peer has no endpoint")
		}
		return d.readdLocked(p)
	}
	ok, err := d.local.Initiate(key)
	switch {
	case err != nil:
		return err
	case !ok:
		return errNoPeer
	}
	k.initiated = time.Now()
	return nil
}

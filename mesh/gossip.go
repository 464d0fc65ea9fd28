package mesh

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/crypto"
)

const (
	leaveTimeout = 2 * time.Second
	// What is sent to somebody who does not read ends then. The receiver's
	// memberlist takes TCPTimeout at most.
	sendTimeout = 10 * time.Second
)

// gossip is the life of memberlist.
type gossip struct {
	left atomic.Bool // we said that we go

	mu   sync.Mutex // guards ml: Leave after Shutdown panics
	ml   *memberlist.Memberlist
	stop context.CancelFunc
}

// gossipConfig returns memberlist's configuration; why each number is what it
// is: docs/protocol.md#membership.
func gossipConfig(self crypto.Identity, keys crypto.Keys) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	overlay := self.Overlay().String()
	c.Name = self.String()
	c.BindAddr, c.BindPort = overlay, GossipPort
	c.AdvertiseAddr, c.AdvertisePort = overlay, GossipPort

	// One lost handshake takes 5 s; an outage of 10 s kills nobody.
	c.ProbeInterval = 2 * time.Second
	c.ProbeTimeout = time.Second
	c.IndirectChecks = 3
	c.SuspicionMult = 6
	c.SuspicionMaxTimeoutMult = 3
	c.GossipInterval = 200 * time.Millisecond
	c.GossipNodes = 3
	c.PushPullInterval = 30 * time.Second
	c.TCPTimeout = 5 * time.Second
	c.GossipToTheDeadTime = 5 * time.Minute
	c.RetransmitMult = retransmitMult
	c.UDPBufferSize = 1150 // what an IPv6 path of 1,280 bytes carries
	c.EnableCompression = false

	c.SecretKey = keys.Gossip[:]
	c.Label = hex.EncodeToString(keys.Cluster[:8])
	prefix := crypto.OverlayPrefix
	c.CIDRsAllowed = []net.IPNet{{
		IP:   net.IP(prefix.Addr().AsSlice()),
		Mask: net.CIDRMask(prefix.Bits(), 128),
	}}
	c.RequireNodeNames = true
	c.DelegateProtocolMin, c.DelegateProtocolMax, c.DelegateProtocolVersion = 1, 1, 1
	return c
}

// start creates memberlist. It is called by the loop.
func (g *gossip) start(m *Mesh) (*memberlist.Memberlist, error) {
	c := gossipConfig(m.self, m.cfg.Keys)
	c.Logger = log.New(logWriter{m.log}, "", 0)
	d := &delegate{m}
	c.Delegate, c.Events, c.Alive, c.Ping = d, d, d, d
	ctx, stop := context.WithCancel(m.ctx)
	if m.cfg.Transport != nil {
		c.Transport = m.cfg.Transport
	} else {
		t, err := listenOverlay(ctx, c)
		if err != nil {
			stop()
			return nil, err
		}
		c.Transport = t
	}
	ml, err := memberlist.Create(c)
	if err != nil {
		stop()
		if m.cfg.Transport == nil {
			err = errors.Join(err, c.Transport.Shutdown())
		}
		return nil, fmt.Errorf("start memberlist: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ml, g.stop = ml, stop
	return ml, nil
}

func (g *gossip) leave(ctx context.Context) error {
	g.left.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ml == nil {
		return nil
	}
	timeout := leaveTimeout
	if t, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(t))
	}
	if ctx.Err() != nil || timeout <= 0 {
		return ctx.Err()
	}
	if err := g.ml.Leave(timeout); err != nil {
		return fmt.Errorf("leave the cluster: %w; the others find out by themselves", err)
	}
	return nil
}

func (g *gossip) shutdown() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ml == nil {
		return
	}
	g.stop()
	_ = g.ml.Shutdown() // it reports only what the transport says
	g.ml = nil
}

// overlayTransport is memberlist's own, but what it dials ends with ctx, so
// that stopping does not wait for hosts that do not answer, and after a time:
// memberlist gives messages none.
type overlayTransport struct {
	*memberlist.NetTransport
	ctx  context.Context
	most time.Duration
}

var _ memberlist.NodeAwareTransport = (*overlayTransport)(nil)

func listenOverlay(ctx context.Context, c *memberlist.Config) (*overlayTransport, error) {
	t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{c.BindAddr}, BindPort: c.BindPort, Logger: c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("listen for gossip on [%s]:%d: %w", c.BindAddr, c.BindPort, err)
	}
	return &overlayTransport{t, ctx, sendTimeout}, nil
}

func (t *overlayTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(t.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(t.most))
	return &boundConn{conn, context.AfterFunc(t.ctx, func() { _ = conn.Close() })}, nil
}

func (t *overlayTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// boundConn is closed when its context ends.
type boundConn struct {
	net.Conn
	release func() bool
}

func (c *boundConn) Close() error {
	c.release()
	return c.Conn.Close()
}

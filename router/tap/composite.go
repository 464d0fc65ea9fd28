package tap

import (
	"errors"
	"fmt"
	"os"

	"golang.zx2c4.com/wireguard/tun"
)

// batch is how many packets pass in one call, as wireguard-go likes it best.
const batch = 128

// fair is how often the TUN device has its turn while frames keep coming: its
// packets are few, and gossip among them.
const fair = 8

// composite is the [tun.Device] of a port. Read is called by one goroutine at
// a time, Write by one for each peer.
type composite struct {
	tun.Device // the TUN device: its name, MTU and events are ours, too

	// Constant after newComposite.

	port *Port
	size int // of a batch
	poll *poller

	// Owned by the goroutine that reads.

	out  outbound
	turn int
	try  func() bool // c.attempt
	what uint32      // found by try: fromTAP, fromTUN
}

func newComposite(p *Port, t tun.Device) (*composite, error) {
	c := &composite{Device: t, port: p, size: max(batch, t.BatchSize())}
	c.out.init(p)
	c.try = c.attempt
	f := t.File()
	if f == nil {
		return nil, errors.New("the TUN device has no file")
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("file of the TUN device: %w", err)
	}
	if c.poll, err = newPoller(); err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) { err = c.poll.addFD(int(fd), fromTUN) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		_ = c.poll.close()
		return nil, fmt.Errorf("poll the TUN device: %w", err)
	}
	return c, nil
}

// Read implements [tun.Device]. Frames and packets of the TUN device are never
// in one batch, since that device writes a batch of its own.
func (c *composite) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		c.turn++
		if c.turn%fair == 0 && c.poll.ready()&fromTUN != 0 { // what is left of a frame waits
			return c.Device.Read(bufs, sizes, offset)
		}
		if n := c.out.read(bufs, sizes, offset); n > 0 {
			return n, nil
		}
		// Nothing there: wait. What the wait finds of the TAP is in c.out.
		if err := c.poll.wait(c.try); err != nil {
			return 0, os.ErrClosed
		}
		if c.what&fromTAP == 0 {
			return c.Device.Read(bufs, sizes, offset)
		}
	}
}

// attempt says whether there is something to read, which it has done already
// if it is a frame.
func (c *composite) attempt() bool {
	if c.out.fetch() {
		c.what = fromTAP
		return true
	}
	c.what = c.poll.ready() & fromTUN
	return c.what != 0
}

// BatchSize implements [tun.Device].
func (c *composite) BatchSize() int { return c.size }

// Close implements [tun.Device]. The TAP device stays.
func (c *composite) Close() error {
	c.port.forget(c)
	return errors.Join(c.Device.Close(), c.poll.close())
}

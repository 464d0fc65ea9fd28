package tap

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// couple makes hosts 1 and 2 with a container each, 10.9.0.1 and 10.9.0.2.
func couple(t testing.TB, o Options) (a, b *host, x, y *container) {
	a, b = newHost(t, o, config(1, 2)), newHost(t, o, config(2, 1))
	devices := map[netip.Addr]tun.Device{overlay(1): a.dev, overlay(2): b.dev}
	pump(t, a.dev, devices)
	pump(t, b.dev, devices)
	return a, b, attachTo(t, a.Kernel, "weft", 1, testMTU), attachTo(t, b.Kernel, "weft", 2, testMTU)
}

// stream sends n bytes from x to y by TCP.
func stream(t testing.TB, x, y *container, to netip.Addr, n int) time.Duration {
	t.Helper()
	var l net.Listener
	ok(t, y.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to, 7000).String())
		return err
	}))
	defer func() { _ = l.Close() }()
	data := bytes.Repeat([]byte("a frame by any other name "), n/26+1)[:n]
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer func() { _ = c.Close() }()
			var all []byte
			if all, err = io.ReadAll(c); err == nil && !bytes.Equal(all, data) {
				err = fmt.Errorf("%d bytes arrived of %d, or others", len(all), n)
			}
		}
		got <- err
	}()
	var c net.Conn
	ok(t, x.Do(func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(to, 7000).String())
		return err
	}))
	start := time.Now()
	_, err := c.Write(data)
	ok(t, err)
	ok(t, c.Close())
	ok(t, <-got)
	return time.Since(start)
}

func TestStream(t *testing.T) {
	for _, m := range []Mode{Auto, Off} {
		t.Run(m.String(), func(t *testing.T) {
			a, b, x, y := couple(t, Options{Offload: m})
			const n = 16 << 20
			took := stream(t, x, y, netip.MustParseAddr("10.9.0.2"), n)
			t.Logf("%.1f Gbit/s", n*8/took.Seconds()/1e9)
			t.Logf("%+v", a.port.Stats())
			t.Logf("%+v", b.port.Stats())
		})
	}
}

package tap

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// tunnelled is couple with wireguard-go between the hosts, over the loopback.
func tunnelled(t testing.TB, o Options) (a, b *host, x, y *container) {
	a, b = newHost(t, o, config(1, 2)), newHost(t, o, config(2, 1))
	var keys [2]*ecdh.PrivateKey
	var ports [2]int
	for i := range keys {
		var err error
		keys[i], err = ecdh.X25519().GenerateKey(rand.Reader)
		ok(t, err)
		c, err := net.ListenUDP("udp", nil) // a port that is free
		ok(t, err)
		ports[i] = c.LocalAddr().(*net.UDPAddr).Port
		ok(t, c.Close())
	}
	for i, h := range []*host{a, b} {
		d := device.NewDevice(h.dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
		t.Cleanup(d.Close)
		ok(t, d.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=%s/128\n",
			hex.EncodeToString(keys[i].Bytes()), ports[i],
			hex.EncodeToString(keys[1-i].PublicKey().Bytes()), ports[1-i], overlay(byte(2-i)))))
		ok(t, d.Up())
	}
	return a, b, attachTo(t, a.Kernel, "weft", 1, testMTU), attachTo(t, b.Kernel, "weft", 2, testMTU)
}

// TestTunnelled is the whole of it, within one process.
func TestTunnelled(t *testing.T) {
	a, b, x, y := tunnelled(t, Options{})
	const n = 16 << 20
	took := stream(t, x, y, netip.MustParseAddr("10.9.0.2"), n)
	t.Logf("%.1f Gbit/s", n*8/took.Seconds()/1e9)
	s, r := a.port.Stats(), b.port.Stats()
	t.Logf("%+v", s)
	t.Logf("%+v", r)
	if r.SuperWritten == 0 || s.SuperRead == 0 {
		t.Error("no super-frames")
	}
}

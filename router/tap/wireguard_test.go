package tap

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// tunnelled is couple with wireguard-go between the hosts, over the loopback.
func tunnelled(t testing.TB, o Options) (a, b *host, x, y *container) {
	a, b = newHost(t, o, config(1, 2)), newHost(t, o, config(2, 1))
	var keys [2]*ecdh.PrivateKey
	var devices [2]*device.Device
	var ports [2]string
	for i, h := range []*host{a, b} {
		var err error
		keys[i], err = ecdh.X25519().GenerateKey(rand.Reader)
		ok(t, err)
		d := device.NewDevice(h.dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
		t.Cleanup(d.Close)
		ok(t, d.IpcSet("private_key="+hex.EncodeToString(keys[i].Bytes())+"\n"))
		ok(t, d.Up()) // at a port that is free
		is, err := d.IpcGet()
		ok(t, err)
		_, is, _ = strings.Cut(is, "listen_port=")
		ports[i], _, _ = strings.Cut(is, "\n")
		devices[i] = d
	}
	for i, d := range devices {
		ok(t, d.IpcSet(fmt.Sprintf("public_key=%s\nendpoint=127.0.0.1:%s\nallowed_ip=%s/128\n",
			hex.EncodeToString(keys[1-i].PublicKey().Bytes()), ports[1-i], overlay(byte(2-i)))))
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

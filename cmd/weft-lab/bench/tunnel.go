package bench

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// tunnelWord begins the command line of a tunnel: weft-lab bench wireguard-go …
const tunnelWord = "wireguard-go"

const tunnelReady = "tunnel is up"

// Tunnel is wireguard-go and nothing else: its own TUN device, its own socket,
// as its own program would run it. It makes the device name and takes the
// configuration, in the words of WireGuard's cross-platform interface, from a
// file. It prints a line when it is ready, and blocks until ctx ends.
func Tunnel(ctx context.Context, name string, mtu int, file string) error {
	config, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	t, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return fmt.Errorf("make TUN device %s: %w", name, err)
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	defer d.Close()
	if err := d.IpcSet(string(config)); err != nil {
		return fmt.Errorf("configure %s: %w", name, err)
	}
	if err := d.Up(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Println(tunnelReady)
	select {
	case <-ctx.Done():
	case <-d.Wait():
	}
	return nil
}

// tunnelConfigs returns the configurations of the two ends of a tunnel.
func tunnelConfigs(port int, a, b tunnelEnd) (configA, configB string, err error) {
	keyA, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	keyB, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	one := func(own, other *ecdh.PrivateKey, peer tunnelEnd) string {
		var text strings.Builder
		fmt.Fprintf(&text, "private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\n",
			hex.EncodeToString(own.Bytes()), port, hex.EncodeToString(other.PublicKey().Bytes()), netip.AddrPortFrom(peer.outside, uint16(port)))
		for _, p := range peer.inside {
			fmt.Fprintf(&text, "allowed_ip=%s\n", netip.PrefixFrom(p, p.BitLen()))
		}
		return text.String()
	}
	return one(keyA, keyB, b), one(keyB, keyA, a), nil
}

// tunnelEnd is one end of a tunnel, by its addresses.
type tunnelEnd struct {
	outside netip.Addr
	inside  []netip.Addr
}

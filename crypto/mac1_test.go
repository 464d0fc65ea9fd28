package crypto

import (
	"bytes"
	"testing"

	"golang.zx2c4.com/wireguard/device"
)

// wireguard-go agrees about the MAC of messages of both kinds.
func TestMAC1(t *testing.T) {
	us, other := KeyFromSeed([32]byte{1}), KeyFromSeed([32]byte{2})
	for _, size := range []int{device.MessageInitiationSize, device.MessageResponseSize} {
		msg := bytes.Repeat([]byte{byte(size)}, size)
		var c device.CookieGenerator
		c.Init(device.NoisePublicKey(us.WireGuardPublic()))
		c.AddMacs(msg)
		mine := bytes.Clone(msg)
		clear(mine[size-32 : size-16])
		m := NewMAC1(us.WireGuardPublic())
		m.Put(mine)
		if !bytes.Equal(mine, msg) {
			t.Errorf("%d bytes: MAC differs from wireguard-go's", size)
		}
		if !m.Verify(msg) || !m.Verify(msg) {
			t.Errorf("%d bytes: refused", size)
		}
		if NewMAC1(other.WireGuardPublic()).Verify(msg) {
			t.Errorf("%d bytes: taken for somebody else's", size)
		}
		for i := range size - 16 { // mac2 is not ours to judge
			msg[i] ^= 0x80
			if m.Verify(msg) {
				t.Errorf("%d bytes: taken with byte %d changed", size, i)
			}
			msg[i] ^= 0x80
		}
		if m.Verify(msg[:31]) || m.Verify(nil) {
			t.Errorf("a message without a MAC was taken")
		}
	}
}

func BenchmarkMAC1(b *testing.B) {
	m, msg := NewMAC1([32]byte{1}), make([]byte, 148)
	b.ReportAllocs()
	for b.Loop() {
		m.Verify(msg)
	}
}

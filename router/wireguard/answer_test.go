package wireguard

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// A host answers from that of its addresses that was written to, whichever the
// kernel would choose, in both modes, and with or without the need of a raw
// socket.
func TestAnswerFromSecond(t *testing.T) {
	for _, mode := range []Mode{Kernel, Userspace} {
		t.Run(mode.String(), func(t *testing.T) {
			if !alone(t) {
				return
			}
			run(t, "ip", "link", "add", "d0", "type", "veth", "peer", "d1")
			run(t, "ip", "link", "set", "d1", "up")
			run(t, "ip", "link", "set", "d0", "up")
			signals := make(chan heard, 100)
			d, port, _ := standIn(t, mode, signals)
			for _, addrs := range [][3]string{
				{"10.1.0.1/24", "10.1.0.2/24", "10.1.0.9/32"}, {"2001:db8::1/64", "2001:db8::2/64", "2001:db8::9/128"},
			} {
				for _, a := range addrs {
					addAddr(t, "d0", a)
				}
				who := netip.MustParsePrefix(addrs[2]).Addr()
				c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(who, 0)))
				must(t, err)
				must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
				for _, s := range addrs[:2] {
					at := netip.AddrPortFrom(netip.MustParsePrefix(s).Addr(), port)
					for _, o := range []SendOptions{{}, {TTL: 9}} {
						_, err := c.WriteToUDPAddrPort([]byte("Where?"), at)
						must(t, err)
						got := next(t, signals)
						if got.to != at.Addr() {
							t.Errorf("written to %s, came to %s", at, got.to)
						}
						o.From = got.to
						must(t, d.Send(got.from, []byte("There"), o))
						_, from, err := c.ReadFromUDPAddrPort(make([]byte, 100))
						must(t, err)
						if from = unmap(from); from != at {
							t.Errorf("%+v: %s was asked, %s answers", o, at, from)
						}
					}
				}
				// One that is none of ours, or of the other protocol, is left out.
				for _, from := range []string{"192.0.2.77", "2001:db8:1::77"} {
					must(t, d.Send(c.LocalAddr().(*net.UDPAddr).AddrPort(), []byte("There"), SendOptions{From: netip.MustParseAddr(from)}))
					_, from, err := c.ReadFromUDPAddrPort(make([]byte, 100))
					must(t, err)
					if from.Port() != port {
						t.Errorf("from %s", from)
					}
				}
				must(t, c.Close())
			}
		})
	}
}

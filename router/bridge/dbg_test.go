package bridge
import ("testing";"fmt";)
func TestDbg(t *testing.T) {
	l := newLab(t, []string{"names-local"}, []string{"names-local"})
	for _, h := range []*host{l.a, l.b} {
	l.run(h, "nft 'add table inet dbg; add chain inet dbg fwd1 { type filter hook forward priority 100; }; add rule inet dbg fwd1 meta l4proto 253 counter; add chain inet dbg pre { type filter hook prerouting priority -400; }; add rule inet dbg pre meta l4proto 253 counter; add chain inet dbg post { type filter hook postrouting priority 400; }; add rule inet dbg post meta l4proto 253 counter; add table bridge dbg; add chain bridge dbg pre { type filter hook prerouting priority -400; }; add rule bridge dbg pre ether saddr 02:06:06:06:06:06 counter;  add chain bridge dbg fwd1 { type filter hook forward priority 300; }; add rule bridge dbg fwd1 ether saddr 02:06:06:06:06:06 counter; add chain bridge dbg post { type filter hook postrouting priority 300; }; add rule bridge dbg post ether saddr 02:06:06:06:06:06 counter'")
	}
	s := l.sniff(l.b.container, "weft0")
				ip := []byte{
					0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 6, 6, 6, 6, 6, 0x08, 0x00,
					0x45, 0, 0, 40, 0, 0, 0, 0, 64, 253, 0x82, 0x54, 169, 254, 67, 83, 10, 32, 0, 20,
				}
				l.inject(l.a.container, "weft0", append(ip, marker...))
	fmt.Println(s.saw([]byte(marker), true))
	fmt.Println(l.run(l.a, "nft list table inet dbg; nft list table bridge dbg; ip -s link show weft-vx"))
	fmt.Println(l.run(l.b, "nft list table inet dbg; nft list table bridge dbg"))
}

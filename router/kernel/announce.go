package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Announce tells the switch where an address is now, so that a container that
// takes it over from another is reachable at once: a gratuitous ARP request
// and reply (hosts differ in which of the two they believe), or an unsolicited
// neighbour advertisement. The link must be up.
func (k *Kernel) Announce(link string, a netip.Addr) error {
	l, err := k.Link(link)
	if err != nil {
		return fmt.Errorf("announce %s: %w", a, err)
	}
	a = a.Unmap()
	frames := [][]byte{neighbourAdvertisement(l.MAC, a)}
	if a.Is4() {
		frames = [][]byte{gratuitousARP(l.MAC, a, arpRequest), gratuitousARP(l.MAC, a, arpReply)}
	}
	err = k.sending(func(fd int) error {
		for _, frame := range frames {
			if err := sendFrame(fd, l.Index, frame); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("announce %s on %s: %w", a, link, translate(err))
	}
	return nil
}

// sendFrame tries three times when a queue on the way is full. Then the frame is
// lost, as any may be: that is no error.
func sendFrame(fd, link int, frame []byte) error {
	for range 3 {
		err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link, Halen: 6})
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// Operations of RFC 826.
const (
	arpRequest = 1
	arpReply   = 2
)

// gratuitousARP is an Ethernet frame to everybody in which sender and target
// are the same address (RFC 5227, section 3).
func gratuitousARP(mac MAC, a netip.Addr, op uint16) []byte {
	b := ethernet(MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP)
	b = append(b, 0, 1, 8, 0, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, mac[:]...)
	b = append(b, a.AsSlice()...)
	if op == arpReply {
		b = append(b, mac[:]...)
	} else {
		b = append(b, 0, 0, 0, 0, 0, 0)
	}
	return append(b, a.AsSlice()...)
}

// neighbourAdvertisement is an Ethernet frame to all nodes with the override
// flag (RFC 4861, section 4.4).
func neighbourAdvertisement(mac MAC, a netip.Addr) []byte {
	b := ethernet(MAC{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	const length = 4 + 4 + 16 + 8 // header, flags, target, option
	b = append(b, 0x60, 0, 0, 0, 0, length, unix.IPPROTO_ICMPV6, 255)
	src := len(b)
	b = append(b, a.AsSlice()...)
	b = append(b, 0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	body := len(b)
	b = append(b, 136, 0, 0, 0, 0x20, 0, 0, 0)
	b = append(b, a.AsSlice()...)
	b = append(b, 2, 1)
	b = append(b, mac[:]...)
	sum := length + unix.IPPROTO_ICMPV6
	for i := src; i < len(b); i += 2 {
		sum += int(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[body+2:], ^uint16(sum))
	return b
}

func ethernet(dst, src MAC, proto uint16) []byte {
	b := make([]byte, 0, 14+72)
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	return binary.BigEndian.AppendUint16(b, proto)
}

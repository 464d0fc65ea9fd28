package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/tap/offload"
)

// abilities are the super-frames that this kernel gives and takes unharmed.
type abilities struct{ tcp, udp bool }

// patience is how long a frame may take through the bridge of the test; it
// takes none, unless the machine is busy.
const patience = 200 * time.Millisecond

// test tries super-frames on a bridge of its own, in a network namespace that
// nobody else sees and that is gone afterwards. Kernels that refuse them, or
// cut them wrongly, have been released (6.1.103, 6.6.44). A host that lets us
// make no namespace is believed; errors are counted while it runs, too.
func test(log *slog.Logger) abilities {
	can, err := try(log)
	if err != nil {
		log.Warn("super-frames could not be tested on this kernel, they are used untested", "err", err)
		return abilities{tcp: true, udp: true}
	}
	return can
}

func try(log *slog.Logger) (can abilities, err error) {
	k, err := kernel.Fresh()
	if err != nil {
		return can, err
	}
	defer func() { _ = k.Close() }()
	if err := k.AddBridge("try", kernel.MAC{0x02, 0, 0, 0, 0, 1}, tryMTU); err != nil {
		return can, err
	}
	// One device to write to, one that the kernel cuts for, one that it gives
	// whole super-frames.
	var ports [3]*file
	for i := range ports {
		name := fmt.Sprintf("try%d", i)
		if ports[i], err = openTAP(k, name); err != nil {
			return can, err
		}
		defer func() { _ = ports[i].close() }()
		if err := k.SetMaster(name, "try"); err != nil {
			return can, err
		}
		if i != 1 {
			if can.udp, err = ports[i].offer(abilities{tcp: true, udp: true}); err != nil {
				log.Info("this kernel has no super-frames at TAP devices", "err", err)
				return abilities{}, nil
			}
		}
	}
	for _, name := range []string{"try", "try0", "try1", "try2"} {
		// What IPv6 sends by itself would come between.
		if err := k.SetSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
			return can, err
		}
		if err := k.SetUp(name, true); err != nil {
			return can, err
		}
	}
	can.tcp = true
	for _, x := range []struct {
		kind uint8
		is   *bool
	}{{offload.GSOTCPv4, &can.tcp}, {offload.GSOTCPv6, &can.tcp}, {offload.GSOUDP, &can.udp}} {
		if !*x.is {
			continue
		}
		if err := passes(ports, x.kind); err != nil {
			log.Warn("this kernel does not pass super-frames unharmed, working without", "kind", kinds[x.kind], "err", err)
			*x.is = false
		}
	}
	return can, nil
}

var kinds = map[uint8]string{offload.GSOTCPv4: "TCP over IPv4", offload.GSOTCPv6: "TCP over IPv6", offload.GSOUDP: "UDP"}

// passes sends one super-frame and compares what comes out of both devices.
func passes(ports [3]*file, kind uint8) error {
	h, frame := trial(kind)
	want, err := segments(h, frame)
	if err != nil {
		return err
	}
	var w writer
	if err := w.super(ports[0], h, [][]byte{frame}); err != nil {
		return fmt.Errorf("it was refused: %w", err)
	}
	for _, f := range ports[1:] {
		var got [][]byte
		for len(got) < len(want) {
			more, err := receive(f)
			if err != nil {
				return fmt.Errorf("%d of %d frames came: %w", len(got), len(want), err)
			}
			got = append(got, more...)
		}
		for i := range got {
			if i >= len(want) || !bytes.Equal(got[i], want[i]) {
				return fmt.Errorf("frame %d of %d is another", i+1, len(want))
			}
		}
	}
	return nil
}

// receive waits for a frame of the trial and returns its segments.
func receive(f *file) ([][]byte, error) {
	buf := make([]byte, largest)
	for end := time.Now().Add(patience); ; {
		n, err := f.read(buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			wait := time.Until(end)
			if wait <= 0 {
				return nil, errors.New("no more came")
			}
			p := []unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}
			_, _ = unix.Poll(p, int(wait/time.Millisecond)+1)
			continue
		case err != nil:
			return nil, err
		}
		var h offload.Header
		if err := h.Parse(buf[:n]); err != nil {
			return nil, err
		}
		if frame := buf[offload.HeaderLen:n]; bytes.HasPrefix(frame, trialMACs[:]) {
			return segments(h, frame)
		}
	}
}

// segments cuts a frame.
func segments(h offload.Header, frame []byte) (list [][]byte, err error) {
	var c offload.Cut
	if err := c.Start(h, frame); err != nil {
		return nil, err
	}
	b := make([]byte, largest)
	for {
		n, ok := c.Next(b)
		if !ok {
			return list, c.Err()
		}
		list = append(list, bytes.Clone(b[:n]))
	}
}

const (
	tryMTU  = 1370
	trySize = 1000 // of a segment
	tryAll  = 3*trySize + 123
)

// trialMACs begin a frame of the trial.
var trialMACs = [12]byte{0x02, 0, 0, 0, 0, 3, 0x02, 0, 0, 0, 0, 2}

// trial makes a super-frame of four segments as the kernel would give it to a
// network card.
func trial(kind uint8) (offload.Header, []byte) {
	be := binary.BigEndian
	proto, head, sumAt := byte(protoTCP), 20, 16
	if kind == offload.GSOUDP {
		proto, head, sumAt = protoUDP, 8, 6
	}
	ip, addrs := 20, 12
	frame := append([]byte(nil), trialMACs[:]...)
	if kind == offload.GSOTCPv6 {
		ip, addrs = ipv6Len, 8
		frame = be.AppendUint16(frame, typeIPv6)
		frame = append(frame, 6<<4, 0, 0, 0)
		frame = be.AppendUint16(frame, uint16(head+tryAll))
		frame = append(frame, proto, hopLimit)
		frame = append(frame, bytes.Repeat([]byte{0xfd}, 32)...)
	} else {
		frame = be.AppendUint16(frame, typeIPv4)
		frame = append(frame, 4<<4|5, 0)
		frame = be.AppendUint16(frame, uint16(20+head+tryAll))
		frame = append(frame, 1, 1, 0, 0, hopLimit, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
		be.PutUint16(frame[ethernetLen+10:], ^checksum(0, frame[ethernetLen:]))
	}
	start := ethernetLen + ip
	frame = append(frame, 0x12, 0x34, 0x56, 0x78) // ports
	if proto == protoTCP {
		frame = append(frame, 1, 2, 3, 4, 5, 6, 7, 8, 5<<4, 0x18, 1, 0, 0, 0, 0, 0)
	} else {
		frame = be.AppendUint16(frame, uint16(head+tryAll))
		frame = append(frame, 0, 0)
	}
	pseudo := checksum(uint32(proto)+uint32(head+tryAll), frame[ethernetLen+addrs:start])
	be.PutUint16(frame[start+sumAt:], pseudo)
	for i := range tryAll {
		frame = append(frame, byte(i*7))
	}
	return offload.Header{
		Flags: offload.NeedsChecksum, GSOType: kind, HdrLen: uint16(start + head), GSOSize: trySize,
		CsumStart: uint16(start), CsumOffset: uint16(sumAt),
	}, frame
}

// checksum adds an even number of bytes up (RFC 1071).
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Ping sends one echo request with size bytes of data, at least 4, beginning
// with marker, and returns how long the answer took. It waits until ctx ends.
func (p *Place) Ping(ctx context.Context, to netip.Addr, size int, marker []byte) (time.Duration, error) {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var c net.PacketConn
	err := p.Do(func() error {
		var err error
		c, err = (&net.ListenConfig{}).ListenPacket(ctx, network, "")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: ping %s: %w", p.name, to, err)
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	defer stop()

	data := bytes.Repeat([]byte{'.'}, size)
	copy(data, marker)
	id := rand.Uint32()
	msg := append([]byte{request, 0, 0, 0, 0, 0, 0, 0}, data...)
	binary.BigEndian.PutUint32(msg[4:], id)
	if to.Is4() {
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	sent := time.Now()
	if _, err := c.WriteTo(msg, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}); err != nil {
		return 0, fmt.Errorf("%s: ping %s: %w", p.name, to, err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return 0, fmt.Errorf("%s: ping %s with %d bytes: no answer: %w", p.name, to, size, errors.Join(ctx.Err(), err))
		}
		m := buf[:n]
		if n < 8 || m[0] != reply || binary.BigEndian.Uint32(m[4:]) != id {
			continue
		}
		if !bytes.Equal(m[8:], data) {
			return 0, fmt.Errorf("%s: ping %s: the answer carries other bytes than the request", p.name, to)
		}
		return time.Since(sent), nil
	}
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Payload returns size bytes that repeat marker between random ones.
func Payload(size int, marker string) []byte {
	b := make([]byte, 0, size+64)
	for len(b) < size {
		b = append(b, marker...)
		for range 4 {
			b = binary.LittleEndian.AppendUint64(b, rand.Uint64())
		}
	}
	return b[:size]
}

// TransferTCP sends data from one place to an address of another and fails
// unless the other end got exactly that.
func TransferTCP(ctx context.Context, from, to *Place, at netip.Addr, data []byte) error {
	l, err := to.Listen(ctx, netip.AddrPortFrom(at, 0))
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err
			return
		}
		defer func() { _ = c.Close() }()
		stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
		defer stop()
		h := sha256.New()
		n, err := io.Copy(h, c)
		if err == nil && !bytes.Equal(h.Sum(nil), sum(data)) {
			err = fmt.Errorf("got %d bytes with another checksum instead of %d", n, len(data))
		}
		got <- err
	}()
	c, err := from.Dial(ctx, "tcp", netip.AddrPortFrom(at, port))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()); _ = l.Close() })
	defer stop()
	_, err = c.Write(data)
	if err := errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("%s: tcp to %s: %w", from.name, at, err)
	}
	if err := <-got; err != nil {
		return fmt.Errorf("%s: tcp from %s: %w", to.name, from.name, errors.Join(ctx.Err(), err))
	}
	return nil
}

func sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

// TransferUDP sends data in numbered datagrams of size bytes, pause apart, and
// fails unless every one arrives unchanged.
func TransferUDP(ctx context.Context, from, to *Place, at netip.Addr, data []byte, size int, pause time.Duration) error {
	r, err := to.ListenUDP(ctx, netip.AddrPortFrom(at, 0))
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	_ = r.SetReadBuffer(4 << 20)
	c, err := from.Dial(ctx, "udp", netip.AddrPortFrom(at, uint16(r.LocalAddr().(*net.UDPAddr).Port)))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	total := (len(data) + size - 1) / size
	send := make(chan error, 1)
	go func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := range total {
			part := data[i*size : min(len(data), (i+1)*size)]
			if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(i)), part...)); err != nil {
				send <- err
				return
			}
			<-tick.C
		}
		send <- nil
	}()
	got, have := make([]byte, len(data)), map[uint32]bool{}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, 1<<16)
	for len(have) < total {
		n, _, err := r.ReadFromUDPAddrPort(buf)
		if err != nil {
			err = errors.Join(ctx.Err(), err, <-send)
			return fmt.Errorf("%s: udp from %s: %d of %d datagrams came: %w", to.name, from.name, len(have), total, err)
		}
		if n < 4 {
			continue
		}
		i := binary.BigEndian.Uint32(buf)
		if int(i) < total {
			copy(got[int(i)*size:], buf[4:n])
			have[i] = true
		}
	}
	if err := <-send; err != nil {
		return fmt.Errorf("%s: udp to %s: %w", from.name, at, err)
	}
	if !bytes.Equal(sum(got), sum(data)) {
		return fmt.Errorf("%s: udp from %s: another checksum", to.name, from.name)
	}
	return nil
}

// Lookup resolves a name as a program in the place would: by the servers and
// the search list of its resolv.conf. A name that does not exist gives nothing.
func (p *Place) Lookup(ctx context.Context, name string, kind uint16) ([]netip.Addr, error) {
	conf, err := os.ReadFile(filepath.Join(p.Root(), "etc/resolv.conf"))
	if err != nil {
		return nil, fmt.Errorf("%s: look up %s: %w", p.name, name, err)
	}
	servers, search := parseResolvConf(string(conf))
	if len(servers) == 0 {
		return nil, fmt.Errorf("%s: look up %s: resolv.conf names no server", p.name, name)
	}
	names := []string{dns.Fqdn(name)}
	if !strings.HasSuffix(name, ".") {
		var searched []string
		for _, s := range search {
			searched = append(searched, dns.Fqdn(name+"."+s))
		}
		if strings.Contains(name, ".") {
			names = append(names, searched...)
		} else {
			names = append(searched, names...)
		}
	}
	for _, n := range names {
		m, err := p.Query(ctx, "udp", servers[0], n, kind)
		if err != nil {
			return nil, err
		}
		var out []netip.Addr
		for _, rr := range m.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				a, _ := netip.AddrFromSlice(rr.A.To4())
				out = append(out, a)
			case *dns.AAAA:
				a, _ := netip.AddrFromSlice(rr.AAAA)
				out = append(out, a)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, nil
}

// Query asks a DNS server from inside the place by "udp" or "tcp".
func (p *Place) Query(ctx context.Context, network string, server netip.Addr, name string, kind uint16) (*dns.Msg, error) {
	c, err := p.Dial(ctx, network, netip.AddrPortFrom(server, 53))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), kind)
	answer, _, err := (&dns.Client{Net: network}).ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: c})
	if err != nil {
		return nil, fmt.Errorf("%s: ask %s for %s: %w", p.name, server, name, err)
	}
	return answer, nil
}

package vxlan_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/vxlan"
)

// encapsulated is a frame in VXLAN.
func encapsulated(vni uint32, frame []byte) []byte {
	return append([]byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}, frame...)
}

// udp sends from a host to ours, from a port and address of its own.
func (w *several) udp(host int, from netip.AddrPort, port uint16, payload []byte) {
	w.t.Helper()
	ok(w.t, w.host[host-1].Do(func() error {
		c, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote(1), port)))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Write(payload)
		return err
	}))
}

// What comes out of the tunnel counts only as a frame of our switch, from a
// switch; and only as its source's.
func TestMulticastForgedReports(t *testing.T) {
	w := newSeveral(t, 3)
	w.begin()
	joins := func(n int, group string) []byte { return report(n, toExclude, group) }
	for what, f := range map[string]func(){
		"source port": func() {
			w.udp(2, netip.AddrPortFrom(remote(2), 4000), 6785, encapsulated(7, joins(2, "239.0.1.1")))
		},
		"port": func() {
			w.udp(2, netip.AddrPortFrom(remote(2), 600), 6784, encapsulated(7, joins(2, "239.0.1.2")))
		},
		"network": func() {
			w.udp(2, netip.AddrPortFrom(remote(2), 600), 6785, encapsulated(8, joins(2, "239.0.1.3")))
		},
		"device's network": func() {
			w.udp(2, netip.AddrPortFrom(remote(2), 600), 6785, encapsulated(vxlan.OwnVNI(7), joins(2, "239.0.1.4")))
		},
		"unicast frame": func() {
			f := joins(2, "239.0.1.5")
			f[0] = 2
			w.udp(2, netip.AddrPortFrom(remote(2), 600), 6785, encapsulated(7, f))
		},
		"cut off": func() {
			w.udp(2, netip.AddrPortFrom(remote(2), 600), 6785, encapsulated(7, joins(2, "239.0.1.6")[:20]))
		},
	} {
		before := w.port[0].Changes()
		f()
		w.says(2, joins(2, "239.77."+string(rune('0'+len(what)%10))+".7")) // comes after it
		if n := w.port[0].Changes() - before; n != 1 {
			t.Errorf("%s: %d changes were heard, want one", what, n)
		}
		w.says(2, report(2, toInclude, "239.77."+string(rune('0'+len(what)%10))+".7"))
	}
	// As it should be, it is heard.
	before := w.port[0].Changes()
	w.udp(2, netip.AddrPortFrom(remote(2), 600), 6785, encapsulated(7, joins(2, "239.0.1.7")))
	for deadline := time.Now().Add(10 * time.Second); w.port[0].Changes() == before; {
		if time.Now().After(deadline) {
			t.Fatal("nothing was heard")
		}
		w.containers[0].receive(t, 10*time.Millisecond)
	}
}

// The device for groups only sends: whoever knows its number gets nothing in.
func TestMulticastDeviceIsDeaf(t *testing.T) {
	w := newSeveral(t, 3)
	w.begin()
	h := w.host[0]
	l, err := h.Link("weft-mc")
	ok(t, err)
	at := new(socket)
	ok(t, h.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		if at.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.Bind(at.fd, &unix.SockaddrLinklayer{Ifindex: l.Index, Protocol: all})
	}))
	t.Cleanup(func() { _ = unix.Close(at.fd) })
	frame := append(append(append([]byte(nil), l.MAC[:]...), containerMACBytes(2)...), 0x88, 0xb6, 1, 2, 3)
	toAll := arp(1, containerMAC(2), "10.32.0.2", "10.32.0.1")
	for _, f := range [][]byte{frame, toAll} {
		w.udp(2, netip.AddrPortFrom(remote(2), 600), 6785, encapsulated(vxlan.OwnVNI(7), f))
	}
	// What comes after it by the other device has come.
	w.udp(2, netip.AddrPortFrom(remote(2), 600), 6785, encapsulated(7, arp(1, containerMAC(2), "10.32.0.2", "10.32.0.77")))
	if w.containers[0].receive(t, 10*time.Second) == nil {
		t.Fatal("nothing came by the switch")
	}
	if b := at.receive(t, 0); b != nil {
		t.Errorf("came by the device for groups: %x", b)
	}
	if v, err := h.Sysctl("net/ipv6/conf/weft-mc/disable_ipv6"); v != "1" && !errors.Is(err, unix.ENOENT) {
		t.Errorf("disable_ipv6 = %s, %v", v, err)
	}
	if l.Master != 0 || l.Kind != "vxlan" {
		t.Errorf("device %+v", l)
	}
	if entries, err := h.BridgeFDB("weft"); err != nil || hasPort(entries, l.Index) {
		t.Errorf("the bridge knows of it: %v, %v", entries, err)
	}
}

func hasPort(entries []kernel.BridgeFDB, index int) bool {
	for _, e := range entries {
		if e.Port == index {
			return true
		}
	}
	return false
}

// A report that makes members be silent is heard in whatever form hosts hear it,
// from our own containers and from others: then all is flooded.
func TestMulticastHiddenReports(t *testing.T) {
	tagged := func(n int) []byte {
		f := oldReport(n, group4)
		return append(append(append([]byte(nil), f[:12]...), 0x81, 0, 0xe0, 0), f[12:]...)
	}
	fragment := func(n int) []byte {
		f := packet(n, group4, unix.IPPROTO_IGMP, []byte{0x16, 0, 0, 0, 239, 1, 2, 3})
		f[20], f[24], f[25] = 0x20, 0, 0 // more follow
		sum := checksum(f[14:34], 0)
		f[24], f[25] = byte(sum>>8), byte(sum)
		return f
	}
	behind := func(first byte) func(n int) []byte {
		return func(n int) []byte {
			return packet(n, group6, first, append([]byte{unix.IPPROTO_ICMPV6, 0, 0, 0, 0, 0, 0, 0}, oldReport(n, group6)[62:]...))
		}
	}
	for what, frame := range map[string]func(n int) []byte{
		"priority": tagged, "fragment": fragment, "IPv6 fragment": behind(unix.IPPROTO_FRAGMENT), "options": behind(unix.IPPROTO_DSTOPTS),
	} {
		for _, from := range []int{1, 2} {
			w := newSeveral(t, 3)
			w.begin()
			w.says(2, report(2, recordExclude, group4), report(2, recordExclude, group6))
			w.says(3, report(3, recordExclude, other4))
			w.sweep(settled)
			w.soon(data(1, group4), "2")
			w.containers[from-1].send(t, frame(from))
			got4, got6 := "", ""
			for deadline := time.Now().Add(5 * time.Second); got4 != "2 3" && got6 != "2 3" && time.Now().Before(deadline); {
				got4, got6 = w.goes(data(1, group4)), w.goes(data(1, group6))
			}
			if got4 != "2 3" && got6 != "2 3" {
				t.Errorf("%s from host %d: the group goes to %q, %q", what, from, got4, got6)
			}
		}
	}
}

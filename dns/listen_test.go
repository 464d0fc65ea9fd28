package dns

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread in a network namespace of its own. The thread
// ends with f, so nothing has to be put back.
func inNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root for a network namespace")
		}
		t.Skip("SKIPPED: needs root for a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace: %v", err)
			return
		}
		f(t)
	}()
	<-done
}

// TestAddressComesAndGoes: the server starts before the bridge that carries its
// address, and serves again after the bridge was removed and made anew.
func TestAddressComesAndGoes(t *testing.T) {
	addr := netip.MustParseAddrPort("169.254.67.83:53")
	inNamespace(t, func(t *testing.T) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Error(err)
			return
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			t.Error(err)
			return
		}
		run(t, Config{Zone: testZone(), Listen: []netip.AddrPort{addr}})
		if err := query53(addr, "udp"); err == nil {
			t.Error("answered before the address was there")
		}
		for round := range 3 {
			bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "weft"}}
			if err := makeBridge(bridge, addr.Addr()); err != nil {
				t.Errorf("round %d: %v", round, err)
				return
			}
			for _, proto := range []string{"udp", "tcp"} {
				if err := query53(addr, proto); err != nil {
					t.Errorf("round %d, %s: %v", round, proto, err)
				}
			}
			if err := netlink.LinkDel(bridge); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
	})
}

func makeBridge(bridge *netlink.Bridge, a netip.Addr) error {
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	host := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}}
	if err := netlink.AddrAdd(bridge, host); err != nil {
		return err
	}
	return netlink.LinkSetUp(bridge)
}

// query53 asks from this thread's namespace.
func query53(addr netip.AddrPort, proto string) error {
	conn, err := net.DialTimeout(proto, addr.String(), askTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := dns.Client{Net: proto, Timeout: askTime}
	req := new(dns.Msg).SetQuestion("web.weft.internal.", dns.TypeA)
	_, _, err = client.ExchangeWithConn(req, &dns.Conn{Conn: conn})
	return err
}

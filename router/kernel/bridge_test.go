package kernel_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// A bridge carries fragments as large as its MTU, also where bridged frames
// pass through iptables.
func TestBridgeFragments(t *testing.T) {
	const call = "net/bridge/bridge-nf-call-iptables"
	host := kerneltest.Fresh(t)
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		t.Skip("SKIPPED:", err)
	}
	for _, mtu := range []int{1370, 9000} {
		name := fmt.Sprint("br", mtu)
		ok(t, host.AddBridge(name, testMAC, mtu))
		ok(t, host.SetUp(name, true))
		var guests [2]*kernel.Kernel
		for i := range guests {
			guests[i] = kerneltest.Fresh(t)
			port := fmt.Sprintf("p%d-%d", i, mtu)
			ok(t, host.AddVeth(port, mtu, guests[i], "eth0", kernel.MAC{}))
			ok(t, host.SetMaster(port, name))
			ok(t, host.SetUp(port, true))
			ok(t, guests[i].SetUp("eth0", true))
			ok(t, guests[i].AddAddr("eth0", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, 0, byte(1 + i)}), 24), true))
		}
		// Something in iptables' place has to put the fragments together.
		ok(t, host.SetSysctl(call, "1"))
		ok(t, host.Do(func() error {
			return exec.Command("nft", "add table ip x; add chain ip x f { type filter hook forward priority 0; }; add rule ip x f ct state invalid drop").Run()
		}))
		ok(t, guests[0].Do(func() error {
			out, err := exec.Command("ping", "-c", "3", "-i", "0.2", "-W", "10", "-s", "20000", "10.32.0.2").CombinedOutput()
			if err != nil {
				t.Errorf("MTU %d: %v\n%s", mtu, err, out)
			}
			return nil
		}))
	}
}

package kerneltest_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// What the fake has and the kernel has not.

func TestFailCall(t *testing.T) {
	f := kerneltest.New("host")
	broken := errors.New("broken")
	f.FailCall(2, broken)
	ok(t, f.AddBridge("weft", mac, 1370))
	is(t, f.SetUp("weft", true), broken)
	ok(t, f.SetMTU("weft", 1400))
	want := []string{
		"ip link add weft address 02:01:02:03:04:05 mtu 1370 type bridge",
		"ip link set weft mtu 1400",
	}
	if diff := cmp.Diff(want, f.TakeChanges()); diff != "" {
		t.Errorf("a failed call had an effect (-want +got):\n%s", diff)
	}
	if c := f.TakeChanges(); c != nil {
		t.Errorf("taken twice: %q", c)
	}
	if f.Calls() != 3 {
		t.Errorf("%d calls", f.Calls())
	}
	f.FailCall(1, broken)
	f.FailCall(0, nil)
	ok(t, f.SetUp("weft", true))
}

func TestDestroy(t *testing.T) {
	host := kerneltest.New("host")
	guest := host.Namespace("guest")
	ok(t, host.AddVeth("wv1", 1370, guest, "weft0", macA))
	var seen kernel.Event
	ctx, stop := context.WithCancel(t.Context())
	started, done := make(chan bool), make(chan error)
	go func() {
		first := true
		done <- host.Watch(ctx, func(e kernel.Event) {
			if first {
				first = false
				close(started)
				return
			}
			seen |= e
		})
	}()
	<-started
	guest.Destroy()
	stop()
	ok(t, <-done)
	if seen&kernel.LinkChanged == 0 {
		t.Errorf("the host was told %b", seen)
	}
	if got := host.String(); got != "" {
		t.Errorf("left on the host:\n%s", got)
	}
	is(t, host.AddVeth("wv1", 1370, kerneltest.New("elsewhere"), "weft0", macA), kerneltest.ErrElsewhere)
}

func TestAnnounced(t *testing.T) {
	f := kerneltest.New("host")
	ok(t, f.AddBridge("weft", mac, 1370))
	ok(t, f.SetUp("weft", true))
	ok(t, f.Announce("weft", netip.MustParseAddr("10.32.0.1")))
	if diff := cmp.Diff([]string{"10.32.0.1 dev weft"}, f.Announced()); diff != "" {
		t.Error(diff)
	}
}

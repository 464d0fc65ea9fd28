package port

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world has a bridge, and a device that is no port of it.
func world(t *testing.T) (*kerneltest.Fake, fdb.Config) {
	t.Helper()
	f, c := kerneltest.New("here"), fdb.Config{Name: DefaultName, Bridge: "weft", MTU: 1370}
	check(t, f.AddBridge(c.Bridge, kernel.MAC{2, 0, 0, 0, 0, 1}, 1370))
	check(t, f.AddTUN(c.Name, 1500))
	return f, c
}

func fit(t *testing.T, f *kerneltest.Fake, c fdb.Config) ([]string, bool, error) {
	t.Helper()
	l, err := f.Link(c.Name)
	check(t, err)
	return Fit(f, l, c)
}

// TestFit: the device becomes a port, once.
func TestFit(t *testing.T) {
	f, c := world(t)
	f.TakeChanges()
	want := []string{"mtu of weft-vx was 1500", "IPv6 was on at weft-vx", "weft-vx was no port of weft", "weft-vx was down"}
	if got, joined, err := fit(t, f, c); err != nil || !joined || !slices.Equal(got, want) {
		t.Errorf("%q, joined %v, %v; want %q", got, joined, err, want)
	}
	// It must not come up before IPv6 is off.
	did := strings.Join(f.TakeChanges(), "\n")
	if off, up := strings.Index(did, "disable_ipv6"), strings.Index(did, "up"); off < 0 || up < off {
		t.Errorf("in this order:\n%s", did)
	}
	if got, joined, err := fit(t, f, c); err != nil || joined || len(got) > 0 {
		t.Errorf("the second time: %q, joined %v, %v", got, joined, err)
	}
	check(t, f.SetUp(c.Name, false))
	if got, joined, err := fit(t, f, c); err != nil || joined || !slices.Equal(got, want[3:]) {
		t.Errorf("it was set down: %q, joined %v, %v", got, joined, err)
	}
}

// TestFitFails: whichever call fails, the rest is done, and the next time that.
func TestFitFails(t *testing.T) {
	broken := errors.New("broken")
	f, c := world(t)
	before := f.Calls()
	want, _, err := fit(t, f, c)
	check(t, err)
	calls := f.Calls() - before - 1 // the test's own
	for n := range calls {
		f, c := world(t)
		l, err := f.Link(c.Name)
		check(t, err)
		f.FailCall(n+1, broken)
		first, _, err := Fit(f, l, c)
		if !errors.Is(err, broken) {
			t.Errorf("call %d: %v", n, err)
		}
		second, _, err := fit(t, f, c)
		if err != nil || len(first)+1 != len(want) || len(second) != 1 || !slices.Contains(want, second[0]) {
			t.Errorf("call %d: %q, then %q, %v; want %q in both", n, first, second, err, want)
		}
	}
}

// TestForget: no neighbour is left, also where there is no bridge; of many that
// stay it is told how many.
func TestForget(t *testing.T) {
	f, c := world(t)
	check(t, Forget(f, "gone"))
	for i := range byte(5) {
		check(t, f.AddNeighbour(c.Bridge, kernel.Neighbour{Addr: netip.AddrFrom4([4]byte{10, 32, 0, i + 1}), MAC: kernel.MAC{2, i}}))
	}
	check(t, Forget(f, c.Bridge))
	if list, err := f.Neighbours(c.Bridge); err != nil || len(list) > 0 {
		t.Errorf("%+v, %v", list, err)
	}
	check(t, Forget(f, c.Bridge))

	var many Failures
	if one := errors.New("one"); !many.OK(nil) || many.Err() != nil || many.OK(one) || !errors.Is(many.Err(), one) {
		t.Errorf("%v", many.Err())
	}
	many.OK(errors.New("two"))
	many.OK(errors.New("three"))
	if got := many.Err().Error(); got != "one (and 2 more)" {
		t.Error(got)
	}
}

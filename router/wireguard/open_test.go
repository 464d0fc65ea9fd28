package wireguard

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

func TestOpenKernel(t *testing.T) {
	for _, c := range []struct {
		name string
		prep func(*kerneltest.Fake) error
		want []string
		err  string
	}{
		{"nothing there", nil, []string{"ip link add weft-wg mtu 1280 type wireguard"}, ""},
		{"one that works on", func(f *kerneltest.Fake) error { return f.AddWireGuard(name, 1444) }, nil, ""},
		{
			"an in-process predecessor's", func(f *kerneltest.Fake) error { return f.AddTUN(name, 1444) },
			[]string{"ip link del weft-wg", "ip link add weft-wg mtu 1280 type wireguard"},
			"",
		},
		{
			"somebody else's", func(f *kerneltest.Fake) error { return f.AddBridge(name, kernel.MAC{}, 1500) },
			nil, `an interface weft-wg of kind "bridge" is in the way`,
		},
		{
			"no module", func(f *kerneltest.Fake) error { f.FailCall(2, unix.EOPNOTSUPP); return nil },
			nil, "its module is missing, try 'modprobe wireguard'",
		},
		{"no answer", func(f *kerneltest.Fake) error { f.FailCall(1, unix.EIO); return nil }, nil, "input/output error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			links := kerneltest.New("host")
			if c.prep != nil {
				must(t, c.prep(links))
			}
			links.TakeChanges()
			d := newDevice(Options{Name: name, Links: links})
			err := d.openKernel()
			compare(t, "changes", links.TakeChanges(), c.want...)
			if c.err == "" {
				must(t, err)
				if d.Mode() != Kernel {
					t.Errorf("mode %s", d.Mode())
				}
			} else if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

// With neither, the error says what is missing for each.
func TestOpenNothing(t *testing.T) {
	if !alone(t) {
		return
	}
	must(t, unix.Mount("none", "/dev/net", "tmpfs", 0, ""))
	_, err := Open(Options{Name: name, Links: withoutWireGuard{kerneltest.New("host")}})
	if err == nil {
		t.Fatal("opened")
	}
	for _, want := range []string{"no WireGuard on this host", "modprobe wireguard", "modprobe tun", "open device weft-wg"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error has no %q: %v", want, err)
		}
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error does not say that it is unsupported: %v", err)
	}
	if _, err := os.Stat(socketPath(name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("control socket left: %v", err)
	}
}

type withoutWireGuard struct{ *kerneltest.Fake }

func (withoutWireGuard) AddWireGuard(string, int) error { return unix.EOPNOTSUPP }

// Auto takes the kernel's device where there is one, and the other elsewhere.
func TestOpenAuto(t *testing.T) {
	if !alone(t) {
		return
	}
	k, err := kernel.New()
	must(t, err)
	d, err := Open(Options{Name: name, Links: k})
	must(t, err)
	l, err := k.Link(name)
	must(t, err)
	if kind := map[Mode]string{Kernel: "wireguard", Userspace: "tun"}[d.Mode()]; l.Kind != kind {
		t.Errorf("mode %s on a device of kind %q", d.Mode(), l.Kind)
	}
	set(t, d, config(peer(2)))
	list, err := d.Peers()
	if err != nil || len(list) != 1 || list[0].PublicKey != public(2) {
		t.Errorf("peers %+v, %v", list, err)
	}
	must(t, d.Close())
	must(t, Remove(k, name))
	must(t, Remove(k, name))
	if _, err := k.Link(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

// A live socket, or a file that is none, is not removed as stale.
func TestSocketInUse(t *testing.T) {
	if !alone(t) {
		return
	}
	log := newDevice(Options{}).log
	u, err := listenUAPI(name, hangUp, log)
	must(t, err)
	if _, err := listenUAPI(name, hangUp, log); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second one: %v", err)
	}
	must(t, removeStale(u.path))
	if !fileExists(u.path) {
		t.Error("a live socket was removed")
	}
	must(t, u.Close())
	must(t, os.WriteFile(u.path, nil, 0o600))
	must(t, removeStale(u.path))
	if !fileExists(u.path) {
		t.Error("a file was removed")
	}
	if _, err := listenUAPI(name, hangUp, log); err == nil {
		t.Error("a file was replaced")
	}
}

func hangUp(c net.Conn) { _ = c.Close() }

package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"regexp"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// local is wireguard-go in this process.
type local struct {
	// Constant after openLocal.

	dev  *device.Device
	uapi *uapi // nil in tests that need no socket
}

// openLocal makes the TUN device, wireguard-go on it and the socket by which
// it is configured.
func openLocal(name string, mtu int, wrap func(tun.Device) tun.Device, b conn.Bind, log *slog.Logger) (inProcess, error) {
	t, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, explainTUN(name, err)
	}
	if wrap != nil {
		t = wrap(t)
	}
	l := startLocal(t, b, log)
	if l.uapi, err = listenUAPI(name, l.dev.IpcHandle, log); err != nil {
		l.dev.Close()
		return nil, err
	}
	return l, nil
}

func startLocal(t tun.Device, b conn.Bind, log *slog.Logger) *local {
	return &local{dev: device.NewDevice(t, b, &device.Logger{
		Verbosef: logTo(log),
		Errorf:   logTo(log), // no endpoint, no route: all in a day's work here
	})}
}

// explainTUN says what to do about it.
func explainTUN(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("make TUN device %s: it takes root (CAP_NET_ADMIN) and access to /dev/net/tun: %w", name, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("make TUN device %s: another process holds it: %w", name, err)
	case errors.Is(err, syscall.ENODEV), !fileExists("/dev/net/tun"):
		return fmt.Errorf("make TUN device %s: this kernel has no TUN devices, try 'modprobe tun': %w", name, err)
	}
	return fmt.Errorf("make TUN device %s: %w", name, err)
}

func (l *local) Up() error             { return l.dev.Up() }
func (l *local) Done() <-chan struct{} { return l.dev.Wait() }

// Initiate voids what there is and sends an initiation.
func (l *local) Initiate(key [32]byte) (bool, error) {
	p := l.dev.LookupPeer(key)
	if p == nil {
		return false, nil
	}
	p.ExpireCurrentKeypairs() // also allows an initiation before 5 s are over
	return true, p.SendHandshakeInitiation(false)
}

// SetEndpoint does what a packet from there would do. By the UAPI socket the
// peer would also send what waits, an initiation among it.
func (l *local) SetEndpoint(key [32]byte, ep netip.AddrPort) (bool, error) {
	p := l.dev.LookupPeer(key)
	if p == nil {
		return false, nil
	}
	e, err := l.dev.Bind().ParseEndpoint(ep.String())
	if err == nil {
		p.SetEndpointFromPacket(e)
	}
	return true, err
}

// Close ends the device and waits for it.
func (l *local) Close() error {
	var err error
	if l.uapi != nil {
		err = l.uapi.Close()
	}
	l.dev.Close()
	<-l.dev.Wait()
	return err
}

// secret matches keys as wireguard-go and its clients write them.
const secret = `[0-9A-Fa-f]{64}|[A-Za-z0-9+/]{43}=`

// logTo makes slog debug lines of what wireguard-go says. It never says a key,
// except when a client of the UAPI socket sends one that it cannot parse.
func logTo(log *slog.Logger) func(format string, args ...any) {
	keys := regexp.MustCompile(secret)
	return func(format string, args ...any) {
		if !log.Enabled(context.Background(), slog.LevelDebug) {
			return
		}
		log.Debug("wireguard-go", "line", keys.ReplaceAllString(fmt.Sprintf(format, args...), "(key)"))
	}
}

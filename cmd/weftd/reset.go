package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/changes"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/tap"
	"github.com/weftnet/weft/router/vxlan"
	"github.com/weftnet/weft/router/wireguard"
	"github.com/weftnet/weft/router/workload"
)

// reset removes everything of weft from this host: no daemon may run.
func reset(ctx context.Context, s settings.Settings, force bool) error {
	if err := preflight(); err != nil {
		return err
	}
	socket, err := api.Listen(s.Socket)
	if errors.Is(err, api.ErrConflict) {
		return fmt.Errorf("%w: 'weft reset' stops it first", errRunning)
	}
	if err != nil {
		return err
	}
	defer func() {
		_ = socket.Close()                    // removes the socket
		_ = os.Remove(filepath.Dir(s.Socket)) // fails when something of others is in it
	}()
	k, err := kernel.New()
	if err != nil {
		return err
	}
	defer k.Close()
	log := slog.New(slog.DiscardHandler)
	former, err := changes.Open(s.StateDir)
	if err != nil && !force {
		return fmt.Errorf("%w; or give --force", err)
	}
	var journal bridge.Journal
	if err == nil {
		journal = former
	}
	if err := withdrawDNS(k, s.StateDir); err != nil && !force {
		return fmt.Errorf("reset: %w; or give --force", err)
	}
	errs := []error{
		attach.Reset(k),
		vxlan.New(k, log).Remove(),
		tap.New(tap.Options{Kernel: k}).Remove(),
		wireguard.Remove(k, router.WireGuardName),
		bridge.New(bridge.Deps{Kernel: k, Journal: journal, Log: log}).Remove(ctx),
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("reset: %w; what was recorded in %s is kept: run it again", err, s.StateDir)
	}
	forgetDocker(ctx, s)
	return errors.Join(removeState(s.StateDir), removeRuntime(s))
}

// withdrawDNS lets containers that go on without us ask other name servers.
func withdrawDNS(k *kernel.Kernel, stateDir string) error {
	redirect := bridge.NewRedirect(router.DNSAddress)
	guests := attach.New(k, openGuest, attach.Config{Withdraw: func(g attach.Guest) error { return redirect.Remove(g) }})
	return workload.WithdrawDNS(stateDir, guests.WithdrawDNS)
}

// removeState removes what weft keeps, and the directory unless somebody keeps
// something else in it.
func removeState(dir string) error {
	names := []string{"identity", "secret", "peers.json", "ipam.db", "workloads.json", "networks.json", "host.json"}
	patterns := []string{"ipam.db.damaged-*", ".doctor*"}
	for _, name := range names {
		patterns = append(patterns, "."+name+"[0-9]*") // what a killed daemon was about to put in its place
	}
	var errs []error
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		for _, path := range found {
			names = append(names, filepath.Base(path))
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, removeFiles(dir, names...))...)
}

// removeRuntime removes the log, the allocator's mark and the sockets that a
// killed daemon left. The API's goes with its listener.
func removeRuntime(s settings.Settings) error {
	return removeFiles(filepath.Dir(s.LogFile()), filepath.Base(s.LogFile()), filepath.Base(s.IPAMMark()), filepath.Base(s.ProxySocket()), filepath.Base(s.PluginDoor()))
}

func removeFiles(dir string, names ...string) error {
	var errs []error
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(dir) // fails when it is not empty, and so it should
	return errors.Join(errs...)
}

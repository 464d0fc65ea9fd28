package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// errRunning is returned when another daemon has this host.
var errRunning = errors.New("weftd is already running on this host")

// preflight refuses a host on which weft cannot work, and says why and what
// to do. It changes nothing.
func preflight() error {
	if os.Geteuid() != 0 {
		return errors.New("weftd must run as root: it makes interfaces and firewall rules")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return errors.New("this kernel has no IPv6 (ipv6.disable=1 on its command line?), and tunnels between hosts use it; " +
			"boot without that option: IPv6 may be switched off with sysctl")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return fmt.Errorf("the program nft is not in PATH; install nftables: %w", err)
	}
	return nil
}

// machineID returns the id of this installation, or nothing.
func machineID() string {
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// bootID returns the id that the kernel drew when the machine started.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

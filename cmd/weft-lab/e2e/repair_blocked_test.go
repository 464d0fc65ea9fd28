package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deafen keeps the kernel's notifications from the host's daemon, and returns
// how many sockets it had for them. Nothing in the daemon is for this: the test
// borrows those sockets and puts a filter on them that lets nothing pass.
func (n *node) deafen() int {
	n.c.t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		n.c.t.Fatal(err)
	}
	mine, err := os.Readlink(filepath.Join(n.Root(), "../ns/net"))
	if err != nil {
		n.c.t.Fatal(err)
	}
	var done int
	for _, d := range dirs {
		comm, _ := os.ReadFile(d + "/comm")
		if ns, _ := os.Readlink(d + "/ns/net"); strings.TrimSpace(string(comm)) != "weftd" || ns != mine {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			n.c.t.Fatal(err)
		}
		deaf, err := deafen(pid)
		if err != nil {
			n.c.t.Fatal(err)
		}
		done += deaf
	}
	return done
}

func deafen(pid int) (done int, err error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(process) }()
	fds, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return 0, err
	}
	for _, f := range fds {
		theirs, err := strconv.Atoi(f.Name())
		if err != nil {
			return done, err
		}
		fd, err := unix.PidfdGetfd(process, theirs, 0)
		if errors.Is(err, unix.EBADF) {
			continue // closed since
		}
		if err != nil {
			return done, err
		}
		deaf, err := deafenSocket(fd)
		_ = unix.Close(fd)
		if err != nil {
			return done, err
		}
		if deaf {
			done++
		}
	}
	return done, nil
}

// deafenSocket filters a socket that has joined groups of netlink.
func deafenSocket(fd int) (bool, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return false, nil //nolint:nilerr // not a socket
	}
	if nl, ok := name.(*unix.SockaddrNetlink); !ok || nl.Groups == 0 {
		return false, nil
	}
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	return true, unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
}

// With the kernel's notifications blocked the sweep finds the same.
func TestRepairWithoutNotifications(t *testing.T) {
	parallelAs(t, idle, 30*time.Second)
	p := newPatient(t)
	if n := p.deafen(); n < 2 {
		t.Fatalf("the daemon has %d sockets for notifications, want one of routing and one of nftables", n)
	}
	rest(t.Context(), time.Second*run.slow()) // what the daemon was told before, it has looked at
	before := len(p.log())
	// Those that do not undo each other, nor are noticed by other hosts first.
	broken := slices.DeleteFunc(harms(), func(h harm) bool {
		return !slices.Contains([]string{
			"ruleset flushed", "switch port taken out", "remote deleted", "container's port taken out", "bridge down",
			"bridge's address changed", "IPv6 on at the bridge", "name server's address deleted", "name server's rules deleted",
		}, h.name)
	})
	for _, h := range broken {
		p.sh(p.env + h.do)
	}
	p.sh("iptables -P FORWARD DROP")
	broken = append(broken, harm{name: "policy DROP", log: "the accept in chain FORWARD of iptables was missing"})
	time.Sleep(2 * time.Second)
	for _, l := range repairs(p.log()[before:]) { // the sweep may just have come
		if strings.Contains(l, "how=notified") {
			t.Fatalf("notifications are not blocked: %s", l)
		}
	}
	wait(t, "everything is repaired by the sweep", 30*time.Second, func() error {
		lines := repairs(p.log()[before:])
		for _, h := range broken {
			if err := saysOnce(lines, p.expand(h.log), "swept"); err != nil {
				return err
			}
		}
		return p.flows()
	})
}

// What a sweep repairs is a chance only when it comes as soon as the kernel
// would have told, and only as often as sweeps come.
func TestSweptByChance(t *testing.T) {
	swept := []string{`msg=repaired what="weft-wg was down" how=swept`}
	long := time.Now().Add(-time.Hour)
	for _, tc := range []struct {
		name         string
		lines        []string
		last, harmed time.Time
		want         bool
	}{
		{"a sweep, at once", swept, time.Time{}, time.Now(), true},
		{"the next one", swept, time.Now().Add(-sweepTime), time.Now(), true},
		{"one that is not due", swept, time.Now().Add(-sweepTime / 2), time.Now(), false},
		{"a sweep, after a while", swept, long, time.Now().Add(-20 * time.Second), false},
		{"a notification", []string{`msg=repaired what="weft-wg was down" how=notified`}, long, time.Now(), false},
		{"nothing", nil, long, time.Now(), false},
	} {
		n := &node{swept: tc.last}
		if got := n.sweptByChance(tc.lines, tc.harmed); got != tc.want {
			t.Errorf("%s: %t, want %t", tc.name, got, tc.want)
		}
		if got := n.sweptByChance(tc.lines, tc.harmed); got {
			t.Errorf("%s: it is a chance twice", tc.name)
		}
	}
}

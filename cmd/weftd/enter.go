package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What the image says to a daemon in a container, see scripts/image. They are
// no settings of weft's, so options have no such names.
const (
	enterVariable    = "WEFT_ENTER_HOST"     // the host's mount namespace, such as /proc/1/ns/mnt
	enterLogVariable = "WEFT_ENTER_HOST_LOG" // where its log goes then; empty: where it went
)

// containedVariable is how the daemon knows, over there, that it lives in a
// container.
const containedVariable = "WEFT_CONTAINED"

// hostPath is where programs of the host are looked for: that of an image says
// nothing about it.
const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// enterHost leaves the file system of an image for that of the host, which has
// nft, iptables of Docker's kind, network namespaces by name and everything
// else that this program would have without a container. It does nothing where
// it is not asked for. Else it does not return unless it fails: the program
// begins anew over there, as a child of this process, which stays so that docker
// exec finds the image.
func enterHost(environ []string) (code int, ended bool, err error) {
	i := slices.IndexFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, enterVariable+"=") })
	if i < 0 {
		return 0, false, nil
	}
	_, namespace, _ := strings.Cut(environ[i], "=")
	if there, ok := strings.CutPrefix(namespace, enterChild); ok {
		return 0, false, goOver(there, environ)
	}
	environ = slices.Clone(environ)
	environ[i] = enterVariable + "=" + enterChild + namespace
	code, err = standBy(environ)
	return code, err == nil, err
}

// enterChild marks the variable for the child.
const enterChild = "child:"

// standBy runs the child, hands signals on to it and returns its exit code. The
// child ends with this process.
func standBy(environ []string) (code int, err error) {
	runtime.LockOSThread() // the child is told of the end of this thread
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = environ
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("begin in the host's file system: %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	_ = cmd.Wait() // the state says it
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// goOver replaces this process by the same program in the namespace.
func goOver(namespace string, environ []string) error {
	// The file is not to be found there, but can be executed while it is open.
	self, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	ns, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("enter the host's file system: %w; the container needs --pid=host and --cap-add=SYS_PTRACE", err)
	}
	// Only a thread whose root and directory are its own can go over, and what
	// it executes is where it is. It is never unlocked: it does not return.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil { //nolint:forbidigo // the process becomes another one
		return fmt.Errorf("enter the host's file system: %w", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil { //nolint:forbidigo // likewise
		return fmt.Errorf("enter the host's file system: %w; the container needs --cap-add=SYS_ADMIN, --cap-add=SYS_CHROOT and --security-opt apparmor=unconfined", err)
	}
	if err := os.Chdir("/"); err != nil { //nolint:forbidigo // likewise
		return fmt.Errorf("enter the host's file system: %w", err)
	}
	if log := os.Getenv(enterLogVariable); log != "" {
		if err := logTo(log); err != nil {
			return fmt.Errorf("open the log: %w", err)
		}
	}
	path := fmt.Sprintf("/proc/self/fd/%d", self)
	return fmt.Errorf("execute %s: %w", path, syscall.Exec(path, os.Args, hostEnviron(environ)))
}

// hostEnviron is the environment of an image without what is about the image.
func hostEnviron(environ []string) []string {
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == enterVariable || name == enterLogVariable || name == "PATH"
	})
	return append(out, "PATH="+hostPath, containedVariable+"=yes")
}

// logTo makes a file what is written to as standard output and error.
func logTo(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	for _, to := range []int{1, 2} {
		if err := unix.Dup3(fd, to, 0); err != nil {
			return fmt.Errorf("dup3: %w", err)
		}
	}
	return nil
}

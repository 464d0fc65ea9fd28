package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The main goroutine keeps the main thread: a goroutine that enters a namespace
// never returns its thread, and the main thread cannot die, so it would stay
// there and take the program's /proc/self/ns along.
func init() { runtime.LockOSThread() }

// Place is a set of namespaces held by a first process: a host or a container.
// It is safe for concurrent use until the place ends.
type Place struct {
	// Constant after the place was made.
	name  string
	pid   int // as the lab's owner sees it
	start uint64
	pidfd int
	path  string // of commands started here
	own   bool   // it has programs of its own, not the machine's
	env   []string
	nl    *netlink.Handle
}

const allNamespaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS

// newPlace opens the namespaces of a first process. The process must be alive.
func newPlace(name string, pid int) (*Place, error) {
	start, err := startTime(pid)
	if err != nil {
		return nil, fmt.Errorf("%s: first process %d: %w", name, pid, err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: first process %d: %w", name, pid, err)
	}
	p := &Place{name: name, pid: pid, start: start, pidfd: pidfd, path: defaultPath}
	p.env = []string{"HOME=/root", "USER=root", "LC_ALL=C.UTF-8", "PATH=" + p.path}
	if t := os.Getenv("TERM"); t != "" {
		p.env = append(p.env, "TERM="+t)
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer func() { _ = ns.Close() }()
	if p.nl, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		p.close()
		return nil, fmt.Errorf("%s: netlink: %w", name, err)
	}
	return p, nil
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (p *Place) close() {
	if p.nl != nil {
		p.nl.Close()
	}
	_ = unix.Close(p.pidfd)
}

// Name returns the name of the host, or HOST/CONTAINER.
func (p *Place) Name() string { return p.name }

// Netlink returns a handle inside the network namespace, valid until the place
// ends.
func (p *Place) Netlink() *netlink.Handle { return p.nl }

// Root returns a path under which the place's files are seen from outside.
func (p *Place) Root() string { return "/proc/" + strconv.Itoa(p.pid) + "/root" }

// SetPath puts directories before the standard ones in PATH. It must be called
// before commands are started.
func (p *Place) SetPath(dirs ...string) {
	p.path = strings.Join(append(dirs, defaultPath), ":")
	for i, e := range p.env {
		if strings.HasPrefix(e, "PATH=") {
			p.env[i] = "PATH=" + p.path
		}
	}
}

// Do runs f on a thread inside the network namespace and blocks until it
// returns. Sockets that f opens belong to that namespace for good. f must not
// start goroutines that open sockets themselves.
func (p *Place) Do(f func() error) error { return p.enter(unix.CLONE_NEWNET, f) }

func (p *Place) enter(namespaces int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			if namespaces&unix.CLONE_NEWNS != 0 {
				// A thread that shares its working directory cannot change mounts.
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					return fmt.Errorf("enter %s: unshare: %w", p.name, err)
				}
			}
			if err := unix.Setns(p.pidfd, namespaces); err != nil {
				return fmt.Errorf("enter %s: %w", p.name, err)
			}
			return f()
		}()
	}()
	return <-done
}

// Wait blocks until the place's first process has ended, and everything in the
// place with it.
func (p *Place) Wait() error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("%s: wait for its end: %w", p.name, err)
		}
		if n > 0 {
			return nil
		}
	}
}

// Command prepares a command of this place. Start it with [Place.StartCommand];
// its own Start would run it outside.
func (p *Place) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if !strings.Contains(args[0], "/") {
		cmd.Path, cmd.Err = p.look(args[0])
	}
	cmd.Dir = "/"
	cmd.Env = append([]string(nil), p.env...)
	// What a command leaves behind may keep its output open. On a machine that
	// has much to do the last of the output needs some time, too.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// look finds a program in the place's PATH; programs are the same everywhere but
// in a host with systemd.
func (p *Place) look(name string) (string, error) {
	for dir := range strings.SplitSeq(p.path, ":") {
		f := filepath.Join(dir, name)
		if p.own {
			if _, err := os.Lstat(filepath.Join(p.Root(), f)); err == nil { // a link may lead anywhere there
				return f, nil
			}
			continue
		}
		if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return f, nil
		}
	}
	return name, fmt.Errorf("%s: %w in %s", name, exec.ErrNotFound, p.path)
}

// StartCommand starts cmd inside all namespaces of the place; the caller waits
// for it.
func (p *Place) StartCommand(cmd *exec.Cmd) error {
	return p.enter(allNamespaces, cmd.Start)
}

// Result is what a command left.
type Result struct {
	Args           []string
	Stdout, Stderr string
	Exit           int   // -1: killed, or not started
	Err            error // nil when Exit is 0
}

// String renders the result for a failure message.
func (r Result) String() string {
	return fmt.Sprintf("%s: exit %d\nstdout: %s\nstderr: %s", strings.Join(r.Args, " "), r.Exit, r.Stdout, r.Stderr)
}

// Run runs a command in the place and waits for it.
func (p *Place) Run(ctx context.Context, args ...string) Result {
	return p.RunInput(ctx, "", args...)
}

// RunInput is [Place.Run] with a standard input.
func (p *Place) RunInput(ctx context.Context, stdin string, args ...string) Result {
	cmd := p.Command(ctx, args...)
	var out, errout bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errout
	r := Result{Args: args, Exit: -1}
	if r.Err = p.StartCommand(cmd); r.Err == nil {
		r.Err = cmd.Wait()
		if errors.Is(r.Err, exec.ErrWaitDelay) {
			r.Err = nil
		}
		r.Exit = cmd.ProcessState.ExitCode()
	}
	r.Stdout, r.Stderr = out.String(), errout.String()
	if r.Err != nil {
		r.Err = fmt.Errorf("%s: %s: %w: %s", p.name, strings.Join(args, " "), r.Err, strings.TrimSpace(r.Stderr))
	}
	return r
}

// Process is a command that runs in the background.
type Process struct {
	// Log is the file that gets its output.
	Log string

	cmd  *exec.Cmd
	done chan struct{}
	err  error // after done
}

// Start starts a command in the background with its output in the file log. It
// is killed when ctx ends, and with its host.
func (p *Place) Start(ctx context.Context, log string, args ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", p.name, args[0], err)
	}
	defer func() { _ = f.Close() }()
	pr := &Process{Log: log, cmd: p.Command(ctx, args...), done: make(chan struct{})}
	pr.cmd.Stdout, pr.cmd.Stderr = f, f
	if err := p.StartCommand(pr.cmd); err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", p.name, args[0], err)
	}
	go func() {
		pr.err = pr.cmd.Wait()
		close(pr.done)
	}()
	return pr, nil
}

// Done is closed when the process has ended.
func (pr *Process) Done() <-chan struct{} { return pr.done }

// Wait blocks until the process has ended and returns how.
func (pr *Process) Wait() error { <-pr.done; return pr.err }

// Signal sends a signal; a process that has ended is no error.
func (pr *Process) Signal(s os.Signal) error {
	if err := pr.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// startTime identifies a process together with its number: field 22 of
// /proc/PID/stat.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, fmt.Errorf("process %d: unreadable stat", pid)
	}
	return strconv.ParseUint(f[19], 10, 64)
}

package workload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// process starts a process in a network namespace of its own.
func process(t *testing.T) (pid int, stop func()) {
	t.Helper()
	cmd := exec.Command("sleep", "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	// The signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	err := cmd.Start()
	runtime.UnlockOSThread()
	check(t, err)
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return cmd.Process.Pid, stop
}

// machine is a fresh namespace with a switch, and the daemon's life on it.
type machine struct {
	*world // for names and exposure only
	kernel *kernel.Kernel
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	r := &machine{world: newWorld(t), kernel: kerneltest.Fresh(t)}
	check(t, r.kernel.AddBridge("weft", r.MAC(), 1370))
	check(t, r.kernel.SetUp("weft", true))
	return r
}

func (r *machine) restart() *Workload {
	r.t.Helper()
	c := Config{
		StateDir: r.dir, BootID: r.boot, Domain: testDomain, Names: r.world, Host: r.world,
		Attacher: attach.New(r.kernel, func(path string) (attach.Guest, error) { return kernel.Open(path) },
			attach.Config{MTU: func() int { return 1370 }, DNS: dnsAddress()}),
	}
	if r.space != nil {
		c.Space = r.space
	}
	d, err := New(c)
	check(r.t, err)
	check(r.t, d.Restore(context.Background()))
	return d
}

func inside(t *testing.T, pid int, args ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(pid), "-n"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v in %d: %v\n%s", args, pid, err, out)
	}
	return string(out)
}

// eventually asks again and again until the answer is yes.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// reaches pings until there is an answer: a port of a bridge forwards a moment
// after its link came up, and who is not found within three questions is given
// up.
func reaches(t *testing.T, pid int, addr string) {
	t.Helper()
	eventually(t, "an answer from "+addr, func() bool {
		return exec.Command("nsenter", "-t", fmt.Sprint(pid), "-n", "ping", "-c", "1", "-W", "1", addr).Run() == nil
	})
}

func TestNamespaces(t *testing.T) {
	ctx := context.Background()
	r := newMachine(t)
	d := r.restart()
	one, stop := process(t)
	two, _ := process(t)
	c1, c2 := fmt.Sprintf("pid:%d", one), fmt.Sprintf("netns:/proc/%d/ns/net", two)
	mustAttach(t, d, c1, "10.32.0.1/12")
	mustAttach(t, d, c2, "10.32.0.2/12")
	check(t, d.DNSAdd(ctx, api.NameRequest{Container: c1, FQDN: "one"}))
	reaches(t, one, "10.32.0.2")

	// Another daemon, and the same through another process of the namespace.
	d = r.restart()
	list, err := d.PS(ctx, []string{c1, c2})
	check(t, err)
	if len(list) != 2 || list[0].Interface != "weft0" {
		t.Errorf("after a restart: %v", list)
	}
	sub := exec.Command("nsenter", "-t", fmt.Sprint(one), "-n", "sh", "-c", "echo inside; exec sleep 3600")
	said, err := sub.StdoutPipe()
	check(t, err)
	check(t, sub.Start())
	defer func() { _ = sub.Process.Kill(); _ = sub.Wait() }()
	_, err = bufio.NewReader(said).ReadString('\n')
	check(t, err)
	stop() // the namespace lives on
	repaired, err := d.Sweep(ctx)
	check(t, err)
	if len(repaired) != 0 || len(d.keys()) != 2 {
		t.Errorf("sweep: %q, entries %v", repaired, d.keys())
	}
	reaches(t, sub.Process.Pid, "10.32.0.2")
	got, err := d.Detach(ctx, api.DetachRequest{Container: c1})
	check(t, err)
	if fmt.Sprint(got) != "[10.32.0.1/12]" {
		t.Errorf("detach: %v", got)
	}
	if out := inside(t, sub.Process.Pid, "ip", "link"); strings.Contains(out, "weft") {
		t.Errorf("left inside:\n%s", out)
	}
	_, err = d.Detach(ctx, api.DetachRequest{Container: c2})
	check(t, err)
	if len(d.keys()) != 0 {
		t.Errorf("entries are left: %v", d.keys())
	}
}

// watch calls f after every change that the kernel tells of, until the returned
// function is called.
func (r *machine) watch(f func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	changed := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = r.kernel.Watch(ctx, func(kernel.Event) {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	})
	wg.Go(func() {
		for {
			select {
			case <-changed:
				f(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// waitFor waits until f, which is asked again when something was looked at.
func waitFor(t *testing.T, looked <-chan struct{}, f func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !f() {
		select {
		case <-looked:
		case <-deadline:
			t.Fatal("it does not happen")
		}
	}
}

// TestDeathIsNoticed kills a container and wants its names gone because of the
// kernel's notification alone.
func TestDeathIsNoticed(t *testing.T) {
	r := newMachine(t)
	d := r.restart()
	ctx := context.Background()
	looked := make(chan struct{}, 1)
	defer r.watch(func(ctx context.Context) {
		if _, err := d.LinksChanged(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		select {
		case looked <- struct{}{}:
		default:
		}
	})()
	pid, stop := process(t)
	c := fmt.Sprintf("pid:%d", pid)
	mustAttach(t, d, c, "10.32.0.1/12")
	check(t, d.DNSAdd(ctx, api.NameRequest{Container: c, FQDN: "one"}))
	start := time.Now()
	stop()
	waitFor(t, looked, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.names) == 0
	})
	t.Logf("gone after %v", time.Since(start))
	waitFor(t, looked, func() bool { return len(d.keys()) == 0 })

	// A deleted end of a living container comes back.
	pid, _ = process(t)
	mustAttach(t, d, fmt.Sprintf("pid:%d", pid), "10.32.0.1/12")
	e, _ := d.journal.entry(d.keys()[0])
	check(t, r.kernel.DelLink(e.NS.HostEnd()))
	waitFor(t, looked, func() bool {
		links, err := r.kernel.Links()
		return err == nil && d.attacher.Sound(links, e.NS)
	})
}

// TestManyAtOnce is 200 attachments, attached and detached by eight callers.
func TestManyAtOnce(t *testing.T) {
	ctx := context.Background()
	r := newMachine(t)
	d := r.restart()
	const containers, callers = 200, 8
	var cs []string
	for range containers {
		pid, _ := process(t)
		cs = append(cs, fmt.Sprintf("pid:%d", pid))
	}
	count := func() (fds, links int) {
		list, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		l, err := r.kernel.Links()
		check(t, err)
		return len(list), len(l)
	}
	fds, links := count()
	ignore := goleak.IgnoreCurrent()
	each := func(what string, f func(i int) error) {
		start := time.Now()
		errs := make([]error, callers)
		var wg sync.WaitGroup
		for caller := range callers {
			wg.Go(func() {
				for i := range containers {
					if i%callers == caller && errs[caller] == nil {
						errs[caller] = f(i)
					}
				}
			})
		}
		wg.Wait()
		check(t, errors.Join(errs...))
		t.Logf("%s: %v each", what, time.Since(start)/containers)
	}
	each("attach", func(i int) error {
		_, err := d.Attach(ctx, api.AttachRequest{Container: cs[i], Addresses: []string{fmt.Sprintf("10.32.1.%d/12", i+1)}})
		return err
	})
	if _, l := count(); l != links+containers {
		t.Errorf("%d links, want %d", l, links+containers)
	}
	repaired, err := d.Sweep(ctx)
	check(t, err)
	if len(repaired) != 0 {
		t.Errorf("the sweep repaired %q", repaired)
	}
	start := time.Now()
	d = r.restart()
	t.Logf("restart with %d attachments: %v", containers, time.Since(start))
	start = time.Now()
	_, err = d.LinksChanged(ctx)
	check(t, err)
	t.Logf("look at all links: %v", time.Since(start))
	each("detach", func(i int) error {
		_, err := d.Detach(ctx, api.DetachRequest{Container: cs[i]})
		return err
	})
	goleak.VerifyNone(t, ignore)
	if f, l := count(); f != fds || l != links {
		t.Errorf("descriptors %d, links %d; want %d and %d", f, l, fds, links)
	}
	if len(d.keys()) != 0 || len(d.locks.held) != 0 {
		t.Errorf("left: entries %v, locks %v", d.keys(), d.locks.held)
	}
	files, err := filepath.Glob(filepath.Join(r.dir, "*"))
	check(t, err)
	if !slices.Equal(files, []string{filepath.Join(r.dir, "workloads.json")}) {
		t.Errorf("files: %v", files)
	}
}

// TestNumbersComeAgain gives a container's process id and inode to another,
// as far as the kernel lets us, and wants the two not to be confused.
func TestNumbersComeAgain(t *testing.T) {
	ctx := context.Background()
	r := newMachine(t)
	d := r.restart()
	pid, stop := process(t)
	mustAttach(t, d, fmt.Sprintf("pid:%d", pid), "10.32.0.1/12")
	e, _ := d.journal.entry(d.keys()[0])
	looked := make(chan struct{}, 1)
	unwatch := r.watch(func(context.Context) {
		select {
		case looked <- struct{}{}:
		default:
		}
	})
	stop()
	waitFor(t, looked, func() bool {
		_, err := r.kernel.Link(e.NS.HostEnd())
		return errors.Is(err, fs.ErrNotExist)
	})
	unwatch()
	same := false
	for range 20 {
		pid, _ = process(t)
		ns, err := d.attacher.Identify(fmt.Sprintf("/proc/%d/ns/net", pid))
		check(t, err)
		same = same || ns.ID == e.NS.ID
		if ns == e.NS {
			t.Fatalf("two namespaces are both %v", ns)
		}
	}
	t.Logf("the inode came again: %v", same)
	// Pretend that the last of them has the dead one's process id.
	check(t, d.journal.update(func(s *state) error {
		s.Containers[0].PID = pid
		s.Containers[0].Path = fmt.Sprintf("/proc/%d/ns/net", pid)
		return nil
	}))
	_, err := d.Sweep(ctx)
	check(t, err)
	if len(d.keys()) != 0 {
		t.Error("the dead one is still there")
	}
	if out := inside(t, pid, "ip", "link"); strings.Contains(out, "weft") {
		t.Errorf("another process got its interface:\n%s", out)
	}
}

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ownerEnv makes the test binary the owner of a lab of that name that is killed.
const ownerEnv = "WEFT_LAB_TEST_OWNER"

func TestMain(m *testing.M) {
	Init()
	if name := os.Getenv(ownerEnv); name != "" {
		ownUntilKilled(name)
	}
	os.Exit(m.Run())
}

func ownUntilKilled(name string) {
	l, err := Up(context.Background(), Flat(name, 2), Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if _, err := l.Host("host1").Container(context.Background(), "c1", ContainerOptions{}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("up")
	select {}
}

// up makes a lab that ends with the test.
func up(t *testing.T, topology Topology) *Lab {
	t.Helper()
	needRoot(t)
	topology.Name = labName(t)
	l, err := Up(t.Context(), topology, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func labName(t *testing.T) string {
	name := strings.ToLower(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name()))
	return fmt.Sprintf("%s-%d", name[:min(len(name), 30)], os.Getpid())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root")
	}
	t.Skip("SKIPPED, NOT TESTED: this test needs root")
}

// eventually polls until f gives no error, and fails after a generous deadline.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if err = f(); err == nil {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal(what, t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// ping tries once, and waits for the answer.
func ping(t *testing.T, from *Host, to netip.Addr) error { return pingWithin(t, from, to, soon) }

// answers is for who is not to answer: it waits for a second only.
func answers(t *testing.T, from *Host, to netip.Addr) bool {
	return pingWithin(t, from, to, time.Second) == nil
}

func pingWithin(t *testing.T, from *Host, to netip.Addr, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	_, err := from.Ping(ctx, to, 64, nil)
	return err
}

// processesOf returns the command lines of first processes that carry one of
// the lab's names.
func processesOf(t *testing.T, pids []int) (left []int) {
	t.Helper()
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && strings.HasPrefix(string(b), initName) {
			left = append(left, pid)
		}
	}
	return left
}

func (s state) pids() (out []int) {
	out = append(out, s.Switch.PID)
	for _, p := range s.Hosts {
		out = append(out, p.PID)
	}
	for _, cs := range s.Containers {
		for _, p := range cs {
			out = append(out, p.PID)
		}
	}
	return out
}

// machine lists what a lab could leave on the machine.
func machine(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "-o", "link").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		all = append(all, "link "+strings.Fields(line)[1])
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		all = append(all, "mount "+strings.Fields(line)[4])
	}
	for _, dir := range []string{"/etc", "/var/lib", "/run"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f.Name() != filepath.Base(stateRoot) {
				all = append(all, "file "+filepath.Join(dir, f.Name()))
			}
		}
	}
	return all
}

// isAsBefore compares the machine with what it was. What others make and remove
// meanwhile does not count: what a lab shows or leaves stays.
func isAsBefore(t *testing.T, otherwise string, before []string) {
	t.Helper()
	eventually(t, otherwise, func() error {
		if diff := cmp.Diff(before, machine(t)); diff != "" {
			return fmt.Errorf("(-before +now):\n%s", diff)
		}
		return nil
	})
}

func gone(name string) error {
	for _, dir := range []string{filepath.Join(stateRoot, name), filepath.Join(diskRoot, name)} {
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("%s is still there", dir)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func TestNothingSurvivesDown(t *testing.T) {
	before := machine(t)
	l := up(t, Flat("", 3))
	c, err := l.Host("host2").Container(t.Context(), "c1", ContainerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	s, err := load(l.Name())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(processesOf(t, s.pids())); n != 5 {
		t.Fatalf("%d first processes, want a switch, three hosts and a container", n)
	}
	if c.PID() <= 1 {
		t.Fatalf("the container has number %d in its host", c.PID())
	}
	isAsBefore(t, "a running lab shows on the machine", before)
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	if left := processesOf(t, s.pids()); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	isAsBefore(t, "left on the machine", before)
	if err := gone(l.Name()); err != nil {
		t.Error(err)
	}
}

func TestNothingSurvivesTheOwner(t *testing.T) {
	needRoot(t)
	name := labName(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), ownerEnv+"="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "up\n" {
		t.Fatalf("owner said %q", line)
	}
	s, err := load(name)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(processesOf(t, s.pids())); n != 3 {
		t.Fatalf("%d first processes, want a switch and two hosts", n)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the hosts end with their owner", func() error {
		if left := processesOf(t, s.pids()); len(left) > 0 {
			return fmt.Errorf("processes %v are left", left)
		}
		return nil
	})
	if err := sweep(); err != nil {
		t.Fatal(err)
	}
	if err := gone(name); err != nil {
		t.Error(err)
	}
}

func TestKeptLab(t *testing.T) {
	needRoot(t)
	name := labName(t)
	topology := Flat(name, 2)
	topology.Hosts[0].Containers = []string{"c1"}
	made, err := Up(t.Context(), topology, Options{Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(name); err != nil {
			t.Error(err)
		}
	})
	if _, err := Up(t.Context(), topology, Options{}); err == nil {
		t.Error("a second lab of the same name came up")
	}
	made.Close()
	l, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Place("host1/c1")
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Run(t.Context(), "hostname"); r.Stdout != "c1\n" {
		t.Errorf("hostname in the container: %v", r)
	}
	if err := ping(t, l.Host("host1"), l.Host("host2").Addr()); err != nil {
		t.Error(err)
	}
	if err := l.Cut(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	// Nobody would be there to do it by hand.
	if err := l.SetShape("host2", "lan", Shape{Delay: time.Millisecond}); err != nil && !errors.Is(err, ErrUnavailable) {
		t.Errorf("a delay: %v", err)
	}
	if _, err := l.Intercept("host2", "lan", func([]byte, func([]byte)) {}); err == nil {
		t.Error("a lab that stays is intercepted by a process that does not")
	}
	l.Close()
	if l, err = Open(name); err != nil {
		t.Fatal(err)
	}
	if len(l.faults) != 2 {
		t.Errorf("faults after another Open: %v", l.faults)
	}
	l.Close()
	s, err := load(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := Down(name); err != nil {
		t.Fatal(err)
	}
	if left := processesOf(t, s.pids()); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if err := gone(name); err != nil {
		t.Error(err)
	}
}

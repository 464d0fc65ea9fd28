package vxlan_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/vxlan"
)

const (
	group4, other4 = "239.1.2.3", "239.1.2.4"
	group6, other6 = "ff05::1:3", "ff05::1:4"
)

// Multicast groups go to hosts whose containers joined them, and to those that do
// not say what they want; what everybody may need goes everywhere.
func TestMulticastPruned(t *testing.T) {
	w := newSeveral(t, 4)
	w.begin()
	for _, g := range []string{group4, group6} {
		w.soon(data(1, g), "2 3 4")
	}
	// 2 wants both groups, 3 others, 4 says nothing.
	w.says(2, report(2, recordExclude, group4), report(2, recordExclude, group6))
	w.says(3, report(3, recordExclude, other4), report(3, recordExclude, other6))
	w.soon(data(1, group4), "2 3 4") // they have not had time to say everything
	w.sweep(settled)
	w.soon(data(1, group4), "2 4")
	w.soon(data(1, group6), "2 4")
	w.soon(data(1, other4), "3 4")
	w.soon(data(1, other6), "3 4")
	w.soon(data(1, "239.9.9.9"), "4")
	w.says(4, report(4, recordExclude, "239.4.4.4"))
	w.sweep(settled)
	w.soon(data(1, group4), "2")
	w.soon(data(1, group6), "2")
	w.soon(data(1, "239.9.9.9"), "") // nobody wants it
	w.soon(data(1, "ff0e::9"), "")

	tagged := append(append(bytes.Clone(data(1, group4)[:12]), 0x81, 0, 0, 5), data(1, group4)[12:]...)
	wrongMAC := data(1, "239.9.9.9")
	wrongMAC[5]++
	unicastMAC := append(append([]byte{2, 0xaa, 0, 0, 0, 1}, containerMACBytes(1)...), data(1, "239.9.9.9")[12:]...)
	for what, f := range map[string][]byte{
		"tagged":            tagged,
		"link-local":        data(1, "224.0.0.251"),
		"link-local, IPv6":  data(1, "ff02::fb"),
		"node-local, IPv6":  data(1, "ff01::fb"),
		"report of IGMPv2":  oldReport(1, "239.9.9.8"),
		"report of MLDv1":   oldReport(1, "ff0e::8"),
		"report of IGMPv3":  report(1, toExclude, "239.9.9.7"),
		"report of MLDv2":   report(1, toExclude, "ff0e::7"),
		"not the MAC of it": wrongMAC,
		"unknown address":   unicastMAC,
		"other protocol":    append(bytes.Clone(data(1, "239.9.9.9")[:12]), 0x88, 0xb6, 1, 2, 3),
	} {
		if got := w.goes(f); got != "2 3 4" {
			t.Errorf("%s: goes to %q", what, got)
		}
	}

	// Joining and leaving take effect at once.
	w.says(3, report(3, toExclude, group4))
	w.soon(data(1, group4), "2 3")
	w.says(2, report(2, toInclude, group4))
	w.soon(data(1, group4), "3")
	w.says(3, report(3, toInclude, group4))
	w.soon(data(1, group4), "")
	w.says(2, report(2, toExclude, group4))
	w.soon(data(1, group4), "2")
	// A report that makes others be silent: nobody knows who is a member.
	w.says(3, oldReport(3, group4), oldReport(3, group6))
	w.soon(data(1, group4), "2 3 4")
	w.soon(data(1, group6), "2 3 4")
	w.soon(data(1, "239.9.9.9"), "")
	// So does one of our own containers.
	w.soon(data(1, other4), "3")
	w.containers[0].send(t, oldReport(1, other4))
	w.soon(data(1, other4), "2 3 4")
	// A multicast router gets everything.
	w.says(4, igmp(4, "224.0.0.1", []byte{0x11, 100, 0, 0, 0, 0, 0, 0}))
	w.soon(data(1, "239.9.9.9"), "4")

	// A host that is no remote any more gets nothing, and knows nothing of it.
	c := w.config(0)
	c.Remotes = c.Remotes[:2]
	ok(t, w.port[0].Set(c))
	ok(t, w.port[0].Set(w.config(0)))
	w.soon(data(1, "239.9.9.9"), "4")
	// Who does not answer any more is not pruned any more.
	w.sweep(forgotten)
	w.soon(data(1, "239.9.9.9"), "2 3 4")
}

func containerMACBytes(n int) []byte { m := containerMAC(n); return m[:] }

// What ends the daemon, or anybody does to the device, makes groups flooded, and
// is repaired.
func TestMulticastRepaired(t *testing.T) {
	w := newSeveral(t, 3)
	w.begin()
	prune := func() {
		t.Helper()
		w.sweep(unheard)
		w.says(2, report(2, recordExclude, group4))
		w.says(3, report(3, recordExclude, other4))
		w.sweep(settled)
		w.soon(data(1, group4), "2")
		if repaired, err := w.port[0].Check(); len(repaired) > 0 || err != nil {
			t.Errorf("check: %q, %v", repaired, err)
		}
	}
	prune()
	h := w.host[0]
	for _, tt := range []struct {
		harm  func() error
		words string
	}{
		{func() error { return h.SetUp("weft-mc", false) }, "device weft-mc was down or not deaf"},
		{func() error { return h.DelLink("weft-mc") }, "multicast pruning depends on device weft-mc, which was another"},
		{func() error { return h.DelLink("weft-vx") }, "device weft-vx was gone"},
		{func() error {
			return h.DelMDB("weft-mc", kernel.MDB{Group: addr(group4), Dst: remote(2)})
		}, "lists of multicast groups were changed at weft-mc"},
		{func() error {
			return h.AddFDB("weft-mc", kernel.FDB{Dst: remote(3), Permanent: true})
		}, "lists of multicast groups were changed at weft-mc"},
	} {
		ok(t, tt.harm())
		repaired, err := w.port[0].Check()
		if len(repaired) != 1 || repaired[0] != tt.words || err != nil {
			t.Errorf("check: %q, %v, want %q", repaired, err, tt.words)
		}
		w.soon(data(1, group4), "2 3")
		prune()
	}
	// While the tunnels are down nobody is heard: who joins then is on no list.
	ok(t, h.SetUp("wire", false))
	ok(t, h.SetUp("wire", true))
	ok(t, h.AddAddr("wire", netip.PrefixFrom(remote(1), 64), true))
	w.ready()
	w.soon(data(1, group4), "2 3")
	_, err := w.port[0].Check()
	ok(t, err)
	prune()
	ok(t, w.port[0].Close())
	w.soon(data(1, group4), "2 3")
	if _, err := h.Link("weft-mc"); err == nil {
		t.Error("the device stays when the port is closed")
	}
}

// holder makes this process a daemon with a switch port and nothing else, in the
// namespace that it was started in. Each line on its input lets time pass.
const holder = "WEFT_VXLAN_TEST_HOLDER"

func TestMain(m *testing.M) {
	if os.Getenv(holder) != "" {
		hold()
	}
	os.Exit(m.Run())
}

func hold() {
	k, err := kernel.New()
	if err != nil {
		panic(err)
	}
	c := newClock()
	p := vxlan.NewPruning(k, "wire", slog.New(slog.NewTextHandler(os.Stderr, nil)))
	p.Clock(c.now, time.Hour)
	w := &several{host: make([]*kernel.Kernel, 3)}
	if err := p.Set(w.config(0)); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	c.seconds(unheard)
	p.Sweep()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		c.seconds(settled)
		p.Sweep()
		fmt.Println("swept")
	}
	os.Exit(0)
}

// A daemon that is killed leaves nothing that prunes: a container that joins
// behind it gets the group, and its successor begins anew.
func TestMulticastFloodedByTheDead(t *testing.T) {
	w := newSeveral(t, 3)
	probe := vxlan.NewPruning(w.host[0], "wire", nil)
	ok(t, probe.Set(w.config(0)))
	needPruning(t, probe)
	ok(t, probe.Remove())

	var in io.WriteCloser
	var out *bufio.Scanner
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), holder+"=1"), t.Output()
	ok(t, w.host[0].Do(func() (err error) {
		if in, err = cmd.StdinPipe(); err != nil {
			return err
		}
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		out = bufio.NewScanner(pipe)
		return cmd.Start()
	}))
	killed := false
	kill := func() {
		if !killed {
			killed = true
			_ = cmd.Process.Signal(syscall.SIGKILL)
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	if !out.Scan() || out.Text() != "ready" {
		t.Fatalf("the daemon said %q", out.Text())
	}
	w.ready()
	w.containers[1].send(t, report(2, recordExclude, group4))
	w.containers[2].send(t, report(3, recordExclude, other4))
	for deadline := time.Now().Add(10 * time.Second); w.goes(data(1, group4)) != "2"; {
		if time.Now().After(deadline) {
			t.Fatal("nothing is pruned")
		}
		_, err := fmt.Fprintln(in, "on")
		ok(t, err)
		out.Scan()
		w.containers[1].send(t, report(2, recordExclude, group4))
		w.containers[2].send(t, report(3, recordExclude, other4))
	}
	kill()
	began := time.Now()
	w.soon(data(1, group4), "2 3")
	t.Logf("flooded %s after the daemon was killed", time.Since(began).Round(time.Millisecond))
	was, err := w.host[0].Link("weft-mc")
	ok(t, err)
	// The successor finds the device with lists of before.
	ok(t, w.port[0].Set(w.config(0)))
	if !w.port[0].Sweep() {
		t.Fatal("the successor prunes nothing")
	}
	w.ready()
	if is, err := w.host[0].Link("weft-mc"); err != nil || is.Index == was.Index {
		t.Errorf("the device of before is still there: %v", err)
	}
	w.sweep(unheard)
	w.says(2, report(2, recordExclude, other4))
	w.says(3, report(3, recordExclude, "239.7.7.7"))
	w.sweep(settled)
	w.soon(data(1, other4), "2")
	w.soon(data(1, group4), "")
}

// Nobody who wants a group loses a frame when the lists change: whoever sends is
// in another process, on another processor, and does not wait.
func TestMulticastLosesNothing(t *testing.T) {
	w := newSeveral(t, 5)
	w.begin()
	w.says(2, report(2, recordExclude, group4))
	w.says(3, report(3, recordExclude, other4))
	w.sweep(settled)
	w.soon(data(1, group4), "2 4 5") // 4 and 5 say nothing, and get everything
	ok(t, unix.SetsockoptInt(w.containers[4].fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	const changes, few = 144, 5
	done := make(chan int)
	stop := make(chan struct{})
	frame := func(i int) []byte {
		f := data(1, group4)
		binary.BigEndian.PutUint32(f[len(f)-4:], uint32(i))
		return f
	}
	go func() {
		sent := 0
		defer func() { done <- sent }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if sendAll(w.containers[0].fd, frame(sent)) == nil {
				sent++
			}
			if sent%few == 0 {
				<-time.After(50 * time.Microsecond)
			}
		}
	}()
	// What always wants it must see every number.
	got := make(chan map[uint32]bool)
	ended := make(chan struct{})
	go func() {
		seen := map[uint32]bool{}
		for {
			b := w.containers[4].receive(t, 200*time.Millisecond)
			if b == nil {
				select {
				case <-ended:
					got <- seen
					return
				default:
					continue
				}
			}
			if len(b) == len(frame(0)) && bytes.Equal(b[:34], frame(0)[:34]) {
				seen[binary.BigEndian.Uint32(b[len(b)-4:])] = true
			}
		}
	}()
	for i := range changes {
		// 2 leaves and joins, so that the group's own list goes and comes; 3 joins
		// and leaves; and now and then everything is flooded because it is.
		switch i % 4 {
		case 0:
			w.saysSoon(2, report(2, toInclude, group4))
		case 1:
			w.saysSoon(3, report(3, toExclude, group4))
		case 2:
			w.saysSoon(2, report(2, toExclude, group4))
		case 3:
			w.saysSoon(3, report(3, toInclude, group4))
		}
		if i%48 == 47 {
			c := w.config(0)
			c.Remotes = c.Remotes[2:] // 4 and 5 alone, which say nothing: all is flooded
			ok(t, w.port[0].Set(c))
			ok(t, w.port[0].Set(w.config(0)))
			w.sweep(unheard)
			w.saysSoon(2, report(2, recordExclude, group4))
			w.saysSoon(3, report(3, recordExclude, other4))
			w.sweep(settled)
		}
	}
	close(stop)
	sent := <-done
	close(ended)
	seen := <-got
	if lost := sent - len(seen); lost != 0 {
		t.Errorf("%d of %d frames were lost in %d changes", lost, sent, changes)
	}
	t.Logf("%d frames in %d changes", sent, changes)
}

// saysSoon is says for a container of ours that does not listen. The kernel was
// told then, too.
func (w *several) saysSoon(host int, frame []byte) {
	w.t.Helper()
	before := w.port[0].Changes()
	w.containers[host-1].send(w.t, frame)
	for deadline := time.Now().Add(10 * time.Second); w.port[0].Changes() == before || !w.port[0].Settled(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("host %d was not heard to say %x", host, frame)
		}
		<-time.After(time.Millisecond)
	}
}

func sendAll(fd int, frame []byte) error {
	_, err := syscall.Write(fd, frame)
	return err
}

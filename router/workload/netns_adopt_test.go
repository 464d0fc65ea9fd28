package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/router/api"
)

// TestFoundInNamespaces deletes the state directory under running containers:
// real namespaces, one of them with a name and without a process.
func TestFoundInNamespaces(t *testing.T) {
	ctx := context.Background()
	r := newMachine(t)
	r.addSpace("10.32.0.0/12", "10.32.0.0/12")
	d := r.restart()
	one, stop := process(t)
	two, _ := process(t)
	c1, c2 := fmt.Sprintf("pid:%d", one), fmt.Sprintf("netns:/proc/%d/ns/net", two)
	// A mount keeps the third one when its process is gone.
	three, end := process(t)
	mounted := filepath.Join(t.TempDir(), "a namespace")
	check(t, os.WriteFile(mounted, nil, 0o444))
	if out, err := exec.Command("mount", "--bind", fmt.Sprintf("/proc/%d/ns/net", three), mounted).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", mounted).Run() })
	c3 := fmt.Sprintf("pid:%d", three)
	mustAttach(t, d, c1, "net:default", "10.70.0.1/24")
	mustAttach(t, d, c2, "net:default")
	mustAttach(t, d, c3, "net:default")
	end()

	ps := func(d *Workload) string {
		list, err := d.PS(ctx, nil)
		check(t, err)
		var b strings.Builder
		for _, a := range list[1:] {
			fmt.Fprintln(&b, a.Container, a.MAC, a.Interface, a.Addresses)
		}
		return b.String()
	}
	before := ps(d)
	r.loseState()
	d = r.restart()
	after := ps(d)
	for line := range strings.Lines(before) {
		if !strings.Contains(after, line) {
			t.Errorf("lost: %safter:\n%s", line, after)
		}
	}
	if len(before) != len(after) {
		t.Errorf("before\n%safter\n%s", before, after)
	}
	reaches(t, one, "10.32.0.3") // the namespace without a process
	if live := r.space.live(); strings.Count(live, "\n") != 3 {
		t.Errorf("claimed:\n%s", live)
	}
	repaired, err := d.Sweep(ctx)
	check(t, err)
	if len(repaired) != 0 {
		t.Errorf("the sweep repaired %q", repaired)
	}
	for c, want := range map[string]string{c1: "[10.32.0.1/12]", c2: "[10.32.0.2/12]", "netns:" + mounted: "[10.32.0.3/12]"} {
		got, err := d.Attach(ctx, api.AttachRequest{Container: c})
		check(t, err)
		if fmt.Sprint(got) != want {
			t.Errorf("attach %s: %v, want %s", c, got, want)
		}
	}

	// Lost again, and one has ended: it is not adopted, its end is gone with it.
	e, _ := d.journal.entry(d.keys()[0])
	r.loseState()
	stop()
	d = r.restart()
	if got := ps(d); strings.Contains(got, c1+" ") || strings.Count(got, "\n") != 2 {
		t.Errorf("after one ended:\n%s", got)
	}
	for _, c := range []string{c1, c2, c3} {
		if _, err := d.Detach(ctx, api.DetachRequest{Container: c}); err != nil && !errors.Is(err, api.ErrNotFound) {
			t.Error(err)
		}
	}
	if len(d.keys()) != 0 || r.space.live() != "" {
		t.Errorf("left: %v\n%s", d.keys(), r.space.live())
	}
	if _, err := r.kernel.Link(e.NS.HostEnd()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a host end is left: %v", err)
	}
}

// TestDeathKeepsAddress ends a process and lets the namespace's addresses be
// free after the grace only.
func TestDeathKeepsAddress(t *testing.T) {
	ctx := context.Background()
	r := newMachine(t)
	r.addSpace("10.32.0.0/12", "10.32.0.0/12")
	d := r.restart()
	one, stop := process(t)
	two, _ := process(t)
	c2 := fmt.Sprintf("pid:%d", two)
	mustAttach(t, d, fmt.Sprintf("pid:%d", one), "net:default")
	stop()
	_, err := d.Sweep(ctx)
	check(t, err)
	if len(d.keys()) != 0 || strings.Count(r.space.dying(), "\n") != 1 {
		t.Errorf("entries %v, kept:\n%s", d.keys(), r.space.dying())
	}
	got, err := d.Attach(ctx, api.AttachRequest{Container: c2})
	check(t, err)
	if fmt.Sprint(got) != "[10.32.0.2/12]" {
		t.Errorf("during the grace: %v", got)
	}
	_, err = d.Attach(ctx, api.AttachRequest{Container: c2, Addresses: []string{"10.32.0.1/12"}})
	if !errors.Is(err, api.ErrConflict) {
		t.Errorf("a static address during the grace: %v", err)
	}
	r.space.expire()
	mustAttach(t, d, c2, "10.32.0.1/12")
}

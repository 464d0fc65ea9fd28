package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

// loseState deletes the state directory's files under running containers.
func (w *world) loseState() {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.dir, "workloads.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	if w.space != nil {
		clear(w.space.held)
	}
	w.show()
}

// show makes the processes visible to who looks for namespaces. It is not done
// before, for it takes its time.
func (w *world) show() {
	w.t.Helper()
	for path := range w.paths {
		check(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(w.t, os.WriteFile(path, nil, 0o444))
	}
}

// attachedWorld is one in which all sorts of containers are attached.
func attachedWorld(t *testing.T) (*world, *Workload) {
	t.Helper()
	w := spaceWorld(t)
	d := w.restart()
	mustAttach(t, d, "web", "net:default", "net:10.48.0.0/24", "10.70.0.1/24")
	mustAttach(t, d, "pid:200", "10.32.0.7/12")
	_, err := d.Attach(context.Background(), api.AttachRequest{Container: "db", NoMulticastRoute: true})
	check(t, err)
	return w, d
}

// sorted is see without an order that the journal gave.
func (w *world) sorted(d *Workload) string {
	lines := strings.SplitAfter(w.see(d), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func TestLostState(t *testing.T) {
	w, d := attachedWorld(t)
	before := w.sorted(d)
	multicast := func(d *Workload) (n int) {
		d.journal.view(func(s *state) {
			for _, e := range s.Containers {
				if e.Multicast {
					n++
				}
			}
		})
		return n
	}
	w.loseState()
	d = w.restart()
	if diff := cmp.Diff(before, w.sorted(d)); diff != "" {
		t.Errorf("after the state was lost:\n%s", diff)
	}
	if n := multicast(d); n != 2 {
		t.Errorf("%d have multicast, want 2", n)
	}
	for _, line := range [][2]string{
		{"attach web", "10.32.0.1/12"},
		{"attach net:10.48.0.0/24 pid:200", "10.48.0.2/24"},
		{"attach 10.32.0.7/12 web", "attach web: address 10.32.0.7 is held by container pid:200 of this host"},
		{"end db", ""},
		{"restart web", ""},
		{"attach web", "10.32.0.1/12"},
		{"detach web", "10.32.0.1/12"},
		{"detach pid:200", "10.32.0.7/12 10.48.0.2/24"},
	} {
		if got := w.say(d, line[0]); got != line[1] {
			t.Errorf("%s: %q, want %q", line[0], got, line[1])
		}
		w.see(d)
	}
}

// TestLostStateWithoutSpace is the same with explicit addresses only.
func TestLostStateWithoutSpace(t *testing.T) {
	w := newWorld(t)
	w.run(webID, "web", 100)
	w.process(200, 7, "4:200")
	d := w.restart()
	mustAttach(t, d, "web", "10.32.0.1/12")
	mustAttach(t, d, "pid:200", "10.32.0.2/12")
	before := w.sorted(d)
	w.loseState()
	d = w.restart()
	if diff := cmp.Diff(before, w.sorted(d)); diff != "" {
		t.Errorf("after the state was lost:\n%s", diff)
	}
}

// TestLostStateOfStrangers is when more than the state was lost.
func TestLostStateOfStrangers(t *testing.T) {
	tests := []struct {
		name   string
		happen func(w *world)
		want   string
	}{
		{
			"the engine does not answer", func(w *world) { w.docker.err = errors.New("no answer") },
			"web 10.32.0.1/12 10.48.0.1/24 10.70.0.1/24\npid:200 10.32.0.7/12\ndb 10.32.0.2/12\n",
		},
		{"it has another name", func(w *world) {
			c := w.docker.containers["web"]
			w.docker.remove("web")
			w.docker.set("shop", c)
		}, "web 10.32.0.1/12 10.48.0.1/24 10.70.0.1/24\npid:200 10.32.0.7/12\nbbbbbbbbbbbb 10.32.0.2/12\n"},
		{"another has its name", func(w *world) {
			w.docker.remove("web")
			w.run(strings.Repeat("c", 64), "web", 300)
			w.show()
		}, "pid:100 10.32.0.1/12 10.48.0.1/24 10.70.0.1/24\npid:200 10.32.0.7/12\nbbbbbbbbbbbb 10.32.0.2/12\n"},
		{"the process is another one", func(w *world) {
			w.stat(201, 9)
			w.paths[w.nspath(201)] = w.paths[w.nspath(200)]
			check(w.t, os.RemoveAll(filepath.Join(w.proc, "200")))
			delete(w.paths, w.nspath(200))
			w.show()
		}, "aaaaaaaaaaaa 10.32.0.1/12 10.48.0.1/24 10.70.0.1/24\npid:200 10.32.0.7/12\nbbbbbbbbbbbb 10.32.0.2/12\n"},
		{"its namespace cannot be found", func(w *world) {
			check(w.t, os.RemoveAll(filepath.Join(w.proc, "200")))
			delete(w.paths, w.nspath(200))
		}, "aaaaaaaaaaaa 10.32.0.1/12 10.48.0.1/24 10.70.0.1/24\nbbbbbbbbbbbb 10.32.0.2/12\n"},
		{"its namespace is only mounted", func(w *world) {
			path := filepath.Join(w.proc, "a mount")
			check(w.t, os.WriteFile(path, nil, 0o444))
			w.paths[path] = w.paths[w.nspath(200)]
			check(w.t, os.RemoveAll(filepath.Join(w.proc, "200")))
			delete(w.paths, w.nspath(200))
			check(w.t, os.Mkdir(filepath.Join(w.proc, "self"), 0o755))
			line := "1 2 0:4 / /proc rw - proc proc rw\n36 35 0:4 net:[4026532281] " + strings.ReplaceAll(path, " ", `\040`) + " rw shared:1 - nsfs nsfs rw\n"
			check(w.t, os.WriteFile(filepath.Join(w.proc, "self", "mountinfo"), []byte(line), 0o444))
		}, "aaaaaaaaaaaa 10.32.0.1/12 10.48.0.1/24 10.70.0.1/24\npid:200 10.32.0.7/12\nbbbbbbbbbbbb 10.32.0.2/12\n"},
		{"its last address was taken", func(w *world) {
			check(w.t, w.paths[w.nspath(200)].DelAddr("weft0", netip.MustParsePrefix("10.32.0.7/12")))
		}, "aaaaaaaaaaaa 10.32.0.1/12 10.48.0.1/24 10.70.0.1/24\nbbbbbbbbbbbb 10.32.0.2/12\n"},
		{"the machine was restarted", func(w *world) {
			w.boot = "boot-2"
			for _, pid := range []int{100, 101, 200} {
				w.kill(pid)
			}
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, _ := attachedWorld(t)
			w.loseState()
			tt.happen(w)
			d := w.restart()
			var got []string
			list, err := d.PS(context.Background(), nil)
			check(t, err)
			for _, a := range list[1:] {
				got = append(got, a.Container+" "+strings.Trim(fmt.Sprint(a.Addresses), "[]")+"\n")
			}
			want := strings.SplitAfter(tt.want, "\n")
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(strings.Join(want, ""), strings.Join(got, "")); diff != "" {
				t.Errorf("ps:\n%s", diff)
			}
			before := w.see(d)
			d = w.restart()
			if diff := cmp.Diff(before, w.see(d)); diff != "" {
				t.Errorf("another restart:\n%s", diff)
			}
			// Everybody is still known by name, and nothing is for ever.
			w.docker.err = nil
			for _, c := range []string{"web", "shop", "pid:100", "pid:200", "db"} {
				w.say(d, "detach "+c)
			}
			w.see(d)
			if len(d.keys()) != 0 || w.space.live() != "" {
				t.Errorf("left: %v\n%s", d.keys(), w.space.live())
			}
		})
	}
}

// TestOldJournal is a journal that was put back from a copy: an address is at
// two containers.
func TestOldJournal(t *testing.T) {
	w := spaceWorld(t)
	d := w.restart()
	mustAttach(t, d, "web", "10.32.0.1/12")
	path := filepath.Join(w.dir, "workloads.json")
	old, err := os.ReadFile(path)
	check(t, err)
	w.say(d, "detach web")
	mustAttach(t, d, "db", "10.32.0.1/12", "10.32.0.2/12")
	check(t, os.WriteFile(path, old, 0o600))
	w.show()
	d = w.restart()
	want := "weft:expose\naaaaaaaaaaaa 10.32.0.1/12\nbbbbbbbbbbbb 10.32.0.2/12\n"
	if got := w.people(d); !strings.HasSuffix(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestUnreadableNamespace wants nothing to be removed that could not be looked
// into.
func TestUnreadableNamespace(t *testing.T) {
	w, d := attachedWorld(t)
	before := w.sorted(d)
	w.loseState()
	d = w.start()
	d.attacher = &brokenAttacher{Attacher: d.attacher, path: w.nspath(200)}
	if err := d.Restore(context.Background()); !errors.Is(err, errBroken) {
		t.Errorf("Restore: %v", err)
	}
	if len(d.keys()) != 2 {
		t.Errorf("adopted: %v", d.keys())
	}
	d = w.restart()
	if diff := cmp.Diff(before, w.sorted(d)); diff != "" {
		t.Errorf("when it can be read again:\n%s", diff)
	}
	w.loseState()
	d = w.start()
	d.attacher = &blindAttacher{d.attacher}
	if err := d.Restore(context.Background()); !errors.Is(err, errBroken) {
		t.Errorf("Restore: %v", err)
	}
	d = w.restart()
	if diff := cmp.Diff(before, w.sorted(d)); diff != "" {
		t.Errorf("when one can look again:\n%s", diff)
	}
}

type blindAttacher struct{ Attacher }

func (blindAttacher) Look(string, attach.Namespace) (attach.Sight, error) {
	return attach.Sight{}, errBroken
}

// TestCrashInAdoption cuts the power at every step of a start that finds
// interfaces and no journal.
func TestCrashInAdoption(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n := 1; ; n++ {
			w, d := attachedWorld(t)
			before := w.sorted(d)
			w.loseState()
			w.power.arm(n, late, false)
			err := w.start().Restore(context.Background())
			cut := w.power.hit()
			w.power.arm(0, false, false)
			d = w.restart()
			w.space.expire()
			if diff := cmp.Diff(before, w.sorted(d)); diff != "" {
				t.Fatalf("cut at %d, late %v (%v):\n%s", n, late, err, diff)
			}
			if !cut {
				t.Logf("%d steps", n-1)
				break
			}
		}
	}
}

// TestReconcile meets every state of the journal with every state of the
// space, as kill -9 and lost files may leave them.
func TestReconcile(t *testing.T) {
	const a = "10.32.0.1/12"
	key, list := dockerKey(webID), []netip.Prefix{netip.MustParsePrefix(a)}
	journal := map[string]func(e *entry){
		"nothing":  nil,
		"attached": func(*entry) {},
		"adding":   func(e *entry) { e.Addresses, e.Adding = nil, list },
		"removing": func(e *entry) { e.Addresses, e.Removing = nil, list },
		"dying":    func(e *entry) { e.PID++ }, // it is another life's
	}
	space := map[string]fakeHolder{
		"nothing":            {},
		"held":               {key: key, label: "web"},
		"dying":              {key: key, label: "web", dying: true},
		"held by a lost key": {key: "ns:4:99:0", label: "pid:99"},
	}
	for jname, change := range journal {
		for sname, held := range space {
			t.Run(jname+"/"+sname, func(t *testing.T) {
				w := spaceWorld(t)
				d := w.restart()
				mustAttach(t, d, "web", a)
				check(t, d.journal.update(func(s *state) error {
					if change == nil {
						s.Containers = nil
					} else {
						change(s.find(key))
					}
					return nil
				}))
				if change == nil { // it had been removed before
					e, err := d.attacher.Identify(w.nspath(100))
					check(t, err)
					check(t, d.attacher.Remove(e))
				}
				clear(w.space.held)
				if held.key != "" {
					w.space.held[list[0].Addr()] = held
				}
				d = w.restart()
				live := w.space.live()
				w.see(d)
				want := ""
				if jname == "attached" {
					want = "space 10.32.0.1 " + key + " web\n"
				}
				if live != want {
					t.Errorf("the space has\n%swant\n%s", live, want)
				}
				w.space.expire()
				if jname != "attached" {
					if got := w.say(d, "attach db"); got != a {
						t.Errorf("the address is not free: %s", got)
					}
				}
				w.see(d)
			})
		}
	}
}

func TestNamespaceMounts(t *testing.T) {
	const text = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 35 0:4 net:[4026532281] /run/netns/one rw shared:1 - nsfs nsfs rw
37 35 0:4 net:[4026532282] /run/netns/a\040b rw - nsfs nsfs rw
38 35 0:4 mnt:[4026532283] /run/mnt rw - nsfs nsfs rw
39 35 0:5 / /run/nsfs rw - tmpfs nsfs rw
40 - nsfs nsfs
`
	if diff := cmp.Diff([]string{"/run/netns/one", "/run/netns/a b"}, namespaceMounts(text)); diff != "" {
		t.Error(diff)
	}
}

func FuzzNamespaceMounts(f *testing.F) {
	f.Add(`36 35 0:4 net:[1] /run/netns/a\040b\0 rw - nsfs nsfs rw`)
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		for _, p := range namespaceMounts(s) {
			n += len(p)
		}
		if n > len(s) {
			t.Errorf("%d bytes of paths from %d", n, len(s))
		}
	})
}

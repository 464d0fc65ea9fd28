package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/router/api"
)

// ailment is one thing that is wrong with a host, which the doctor must find and
// say how to mend.
type ailment struct {
	id       string
	severity api.Severity
	subject  string // empty: any
	says     string // in what is found
	args     string // of weft doctor: a peer
	by       string // what runs weft doctor; empty: nothing

	at *node        // where it is found
	do func() error // makes it

	before func() error // what the remedy asks for first, in words
	// remedy begins the commands between quotes in the remedy which mend it: they
	// run as they stand there, on the host that got the advice. Empty: the remedy is
	// in words; mend does what they say.
	remedy string
	mend   func() error
	after  func() error // what is to be taken away then

	lasts string // why it is not waited for that it is found no more; empty: it is
	only  string // the data path with which this can be wrong; empty: both
}

// A finding that nothing in a lab provokes has its reason here.
func notInLabs() map[string]string {
	return map[string]string{
		"kernel-ipv6": "only the kernel's command line turns IPv6 off: TestKernelWithoutIPv6, in a guest of its own",
		"kernel-vxlan": "it is found where the kernel has WireGuard and no VXLAN; no kernel that is at hand is like that, and a network namespace cannot " +
			"take VXLAN away from its kernel",
		"neighbours": "only the first network namespace of a machine sees the tables: TestNeighbourTables, in the guest; that nothing is said in others is in " +
			"TestFindingsOfHost",
	}
}

// script returns what runs a script on a host.
func (n *node) script(text string) func() error {
	return func() error {
		if r := n.Run(n.c.t.Context(), "sh", "-c", text); r.Err != nil {
			return fmt.Errorf("%s: %v", n.Name(), r)
		}
		return nil
	}
}

// matches says whether a finding is this one.
func (a ailment) matches(f api.Finding) bool {
	return f.ID == a.id && f.Severity == a.severity && (a.subject == "" || f.Subject == a.subject) && strings.Contains(f.What, a.says)
}

// quotedCommand is a command in a remedy.
var quotedCommand = regexp.MustCompile(`'([^']+)'`)

// commands are those of a finding's remedy that mend this; one that does nothing
// if words are enough. None: more has to be found out first, by time or by others.
func (a ailment) commands(f api.Finding) []string {
	if a.remedy == "" {
		return []string{"true"}
	}
	var out []string
	for _, m := range quotedCommand.FindAllStringSubmatch(f.Remedy, -1) {
		if strings.HasPrefix(m[1], a.remedy) {
			out = append(out, m[1])
		}
	}
	return out
}

// visit is one way of asking the doctor.
type visit struct {
	n        *node
	by, args string
}

func (a ailment) visit() visit { return visit{a.at, a.by, a.args} }

// diagnoses asks every doctor once that these ailments need.
func diagnoses(list []ailment) map[visit]api.Diagnosis {
	out := make(map[visit]api.Diagnosis)
	for _, a := range list {
		q := a.visit()
		if _, done := out[q]; done {
			continue
		}
		d, err := a.at.doctorBy(strings.Fields(a.by), strings.Fields(a.args)...)
		if err != nil {
			d.Findings = []api.Finding{{ID: "no answer", What: err.Error()}}
		}
		out[q] = d
	}
	return out
}

// round is some ailments that stand in no other's way, made at the same time.
type round struct {
	c     *cluster
	list  []ailment
	found map[int]api.Finding
}

// make makes them.
func (c *cluster) make(list ...ailment) *round {
	c.t.Helper()
	list = slices.DeleteFunc(list, func(a ailment) bool { return a.only != "" && a.only != a.at.datapath() })
	r := &round{c: c, found: map[int]api.Finding{}}
	for _, a := range list {
		if a.do == nil { // it comes with another one
			r.list = append(r.list, a)
			continue
		}
		err := a.do()
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			c.t.Logf("SKIPPED, NOT TESTED: %s: %v", a.id, err)
			continue
		case err != nil:
			c.t.Errorf("make %s: %v", a.id, err)
		}
		r.list = append(r.list, a)
	}
	return r
}

// poll waits until each doctor finds them, or finds them no more.
func (r *round) poll(goal time.Duration, there bool) {
	r.c.t.Helper()
	begun := time.Now()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		var open []ailment
		var wrong []string
		for i, a := range r.list {
			if _, found := r.found[i]; found == there || !there && a.lasts != "" {
				continue
			}
			open = append(open, a)
		}
		seen := diagnoses(open)
		for i, a := range r.list {
			if _, found := r.found[i]; found == there || !there && a.lasts != "" {
				continue
			}
			d := seen[a.visit()]
			at := slices.IndexFunc(d.Findings, a.matches)
			switch {
			case there && at >= 0 && len(a.commands(d.Findings[at])) > 0:
				r.found[i] = d.Findings[at]
			case !there && at < 0 && len(d.Findings) > 1:
				delete(r.found, i)
			default:
				wrong = append(wrong, fmt.Sprintf("%s %s of %s (%q): %+v", a.at.Name(), a.id, a.subject, a.says, d.Findings))
			}
		}
		took := time.Since(begun).Round(time.Millisecond)
		if len(wrong) == 0 {
			r.c.t.Logf("%s: found %t after %s (goal %s)", r.names(), there, took, goal)
			return
		}
		if took > 10*goal*run.slow() {
			r.c.t.Errorf("after %s it should be %t that these are found:\n%s", took, there, strings.Join(wrong, "\n"))
			return
		}
		rest(r.c.t.Context(), pause)
	}
}

func (r *round) names() string {
	var ids []string
	for _, a := range r.list {
		ids = append(ids, a.id)
	}
	return strings.Join(ids, " ")
}

// find waits until they are found, each with a remedy.
func (r *round) find(goal time.Duration) *round {
	r.c.t.Helper()
	r.poll(goal, true)
	for _, f := range r.found {
		if f.Remedy == "" {
			r.c.t.Errorf("no remedy: %+v", f)
		}
	}
	return r
}

// heal does what the remedies say.
func (r *round) heal() *round {
	r.c.t.Helper()
	for i, a := range r.list {
		f, found := r.found[i]
		if !found {
			f.Remedy = "not found"
		}
		if a.before != nil {
			if err := a.before(); err != nil {
				r.c.t.Errorf("before the remedy of %s: %v", a.id, err)
			}
		}
		if found && a.remedy != "" {
			for _, command := range a.commands(f) {
				if err := a.at.script(command)(); err != nil {
					r.c.t.Errorf("the remedy of %s does not work as it is printed: %v", a.id, err)
				}
			}
		}
		if a.mend == nil {
			continue
		}
		if err := a.mend(); err != nil {
			r.c.t.Errorf("mend %s: %v", a.id, err)
		}
	}
	return r
}

// gone waits until they are found no more, and cleans up.
func (r *round) gone(goal time.Duration) {
	r.c.t.Helper()
	r.poll(goal, false)
	for _, a := range r.list {
		if a.after == nil {
			continue
		}
		if err := a.after(); err != nil {
			r.c.t.Errorf("after %s: %v", a.id, err)
		}
	}
}

// TestEveryFindingHasALabTest: nothing that the doctor can find is without a test
// that provokes it on a host, or a reason for that.
func TestEveryFindingHasALabTest(t *testing.T) {
	files, err := filepath.Glob("../../../router/doctor/*.go")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED, NOT TESTED: the sources are not here")
	}
	if len(files) == 0 && run.datapath == "kernel" {
		t.Skip("the guest has no checkout; this runs with the other data path")
	}
	lab := map[string]bool{}
	for _, rounds := range [][][]ailment{hostAilments(someCluster()), peerAilments(someCluster()), spaceAilments(someCluster()), alonelyAilments(someCluster())} {
		for _, list := range rounds {
			for _, a := range list {
				lab[a.id] = true
				if a.remedy == "" && a.mend == nil && a.lasts == "" {
					t.Errorf("%s: nothing mends it, and nothing says why it stays", a.id)
				}
			}
		}
	}
	known := map[string]bool{}
	find := regexp.MustCompile(`(?:f\.add\([a-zA-Z.]+, |need\()"([a-z0-9-]+)"`)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for _, m := range find.FindAllStringSubmatch(text, -1) {
			known[m[1]] = true
		}
		// Nothing is found in another way than the pattern knows.
		if n, m := strings.Count(text, "f.add("), len(regexp.MustCompile(`f\.add\([a-zA-Z.]+, ("|id, )`).FindAllString(text, -1)); n != m {
			t.Errorf("%s: %d findings, of which %d have a name that can be read", name, n, m)
		}
		for _, m := range regexp.MustCompile(`f\.add\(api\.OK, "([a-z0-9-]+)"`).FindAllStringSubmatch(text, -1) {
			if !strings.Contains(text, `Problem, "`+m[1]) && !strings.Contains(text, `Warning, "`+m[1]) {
				delete(known, m[1]) // it says that all is well, and nothing else
			}
		}
	}
	if len(known) < 40 {
		t.Errorf("only %d findings were seen in the code", len(known))
	}
	for id := range known {
		if reason := notInLabs()[id]; lab[id] == (reason != "") {
			t.Errorf("%s: provoked on a lab host: %t; reason why not: %q", id, lab[id], reason)
		}
	}
	for id := range lab {
		if !known[id] {
			t.Errorf("%s is provoked, and nothing finds it", id)
		}
	}
	for id := range notInLabs() {
		if !known[id] {
			t.Errorf("%s is excused, and nothing finds it", id)
		}
	}
}

// someCluster has hosts that nothing is done with.
func someCluster() *cluster {
	c := &cluster{}
	for i := range 6 {
		c.nodes = append(c.nodes, &node{c: c, number: i + 1})
	}
	return c
}

// TestNeighbourTables: the tables of neighbours that all namespaces of a machine
// share are too small, and then large enough. It is for a guest, which is its own.
func TestNeighbourTables(t *testing.T) {
	const limit = "/proc/sys/net/ipv4/neigh/default/gc_thresh3"
	if exe, err := os.Executable(); err != nil || exe != "/test/program" {
		t.Skip("this machine's settings are not ours to change; the test runs in a guest")
	}
	before, err := os.ReadFile(limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(limit, before, 0o644) })
	look := func() (found api.Finding, all []api.Finding) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), filepath.Join(run.bin, "weftd"), "doctor").Output()
		var d api.Diagnosis
		if jerr := json.Unmarshal(out, &d); jerr != nil {
			t.Fatalf("weftd doctor: %v, %v: %s", err, jerr, out)
		}
		i := slices.IndexFunc(d.Findings, func(f api.Finding) bool { return f.ID == "neighbours" })
		if i < 0 {
			t.Fatalf("weftd doctor in the first namespace says nothing of neighbours: %+v", d.Findings)
		}
		return d.Findings[i], d.Findings
	}
	if f, _ := look(); f.Severity != api.OK {
		t.Errorf("before: %+v", f)
	}
	c := joined(t, 2) // their neighbours are in the same table
	if err := os.WriteFile(limit, []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, all := look()
	if f.Severity != api.Problem || f.Subject != "IPv4" || !strings.Contains(f.What, "are dropped") {
		t.Fatalf("with room for one: %+v", all)
	}
	m := quotedCommand.FindStringSubmatch(f.Remedy)
	if m == nil {
		t.Fatalf("no command: %s", f.Remedy)
	}
	if err := os.MkdirAll("/etc/sysctl.d", 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", m[1]).CombinedOutput()
	if kept, kerr := os.ReadFile("/etc/sysctl.d/60-neighbours-ipv4.conf"); err != nil || kerr != nil || !strings.Contains(string(kept), "gc_thresh3 = ") {
		t.Errorf("%s: %v: %s; kept: %q, %v", m[1], err, out, kept, kerr)
	}
	if f, all := look(); f.Severity != api.OK {
		t.Errorf("after %s: %+v", m[1], all)
	}
	c.wait("they reach each other", 2*time.Second, func() error { return c.isMesh() })
}

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// toldGoal is how soon whoever looks, wherever one looks, should read of what is
// wrong.
const toldGoal = time.Minute

// fault is something that goes wrong in a cluster that works.
type fault struct {
	name  string
	hosts int                            // on one network, all joined
	shape func(name string) lab.Topology // another lab; its hosts have no daemons yet
	// provoke makes it. What it returns mends it; nil: that is not looked at.
	provoke func(t *testing.T, c *cluster) (mend func())
	tell    []telling
	page    string  // how docs/troubleshooting.md begins to tell of it
	alerts  []alert // that are raised within the minute, and no other
	also    []alert // that may follow from it
	quick   bool    // that all is quiet afterwards is seen in every run; else in the long form
}

// TestFaultsAreTold: whatever goes wrong, status, doctor, picture, log and an
// alert say so, in words that tell what to do, within a minute. Once it is
// mended, they are quiet.
func TestFaultsAreTold(t *testing.T) {
	t.Parallel()
	skipHere(t)
	rules := newAlerts(t)
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			parallelAs(t, idle, 40*time.Second)
			f.run(t, rules)
		})
	}
}

func (f fault) run(t *testing.T, rules *alerts) {
	var c *cluster
	if f.shape != nil {
		c = newGraph(t, f.shape)
	} else {
		c = joined(t, f.hosts, ipv4Only) // the other path would carry less
	}
	var readers []*reader
	for _, n := range c.nodes {
		readers = append(readers, newReader(n))
	}
	open := map[string]func() error{}
	for _, w := range f.tell {
		for place, look := range w.places(readers[w.at-1]) {
			open[fmt.Sprintf("%s of host%d", place, w.at)] = look
		}
	}
	var before scrape
	if f.shape == nil {
		for place, look := range open {
			if strings.HasPrefix(place, "doctor ") {
				continue // it takes long, and looks the same way as the daemon
			}
			if look() == nil {
				t.Errorf("the %s says so before it is", place)
			}
		}
		c.wait("no alert while all is well", 10*time.Second, func() error { // a busy machine loses pings
			before = rules.scraped(readers)
			got, err := rules.raised(t, minute, before)
			return errors.Join(err, exactly(got, nil, nil))
		})
	}

	mend := f.provoke(t, c)
	begun := time.Now()
	took := map[string]time.Duration{}
	now, tried := before, ""
	var lastTry time.Time
	var untold error // by the last try
	open["alert"] = func() error {
		now = rules.scraped(readers)
		if g := now.gist(); g != tried || time.Since(lastTry) > 10*time.Second {
			tried, lastTry = g, time.Now()
			got, err := rules.raised(t, minute, before, now)
			untold = errors.Join(err, exactly(got, f.alerts, f.also))
		}
		return untold
	}
	c.wait("all places tell", toldGoal, func() error {
		var missing []error
		for _, place := range slices.Sorted(maps.Keys(open)) {
			if took[place] > 0 {
				continue
			}
			if err := open[place](); err != nil {
				missing = append(missing, fmt.Errorf("%s: %w", place, err))
				continue
			}
			took[place] = time.Since(begun)
		}
		return errors.Join(missing...)
	})
	var said []string
	for _, place := range slices.Sorted(maps.Keys(took)) {
		said = append(said, fmt.Sprintf("%s %.1f s", place, took[place].Seconds()))
	}
	t.Logf("FIGURE told of %s after: %s (of an alert: until its metrics say so)", f.name, strings.Join(said, ", "))

	if mend == nil || !f.quick && os.Getenv("WEFT_SOAK") == "" {
		return
	}
	mend()
	mended := time.Now()
	tried = ""
	c.wait("all is quiet", toldGoal, func() error {
		for _, r := range readers {
			if err := r.silent(); err != nil {
				return err
			}
		}
		got, err := rules.raised(t, minute, before, now, rules.scraped(readers))
		if err == nil {
			err = exactly(got, nil, nil)
		}
		return err
	})
	t.Logf("FIGURE %s: quiet %.1f s after it was mended", f.name, time.Since(mended).Seconds())
}

// ipv4Only leaves one family to the networks.
func ipv4Only(t *lab.Topology) {
	for i := range t.Networks {
		t.Networks[i].Subnets = t.Networks[i].Subnets[:1]
	}
}

// TestTroubleshootingTells: the page has every fault, with the words that are
// read of it, and its finding.
func TestTroubleshootingTells(t *testing.T) {
	skipHere(t)
	text, err := os.ReadFile("../../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(text)), " ")
	for _, f := range faults() {
		if f.page == "" || !strings.Contains(page, f.page) {
			t.Errorf("%s: docs/troubleshooting.md has no %q", f.name, f.page)
		}
		for _, w := range f.tell {
			if w.finding != "" && !strings.Contains(page, "`"+w.finding+"`") {
				t.Errorf("%s: docs/troubleshooting.md has no `%s`", f.name, w.finding)
			}
		}
	}
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// alert is one that is raised.
type alert struct {
	name, instance string
	labels         string // besides, as promtool prints them
	summary        string // its beginning
}

// rulesFile are the alerts that operators are given.
const rulesFile = "../../../docs/examples/monitoring/weft-alerts.yaml"

// alerts asks Prometheus's own tool what the rules make of what hosts serve.
type alerts struct {
	promtool, rules string
	names           []string        // of all alerts
	wanted          map[string]bool // metrics that the rules look at
}

func newAlerts(t testing.TB) *alerts {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	a := &alerts{wanted: map[string]bool{}}
	for _, name := range []string{"promtool", filepath.Join(cache, "weft/promtool/usr/bin/promtool")} {
		if path, err := exec.LookPath(name); err == nil {
			a.promtool = path
		}
	}
	if a.promtool == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing; make tools unpacks it")
		}
		t.Skip("SKIPPED, NOT TESTED: promtool is missing; make tools unpacks it")
	}
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	if a.rules, err = filepath.Abs(rulesFile); err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\s+- alert: (\w+)$`).FindAllStringSubmatch(string(text), -1) {
		a.names = append(a.names, m[1])
	}
	for _, m := range regexp.MustCompile(`\bweft_\w+`).FindAllString(string(text), -1) {
		a.wanted[m] = true
	}
	return a
}

// scrape is what hosts serve at one time: samples by their series.
type scrape map[string]string

// scraped asks all hosts, as Prometheus would: a host that does not answer is
// down and has nothing else.
func (a *alerts) scraped(readers []*reader) scrape {
	out := scrape{}
	for _, r := range readers {
		up := fmt.Sprintf(`up{job="weft", instance=%q}`, r.Name())
		res, body, err := r.get("/metrics")
		if err != nil || res.StatusCode != http.StatusOK {
			out[up] = "0"
			continue
		}
		out[up] = "1"
		for line := range strings.Lines(body) {
			series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
			if i := strings.IndexByte(line, '}'); i > 0 { // labels may hold blanks
				series, value, ok = line[:i+1], strings.TrimSpace(line[i+1:]), true
			}
			name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
			if !ok || !a.wanted[name] {
				continue
			}
			if labels != "" {
				labels = ", " + labels
			}
			out[fmt.Sprintf(`%s{job="weft", instance=%q%s}`, name, r.Name(), labels)] = value
		}
	}
	return out
}

// gist is what of a scrape decides soonest; the rest changes all the time.
func (s scrape) gist() string {
	var lines []string
	for k, v := range s {
		if strings.HasPrefix(k, "up{") || strings.HasPrefix(k, "weft_findings{") || strings.HasPrefix(k, "weft_connections{") {
			lines = append(lines, k+" "+v)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// The time of the simulation: scrapes and evaluations every 15 s, as in the
// example's configuration.
const (
	scrapeGap = 15 * time.Second
	// minute is when an alert is to be raised after what is wrong was scraped
	// first: with the daemon's look every 30 s and the scrape that is a minute.
	minute = 30 * time.Second
)

// raised returns what is raised some time after the last of the scrapes came to
// be what is served; each before it was for a minute.
func (a *alerts) raised(t testing.TB, after time.Duration, scrapes ...scrape) ([]alert, error) {
	t.Helper()
	const each = 4 // scrapes of the same
	series := map[string][]string{}
	for i, s := range scrapes {
		for k := range s {
			if series[k] == nil {
				series[k] = slices.Repeat([]string{"_"}, i*each)
			}
		}
		n := each
		if i == len(scrapes)-1 {
			n = int(after/scrapeGap) + 1
		}
		for k := range series {
			v, there := s[k]
			values := slices.Repeat([]string{v}, n)
			if !there {
				values = append([]string{"stale"}, slices.Repeat([]string{"_"}, n-1)...)
			}
			series[k] = append(series[k], values...)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "rule_files: [%s]\nevaluation_interval: %s\ntests:\n  - interval: %[2]s\n    input_series:\n", a.rules, scrapeGap)
	for _, k := range slices.Sorted(maps.Keys(series)) {
		fmt.Fprintf(&b, "      - { series: '%s', values: '%s' }\n", k, strings.Join(series[k], " "))
	}
	at := time.Duration((len(scrapes)-1)*each)*scrapeGap + after
	b.WriteString("    alert_rule_test:\n")
	for _, name := range a.names {
		fmt.Fprintf(&b, "      - { eval_time: %s, alertname: %s, exp_alerts: [] }\n", at, name)
	}
	file := filepath.Join(t.TempDir(), "told.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, a.promtool, "test", "rules", file).CombinedOutput()
	if err == nil {
		return nil, nil // nothing was expected, and nothing is raised
	}
	list := parseRaised(string(out))
	if len(list) == 0 {
		return nil, fmt.Errorf("promtool: %w: %s", err, out)
	}
	return list, nil
}

var (
	raisedLabels = regexp.MustCompile(`^Labels:\{alertname="(\w+)"(.*)\}$`)
	raisedHost   = regexp.MustCompile(`, instance="([^"]*)"`)
	raisedText   = regexp.MustCompile(`^Annotations:\{.*summary="((?:[^"\\]|\\.)*)"`)
)

// parseRaised reads what promtool got instead of nothing.
func parseRaised(out string) (list []alert) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if m := raisedLabels.FindStringSubmatch(line); m != nil {
			x := alert{name: m[1]}
			if h := raisedHost.FindStringSubmatch(m[2]); h != nil {
				x.instance = h[1]
			}
			x.labels = strings.TrimPrefix(strings.ReplaceAll(raisedHost.ReplaceAllString(m[2], ""), `, job="weft"`, ""), ", ")
			list = append(list, x)
		}
		if m := raisedText.FindStringSubmatch(line); m != nil && len(list) > 0 {
			list[len(list)-1].summary = strings.ReplaceAll(m[1], `\"`, `"`)
		}
	}
	return list
}

// exactly says which of the wanted alerts are missing, and which others there
// are, but for what may follow.
func exactly(got, want, also []alert) error {
	var errs []error
	left := slices.Clone(got)
	take := func(w alert) bool {
		i := slices.IndexFunc(left, func(g alert) bool {
			return g.name == w.name && g.instance == w.instance && strings.Contains(g.labels, w.labels) && strings.HasPrefix(g.summary, w.summary)
		})
		if i >= 0 {
			left = slices.Delete(left, i, i+1)
		}
		return i >= 0
	}
	for _, w := range want {
		if !take(w) {
			errs = append(errs, fmt.Errorf("no alert %+v", w))
		}
	}
	for _, w := range also {
		take(w)
	}
	for _, g := range left {
		errs = append(errs, fmt.Errorf("another alert: %+v", g))
	}
	return errors.Join(errs...)
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/router/api"
)

// telling is what an operator is to read of a fault on one host: in each of the
// places where one looks. What is empty is not looked for.
type telling struct {
	at       int    // number of the host
	status   string // what `weft status` says, in its text and, where a daemon answers, in its JSON
	finding  string // id in `weft doctor`
	severity api.Severity
	what     string // the words of the finding
	picture  string // what the page says: in its data and in its table
	log      string // one line of level WARN or ERROR
}

// places are the parts of a telling, with who looks there.
func (w telling) places(n *reader) map[string]func() error {
	all := map[string]func() error{}
	if w.status != "" {
		all["status"] = func() error { return n.status(w.status) }
	}
	if w.finding != "" {
		all["doctor"] = func() error { return n.finding(w) }
	}
	if w.picture != "" {
		all["picture"] = func() error { return n.picture(w.picture) }
	}
	if w.log != "" {
		all["log"] = func() error { return n.warned(w.log) }
	}
	return all
}

// reader reads what one host says from some moment on.
type reader struct {
	*node
	cookie string
	before string // the log, when one began to look; a host that is booted has a new one
}

// newReader is for somebody who begins to look now.
func newReader(n *node) *reader {
	r := &reader{node: n}
	if n.noDaemon() != nil {
		r.before = n.log()
	}
	return r
}

// enter lets a browser in that was not, or whose daemon is another one now.
func (r *reader) enter() error {
	out := r.weft("ui")
	if out.Err != nil {
		return fmt.Errorf("%v", out)
	}
	r.cookie = ""
	res, _, err := r.get(strings.TrimPrefix(strings.TrimSpace(out.Stdout), "http://127.0.0.1:6782"))
	if err != nil {
		return err
	}
	for _, c := range res.Cookies() {
		r.cookie = c.Name + "=" + c.Value
	}
	return nil
}

// answerTime is how long Prometheus waits for a host by the example, and more
// than anybody looks at an empty page.
const answerTime = 10 * time.Second

// get asks the status address of the host.
func (r *reader) get(path string) (*http.Response, string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.c.t.Context()), answerTime)
	defer cancel()
	at := netip.MustParseAddrPort("127.0.0.1:6782")
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return r.Dial(ctx, "tcp", at) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return nil, "", err
	}
	if r.cookie != "" {
		req.Header.Set("Cookie", r.cookie)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// status looks for words in what `weft status` prints for people, and in what
// it prints for programs.
func (r *reader) status(want string) error {
	out := r.weft("status")
	if !strings.Contains(out.Stdout+out.Stderr, want) {
		return fmt.Errorf("weft status on %s: no %q in %v", r.Name(), want, out)
	}
	if out.Exit != 0 && !strings.Contains(out.Stderr, "not ready") {
		return nil // no daemon answers
	}
	var s api.Status
	j := r.weft("status", "-o", "json")
	if err := json.Unmarshal([]byte(j.Stdout), &s); err != nil {
		return fmt.Errorf("%w: %v", err, j)
	}
	said := slices.Clone(s.Warnings)
	for _, f := range s.Findings {
		said = append(said, f.What)
	}
	for _, c := range s.Connections {
		said = append(said, c.Info)
	}
	if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, want) }) {
		return fmt.Errorf("weft status -o json on %s: no %q in %q", r.Name(), want, said)
	}
	return nil
}

// finding looks for what the doctor is to find; its exit code is held to it by
// [node.doctor].
func (r *reader) finding(want telling) error {
	d, err := r.doctor()
	if err != nil {
		return err
	}
	for _, f := range d.Findings {
		if f.ID != want.finding || f.Severity != want.severity || !strings.Contains(f.What, want.what) {
			continue
		}
		if f.Remedy == "" {
			return fmt.Errorf("%s: no remedy: %+v", r.Name(), f)
		}
		return nil
	}
	return fmt.Errorf("weft doctor on %s: no %s %s with %q in %+v", r.Name(), want.severity, want.finding, want.what, d.Findings)
}

// saying is one sentence of the picture.
type saying struct{ Level, Text string }

// says is what the picture is made of, as far as it is in words.
func (r *reader) says() ([]saying, error) {
	for again := r.cookie == ""; ; again = true {
		if again {
			if err := r.enter(); err != nil {
				return nil, err
			}
		}
		res, data, err := r.get("/ui/data/picture")
		if err != nil || res.StatusCode == http.StatusUnauthorized && !again {
			if err != nil {
				return nil, err
			}
			continue
		}
		var p struct{ Say []saying }
		if err := json.Unmarshal([]byte(data), &p); err != nil || len(p.Say) == 0 {
			return nil, fmt.Errorf("the picture of %s: %w: %s", r.Name(), err, data)
		}
		return p.Say, nil
	}
}

// picture looks for words in what the page is made of, and in the page that
// needs no script.
func (r *reader) picture(want string) error {
	said, err := r.says()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(said, func(s saying) bool { return s.Level != "ok" && strings.Contains(s.Text, want) }) {
		return fmt.Errorf("the picture of %s: no %q in %q", r.Name(), want, said)
	}
	_, page, err := r.get("/ui/table")
	if err == nil && !strings.Contains(html.UnescapeString(page), want) {
		err = fmt.Errorf("the picture of %s: its data says %q, the page does not:\n%s", r.Name(), want, page)
	}
	return err
}

// warned looks for a line of the log.
func (r *reader) warned(want string) error {
	for line := range strings.Lines(strings.TrimPrefix(r.log(), r.before)) {
		level := strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") || strings.HasPrefix(line, "weftd: ")
		if level && strings.Contains(line, want) {
			return nil
		}
	}
	return fmt.Errorf("the log of %s: no warning with %q", r.Name(), want)
}

// silent is an error while the host tells of some trouble.
func (r *reader) silent() error {
	out := r.weft("status")
	if out.Err != nil || out.Stderr != "" {
		return fmt.Errorf("weft status on %s: %v", r.Name(), out)
	}
	if err := r.fine(); err != nil {
		return err
	}
	said, err := r.says()
	if err == nil && said[0].Level != "ok" {
		err = fmt.Errorf("the picture of %s: %q", r.Name(), said)
	}
	return err
}

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// TestDemoUI is what `make demo-ui` does after building, and a browser of this
// machine: from nothing to the picture of three hosts, and back to nothing.
func TestDemoUI(t *testing.T) {
	parallel(t)
	need(t, "weft", "weftd", "weft-lab")
	skipHere(t)
	name := labName(t)
	call := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(run.bin, "weft-lab"), append(args, "--lab", name)...)
		cmd.WaitDelay = time.Second // what stays must not keep who called it
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("weft-lab %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	t.Cleanup(func() {
		if err := lab.Down(name); err != nil {
			t.Error(err)
		}
	})

	begun := time.Now()
	address := func() *url.URL {
		t.Helper()
		out := call("demo", "ui", "--port", "0")
		u, err := url.Parse(regexp.MustCompile(`http://\S+`).FindString(out))
		if err != nil || u.Port() == "" || !strings.Contains(out, "down") {
			t.Fatalf("no address, or not how to end it: %v\n%s", err, out)
		}
		return u
	}
	first := address()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(client *http.Client, path string) (int, string) {
		t.Helper()
		to, err := first.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	if code, text := get(browser, first.String()); code != http.StatusOK {
		t.Fatalf("%s answers %d: %s", first, code, text)
	}
	code, page := get(browser, "/ui/")
	if code != http.StatusOK {
		t.Fatalf("the page answers %d: %s", code, page)
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"#]+)"`).FindAllStringSubmatch(page, -1) {
		if code, _ := get(browser, "/ui/"+strings.TrimPrefix(m[1], "/ui/")); code != http.StatusOK {
			t.Errorf("of the page %s answers %d", m[1], code)
		}
	}
	wait(t, "three hosts, and all is well", 2*time.Second, func() error {
		_, text := get(browser, "/ui/data/picture")
		var picture struct {
			Hosts []struct{ Nick string }
		}
		if err := json.Unmarshal([]byte(text), &picture); err != nil || len(picture.Hosts) != 3 || !strings.Contains(text, "All is well: 3 hosts") {
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	})
	t.Logf("FIGURE from nothing to the picture of three hosts: %s", time.Since(begun).Round(100*time.Millisecond))
	if code, _ := get(http.DefaultClient, "/ui/data/picture"); code != http.StatusUnauthorized {
		t.Errorf("another browser is answered %d", code)
	}
	if second := address(); second.Host != first.Host || second.String() == first.String() {
		t.Errorf("called again it prints %s, before %s", second, first)
	}

	// What make demo-down does.
	call("down", name)
	if _, err := lab.Open(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lab is there: %v", err)
	}
	wait(t, "nothing of it is left", time.Second, func() error {
		if c, err := browser.Get(first.String()); err == nil {
			_ = c.Body.Close()
			return fmt.Errorf("somebody answers at %s", first.Host)
		}
		return notRunning(name)
	})
}

// notRunning is an error while a process of this machine has the text in its
// command line.
func notRunning(text string) error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if line := strings.ReplaceAll(string(b), "\x00", " "); err == nil && strings.Contains(line, text) {
			return fmt.Errorf("%s runs: %s", filepath.Base(filepath.Dir(f)), line)
		}
	}
	return nil
}

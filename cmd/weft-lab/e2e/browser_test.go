package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// browser is a headless Chromium that runs on a lab host: what it asks for
// cannot leave the lab. It is driven by the DevTools protocol through a pipe
// (https://chromedevtools.github.io/devtools-protocol/), so nothing else than
// Debian's chromium is needed.
type browser struct {
	t       testing.TB
	in      io.WriteCloser
	session string
	done    chan struct{} // closed when nothing comes any more

	mu       sync.Mutex
	last     int
	waiting  map[int]chan answer
	requests []string // addresses that the page asked for
	console  []string // errors and warnings that it printed
}

// answer is what Chromium says.
type answer struct {
	ID        int             `json:"id"`
	Method    string          `json:"method"`
	SessionID string          `json:"sessionId"`
	Params    json.RawMessage `json:"params"`
	Result    json.RawMessage `json:"result"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// startBrowser starts Chromium on a host. It ends with the test.
func startBrowser(t testing.TB, at *lab.Host) *browser {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs chromium: ", err)
		}
		t.Skip("SKIPPED, NOT TESTED: this test needs chromium: ", err)
	}
	toR, toW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromR, fromW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	// The sandbox wants not to be root; the page is our own, and the lab is its cage.
	cmd := at.Command(ctx, "chromium", "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
		"--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-default-apps", "--disable-extensions", "--hide-scrollbars", "--mute-audio",
		"--force-color-profile=srgb", "--password-store=basic", "--user-data-dir="+home, "about:blank")
	cmd.Env = append(cmd.Env, "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)
	cmd.ExtraFiles = []*os.File{toR, fromW}
	if err := at.StartCommand(cmd); err != nil {
		t.Fatal(err)
	}
	_, _ = toR.Close(), fromW.Close()
	b := &browser{t: t, in: toW, waiting: map[int]chan answer{}, done: make(chan struct{})}
	go b.read(fromR)
	t.Cleanup(func() {
		_, _ = b.ask("", "Browser.close", nil)
		_ = toW.Close()
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			cancel()
			<-ended
		}
		cancel()
		_ = fromR.Close()
		<-b.done
	})
	target := struct {
		TargetID string `json:"targetId"`
	}{}
	b.must("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	session := struct {
		SessionID string `json:"sessionId"`
	}{}
	b.must("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.session = session.SessionID
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		b.must(b.session, domain+".enable", nil, nil)
	}
	return b
}

// read takes what Chromium says until it says nothing more. Messages end in
// a zero byte.
func (b *browser) read(from io.Reader) {
	defer close(b.done)
	r := bufio.NewReaderSize(from, 1<<16)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var a answer
		if err := json.Unmarshal(text[:len(text)-1], &a); err != nil {
			continue
		}
		b.mu.Lock()
		if ch := b.waiting[a.ID]; a.ID != 0 && ch != nil {
			delete(b.waiting, a.ID)
			ch <- a
		} else {
			b.noteLocked(a)
		}
		b.mu.Unlock()
	}
}

// noteLocked keeps what a page should not do.
func (b *browser) noteLocked(a answer) {
	var p struct {
		Request struct{ URL string }
		Type    string
		Args    []struct {
			Value       any
			Description string
		}
		ExceptionDetails json.RawMessage
		Entry            struct{ Level, Text, URL string }
	}
	if json.Unmarshal(a.Params, &p) != nil {
		return
	}
	switch a.Method {
	case "Network.requestWillBeSent":
		b.requests = append(b.requests, p.Request.URL)
	case "Runtime.exceptionThrown":
		b.console = append(b.console, "exception: "+string(p.ExceptionDetails))
	case "Runtime.consoleAPICalled":
		if p.Type == "error" || p.Type == "warning" {
			b.console = append(b.console, fmt.Sprintf("%s: %v", p.Type, p.Args))
		}
	case "Log.entryAdded":
		if p.Entry.Level == "error" || p.Entry.Level == "warning" {
			b.console = append(b.console, fmt.Sprintf("%s: %s (%s)", p.Entry.Level, p.Entry.Text, p.Entry.URL))
		}
	}
}

// ask sends one command and waits for its answer.
func (b *browser) ask(session, method string, params any) (json.RawMessage, error) {
	if params == nil {
		params = struct{}{}
	}
	b.mu.Lock()
	b.last++
	id, ch := b.last, make(chan answer, 1)
	b.waiting[id] = ch
	m := map[string]any{"id": id, "method": method, "params": params}
	if session != "" {
		m["sessionId"] = session
	}
	text, err := json.Marshal(m)
	if err == nil {
		_, err = b.in.Write(append(text, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	select {
	case a := <-ch:
		if a.Error != nil {
			return nil, fmt.Errorf("%s: %s", method, a.Error.Message)
		}
		return a.Result, nil
	case <-b.done:
		return nil, fmt.Errorf("%s: Chromium has ended", method)
	case <-time.After(time.Minute):
		return nil, fmt.Errorf("%s: no answer for a minute", method)
	}
}

func (b *browser) must(session, method string, params, result any) {
	b.t.Helper()
	text, err := b.ask(session, method, params)
	if err == nil && result != nil {
		err = json.Unmarshal(text, result)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// do is must on the page.
func (b *browser) do(method string, params map[string]any) {
	b.t.Helper()
	b.must(b.session, method, params, nil)
}

// size sets how large the window is, and whether it is a dark one.
func (b *browser) size(w, h int, dark bool) {
	b.t.Helper()
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": w, "height": h, "deviceScaleFactor": 1, "mobile": false})
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}})
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.do("Page.navigate", map[string]any{"url": url})
}

// eval returns what an expression of JavaScript is, as text.
func (b *browser) eval(expression string) (string, error) {
	text, err := b.ask(b.session, "Runtime.evaluate", map[string]any{"expression": "String(" + expression + ")", "returnByValue": true})
	if err != nil {
		return "", err
	}
	var r struct {
		Result struct {
			Value       any
			Description string
		}
		ExceptionDetails json.RawMessage
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return "", err
	}
	if r.ExceptionDetails != nil {
		return "", fmt.Errorf("%s: %s", expression, r.ExceptionDetails)
	}
	return fmt.Sprint(r.Result.Value), nil
}

// sees waits until an expression holds, and says what it took.
func (b *browser) sees(what, expression string, goal time.Duration) time.Duration {
	b.t.Helper()
	return wait(b.t, what, goal, func() error {
		switch v, err := b.eval(expression); {
		case err != nil:
			return err
		case v != "true":
			text, _ := b.eval(`document.getElementById("say")?.textContent + " | " + document.getElementById("panel")?.innerText.slice(0, 600)`)
			return fmt.Errorf("%s is %s; the page says: %s", expression, v, text)
		}
		return nil
	})
}

// middle is where an element is, in pixels of the window.
func (b *browser) middle(expression string) (x, y float64) {
	b.t.Helper()
	text, err := b.eval(`JSON.stringify((() => { const e = ` + expression + `; const m = e.middle, s = e.ownerSVGElement;
		if (m && s) { const r = s.getBoundingClientRect(); return [r.left + m[0], r.top + m[1]]; }
		const r = e.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; })())`)
	var at [2]float64
	if err == nil {
		err = json.Unmarshal([]byte(text), &at)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return at[0], at[1]
}

// point moves the mouse over an element; click presses it there.
func (b *browser) point(expression string) (x, y float64) {
	b.t.Helper()
	x, y = b.middle(expression)
	b.do("Input.dispatchMouseEvent", map[string]any{"type": "mouseMoved", "x": x, "y": y})
	return x, y
}

func (b *browser) click(expression string) {
	b.t.Helper()
	x, y := b.point(expression)
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		b.do("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})
	}
}

// press types keys by their names, such as Tab, Enter or ArrowLeft.
func (b *browser) press(keys ...string) {
	b.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
	for _, key := range keys {
		for _, kind := range []string{"rawKeyDown", "keyUp"} {
			b.do("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key]})
		}
	}
}

// shoot keeps what the window shows as a PNG file among the artefacts.
func (b *browser) shoot(name string) {
	b.t.Helper()
	dir := b.t.ArtifactDir()
	if run.artefacts != "" {
		dir = filepath.Join(run.artefacts, strings.ReplaceAll(b.t.Name(), "/", "-"))
	}
	var r struct{ Data string }
	b.must(b.session, "Page.captureScreenshot", map[string]any{"format": "png"}, &r)
	image, err := base64.StdEncoding.DecodeString(r.Data)
	if err == nil {
		if err = os.MkdirAll(dir, 0o755); err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".png"), image, 0o644)
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Logf("screenshot %s", filepath.Join(dir, name+".png"))
}

// clean checks that the page asked for nothing elsewhere and printed no error.
func (b *browser) clean(base string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) < 5 {
		b.t.Errorf("only %d requests were seen: %q", len(b.requests), b.requests)
	}
	for _, r := range b.requests {
		if !strings.HasPrefix(r, base) {
			b.t.Errorf("the page asks for %s", r)
		}
	}
	for _, line := range b.console {
		b.t.Errorf("the console says: %s", line)
	}
}

package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// answers is what the status address of a host answers to one request.
func (n *node) answers(path string, header ...string) int {
	n.c.t.Helper()
	conn, err := n.Dial(n.c.t.Context(), "tcp", netip.MustParseAddrPort("127.0.0.1:6782"))
	if err != nil {
		n.c.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	req, err := http.NewRequestWithContext(n.c.t.Context(), http.MethodGet, "http://127.0.0.1:6782"+path, nil)
	if err != nil {
		n.c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	if err := req.Write(conn); err != nil {
		n.c.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		n.c.t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// TestPicture looks at three hosts with a browser: what is there, why a path is
// as it is, and paths that fail while one looks.
func TestPicture(t *testing.T) {
	parallelAs(t, engined, 15*time.Second)
	c := newCluster(t, 3)
	first := c.nodes[0]
	first.launch()
	c.nodes[1].launch(first.Addr().String())
	c.nodes[2].launch("--ui", first.Addr().String())
	b := startBrowser(t, first.Host) // while they meet
	b.size(1400, 860, false)
	c.waitMesh()
	boxes := c.attachEach()
	startPulse(t, boxes[0], boxes[2]) // who has something to send notices sooner that a path is dead

	// Off, unless asked for; then for those who were let in, and for no other site.
	if got := first.answers("/ui/"); got != http.StatusNotFound {
		t.Errorf("the picture is off and answers %d, want 404", got)
	}
	if got := c.nodes[2].answers("/ui/"); got != http.StatusUnauthorized {
		t.Errorf("launched with --ui, it answers %d, want 401", got)
	}
	url := strings.TrimSpace(first.must("ui"))
	code := strings.TrimPrefix(url, "http://127.0.0.1:6782")
	for _, r := range []struct {
		path   string
		header []string
		want   int
	}{
		{"/ui/", nil, http.StatusUnauthorized},
		{"/ui/data/picture", nil, http.StatusUnauthorized},
		{"/ui/?code=wrong", nil, http.StatusUnauthorized},
		{code, []string{"Host", "weft.example:6782"}, http.StatusForbidden},
		{code, []string{"Origin", "http://weft.example"}, http.StatusForbidden},
		{"/metrics", nil, http.StatusOK},
	} {
		if got := first.answers(r.path, r.header...); got != r.want {
			t.Errorf("%s with %q answers %d, want %d", strings.ReplaceAll(r.path, code, "the way in"), r.header, got, r.want)
		}
	}

	b.open(url)
	b.sees("three hosts, and every path", `document.querySelectorAll("#net .host").length === 3 && document.querySelectorAll("#net .path.direct").length === 3`, 2*time.Second)
	b.sees("all is well", `document.getElementById("say").textContent.startsWith("All is well: 3 hosts")`, 2*time.Second)
	b.sees("the code is not in the address any more", `location.href === "http://127.0.0.1:6782/ui/"`, time.Second)
	b.sees("no script reads the cookie", `document.cookie === ""`, time.Second)
	if got := first.answers(code); got != http.StatusUnauthorized {
		t.Errorf("the way in works twice: %d, want 401", got)
	}

	path := func(to string) string {
		return fmt.Sprintf(`[...document.querySelectorAll("#net .path.own")].find((g) => g.getAttribute("aria-label").includes(" to %s:"))`, to)
	}
	host := func(name string) string {
		return fmt.Sprintf(`[...document.querySelectorAll("#net .host")].find((g) => g.item.nick === %q)`, name)
	}
	panel := func(what string) string {
		return fmt.Sprintf(`document.getElementById("panel").textContent.includes(%q)`, what)
	}
	b.sees("figures on the path", path("host2")+`.textContent.includes(" ms")`, 3*time.Second)
	b.point(path("host2"))
	b.sees("what the mouse is over", `!document.getElementById("tip").hidden && /host1 – host2.*direct.*round trip.*MTU 1370/.test(document.getElementById("tip").textContent)`, time.Second)
	b.shoot("1-hover")
	b.click(path("host2"))
	b.sees("why the path is as it is", panel("History")+"&&"+panel("Handshake"), 2*time.Second)
	b.shoot("2-why")
	b.click(host("host2"))
	b.sees("containers of another host", panel("c2.weft.internal")+"&&"+panel("10.32.0.2"), 2*time.Second)
	b.press("Escape")
	b.sees("closed", panel("Overview"), time.Second)

	// The same without a mouse.
	b.click(`document.getElementById("find")`)
	b.press("Tab", "Tab", "Tab", "Tab")
	b.sees("the keyboard is at a host", `document.activeElement.getAttribute("aria-label").startsWith("host")`, time.Second)
	b.press("ArrowDown", "ArrowDown")
	b.sees("arrows move", `!document.activeElement.getAttribute("aria-label").startsWith("host1")`, time.Second)
	b.press("Enter")
	b.sees("Enter opens", `document.activeElement.id === "panel" && !`+panel("Overview"), time.Second)
	b.press("Escape")
	b.sees("Escape closes, and goes back", `document.activeElement.closest("#net") !== null &&`+panel("Overview"), time.Second)

	// A path fails while one looks: first there is a way around, then none, because
	// the host ends. (How soon it is noticed that a relay loses everything is a matter
	// of paths, and takes longer than all the rest here.)
	if err := c.CutPair(t.Context(), "host1", "host3"); err != nil {
		t.Fatal(err)
	}
	b.sees("the path is relayed", path("host3")+`.classList.contains("relayed") && `+path("host3")+`.textContent.includes("via host2")`, 5*time.Second)
	b.click(path("host3"))
	b.sees("its history", panel("via host2")+"&&"+panel("What helps"), 2*time.Second)
	b.shoot("3-relayed")
	b.sees("an event", `document.getElementById("latest").textContent.includes("host3")`, 2*time.Second)
	c.nodes[2].must("stop")
	b.sees("the path is gone", path("host3")+`.matches(".failed, .pending")`, 5*time.Second)
	b.sees("and it is said", `/host3/.test(document.getElementById("say").textContent) && !/All is well/.test(document.getElementById("say").textContent)`, 2*time.Second)
	b.shoot("4-ended")
	b.sees("host3 is out of reach for all", `/No host has a path to host3/.test(document.getElementById("say").textContent)`, 10*time.Second)
	b.press("Escape")
	b.shoot("5-failed")
	b.size(1400, 860, true)
	b.shoot("5-failed-dark")
	b.clean("http://127.0.0.1:6782/")

	// The daemon itself.
	first.kill()
	b.sees("the daemon does not answer", `/has not answered since/.test(document.getElementById("say").textContent)`, 10*time.Second)
	b.shoot("6-dead")
}

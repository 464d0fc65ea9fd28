package e2e

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/ui"
)

// invented is a backend of a cluster that nobody could start here.
type invented struct {
	mu     sync.Mutex
	status api.Status
}

func (f *invented) Status(context.Context) (api.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Connections = append([]api.Connection(nil), s.Connections...)
	for i := range s.Connections {
		// Each has another throughput.
		s.Connections[i].RxBytes = uint64(time.Now().UnixMilli()) * uint64(20+i%50)
		s.Connections[i].TxBytes = uint64(time.Now().UnixMilli()) * uint64(5+i%20)
	}
	return s, nil
}

func (f *invented) Why(_ context.Context, peer string) (api.Why, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, c := range f.status.Connections {
		if c.Name != peer && c.Nickname != peer {
			continue
		}
		w := api.Why{
			Name: c.Name, Nickname: c.Nickname, State: c.State, Info: c.Info, Address: c.Address, Via: c.Via, Since: now.Add(-192 * time.Second),
			RTT: c.RTT, Loss: c.Loss, MTU: c.MTU, PathMTU: 1500, Handshake: now.Add(-time.Minute), Changes: 3,
			History: []api.WhyChange{
				{At: now.Add(-time.Hour), To: "198.51.100.7:6784", Why: "it answered"},
				{At: now.Add(-192 * time.Second), From: "198.51.100.7:6784", To: "via host2", Why: "no answer for 2.1s"},
			},
			Candidates: []api.WhyCandidate{{Address: "198.51.100.7:6784", State: api.CandidateSilent, Asked: now, Answered: now.Add(-192 * time.Second)}},
		}
		if len(c.Via) > 0 {
			w.Reason, w.Help = "198.51.100.7:6784 has not answered for 3m12s", "let UDP 6784 in at "+c.Nickname
			w.Relays = []api.WhyRelay{{Via: c.Via, RTT: c.RTT, MTU: 1500, InUse: true}}
		}
		return w, nil
	}
	return api.Why{}, fmt.Errorf("no peer is called %s: %w", peer, api.ErrNotFound)
}

func (f *invented) PS(context.Context, []string) ([]api.Attachment, error) {
	return []api.Attachment{
		{Container: api.ExposeName, MAC: "02:00:00:00:00:01"},
		{Container: "3f2a9c0d11b7", MAC: "02:00:00:00:01:01", Addresses: api.Addresses{netip.MustParsePrefix("10.32.0.1/12")}, Names: []string{"web.weft.internal."}},
		{Container: "77aa01d2c3b4", MAC: "02:00:00:00:01:02", Addresses: api.Addresses{netip.MustParsePrefix("10.32.0.2/12")}, Names: []string{"db.weft.internal.", "sql.weft.internal."}},
	}, nil
}

func (f *invented) Events(ctx context.Context, r api.EventRequest) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		now := time.Now()
		for i, e := range []api.Event{
			{Level: api.LevelInfo, Part: "mesh", Message: "host joined", Nickname: "host2", Fields: map[string]string{"address": "198.51.100.2:6783"}},
			{Level: api.LevelInfo, Part: "path", Message: "path is direct", Nickname: "host2", Fields: map[string]string{"endpoint": "198.51.100.2:6784", "rtt": "412µs"}},
			{Level: api.LevelInfo, Part: "ipam", Message: "the address range is divided", Fields: map[string]string{"owners": "3"}},
			{Level: api.LevelInfo, Part: "workload", Message: "attached", Fields: map[string]string{"container": "web", "address": "10.32.0.1/12"}},
			{Level: api.LevelWarning, Part: "path", Message: "path is relayed", Nickname: "host3", Fields: map[string]string{"via": "host2", "why": "no answer for 2.1s"}},
			{Level: api.LevelError, Part: "bridge", Message: "cannot repair the firewall", Fields: map[string]string{"err": "nft: no such table"}},
		} {
			if e.Seq, e.Time = uint64(i+1), now.Add(time.Duration(i-6)*41*time.Second); e.Seq > r.After && !yield(e, nil) {
				return
			}
		}
		<-ctx.Done()
	}
}

// invent makes the status of host1 of n hosts. trouble says how host3 and later
// ones are reached, by their number.
func invent(n int, trouble map[int]api.State) api.Status {
	name := func(i int) string { return fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256) }
	nick := func(i int) string { return fmt.Sprintf("host%d", i) }
	overlay := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd77:6566:7400::%x", i)) }
	s := api.Status{
		Ready: true, Version: "0.1.0", Protocol: "weft 1", Name: name(1), Nickname: nick(1), Overlay: overlay(1), Cluster: "weft", Datapath: "userspace",
		MTU: 1370, PeerDiscovery: true,
		DNS:  &api.DNS{Domain: "weft.internal."},
		IPAM: &api.IPAM{State: "ready", Range: netip.MustParsePrefix("10.32.0.0/12"), RangeIPs: 1 << 20},
	}
	for i := 1; i <= n; i++ {
		state := api.Established
		if t := trouble[i]; t != "" {
			state = t
		}
		p := api.Peer{Name: name(i), Nickname: nick(i), Overlay: overlay(i), Self: i == 1, Alive: true}
		for k := range 1 + i*7%4 {
			a := netip.AddrFrom4([4]byte{10, 32, byte(i), byte(k + 1)})
			p.Attached = append(p.Attached, api.Attached{MAC: fmt.Sprintf("02:00:00:%02x:%02x:%02x", i/256, i%256, k), Addresses: []netip.Addr{a}})
			s.DNS.Entries = append(s.DNS.Entries, api.NameEntry{Hostname: fmt.Sprintf("app%d-%d.weft.internal.", i, k), Origin: p.Name, ContainerID: fmt.Sprintf("%064x", i*1000+k), Address: a})
		}
		for j := 1; j <= n; j++ {
			state := api.Established
			switch {
			case j == i:
				continue
			case i == 1 && trouble[j] != "":
				state = trouble[j]
			case j == 1 && trouble[i] != "":
				state = trouble[i]
			case trouble[j] == api.Retrying || trouble[i] == api.Retrying:
				state = api.Pending
			}
			p.Connections = append(p.Connections, api.PeerConnection{Name: name(j), Nickname: nick(j), State: state, RTT: time.Duration(300+(i+j)*37%900) * time.Microsecond, MTU: 1500})
		}
		if i > 1 {
			c := api.Connection{
				Address: fmt.Sprintf("198.51.%d.%d:6784", 100+i/256, i%256), Outbound: true, State: state, Name: p.Name, Nickname: p.Nickname, Overlay: p.Overlay,
				Encrypted: true, Datapath: "userspace", MTU: 1370, RTT: time.Duration(300+i*53%1800) * time.Microsecond, Handshake: time.Now().Add(-time.Minute), Changes: 1,
			}
			switch state {
			case api.Relayed:
				c.Via = []string{nick(2)}
			case api.Retrying:
				p.Alive, c.RTT, c.Info = false, 0, fmt.Sprintf("%s(%s): nothing heard for 12s", p.Name, p.Nickname)
			}
			s.Connections = append(s.Connections, c)
		}
		if p.Alive {
			s.Peers = append(s.Peers, p)
		}
		s.IPAM.Entries = append(s.IPAM.Entries, api.IPAMEntry{
			Name: p.Name, Nickname: p.Nickname, Token: netip.AddrFrom4([4]byte{10, byte(32 + 15*i/(n+1)), byte(i), 0}), IPs: (1 << 20) / uint64(n), Active: len(p.Attached), Self: p.Self, Known: true, Reachable: p.Alive,
		})
	}
	return s
}

// TestPictureSizes shows the page with clusters of different sizes and troubles,
// in light and dark, wide and narrow.
func TestPictureSizes(t *testing.T) {
	parallelAs(t, engined, 25*time.Second)
	c := newCluster(t, 1)
	h := c.nodes[0].Host
	b := startBrowser(t, h)
	mixed := map[int]api.State{3: api.Relayed, 5: api.Retrying, 6: api.Pending}
	many := map[int]api.State{}
	for i := 20; i < 300; i += 23 {
		many[i] = api.Relayed
	}
	for i := 33; i < 300; i += 61 {
		many[i] = api.Retrying
	}
	for _, v := range []struct {
		name    string
		n       int
		trouble map[int]api.State
		says    string
	}{
		{"3-well", 3, nil, "All is well: 3 hosts"},
		{"3-relayed", 3, map[int]api.State{3: api.Relayed}, "All is well: 3 hosts. This one reaches one directly and one through others."},
		{"7-mixed", 7, mixed, "No host has a path to host5: it is down, or cut off"},
		{"24-mixed", 24, mixed, "No host has a path to host5"},
		{"300", 300, many, "No path to host33, host94"},
	} {
		base, code := serveInvented(t, h, &invented{status: invent(v.n, v.trouble)})
		b.size(1400, 860, false)
		b.open(base + code)
		b.sees(v.name+": the page is drawn", fmt.Sprintf(`document.querySelectorAll("#net .host").length === %d`, v.n), 2*time.Second)
		b.sees(v.name+": it says how things are", fmt.Sprintf("document.getElementById('say').textContent.includes(%q)", v.says), 2*time.Second)
		b.sees(v.name+": events", `document.querySelectorAll("#latest .event").length >= 5`, 2*time.Second)
		b.sees(v.name+": throughput", `[...document.querySelectorAll("#panel dd")].some((e) => /[1-9].*B\/s$/.test(e.textContent))`, 3*time.Second)
		b.shoot(v.name + "-light")
		b.size(1400, 860, true)
		b.click(fmt.Sprintf(`[...document.querySelectorAll("#net .host")].find((g) => g.item.nick === %q)`, fmt.Sprintf("host%d", min(3, v.n))))
		b.sees(v.name+": details", `document.getElementById("panel").textContent.includes("History")`, 2*time.Second)
		b.shoot(v.name + "-dark")
		b.size(600, 900, v.n == 7)
		b.sees(v.name+": no sideways scrolling", `document.documentElement.scrollWidth <= 600`, 2*time.Second)
		b.shoot(v.name + "-narrow")
		b.press("Escape")
	}
	// The other views, of a middle size.
	b.size(1400, 860, false)
	base, code := serveInvented(t, h, &invented{status: invent(7, mixed)})
	b.open(base + code)
	for tab, has := range map[string]string{"table": "host7", "space": "10.32.0.0/12", "names": "app7-0.weft.internal", "events": "cannot repair the firewall"} {
		b.sees("the page is drawn", `!!document.querySelector("#net .host")`, 2*time.Second)
		b.click(fmt.Sprintf(`document.getElementById("t-%s")`, tab))
		b.sees(tab, fmt.Sprintf(`document.getElementById(%q).textContent.includes(%q)`, tab, has), 2*time.Second)
		b.shoot("7-" + tab)
	}
	b.open(base + ui.Root + "table")
	b.sees("tables without scripts", `document.querySelectorAll("table").length === 4 && !document.querySelector("script")`, 2*time.Second)
	b.shoot("7-without-scripts")
	b.clean("http://127.0.0.1:")
}

// serveInvented serves the page on the host; it returns its address, and the
// way that opens it.
func serveInvented(t testing.TB, h *lab.Host, f *invented) (base, code string) {
	t.Helper()
	u := ui.New(ui.Config{Backend: f})
	ln, err := h.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: u, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	code, _ = u.Invite()
	return "http://" + ln.Addr().String(), code
}

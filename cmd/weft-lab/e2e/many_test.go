package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/router/api"
)

const (
	many    = 200 // containers on one host
	callers = 8   // at once
)

// metrics scrapes the daemon. Each time over a connection of its own, so that
// it counts itself every time.
func (n *node) metrics() (map[string]float64, error) {
	client := http.Client{Timeout: 10 * time.Second * run.slow(), Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return n.Dial(ctx, "tcp", addrPort("127.0.0.1:6782"))
		},
	}}
	req, err := http.NewRequestWithContext(n.c.t.Context(), http.MethodGet, "http://127.0.0.1:6782/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	out := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			out[name] = v
		}
	}
	return out, lines.Err()
}

// held is what a daemon holds of everything that must not grow.
type held struct {
	Goroutines, Descriptors, Links, Rules, Forwarding, Journal int
	memory                                                     float64 // bytes, resident
}

// more says whether it is more of anything than it was; memory aside, which the
// garbage collector gives back when it likes.
func (h held) more(was held) bool {
	return h.Goroutines > was.Goroutines || h.Descriptors > was.Descriptors || h.Links > was.Links ||
		h.Rules > was.Rules || h.Forwarding > was.Forwarding || h.Journal > was.Journal
}

func (n *node) holds() (held, error) {
	m, err := n.metrics()
	if err != nil {
		return held{}, err
	}
	h := held{
		Goroutines: int(m["go_goroutines"]), Descriptors: int(m["process_open_fds"]), memory: m["process_resident_memory_bytes"],
		Rules: strings.Count(n.sh("nft list ruleset"), "\n"),
		// What the bridge learns of the other side of the port ages by itself.
		Forwarding: strings.Count(n.sh("(bridge fdb show dev weft-vx; bridge fdb show br weft) | grep -E 'permanent|static|extern_learn|dst|dev wv'"), "\n"),
	}
	if h.Goroutines == 0 || h.Descriptors == 0 || h.memory == 0 {
		return h, errors.New("the daemon does not say what it holds")
	}
	links, err := n.Netlink().LinkList()
	if err != nil {
		return h, err
	}
	h.Links = len(links)
	b, err := os.ReadFile(filepath.Join(n.Root(), "var/lib/weft/workloads.json"))
	if err != nil {
		return h, err
	}
	var journal struct{ Containers []json.RawMessage }
	err = json.Unmarshal(b, &journal)
	h.Journal = len(journal.Containers)
	return h, err
}

// atOnce calls f for every container, by several callers, and returns how long
// the calls took, in order of that.
func atOnce(t *testing.T, f func(ctx context.Context, i int) error) []time.Duration {
	t.Helper()
	took := make([]time.Duration, many)
	var g errgroup.Group
	g.SetLimit(callers)
	for i := range many {
		g.Go(func() error {
			begun := time.Now()
			defer func() { took[i] = time.Since(begun) }()
			return f(t.Context(), i)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(took)
	return took
}

func logTimes(t *testing.T, what string, took []time.Duration, begun time.Time) {
	t.Helper()
	t.Logf("%s: all %d by %d callers in %s; one takes %s (half of them less), %s at most", what, many, callers,
		time.Since(begun).Round(time.Millisecond), took[len(took)/2].Round(100*time.Microsecond), took[len(took)-1].Round(100*time.Microsecond))
}

func manyRef(i int) string { return fmt.Sprintf("netns:/run/netns/many%d", i) }

func manyAddr(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, 2, byte(i + 1)}), 12)
}

// Two hundred containers of one host, attached and detached by eight callers at
// once, all get what they asked for and leave nothing behind, through the API
// and by the command.
func TestManyAttachments(t *testing.T) {
	parallelAs(t, ordinary, 25*time.Second)
	c := joined(t, 2)
	n := c.nodes[0]
	boxes := c.attachEach()
	whole(c, boxes)
	n.sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do ip netns add many$i || exit; i=$((i+1)); done", many))

	socket := api.NewClient(filepath.Join(n.Root(), "run/weft/weft.sock"))
	ways := []struct {
		name           string
		attach, detach func(ctx context.Context, i int) error
	}{
		{"API", func(ctx context.Context, i int) error {
			got, err := socket.Attach(ctx, api.AttachRequest{Container: manyRef(i), Addresses: []string{manyAddr(i).String()}})
			return asked(i, fmt.Sprint(got), fmt.Sprint(api.Addresses{manyAddr(i)}), err)
		}, func(ctx context.Context, i int) error {
			got, err := socket.Detach(ctx, api.DetachRequest{Container: manyRef(i)})
			return asked(i, fmt.Sprint(got), fmt.Sprint(api.Addresses{manyAddr(i)}), err)
		}},
		{"command", func(_ context.Context, i int) error {
			r := n.weft("attach", manyAddr(i).String(), manyRef(i))
			return asked(i, strings.TrimSpace(r.Stdout), manyAddr(i).Addr().String(), r.Err)
		}, func(_ context.Context, i int) error {
			r := n.weft("detach", manyRef(i))
			return asked(i, strings.TrimSpace(r.Stdout), manyAddr(i).Addr().String(), r.Err)
		}},
	}
	var before held
	wait(t, "the daemon is at rest", time.Second, func() (err error) {
		former := before
		if before, err = n.holds(); err == nil && before.more(former) {
			err = errors.New("it still takes more")
		}
		return err
	})
	ps := n.must("ps")
	log := len(n.log())
	for _, way := range ways {
		begun := time.Now()
		logTimes(t, way.name+": attach", atOnce(t, way.attach), begun)
		with, err := n.holds()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: resident %.1f MB before, %.1f MB with %d attachments; %+v", way.name, before.memory/1e6, with.memory/1e6, many, with)
		n.allListed(t)
		for i := 0; i < many; i += many / 10 {
			for _, from := range boxes { // on this host and on the other
				wait(t, fmt.Sprintf("%s reaches %s", from.Name(), manyAddr(i)), time.Second, func() error {
					ctx, cancel := tries(t, time.Second)
					defer cancel()
					_, err := from.Ping(ctx, manyAddr(i).Addr(), 64, nil)
					return err
				})
			}
		}
		begun = time.Now()
		logTimes(t, way.name+": detach", atOnce(t, way.detach), begun)
		var after held
		wait(t, way.name+": the daemon holds no more than before", 2*time.Second, func() error {
			now, err := n.holds()
			if err != nil {
				return err
			}
			after = now
			if now.more(before) {
				return fmt.Errorf("it holds %+v, before it was %+v", now, before)
			}
			return nil
		})
		t.Logf("%s: resident %.1f MB afterwards", way.name, after.memory/1e6)
		if got := n.must("ps"); got != ps {
			t.Errorf("weft ps says:\n%swas:\n%s", got, ps)
		}
	}
	if lines := repairs(n.log()[log:]); len(lines) > 0 {
		t.Errorf("%d lines about repairs, first %s", len(lines), lines[0])
	}
}

func asked(i int, got, want string, err error) error {
	if err != nil {
		return fmt.Errorf("container %d: %w", i, err)
	}
	if got != want {
		return fmt.Errorf("container %d: got %q, asked for %q", i, got, want)
	}
	return nil
}

// allListed fails unless `weft ps` lists every container with its address.
func (n *node) allListed(t *testing.T) {
	t.Helper()
	listed := map[string]string{}
	for line := range strings.Lines(n.must("ps")) {
		if f := strings.Fields(line); len(f) == 3 {
			listed[f[0]] = f[2]
		}
	}
	for i := range many {
		if listed[manyRef(i)] != manyAddr(i).String() {
			t.Errorf("weft ps lists %s with %q, want %s", manyRef(i), listed[manyRef(i)], manyAddr(i))
		}
	}
}

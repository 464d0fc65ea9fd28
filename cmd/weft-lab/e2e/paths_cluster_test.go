package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/router/api"
)

// newGraph makes a lab of any shape. The nodes of the cluster are its hosts that
// are no routers; none has a daemon yet. What a failed test leaves includes a
// drawing of who could reach whom and which path each pair used.
func newGraph(t testing.TB, shape func(name string) lab.Topology) *cluster {
	t.Helper()
	c := newCluster(t, 0, func(p *lab.Topology) { *p = shape(p.Name) })
	c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool { return n.Spec().Forward })
	for i, n := range c.nodes {
		n.number = i + 1
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.keepDrawing()
		}
	})
	return c
}

// joinGraph launches all daemons, one after the other; where everything is slow
// four at a time. The first one is alone, each other names one that runs and that
// it reaches; order is a permutation of the nodes, taken as a wish. There is no
// allocator: the owner of an address may not be reached yet. What is to be done
// with those that run is done before the next ones join; it returns when the last
// one had joined.
func (c *cluster) joinGraph(order []int, then ...func(*node)) (joined time.Time) {
	c.t.Helper()
	begun := time.Now()
	runs := func(nodes ...*node) {
		joined = time.Now()
		for _, n := range nodes {
			for _, f := range then {
				f(n)
			}
		}
	}
	left := make([]*node, 0, len(order))
	for _, i := range order {
		left = append(left, c.nodes[i])
	}
	up := []*node{left[0]}
	left[0].launch(withoutSpace)
	runs(left[0])
	most := max(1, c.wave)
	if run.emulated() {
		most = 4
	}
	for left = left[1:]; len(left) > 0; {
		var wave, later []*node
		var launches errgroup.Group
		for _, n := range left {
			j := slices.IndexFunc(up, func(o *node) bool { return c.linked(n, o) })
			if j < 0 || len(wave) == most {
				later = append(later, n)
				continue
			}
			wave = append(wave, n)
			target := up[j].AddrFor(n.Host).String()
			launches.Go(func() error {
				r := n.weft("launch", "--token", c.token, "--datapath", n.datapath(), withoutSpace, target)
				if r.Err != nil {
					return fmt.Errorf("%s: %v", n.Name(), r)
				}
				return nil
			})
		}
		if err := launches.Wait(); err != nil {
			c.t.Fatal(err)
		}
		if len(wave) == 0 {
			c.t.Fatalf("%s and others reach none of those that run", left[0].Name())
		}
		runs(wave...)
		up, left = append(up, wave...), later
	}
	c.t.Logf("the last of %d daemons was launched after %s", len(up), joined.Sub(begun).Round(100*time.Millisecond))
	return joined
}

// inOrder is 0 to n-1.
func inOrder(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// linked says whether what a sends first arrives at b.
func (c *cluster) linked(a, b *node) bool {
	ok, _ := c.Topology().Reaches(c.Faults(), a.Name(), b.Name())
	return ok
}

// distances counts the links between all pairs of nodes on the shortest way.
// Those in the same place of two lists count where links exist both ways.
func (c *cluster) distances() [][]int {
	n := len(c.nodes)
	d := make([][]int, n)
	for i, a := range c.nodes {
		d[i] = make([]int, n)
		for j, b := range c.nodes {
			switch {
			case i == j:
			case c.linked(a, b) || c.linked(b, a):
				d[i][j] = 1
			default:
				d[i][j] = n
			}
		}
	}
	for k := range n {
		for i := range n {
			for j := range n {
				d[i][j] = min(d[i][j], d[i][k]+d[k][j])
			}
		}
	}
	return d
}

// socket is a client of the host's daemon.
func (n *node) socket() *api.Client {
	return api.NewClient(filepath.Join(n.Root(), "run/weft/weft.sock"))
}

// paths returns the host's connections by the nickname of the peer.
func (n *node) paths() (map[string]api.Connection, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.c.t.Context()), 10*time.Second*run.slow())
	defer cancel()
	s, err := n.socket().Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Name(), err)
	}
	out := map[string]api.Connection{}
	for _, p := range s.Connections {
		if p.Nickname != "" {
			out[p.Nickname] = p
		}
	}
	return out, nil
}

// pathTo returns the connection to a peer.
func (n *node) pathTo(o *node) (api.Connection, error) {
	all, err := n.paths()
	if err != nil {
		return api.Connection{}, err
	}
	p, ok := all[o.Name()]
	if !ok {
		return p, fmt.Errorf("%s knows no %s", n.Name(), o.Name())
	}
	return p, nil
}

// why asks for everything about the path to a peer.
func (n *node) why(o *node) api.Why {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.t.Context(), 10*time.Second*run.slow())
	defer cancel()
	w, err := n.socket().Why(ctx, o.Name())
	if err != nil {
		n.c.t.Fatal(err)
	}
	return w
}

// pathText renders the path of a connection: "direct", "host2,host3", or why
// there is none.
func pathText(p api.Connection) string {
	switch p.State {
	case api.Established:
		return "direct"
	case api.Relayed:
		return strings.Join(p.Via, ",")
	}
	return strings.TrimSpace(string(p.State) + " " + p.Info)
}

// usesPath is an error unless both ends say that their path is that one, read
// from a to b.
func usesPath(a, b *node, want string) error {
	back := "direct"
	if want != back {
		hops := strings.Split(want, ",")
		slices.Reverse(hops)
		back = strings.Join(hops, ",")
	}
	there, err := a.pathTo(b)
	if err != nil {
		return err
	}
	other, err := b.pathTo(a)
	if err != nil {
		return err
	}
	if pathText(there) != want || pathText(other) != back {
		return fmt.Errorf("%s reaches %s by %q, which reaches it by %q; want %q and %q",
			a.Name(), b.Name(), pathText(there), pathText(other), want, back)
	}
	return nil
}

// bestPaths is an error unless every pair that can be direct is, and every other
// one uses a way that exists, through nobody twice.
func (c *cluster) bestPaths() error {
	for _, a := range c.nodes {
		paths, err := a.paths()
		if err != nil {
			return err
		}
		for _, b := range c.nodes {
			if a == b {
				continue
			}
			if err := c.goodPath(a, b, paths[b.Name()]); err != nil {
				return err
			}
		}
	}
	return nil
}

// goodPath says what is wrong with a path from a to b.
func (c *cluster) goodPath(a, b *node, p api.Connection) error {
	bad := fmt.Errorf("%s reaches %s by %q", a.Name(), b.Name(), pathText(p))
	direct := c.linked(a, b) || c.linked(b, a)
	if p.State != api.Established && p.State != api.Relayed || direct != (p.State == api.Established) {
		return bad
	}
	met := []string{a.Name()}
	for _, hop := range append(slices.Clone(p.Via), b.Name()) {
		last := c.byName(met[len(met)-1])
		if next := c.byName(hop); slices.Contains(met, hop) || !c.linked(last, next) && !c.linked(next, last) {
			return bad
		}
		met = append(met, hop)
	}
	return nil
}

// detours counts the pairs that use more relays than they need.
func (c *cluster) detours() (more, relayed int) {
	want := c.distances()
	for i, a := range c.nodes {
		paths, err := a.paths()
		if err != nil {
			c.t.Error(err)
		}
		for j, b := range c.nodes {
			if p := paths[b.Name()]; i != j && p.State == api.Relayed {
				relayed++
				if len(p.Via) > want[i][j]-1 {
					more++
				}
			}
		}
	}
	return more, relayed
}

// allReach waits until every container has had an answer from every other one,
// and returns how long that took. Those that had one are not asked again.
func (c *cluster) allReach(boxes []*box, goal time.Duration) time.Duration {
	c.t.Helper()
	type pair struct{ a, b *box }
	var left []pair
	for _, a := range boxes {
		for _, b := range boxes {
			if a != b {
				left = append(left, pair{a, b})
			}
		}
	}
	return c.within(fmt.Sprintf("each of %d containers has reached every other", len(boxes)), goal, func() error {
		failed := make([]error, len(left))
		var g errgroup.Group
		g.SetLimit(16)
		for i, p := range left {
			g.Go(func() error {
				failed[i] = p.a.reaches(p.b)
				return nil
			})
		}
		_ = g.Wait()
		var again []pair
		for i, p := range left {
			if failed[i] != nil {
				again = append(again, p)
			}
		}
		left = again
		if len(left) > 0 {
			return fmt.Errorf("%d pairs are left: %w", len(left), errors.Join(failed...))
		}
		return nil
	})
}

// within waits until f gives no error. The limit is the goal, which holds on a
// quiet machine; ten times that fails, as far as it is no more than two minutes.
func (c *cluster) within(what string, limit time.Duration, f func() error) time.Duration {
	c.t.Helper()
	return within(c.t, what, limit, f)
}

func within(t testing.TB, what string, limit time.Duration, f func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	for pause := 20 * time.Millisecond; ; {
		err := f()
		took := time.Since(begun)
		if err == nil {
			t.Logf("%s: after %s (limit %s)", what, took.Round(time.Millisecond), limit)
			return took
		}
		if took > max(3*limit, min(10*limit, 2*time.Minute))*run.slow() {
			t.Fatalf("%s: not within %s: %v", what, took.Round(time.Millisecond), err)
		}
		rest(t.Context(), pause)
		pause = longer(pause, took)
		if t.Context().Err() != nil {
			t.Fatalf("%s: %v: %v", what, t.Context().Err(), err)
		}
	}
}

// keepDrawing writes who could reach whom and which path each pair used, and
// what each daemon has to say about that.
func (c *cluster) keepDrawing() {
	dir := c.t.ArtifactDir()
	if run.artefacts != "" {
		dir = filepath.Join(run.artefacts, strings.ReplaceAll(c.t.Name(), "/", "-"))
	}
	var lines []lab.Line
	enough := time.Now().Add(time.Minute) // what failed may be that nobody answers
	for _, n := range c.nodes {
		if time.Now().After(enough) {
			c.t.Logf("%s and later ones were not asked: it took too long", n.Name())
			break
		}
		to := filepath.Join(dir, n.Name())
		if err := os.MkdirAll(to, 0o755); err != nil {
			c.t.Log(err)
			return
		}
		paths, err := n.paths()
		if err != nil {
			c.t.Log(err)
			continue
		}
		for name, p := range paths {
			lines = append(lines, lab.Line{From: n.Name(), To: name, Text: pathText(p) + " " + p.Address})
			_ = os.WriteFile(filepath.Join(to, "weft-why-"+name), []byte(n.weft("why", name).Stdout), 0o644)
		}
	}
	slices.SortFunc(lines, func(a, b lab.Line) int { return strings.Compare(a.From+a.To, b.From+b.To) })
	drawing := filepath.Join(dir, "drawing.md")
	if err := os.WriteFile(drawing, []byte(c.Draw(c.t.Name(), lines...)), 0o644); err != nil {
		c.t.Log(err)
		return
	}
	c.t.Logf("who could reach whom, and by which path, is drawn in %s", drawing)
}

// cpu returns the time that the host's daemon has computed so far.
func (n *node) cpu(t testing.TB) time.Duration {
	t.Helper()
	for pid, name := range n.processes() {
		if name != "weftd" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(n.Root(), "proc", pid, "stat"))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 {
			t.Fatalf("unreadable stat: %s", b)
		}
		user, err1 := strconv.Atoi(f[11])
		system, err2 := strconv.Atoi(f[12])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return time.Duration(user+system) * 10 * time.Millisecond // of 100 ticks a second
	}
	t.Fatalf("%s has no daemon", n.Name())
	return 0
}

// shuffled is a random order of n nodes, told in the log.
func shuffled(t testing.TB, r *rand.Rand, n int) []int {
	t.Helper()
	order := r.Perm(n)
	t.Logf("they are launched in the order %v, as far as possible", order)
	return order
}

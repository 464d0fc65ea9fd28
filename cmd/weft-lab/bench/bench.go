package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what to measure.
type Options struct {
	Rounds   int           // at least 1
	Time     time.Duration // of one measurement of throughput; iperf3 takes whole seconds
	Ways     []string      // names; empty: all
	Datapath string        // of weft: kernel | userspace
	Filter   bool          // bridged frames pass through the packet filter of IP, as Docker wants it
	BinDir   string        // of weft and weftd
	Progress io.Writer     // gets a line for each step; nil: nobody does
}

// Run makes the lab, measures, and takes the lab down again. It needs root. When
// a measurement fails the run goes on, and the results say so. When ctx ends
// after a whole round the results are of what was measured until then. It is an
// error when nothing can be measured at all.
func Run(ctx context.Context, o Options) (*Results, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Rounds < 1 || o.Time < time.Second {
		return nil, fmt.Errorf("%d rounds of %s: at least one round of one second is needed", o.Rounds, o.Time)
	}
	if _, err := exec.LookPath("iperf3"); err != nil {
		return nil, fmt.Errorf("needs the Debian package iperf3: %w", err)
	}
	if len(o.Ways) == 0 {
		o.Ways = Ways()
	}
	r := &Results{When: time.Now(), Machine: thisMachine(), Rounds: o.Rounds, Seconds: o.Time.Seconds(), Filter: o.Filter}
	s, err := newSite(ctx, o)
	if err != nil {
		return nil, err
	}
	if err = r.prepare(ctx, s); err == nil {
		err = r.measure(ctx, s)
	}
	err = errors.Join(err, s.close())
	fmt.Fprintf(o.Progress, "it took %s\n", time.Since(r.When).Round(time.Second))
	return r, err
}

// settle is how long everything is left alone before the first round.
const settle = 3 * time.Second

// prepare builds all ways that can be.
func (r *Results) prepare(ctx context.Context, s *site) error {
	for _, name := range s.o.Ways {
		if why := missing(name); why != "" {
			fmt.Fprintf(s.o.Progress, "NOT MEASURED: %s: %s\n", name, why)
			r.Missing = append(r.Missing, name+": "+why)
			continue
		}
		begun := time.Now()
		if err := s.build(ctx, name); err != nil {
			return err
		}
		fmt.Fprintf(s.o.Progress, "%s is up after %s\n", name, time.Since(begun).Round(time.Millisecond))
	}
	select { // weft measures its paths in the beginning
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
	}
	r.Weft = strings.TrimSpace(s.mesh[0].Run(ctx, "weft", "version").Stdout)
	for _, w := range s.ways {
		mtu, err := w.mtu()
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		r.Ways = append(r.Ways, Way{Name: w.name, Title: w.title, Between: w.between, MTU: mtu, Figures: map[string]*Figure{}})
	}
	return nil
}

// step is a measurement that gives some figures, one of which is shown at once.
type step struct {
	name, figure string
	do           func(ctx context.Context, w *way, r *Way, d time.Duration) error
}

func steps() []step {
	return []step{
		{"one TCP stream", "tcp1", func(ctx context.Context, w *way, r *Way, d time.Duration) error {
			return r.stream(ctx, w, "1", 1, false, d)
		}},
		{"one TCP stream the other way", "tcp1-back", func(ctx context.Context, w *way, r *Way, d time.Duration) error {
			return r.stream(ctx, w, "1", 1, true, d)
		}},
		{"four TCP streams", "tcp4", func(ctx context.Context, w *way, r *Way, d time.Duration) error {
			return r.stream(ctx, w, "4", 4, false, d)
		}},
		{"four TCP streams the other way", "tcp4-back", func(ctx context.Context, w *way, r *Way, d time.Duration) error {
			return r.stream(ctx, w, "4", 4, true, d)
		}},
		{"UDP", "udp", func(_ context.Context, w *way, r *Way, d time.Duration) error {
			g, err := w.send(bulkSize, onTheWay, d)
			if err == nil {
				r.add("udp", g.rate*bulkSize*8/1e9)
				r.add("udp-loss", 100*g.loss)
			}
			return err
		}},
		{"small UDP", "small", func(_ context.Context, w *way, r *Way, d time.Duration) error {
			g, err := w.send(smallSize, onTheWay, d)
			if err == nil {
				r.add("small", g.rate/1e3)
				r.add("small-loss", 100*g.loss)
			}
			return err
		}},
		{"UDP flood", "flood", func(_ context.Context, w *way, r *Way, d time.Duration) error {
			g, err := w.send(bulkSize, 0, d)
			if err == nil {
				r.add("flood", g.rate*bulkSize*8/1e9)
				r.add("flood-loss", 100*g.loss)
			}
			return err
		}},
		{"TCP requests", "tcp-rr-p50", func(ctx context.Context, w *way, r *Way, d time.Duration) error {
			return r.ask(ctx, w, "tcp-rr", unix.SOCK_STREAM, d/2)
		}},
		{"UDP requests", "udp-rr-p50", func(ctx context.Context, w *way, r *Way, d time.Duration) error {
			return r.ask(ctx, w, "udp-rr", unix.SOCK_DGRAM, d/2)
		}},
		{"TCP requests beside a stream", "load-p50", func(ctx context.Context, w *way, r *Way, d time.Duration) error {
			stop, err := w.load()
			if err != nil {
				return err
			}
			err = r.ask(ctx, w, "load", unix.SOCK_STREAM, d)
			_, err2 := stop()
			return errors.Join(err, err2)
		}},
	}
}

func (r *Way) stream(ctx context.Context, w *way, name string, streams int, back bool, d time.Duration) error {
	before, err := w.used()
	if err != nil {
		return err
	}
	st, err := w.stream(ctx, streams, back, d)
	if err != nil {
		return err
	}
	after, err := w.used()
	if err != nil {
		return err
	}
	if back {
		r.add("tcp"+name+"-back", st.rate/1e9)
		return nil
	}
	r.add("tcp"+name, st.rate/1e9)
	r.add("tcp"+name+"-again", st.again)
	u := after.since(before)
	perGB := func(t time.Duration) float64 { return t.Seconds() / (st.rate / 8e9 * d.Seconds()) }
	cpu := "cpu" + name
	r.add(cpu, perGB(u.sender+u.receiver+u.relay+u.soft+st.cpu))
	r.add(cpu+"-iperf3", perGB(st.cpu))
	r.add(cpu+"-soft", perGB(u.soft))
	r.add(cpu+"-machine", perGB(u.machine))
	if w.sender != nil {
		r.add(cpu+"-sender", perGB(u.sender))
		r.add(cpu+"-receiver", perGB(u.receiver))
	}
	if w.relay != nil {
		r.add(cpu+"-relay", perGB(u.relay))
	}
	return nil
}

func (r *Way) ask(ctx context.Context, w *way, name string, kind int, d time.Duration) error {
	t, err := w.ask(ctx, kind, d)
	if err != nil {
		return err
	}
	r.add(name+"-p50", float64(t.at(0.5).Nanoseconds())/1e3)
	r.add(name+"-p99", float64(t.at(0.99).Nanoseconds())/1e3)
	return nil
}

// measure takes the rounds. In each the ways take turns with every figure, in
// another order each time, before the next figure begins.
func (r *Results) measure(ctx context.Context, s *site) error {
	var others Figure
	for round := range r.Rounds {
		busy, err := background(ctx)
		if err != nil && ctx.Err() != nil {
			return r.interrupted(round, others)
		}
		if err != nil {
			return err
		}
		others.add(busy)
		for number, st := range steps() {
			order := rand.New(rand.NewPCG(uint64(round), uint64(number)))
			for _, i := range order.Perm(len(s.ways)) {
				if err := r.once(ctx, st, s.ways[i], &r.Ways[i]); err != nil {
					if ctx.Err() != nil {
						return r.interrupted(round, others)
					}
					what := fmt.Sprintf("%s, %s, round %d: %v", s.ways[i].name, st.name, round+1, err)
					r.Failed = append(r.Failed, what)
					fmt.Fprintf(s.o.Progress, "FAILED: %s\n", what)
				}
			}
			fmt.Fprintf(s.o.Progress, "round %d of %d: %s:", round+1, r.Rounds, st.name)
			for i := range r.Ways {
				if f := r.Ways[i].Figures[st.figure]; f != nil {
					fmt.Fprintf(s.o.Progress, "  %s %.3g", r.Ways[i].Name, f.Rounds[len(f.Rounds)-1])
				}
			}
			fmt.Fprintln(s.o.Progress)
		}
	}
	r.Background = others.Median
	return nil
}

// interrupted keeps what was measured in whole rounds before, when there were
// any, and in the one that was not finished.
func (r *Results) interrupted(whole int, others Figure) error {
	if whole == 0 {
		return context.Canceled
	}
	r.Failed = append(r.Failed, fmt.Sprintf("interrupted in round %d of %d", whole+1, r.Rounds))
	r.Rounds, r.Background = whole, others.Median
	return nil
}

// once measures one figure, and again if that failed: a way may still be full of
// what the last one left.
func (r *Results) once(ctx context.Context, st step, w *way, to *Way) error {
	var err error
	for range 2 {
		if err = st.do(ctx, w, to, time.Duration(r.Seconds*float64(time.Second))); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err == nil && w.check != nil {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := w.check(ctx); err != nil {
			return fmt.Errorf("the path is another one: %w", err)
		}
	}
	return err
}

// background returns how many processors work while the lab has nothing to do.
func background(ctx context.Context) (float64, error) {
	const look = 500 * time.Millisecond
	before, err := machineCPU()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(look):
	}
	after, err := machineCPU()
	return (after - before).Seconds() / time.Since(begun).Seconds(), err
}

// Write leaves bench.json, bench.md and bench.svg in a directory.
func (r *Results) Write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	var tables, picture strings.Builder
	if err := errors.Join(r.Tables(&tables), r.Picture(&picture), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	var errs []error
	for name, text := range map[string]string{"bench.json": string(text) + "\n", "bench.md": tables.String(), "bench.svg": picture.String()} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return errors.Join(errs...)
}

// Goals writes what weft was to reach against the plain tunnel and the slow
// switch, and what it did.
func (r *Results) Goals(w io.Writer) {
	for _, g := range []struct {
		what, figure, to string
		least            bool
		goal             float64
	}{
		{"one TCP stream", "tcp1", plainTunnel, true, 1},
		{"one TCP stream the other way", "tcp1-back", plainTunnel, true, 1},
		{"four TCP streams", "tcp4", plainTunnel, true, 1},
		{"four TCP streams the other way", "tcp4-back", plainTunnel, true, 1},
		{"one TCP stream", "tcp1", slowSwitch, true, 4},
		{"four TCP streams", "tcp4", slowSwitch, true, 4},
		{"TCP request p50", "tcp-rr-p50", plainTunnel, false, 1.3},
		{"UDP request p50", "udp-rr-p50", plainTunnel, false, 1.3},
		{"TCP request p50 beside a stream", "load-p50", plainTunnel, false, 1.3},
		{"processor time per GB", "cpu1", plainTunnel, false, 1.1},
	} {
		got := r.Ratio(g.figure, weft, g.to)
		if math.IsNaN(got) {
			continue
		}
		word, met := "at most", got <= g.goal
		if g.least {
			word, met = "at least", got >= g.goal
		}
		mark := "missed"
		if met {
			mark = "met"
		}
		fmt.Fprintf(w, "%-6s  %s: %.2f × %s, goal %s %g\n", mark, g.what, got, r.way(g.to).Title, word, g.goal)
	}
}

// Check says what is wrong with the names of ways.
func (o Options) Check() error {
	for _, name := range o.Ways {
		if !slices.Contains(Ways(), name) {
			return fmt.Errorf("there is no way %q: there are %s", name, strings.Join(Ways(), ", "))
		}
	}
	return nil
}

package topology

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// start is when tests begin.
var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// drive calls Step at each change and when the publisher wants it, and returns
// the times of publications after the start.
func drive(p *Publisher, until time.Duration, now func(at time.Duration) Report, changes ...time.Duration) []time.Duration {
	var at []time.Duration
	for t := time.Duration(0); t <= until; {
		if publish, _ := p.Step(start.Add(t), now(t)); publish {
			at = append(at, t)
		}
		next := until + 1
		for _, c := range changes {
			if c > t && c < next {
				next = c
			}
		}
		if n := p.Next(); !n.IsZero() {
			next = min(next, n.Sub(start))
		}
		t = next
	}
	return at
}

// every returns the times of a change each d.
func every(d, from, until time.Duration) (out []time.Duration) {
	for t := from; t <= until; t += d {
		out = append(out, t)
	}
	return out
}

func TestPublisher(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	up := func(rtt time.Duration) Report {
		return Report{Links: []Link{{Peer: id(1), State: Direct, RTT: rtt, MTU: 1500, Bound: true}}}
	}
	// The same in a cluster of n more.
	among := func(n int, r Report) Report {
		r.Links = slices.Clone(r.Links)
		for i := range n {
			r.Links = append(r.Links, Link{Peer: id(2 + i), State: Direct})
		}
		return r
	}
	unbound := func(rtt time.Duration) Report {
		r := up(rtt)
		r.Links[0].Bound = false
		return r
	}
	after := func(at time.Duration, was, is Report) func(time.Duration) Report {
		return func(t time.Duration) Report {
			if t < at {
				return was
			}
			return is
		}
	}
	changed := func(change func(l *Link)) Report {
		r := up(20 * ms)
		change(&r.Links[0])
		return r
	}
	toggle := func(period time.Duration) func(time.Duration) Report {
		return func(t time.Duration) Report {
			if t/period%2 == 0 {
				return up(20 * ms)
			}
			return Report{}
		}
	}
	// Always something new.
	churn := func(t time.Duration) Report { return Report{SwitchMTU: int(t / (100 * ms))} }
	for _, tt := range []struct {
		name    string
		now     func(time.Duration) Report
		changes []time.Duration
		until   time.Duration
		want    []time.Duration
	}{
		{"the first at once", after(0, Report{}, Report{}), nil, 60 * s, []time.Duration{0}},
		{"a link is lost", after(20*s, up(20*ms), Report{}), []time.Duration{20 * s}, 60 * s, []time.Duration{0, 20 * s}},
		{"a second after the first", after(100*ms, Report{}, up(20*ms)), []time.Duration{100 * ms}, 60 * s, []time.Duration{0, s}},
		{"state", after(20*s, up(20*ms), changed(func(l *Link) { l.State = Relayed })), []time.Duration{20 * s}, 60 * s, []time.Duration{0, 20 * s}},
		{"bound", after(20*s, up(20*ms), changed(func(l *Link) { l.Bound = false })), []time.Duration{20 * s}, 60 * s, []time.Duration{0, 20 * s}},
		{"endpoint", after(20*s, up(20*ms), changed(func(l *Link) { l.Endpoint = full().Links[0].Endpoint })), []time.Duration{20 * s}, 60 * s, []time.Duration{0, 20 * s}},
		{"who began", after(20*s, up(20*ms), changed(func(l *Link) { l.Outbound = true })), []time.Duration{20 * s}, 60 * s, []time.Duration{0, 20 * s}},
		{"age", after(20*s, up(20*ms), changed(func(l *Link) { l.Age = time.Hour })), []time.Duration{20 * s}, 60 * s, []time.Duration{0}},
		{"gone and back at once", toggle(100 * ms), []time.Duration{100 * ms, 200 * ms}, 60 * s, []time.Duration{0}},
		{"round trip", after(s, up(20*ms), up(26*ms)), []time.Duration{s}, 60 * s, []time.Duration{0, 10 * s}},
		{"round trip falls", after(s, up(20*ms), up(14*ms)), []time.Duration{s}, 60 * s, []time.Duration{0, 10 * s}},
		{"round trip by a quarter", after(s, up(20*ms), up(25*ms)), []time.Duration{s}, 60 * s, []time.Duration{0}},
		{"round trip by 2 ms", after(s, up(1*ms), up(3*ms)), []time.Duration{s}, 60 * s, []time.Duration{0}},
		{"measured at last", after(s, up(0), up(ms)), []time.Duration{s}, 60 * s, []time.Duration{0, 10 * s}},
		{"round trip, not bound", after(s, unbound(20*ms), unbound(90*ms)), []time.Duration{s}, 60 * s, []time.Duration{0}},
		{"measured at last, not bound", after(s, unbound(0), unbound(ms)), []time.Duration{s}, 60 * s, []time.Duration{0}},
		{"round trip among 20", after(s, among(19, up(20*ms)), among(19, up(26*ms))), []time.Duration{s}, 200 * s, []time.Duration{0, 10 * s}},
		{"round trip among 200", after(s, among(199, up(20*ms)), among(199, up(26*ms))), []time.Duration{s}, 200 * s, []time.Duration{0, 100 * s}},
		{"measured at last among 200", after(s, among(199, up(0)), among(199, up(26*ms))), []time.Duration{s}, 200 * s, []time.Duration{0, 10 * s}},
		{"a link is lost among 200", after(20*s, among(199, up(20*ms)), among(199, Report{})), []time.Duration{20 * s}, 200 * s, []time.Duration{0, 20 * s}},
		{"MTU falls", after(20*s, up(20*ms), changed(func(l *Link) { l.MTU = 1499 })), []time.Duration{20 * s}, 60 * s, []time.Duration{0, 20 * s}},
		{"MTU falls soon after", after(100*ms, up(20*ms), changed(func(l *Link) { l.MTU = 1400 })), []time.Duration{100 * ms}, 60 * s, []time.Duration{0, s}},
		{"MTU grows", after(s, up(20*ms), changed(func(l *Link) { l.MTU = 9000 })), []time.Duration{s}, 60 * s, []time.Duration{0, 10 * s}},
		{"MTU not known any more", after(s, up(20*ms), changed(func(l *Link) { l.MTU = 0 })), []time.Duration{s}, 60 * s, []time.Duration{0, 10 * s}},
		{"churn", churn, every(100*ms, 0, 30*s), 30 * s, []time.Duration{0, 1 * s, 3 * s, 7 * s, 12 * s, 17 * s, 22 * s, 27 * s}},
		{"changes that come seldom are told at once", toggle(20 * s), every(20*s, 20*s, 100*s), 100 * s, every(20*s, 0, 100*s)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p Publisher
			if d := cmp.Diff(tt.want, drive(&p, tt.until, tt.now, tt.changes...)); d != "" {
				t.Errorf("published at (-want +got):\n%s", d)
			}
		})
	}
}

// After churn, 30 quiet seconds make it quick again, whatever was measured
// meanwhile.
func TestPublisherCalms(t *testing.T) {
	var p Publisher
	number := func(n int) Report {
		return Report{SwitchMTU: n, Links: []Link{{Peer: id(1), State: Direct, RTT: time.Millisecond, Bound: true}}}
	}
	drive(&p, 20*time.Second, func(t time.Duration) Report { return number(int(t / time.Second)) }, every(time.Second, 0, 20*time.Second)...)
	last := number(17) // published at 17 s
	step := func(at time.Duration, want bool, next time.Duration) {
		t.Helper()
		publish, _ := p.Step(start.Add(at), last)
		if publish != want || want != p.Next().IsZero() || !want && p.Next() != start.Add(next) {
			t.Fatalf("at %v: published %v, next %v", at, publish, p.Next().Sub(start))
		}
	}
	last.SwitchMTU++
	step(21*time.Second, false, 22*time.Second)
	step(22*time.Second, true, 0)
	last.Links[0].RTT = time.Second
	step(40*time.Second, true, 0)
	last.SwitchMTU++
	step(40*time.Second+1, false, 45*time.Second) // still excited
	step(45*time.Second, true, 0)
	last.Links[0].RTT = 2 * time.Second
	step(60*time.Second, true, 0)
	last.Links[0].RTT = time.Second
	step(80*time.Second, true, 0)
	last.SwitchMTU++
	step(80*time.Second+1, false, 81*time.Second)
	step(81*time.Second, true, 0)
}

// Whatever happens: never twice within a second, each with the next number,
// what is told is true at that moment, and not much later everybody knows all
// that matters.
func TestPublisherProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p Publisher
		truth := Report{Owner: id(0), Boot: 7}
		var told Report
		now, toldAt := start, start.Add(-time.Hour)
		step := func() {
			before := slices.Clone(truth.Links)
			publish, out := p.Step(now, truth)
			if !slices.Equal(before, truth.Links) {
				t.Fatal("Step changed its argument")
			}
			if publish {
				if now.Sub(toldAt) < time.Second {
					t.Fatalf("published %v after the last time", now.Sub(toldAt))
				}
				want := truth.byPeer()
				if want.Seq = told.Seq + 1; !cmp.Equal(want, out, cmpReport) {
					t.Fatalf("published %+v, want %+v", out, want)
				}
				told, toldAt = out.byPeer(), now
			} else if !cmp.Equal(out, told, cmpReport) {
				t.Fatalf("%+v is not what was published", out)
			}
			if len(out.Links) > 0 {
				out.Links[0].MTU = 99 // it is ours
			}
			if n := p.Next(); !n.IsZero() && !n.After(now) {
				t.Fatalf("next at %v, it is %v", n, now)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "changes") {
			i := rapid.IntRange(0, 5).Draw(t, "link")
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				truth.Links = append(truth.Links, Link{Peer: id(rapid.IntRange(1, 99).Draw(t, "peer")), State: Direct})
				slices.SortFunc(truth.Links, byPeer)
				truth.Links = slices.CompactFunc(truth.Links, func(a, b Link) bool { return a.Peer == b.Peer })
			case 1:
				if i < len(truth.Links) {
					truth.Links = slices.Delete(slices.Clone(truth.Links), i, i+1)
				}
			case 2:
				if i < len(truth.Links) {
					truth.Links[i].RTT = time.Duration(rapid.IntRange(0, 50).Draw(t, "rtt")) * time.Millisecond
				}
			case 3:
				if i < len(truth.Links) {
					truth.Links[i].MTU = rapid.IntRange(0, 1500).Draw(t, "mtu")
				}
			case 4:
				if i < len(truth.Links) {
					truth.Links[i].Bound = !truth.Links[i].Bound
				}
			}
			step()
			until := now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "pause")) * time.Millisecond)
			for n := p.Next(); !n.IsZero() && n.Before(until); n = p.Next() {
				now = n
				step()
			}
			now = until
		}
		end := now.Add(slowGap + time.Duration(len(truth.Links))*time.Second/2)
		for n := p.Next(); !n.IsZero(); n = p.Next() {
			if n.After(end) {
				t.Fatalf("not told %v after the last change", n.Sub(now))
			}
			now = n
			step()
		}
		if p.compare(truth.byPeer()) != equal {
			t.Fatalf("told %+v, true is %+v", told, truth)
		}
	})
}

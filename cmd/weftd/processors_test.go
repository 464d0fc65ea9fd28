package main

import (
	"math/rand/v2"
	"testing"
)

// machine is one on which a daemon carries so many packets with so many
// processors.
type machine struct {
	carries []float64 // thousands in a second, by processors, from one
	noise   float64   // share
	busy    bool
}

func (m machine) carried(now int, r *rand.Rand) float64 {
	return 1000 * m.carries[now-1] * (1 + m.noise*(2*r.Float64()-1))
}

// run steps the governor n times and returns how often each number was used.
func (m machine) run(g *governor, n int, r *rand.Rand) map[int]int {
	seen := map[int]int{}
	for range n {
		wanted, carried := 0.01*float64(g.now), 0.0
		if m.busy {
			wanted, carried = 0.95*float64(g.now), m.carried(g.now, r)
		}
		seen[g.step(wanted, carried)]++
	}
	return seen
}

// Whatever another processor is worth, the daemon comes to what carries most, and
// spends little time elsewhere.
func TestGovernor(t *testing.T) {
	linear := make([]float64, 32)
	for i := range linear {
		linear[i] = 100 * float64(i+1)
	}
	for _, tc := range []struct {
		name     string
		carries  []float64
		from, to int
	}{
		{"both hosts on two processors", []float64{100, 75}, 1, 1},
		{"a processor to spare", []float64{100, 160}, 2, 2},
		{"no more than three help", []float64{100, 180, 240, 242, 241, 240, 239, 238}, 3, 4},
		{"eight help", []float64{100, 190, 280, 370, 450, 530, 610, 690}, 7, 8},
		{"thirty-two help", linear, 28, 32},
		{"one processor", []float64{100}, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(len(tc.name))))
			m := machine{carries: tc.carries, noise: 0.03, busy: true}
			g := newGovernor(len(tc.carries), r.IntN)
			m.run(g, 400, r) // 100 s
			there, seen := 0, m.run(g, 2400, r)
			for n := tc.from; n <= tc.to; n++ {
				there += seen[n]
			}
			if there < 2100 { // of ten minutes
				t.Errorf("in ten minutes these were used: %v, want %d to %d nearly always", seen, tc.from, tc.to)
			}
			m.busy = false
			m.run(g, 10*len(tc.carries), r)
			if seen := m.run(g, 100, r); seen[1] != 100 {
				t.Errorf("with nothing to do: %v", seen)
			}
		})
	}
}

// What was worth it may not be for ever: neighbours want the processors back.
func TestGovernorFollows(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	g := newGovernor(4, r.IntN)
	alone := machine{carries: []float64{100, 180, 250, 300}, noise: 0.03, busy: true}
	alone.run(g, 200, r)
	if g.now < 3 {
		t.Fatalf("alone it uses %d", g.now)
	}
	shared := machine{carries: []float64{100, 90, 70, 50}, noise: 0.03, busy: true}
	shared.run(g, 600, r)
	if seen := shared.run(g, 2400, r); seen[1] < 2000 {
		t.Errorf("beside others it uses %v", seen)
	}
	alone.run(g, 600, r)
	if seen := alone.run(g, 2400, r); seen[4]+seen[3] < 2000 {
		t.Errorf("alone again it uses %v", seen)
	}
}

// Two hosts carry what the slower of them does, and neither gains anything by
// itself: they come to what is best for both all the same.
func TestGovernorsTogether(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(3, seed))
		m := machine{carries: []float64{100, 180, 250, 300}, noise: 0.03}
		a, b := newGovernor(4, r.IntN), newGovernor(4, r.IntN)
		slow := machine{carries: []float64{100, 90, 70, 50}, noise: 0.03, busy: true}
		slow.run(a, 600, r) // held at one, each by its own neighbours
		slow.run(b, 617, r)
		many := 0
		for i := range 4800 { // 20 minutes
			carried := min(m.carried(a.now, r), m.carried(b.now, r))
			// Who could do more waits for the other.
			a.step(0.95*float64(a.now)*carried/m.carried(a.now, r), carried)
			b.step(0.95*float64(b.now)*carried/m.carried(b.now, r), carried)
			if i >= 2400 && min(a.now, b.now) >= 2 {
				many++
			}
		}
		if many < 1800 {
			t.Errorf("seed %d: both use more than one processor in %d of 2400 samples", seed, many)
		}
	}
}

// Work that carries next to nothing gets the processors that it can use, keeps
// them as long as it lasts, and gives them back.
func TestGovernorOtherWork(t *testing.T) {
	for _, trickle := range []float64{0, 100} {
		r := rand.New(rand.NewPCG(4, 4))
		g := newGovernor(4, r.IntN)
		for range 100 {
			g.step(0.95*float64(g.now), trickle)
		}
		for range 400 {
			if g.step(0.95*float64(g.now), trickle) < 3 {
				t.Fatalf("it uses %d of 4, with %.0f packets/s", g.now, trickle)
			}
		}
		for range 100 {
			g.step(0.01, trickle)
		}
		if g.now != 1 {
			t.Errorf("it keeps %d", g.now)
		}
	}
}

// Whatever it sees, it stays within what there is.
func FuzzGovernor(f *testing.F) {
	f.Add(uint8(3), []byte{255, 0, 255, 255, 0, 0, 1, 2, 3, 255, 255})
	f.Fuzz(func(t *testing.T, most uint8, seen []byte) {
		r := rand.New(rand.NewPCG(5, uint64(most)))
		g := newGovernor(int(most%64)+1, r.IntN)
		for i := range seen {
			before := g.now
			now := g.step(float64(seen[i])/255*float64(g.now), 1000*float64(seen[len(seen)-1-i]))
			if now < 1 || now > g.most || now-before > 1 || before-now > 1 {
				t.Fatalf("from %d to %d of %d", before, now, g.most)
			}
		}
	})
}

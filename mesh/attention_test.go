package mesh

import (
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/advert"
)

// A warning of a clone stays as long as the clone shows, and goes when it does
// not any more; it comes back with it.
func TestCloneGoes(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	seq := uint64(0)
	show := func() {
		t.Helper()
		seq++
		a := signed(t, 1, func(a *advert.Advert) {
			a.Seq, a.Boot = seq, seq%2+7
			if seq%2 == 0 {
				a.Nickname = "copy" // the text that is said is that of the first time
			}
		})
		if _, err := m.learn(now, a); err != nil {
			t.Fatal(err)
		}
	}
	pass := func(d time.Duration, want int) {
		t.Helper()
		now = now.Add(d)
		m.step(now, tick{})
		if len(m.warnings) != want || len(m.makeStatus().Warnings) != want {
			t.Fatalf("after %s: %q, want %d warnings", d, m.warnings, want)
		}
	}
	for range 8 {
		show()
	}
	pass(time.Second, 1)
	for range 30 {
		show()
		pass(time.Minute, 1)
	}
	pass(attentionTime-2*time.Minute, 1)
	pass(2*time.Minute, 0)
	show()
	pass(time.Second, 1)
}

// What nothing is known of that would end it is warned of for good.
func TestWarningsStay(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	m.warn("full", "it is full")
	m.step(now.Add(24*time.Hour), tick{})
	if len(m.warnings) != 1 {
		t.Errorf("%q", m.warnings)
	}
}

package vxlan_test

import (
	"encoding/binary"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
	"github.com/weftnet/weft/router/vxlan"
)

// stalling stops at one multicast entry until it is told to go on.
type stalling struct {
	*kerneltest.Fake
	left atomic.Int64 // entries before that
	here chan struct{}
	on   chan struct{}
}

func (s *stalling) AddMDB(link string, e kernel.MDB) error {
	if s.left.Add(-1) == 0 {
		s.here <- struct{}{}
		<-s.on
	}
	return s.Fake.AddMDB(link, e)
}

// A container that joins hundreds of groups at once keeps the kernel busy for a
// while. Nobody else who joins meanwhile waits for that: all is flooded.
func TestManyJoinsAreFlooded(t *testing.T) {
	const many = 700
	h := &stalling{Fake: kerneltest.New("host"), here: make(chan struct{}), on: make(chan struct{})}
	ok(t, h.AddBridge("weft", bridgeMAC, 1370))
	ok(t, h.AddWireGuard("weft-wg", 1444))
	c := newClock()
	p := vxlan.NewPruning(h, "weft-wg", slog.New(slog.NewTextHandler(t.Output(), nil)))
	p.Clock(c.now, time.Hour)
	t.Cleanup(func() { ok(t, p.Remove()) })
	ok(t, p.Set(config(2, 3)))
	soon := func(what string, so func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !so(); {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
			<-time.After(time.Millisecond)
		}
	}
	hear := func(n int, frame []byte) {
		t.Helper()
		before := p.Changes()
		ok(t, h.Hear("weft-wg", carried(n, frame)))
		soon("not heard", func() bool { return p.Changes() != before })
	}
	var changes []string
	diverted := func(begin string) func() bool {
		return func() bool {
			changes = append(changes, h.TakeChanges()...)
			return slices.ContainsFunc(changes, func(s string) bool { return strings.HasPrefix(s, begin) })
		}
	}
	c.seconds(unheard)
	p.Sweep()
	hear(2, report(2, recordExclude, group4))
	hear(3, report(3, recordExclude, other4))
	c.seconds(settled)
	p.Sweep()
	soon("nothing is pruned", diverted("divert multicast from weft-vx to weft-mc"))
	soon("not told", p.Settled)

	changes = nil
	h.left.Store(300)
	body := []byte{0x22, 0, 0, 0, 0, 0, many >> 8, many & 0xff}
	for i := range many {
		body = binary.BigEndian.AppendUint32(append(body, toExclude, 0, 0, 0), 239<<24+8<<16+uint32(i))
	}
	frame := igmp(2, "224.0.0.22", body)
	binary.BigEndian.PutUint16(frame[16:], uint16(20+len(body)))
	binary.BigEndian.PutUint16(frame[24:], 0)
	binary.BigEndian.PutUint16(frame[24:], checksum(frame[14:34], 0))
	hear(2, frame)
	<-h.here
	if !diverted("divert no multicast from weft-vx")() {
		t.Error("who joins now waits for hundreds of others")
	}
	h.on <- struct{}{}
	soon("nothing is pruned any more", diverted("divert multicast from weft-vx to weft-mc"))
	if entries, err := h.MDB("weft-mc"); err != nil || len(entries) != many+2 {
		t.Errorf("%d entries, %v, want %d", len(entries), err, many+2)
	}
	soon("not told", p.Settled)
	if repaired, err := p.Check(); len(repaired) > 0 || err != nil {
		t.Errorf("check: %q, %v", repaired, err)
	}
	// So it is when they leave.
	changes = nil
	for i := range many {
		body[8+8*i] = toInclude
	}
	body[2], body[3] = 0, 0
	leave := igmp(2, "224.0.0.22", body)
	copy(leave[14:34], frame[14:34])
	hear(2, leave)
	soon("nothing was flooded", diverted("divert no multicast from weft-vx"))
	soon("nothing is pruned any more", diverted("divert multicast from weft-vx to weft-mc"))
	if entries, err := h.MDB("weft-mc"); err != nil || len(entries) != 2 {
		t.Errorf("%d entries, %v, want 2", len(entries), err)
	}
}

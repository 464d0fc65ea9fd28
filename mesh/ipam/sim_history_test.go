package ipam

import (
	"errors"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// history is what users asked and were answered, in an order that is the
// order of virtual time. For each address it must be explained by a register
// that holds one key at a time.
type history struct {
	clock int64
	ops   []porcupine.Operation
}

// operation is one request from its beginning. It is nil when there is no history.
type operation struct {
	key  string
	call int64
}

// input is an operation on one address.
type input struct {
	addr netip.Addr
	verb verb
	key  string
}

type verb int

const (
	verbTake     verb = iota // the key has the address
	verbPerhaps              // the key has it, or nothing happened
	verbDrop                 // the key does not have it any more
	verbConflict             // another key has it
)

func (l *history) tick() int64 {
	l.clock++
	return l.clock
}

func (l *history) begin(w *world, p *pod) *operation {
	if !w.history {
		return nil
	}
	return &operation{p.key, l.tick()}
}

func (l *history) add(call, end int64, in input) {
	l.ops = append(l.ops, porcupine.Operation{Input: in, Call: call, Return: end})
}

// lost is the time at which something ends that nobody heard the end of.
const lost = math.MaxInt64

func (r *operation) allocated(w *world, res result) {
	if r != nil && res.Err == nil {
		w.log.add(r.call, w.log.tick(), input{res.Addr.Addr(), verbTake, r.key})
	}
}

func (r *operation) claimed(w *world, addr netip.Addr, res result) {
	if r == nil || !w.space.Contains(addr) {
		return
	}
	switch {
	case res.Err == nil:
		w.log.add(r.call, w.log.tick(), input{addr, verbTake, r.key})
	case errors.Is(res.Err, ErrConflict) && w.calmNet():
		w.count["conflicts in the history"]++
		w.log.add(r.call, w.log.tick(), input{addr, verbConflict, r.key})
	case errors.Is(res.Err, ErrConflict):
	default:
		w.log.add(r.call, lost, input{addr, verbPerhaps, r.key})
		w.log.add(r.call, lost, input{addr, verbDrop, r.key})
	}
}

func (r *operation) released(w *world, addrs []netip.Addr, res result) {
	if r == nil || errors.Is(res.Err, errDiskFull) { // it is asked again
		return
	}
	done := func(end int64) {
		for _, a := range addrs {
			w.log.add(r.call, end, input{a, verbDrop, r.key})
		}
	}
	if res.Err != nil {
		done(lost)
		return
	}
	// Who released it does not wait until the owner of the block knows, or
	// until the next Held says so again.
	w.after(heldEvery*3/2, func() { done(w.log.tick()) })
}

// calmNet reports whether nothing goes wrong in this world. Only then a
// refused claim must be because of somebody who has the address: otherwise it
// may be because of a lease that nobody uses, of a request whose answer was
// lost or whose daemon ended, until its owner hears of that.
func (w *world) calmNet() bool { return w.loss == 0 && w.slow == 0 && w.faults == 0 }

func (l *history) died(w *world, p *pod, a netip.Addr) {
	if w.history {
		l.add(l.tick(), lost, input{a, verbDrop, p.key})
	}
}

// check lets porcupine explain the history.
func (l *history) check(w *world) {
	model := porcupine.NondeterministicModel{
		Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
			byAddr := make(map[netip.Addr][]porcupine.Operation)
			for _, op := range ops {
				a := op.Input.(input).addr
				byAddr[a] = append(byAddr[a], op)
			}
			var parts [][]porcupine.Operation
			for _, a := range sortedAddrs(byAddr) {
				parts = append(parts, byAddr[a])
			}
			return parts
		},
		Init: func() []any { return []any{""} },
		Step: func(state, in, _ any) []any {
			holder, op := state.(string), in.(input)
			free := holder == "" || holder == op.key
			switch {
			case op.verb == verbTake && free:
				return []any{op.key}
			case op.verb == verbPerhaps && free:
				return []any{op.key, holder}
			case op.verb == verbDrop && holder == op.key:
				return []any{""}
			case op.verb == verbDrop, op.verb == verbPerhaps, op.verb == verbConflict && !free:
				return []any{holder}
			}
			return nil
		},
	}
	m := model.ToModel()
	for _, part := range model.Partition(l.ops) {
		if got := porcupine.CheckOperationsTimeout(m, part, 20*time.Second); got != porcupine.Ok {
			addr := part[0].Input.(input).addr
			block, _ := w.geo.Block(addr)
			slices.SortFunc(part, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
			for i, op := range part[:min(len(part), 200)] {
				w.note(nil, "history of %s, %d: %+v from %d to %d", addr, i, op.Input, op.Call, op.Return)
			}
			w.fail(block, "the history of %s, of %d operations, is not that of one holder at a time: %s", addr, len(part), got)
			return
		}
	}
	w.count["operations in histories"] += len(l.ops)
}

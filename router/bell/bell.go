// Package bell is how a loop is woken: by whoever has left work for it, without
// waiting for it, and once for all that was left since it last looked. It does
// not carry the work, which lies where the loop finds it.
package bell

// Bell wakes the one goroutine that receives from it. It is safe for concurrent
// use, and nobody closes it.
type Bell chan struct{}

// New returns a bell that nobody rang.
func New() Bell { return make(Bell, 1) }

// Ring makes one receive possible, now or later, unless one is already. It never
// blocks. Work must be left before it is called.
func (b Bell) Ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

package dns

import (
	"iter"
	"sync/atomic"
)

// outcome says how a query ended. Every query has exactly one.
type outcome int

const (
	answered  outcome = iota // with addresses or names of the switch
	empty                    // known name of the switch without records of the type
	unknown                  // no such name in the domain
	forwarded                // an upstream resolver answered
	failed                   // no upstream resolver answered
	busy                     // too many queries were waiting for upstream resolvers
	refused                  // a kind of query that is not served
	malformed                // not a query; answered with an error or dropped
	outcomes
)

// Stats counts queries since the server was made. Every query is counted once
// in the first group, by its outcome.
type Stats struct {
	Answered  uint64 // with addresses or names of the switch
	Empty     uint64 // known name without records of the type
	Unknown   uint64 // no such name in the domain, or .invalid
	Forwarded uint64 // answered by an upstream resolver
	Failed    uint64 // no upstream resolver answered
	Busy      uint64 // too many were waiting for upstream resolvers
	Refused   uint64 // a kind of query that is not served
	Malformed uint64 // not a query; answered with an error or dropped

	Truncated uint64 // answers that did not fit into UDP
	TCP       uint64 // queries that came by TCP
}

// Outcomes yields the counters of the first group under the names that a
// metric's label may use.
func (s Stats) Outcomes() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		_ = yield("answered", s.Answered) && yield("empty", s.Empty) && yield("unknown", s.Unknown) &&
			yield("forwarded", s.Forwarded) && yield("failed", s.Failed) && yield("busy", s.Busy) &&
			yield("refused", s.Refused) && yield("malformed", s.Malformed)
	}
}

// counters are the live form of [Stats]; safe for concurrent use.
type counters struct {
	by             [outcomes]atomic.Uint64
	truncated, tcp atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		Answered:  c.by[answered].Load(),
		Empty:     c.by[empty].Load(),
		Unknown:   c.by[unknown].Load(),
		Forwarded: c.by[forwarded].Load(),
		Failed:    c.by[failed].Load(),
		Busy:      c.by[busy].Load(),
		Refused:   c.by[refused].Load(),
		Malformed: c.by[malformed].Load(),
		Truncated: c.truncated.Load(),
		TCP:       c.tcp.Load(),
	}
}

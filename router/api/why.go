package api

import (
	"net/netip"
	"time"
)

// Why is what this host knows of its path to one peer: what it is now, why it
// is not a better one, and how it came to be. What is zero is not known, unless
// a field says otherwise.
type Why struct {
	Name      string // of the peer, six octets
	Nickname  string
	Identity  string // hexadecimal
	Overlay   netip.Addr
	State     State
	Info      string        // why, when there is no connection; as [Connection.Info]
	Address   string        // where packets to it are sent, or are tried: its own, or that of the first relay; may be empty
	Via       []string      // nicknames of the relays on the way, nearest first; none: direct
	Since     time.Time     // when the present state or path began
	Decider   bool          // this host chooses the path, otherwise the peer does
	RTT       time.Duration // through the tunnel, smoothed; zero: not measured on this path
	Loss      float64       // share of recent pings through the tunnel that were lost, 0 to 1
	MTU       int           // largest packet of a container that passes whole, in bytes
	PathMTU   int           // largest IP packet that the underlay carries to it, in bytes
	Handshake time.Time     // of WireGuard, the last one; zero: never
	RxBytes   uint64
	TxBytes   uint64
	// Fragmented is as [Connection.Fragmented].
	Fragmented uint64

	Reason     string // why the path is not better, for people; empty: it is direct and nothing is wrong with it
	Help       string // what would make it better, for people; may be empty
	Candidates []WhyCandidate
	Relays     []WhyRelay  // those that could be used now, best first
	Changes    uint64      // of path or state since the daemon began
	History    []WhyChange // the last of them, oldest first
}

// What a [WhyCandidate] is. The words are for people and scripts.
const (
	CandidateInUse    = "in use"
	CandidateAnswers  = "answers"
	CandidateSilent   = "no answer"
	CandidateNotAsked = "not asked"
)

// WhyCandidate is an endpoint at which a peer may be reached directly.
type WhyCandidate struct {
	Address  string
	State    string        // one of the four constants
	RTT      time.Duration // of the last probe that was answered
	Asked    time.Time     // when it was probed last
	Answered time.Time     // when it answered last
}

// WhyRelay is a way to a peer through others.
type WhyRelay struct {
	Via   []string // nicknames, nearest first
	RTT   time.Duration
	MTU   int // largest IP packet that all of the way carries, in bytes
	InUse bool
}

// WhyChange is one change of the path to a peer, or of whether there is one.
type WhyChange struct {
	At   time.Time
	From string // an endpoint, or "via host2,host3"; empty: no path
	To   string // the same; equal to From when something else changed, which Why tells
	Why  string // for people: "no answer for 2.1s"
}

package tunnel

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/path"
)

// Explain says why packets to a peer take no better path, as far as this host
// knows, and what would help. Both are empty when the path is direct and
// nothing is wrong with it. It is pure.
func (s *Snapshot) Explain(p Peer, now time.Time) (reason, help string) {
	switch {
	case p.Path.State == path.Established && p.Path.Route.Direct():
		return s.explainDirect(p)
	case p.Path.State == path.Established:
		return s.explainRelayed(p, now)
	}
	return s.explainNone(p, now)
}

func (s *Snapshot) explainDirect(p Peer) (reason, help string) {
	switch {
	case p.Path.OneWay:
		return "its packets come, ours are not answered", "let UDP through to it; the path is changed unless it gets better"
	case p.Way.Single:
		return "packets that this host sends in one piece (UDP GSO) do not arrive, those sent alone do: each is sent by itself, which is slower",
			"try 'ethtool -K INTERFACE tx-udp-segmentation off', or a newer kernel or driver; while there is traffic it is tested once an hour"
	case p.Path.Loss >= api.Lossy:
		return fmt.Sprintf("%.0f %% of the pings are lost", 100*p.Path.Loss), "look at the network between the two hosts: the path is direct"
	}
	return "", ""
}

func (s *Snapshot) explainRelayed(p Peer, now time.Time) (reason, help string) {
	port := s.View.Self.HelloPort + 1
	open := fmt.Sprintf("let UDP port %d of one of the two hosts be reached from outside, and name that address there with --host", port)
	answered := slices.ContainsFunc(p.Path.Candidates, func(c path.CandidateStatus) bool { return Answers(c, now) })
	asked := slices.ContainsFunc(p.Path.Candidates, func(c path.CandidateStatus) bool { return !c.Asked.IsZero() })
	switch {
	case answered:
		return "its own address answers now; the direct path is taken when it has proved itself", ""
	case len(p.Path.Candidates) == 0:
		return "no address of it is known that may be dialled", "it was not named here, and --no-discovery or --conn-limit keeps this host from dialling others; 'weft connect' names it"
	case s.NAT == topology.NATSymmetric && p.Report.NAT == topology.NATSymmetric:
		return "both hosts are behind NATs that give every destination another port (symmetric NAT): neither can foretell where the other is", open
	case s.NAT == topology.NATSymmetric:
		return "this host is behind a NAT that gives every destination another port (symmetric NAT)", open
	case p.Report.NAT == topology.NATSymmetric:
		return p.Nickname + " is behind a NAT that gives every destination another port (symmetric NAT)", open
	case !sharesFamily(s.View.Self.Endpoints, p.Path.Candidates):
		return "the two hosts have no protocol in common: one has IPv4 addresses only, the other IPv6", "give one of them an address of the other protocol"
	case p.Path.OneWay:
		return "its packets come here directly, ours do not arrive there: the path works in one direction only", "look for a firewall in front of " + p.Nickname
	case asked:
		return "none of its addresses answers", open
	}
	return "its addresses have not been asked yet", ""
}

func (s *Snapshot) explainNone(p Peer, now time.Time) (reason, help string) {
	answered := slices.ContainsFunc(p.Path.Candidates, func(c path.CandidateStatus) bool { return Answers(c, now) })
	switch {
	case answered:
		return "its address answers, but no WireGuard handshake completes", "look at its log: 'weft logs' there"
	case len(p.Candidates) == 0 && len(p.Relays) == 0:
		return "no address of it is known, and no host that reaches it", "wait for it to call, or name it with 'weft connect'"
	case !p.Alive:
		return "it does not answer, and no other host reaches it", "see whether weftd runs there; if it is gone for good: 'weft rmpeer'"
	}
	return "none of its addresses answers, and no relay leads there yet", ""
}

// answerTime is how long an answer to a probe may take before the probe counts
// as lost.
const answerTime = 2 * time.Second

// Answers reports whether an address answered when it was asked last, and not
// long ago.
func Answers(c path.CandidateStatus, now time.Time) bool {
	return !c.Answered.IsZero() && now.Sub(c.Answered) < time.Minute &&
		(!c.Answered.Before(c.Asked) || now.Sub(c.Asked) < answerTime && c.Asked.Sub(c.Answered) < 2*answerTime)
}

func sharesFamily(own []netip.AddrPort, theirs []path.CandidateStatus) bool {
	for _, c := range theirs {
		for _, ep := range own {
			if ep.Addr().Is4() == c.Endpoint.Addr().Is4() {
				return true
			}
		}
	}
	return false
}

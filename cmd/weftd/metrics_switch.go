package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftnet/weft/router/api"
)

// switchMetrics is what the switch port of the userspace data path did.
func switchMetrics() section[api.SwitchStatus] {
	type port = api.SwitchStatus
	return section[port]{
		readings: []reading[port]{
			counter("weft_switch_transmit_frames_total", "Frames to other hosts, each copy.", func(s *port) uint64 { return s.SentFrames }),
			counter("weft_switch_transmit_bytes_total", "Bytes of frames to other hosts.", func(s *port) uint64 { return s.SentBytes }),
			counter("weft_switch_receive_frames_total", "Frames from other hosts.", func(s *port) uint64 { return s.ReceivedFrames }),
			counter("weft_switch_receive_bytes_total", "Bytes of frames from other hosts.", func(s *port) uint64 { return s.ReceivedBytes }),
			counter("weft_switch_transmit_aggregates_total", "Pieces of more than one frame that came from the bridge.", func(s *port) uint64 { return s.SuperSent }),
			counter("weft_switch_receive_aggregates_total", "Pieces of more than one frame that were given to the bridge.", func(s *port) uint64 { return s.SuperReceived }),
			counter("weft_switch_flooded_frames_total", "Frames that went to more than one host.", func(s *port) uint64 { return s.Flooded }),
			counter("weft_switch_answered_total", "ARP requests and neighbour solicitations answered on this host.", func(s *port) uint64 { return s.Answered }),
			counter("weft_switch_too_big_total", "Senders told that a packet is larger than its path.", func(s *port) uint64 { return s.TooBig }),
			counter("weft_switch_moves_total", "MAC addresses that were learnt from another host than before.", func(s *port) uint64 { return s.Moves }),
			counter("weft_switch_refused_total", "MAC addresses not learnt because a limit was reached.", func(s *port) uint64 { return s.Refused }),
			counter("weft_switch_astray_frames_total", "Frames of a known address that came from another host.", func(s *port) uint64 { return s.Astray }),
			gauge("weft_switch_remotes", "Number of hosts that frames are sent to.", func(s *port) float64 { return float64(s.Remotes) }),
			gauge("weft_switch_known_addresses", "Number of attachments that other hosts told of.", func(s *port) float64 { return float64(s.Known) }),
			gauge("weft_switch_learnt_addresses", "Number of MAC addresses learnt from frames.", func(s *port) float64 { return float64(s.Learnt) }),
			gauge("weft_switch_offload", "Whether TCP crosses the switch port in pieces of up to 64 kB.", func(s *port) float64 {
				if s.Offload == "tcp" || s.Offload == "tcp+udp" {
					return 1
				}
				return 0
			}),
		},
		drops:   prometheus.NewDesc("weft_switch_dropped_frames_total", "Frames at the switch port that were not forwarded, by reason.", []string{"reason"}, nil),
		dropped: func(s *port) map[string]uint64 { return s.Dropped },
	}
}

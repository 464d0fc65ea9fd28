package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftnet/weft/router/api"
)

// switchMetric is one number about the switch port of the userspace data path.
type switchMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*api.SwitchStatus) float64
}

func switchMetrics() []switchMetric {
	counter := func(name, help string, read func(*api.SwitchStatus) uint64) switchMetric {
		return switchMetric{
			prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue,
			func(s *api.SwitchStatus) float64 { return float64(read(s)) },
		}
	}
	gauge := func(name, help string, read func(*api.SwitchStatus) float64) switchMetric {
		return switchMetric{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, read}
	}
	return []switchMetric{
		counter("weft_switch_transmit_frames_total", "Frames to other hosts, each copy.", func(s *api.SwitchStatus) uint64 { return s.SentFrames }),
		counter("weft_switch_transmit_bytes_total", "Bytes of frames to other hosts.", func(s *api.SwitchStatus) uint64 { return s.SentBytes }),
		counter("weft_switch_receive_frames_total", "Frames from other hosts.", func(s *api.SwitchStatus) uint64 { return s.ReceivedFrames }),
		counter("weft_switch_receive_bytes_total", "Bytes of frames from other hosts.", func(s *api.SwitchStatus) uint64 { return s.ReceivedBytes }),
		counter("weft_switch_transmit_aggregates_total", "Pieces of more than one frame that came from the bridge.", func(s *api.SwitchStatus) uint64 { return s.SuperSent }),
		counter("weft_switch_receive_aggregates_total", "Pieces of more than one frame that were given to the bridge.", func(s *api.SwitchStatus) uint64 { return s.SuperReceived }),
		counter("weft_switch_flooded_frames_total", "Frames that went to more than one host.", func(s *api.SwitchStatus) uint64 { return s.Flooded }),
		counter("weft_switch_answered_total", "ARP requests and neighbour solicitations answered on this host.", func(s *api.SwitchStatus) uint64 { return s.Answered }),
		counter("weft_switch_too_big_total", "Senders told that a packet is larger than its path.", func(s *api.SwitchStatus) uint64 { return s.TooBig }),
		counter("weft_switch_moves_total", "MAC addresses that were learnt from another host than before.", func(s *api.SwitchStatus) uint64 { return s.Moves }),
		counter("weft_switch_refused_total", "MAC addresses not learnt because a limit was reached.", func(s *api.SwitchStatus) uint64 { return s.Refused }),
		counter("weft_switch_astray_frames_total", "Frames of a known address that came from another host.", func(s *api.SwitchStatus) uint64 { return s.Astray }),
		gauge("weft_switch_remotes", "Number of hosts that frames are sent to.", func(s *api.SwitchStatus) float64 { return float64(s.Remotes) }),
		gauge("weft_switch_known_addresses", "Number of attachments that other hosts told of.", func(s *api.SwitchStatus) float64 { return float64(s.Known) }),
		gauge("weft_switch_learnt_addresses", "Number of MAC addresses learnt from frames.", func(s *api.SwitchStatus) float64 { return float64(s.Learnt) }),
		gauge("weft_switch_offload", "Whether TCP crosses the switch port in pieces of up to 64 kB.", func(s *api.SwitchStatus) float64 {
			if s.Offload == "tcp" || s.Offload == "tcp+udp" {
				return 1
			}
			return 0
		}),
	}
}

func switchDrops() *prometheus.Desc {
	return prometheus.NewDesc("weft_switch_dropped_frames_total", "Frames at the switch port that were not forwarded, by reason.", []string{"reason"}, nil)
}

// collectSwitch reads what is forwarded in this process; nothing where the
// kernel does it.
func (m *metrics) collectSwitch(s *api.SwitchStatus, ch chan<- prometheus.Metric) {
	if s == nil {
		return
	}
	for _, x := range m.port {
		ch <- prometheus.MustNewConstMetric(x.desc, x.kind, x.read(s))
	}
	for reason, n := range s.Dropped {
		ch <- prometheus.MustNewConstMetric(m.unsent, prometheus.CounterValue, float64(n), reason)
	}
}

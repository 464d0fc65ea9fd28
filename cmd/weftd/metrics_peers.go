package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftnet/weft/router/api"
)

// peerMetric is one number about the way to a peer. A number that is not known
// is left out of a scrape instead of being zero.
type peerMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(c api.Connection, now time.Time) (value float64, known bool)
}

func peerMetrics() []peerMetric {
	metric := func(name, help string, kind prometheus.ValueType, read func(api.Connection, time.Time) (float64, bool)) peerMetric {
		return peerMetric{prometheus.NewDesc(name, help, []string{"peer"}, nil), kind, read}
	}
	counter := func(name, help string, read func(api.Connection) uint64) peerMetric {
		return metric(name, help, prometheus.CounterValue, func(c api.Connection, _ time.Time) (float64, bool) { return float64(read(c)), true })
	}
	return []peerMetric{
		metric("weft_peer_rtt_seconds", "Round trip through the tunnel, smoothed.", prometheus.GaugeValue,
			func(c api.Connection, _ time.Time) (float64, bool) { return c.RTT.Seconds(), c.RTT > 0 }),
		metric("weft_peer_loss_ratio", "Share of recent pings through the tunnel that were lost.", prometheus.GaugeValue,
			func(c api.Connection, _ time.Time) (float64, bool) { return c.Loss, c.RTT > 0 || c.Loss > 0 }),
		metric("weft_peer_mtu_bytes", "Largest packet of a container that passes whole.", prometheus.GaugeValue,
			func(c api.Connection, _ time.Time) (float64, bool) { return float64(c.MTU), c.MTU > 0 }),
		metric("weft_peer_handshake_age_seconds", "Time since the last WireGuard handshake.", prometheus.GaugeValue,
			func(c api.Connection, now time.Time) (float64, bool) {
				return max(0, now.Sub(c.Handshake)).Seconds(), !c.Handshake.IsZero()
			}),
		counter("weft_peer_receive_bytes_total", "Bytes that came through the tunnel.", func(c api.Connection) uint64 { return c.RxBytes }),
		counter("weft_peer_transmit_bytes_total", "Bytes that went through the tunnel.", func(c api.Connection) uint64 { return c.TxBytes }),
		counter("weft_peer_fragmented_packets_total", "Packets that left in fragments, being larger than the path carries.", func(c api.Connection) uint64 { return c.Fragmented }),
		metric("weft_peer_single_sends", "Whether packets to the peer leave one by one, because coalesced ones do not arrive.", prometheus.GaugeValue,
			func(c api.Connection, _ time.Time) (float64, bool) {
				if c.Single {
					return 1, true
				}
				return 0, c.Datapath == "userspace"
			}),
		counter("weft_path_changes_total", "Changes of the path to the peer, or of whether there is one.", func(c api.Connection) uint64 { return c.Changes }),
	}
}

// peerInfo joins the name of a peer, the label of all others, with what people
// call it: a nickname may change, and would then begin every series anew.
func peerInfo() *prometheus.Desc {
	return prometheus.NewDesc("weft_peer_info", "What people call the peer; always 1.", []string{"peer", "nickname"}, nil)
}

// collectPeers reads the peers out of the connections. A target that led to
// nobody yet is none. Names are labels that two identities might share: the
// second would void the whole scrape, and is left out.
func (m *metrics) collectPeers(list []api.Connection, ch chan<- prometheus.Metric) {
	now, seen := m.now(), make(map[string]bool)
	for _, c := range list {
		if c.Name == "" || seen[c.Name] {
			continue
		}
		seen[c.Name] = true
		ch <- prometheus.MustNewConstMetric(m.peer, prometheus.GaugeValue, 1, c.Name, c.Nickname)
		for _, p := range m.peers {
			if v, known := p.read(c, now); known {
				ch <- prometheus.MustNewConstMetric(p.desc, p.kind, v, c.Name)
			}
		}
	}
}

// relayMetrics is what this host forwards for others.
func relayMetrics() section[api.RelayStatus] {
	type relay = api.RelayStatus
	return section[relay]{
		readings: []reading[relay]{
			counter("weft_relayed_packets_total", "Sealed packets forwarded for other hosts.", func(r *relay) uint64 { return r.Packets }),
			counter("weft_relayed_bytes_total", "Bytes in sealed packets forwarded for other hosts.", func(r *relay) uint64 { return r.Bytes }),
			gauge("weft_relay_sessions", "Number of WireGuard sessions of others whose way is recorded.", func(r *relay) float64 { return float64(r.Sessions) }),
			gauge("weft_relay_bound", "Number of hosts that can be reached through this one.", func(r *relay) float64 { return float64(r.Bound) }),
		},
		drops:   prometheus.NewDesc("weft_relay_dropped_packets_total", "Packets at the relay port that were not forwarded, by reason.", []string{"reason"}, nil),
		dropped: func(r *relay) map[string]uint64 { return r.Dropped },
	}
}

package main

import "github.com/prometheus/client_golang/prometheus"

// section is the metrics of a part S of the status that a host may lack.
type section[S any] struct {
	readings []reading[S]
	drops    *prometheus.Desc // by reason
	dropped  func(*S) map[string]uint64
}

// reading is one number of it.
type reading[S any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*S) float64
}

func counter[S any](name, help string, read func(*S) uint64) reading[S] {
	return reading[S]{
		prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue,
		func(s *S) float64 { return float64(read(s)) },
	}
}

func gauge[S any](name, help string, read func(*S) float64) reading[S] {
	return reading[S]{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, read}
}

func (c section[S]) describe(ch chan<- *prometheus.Desc) {
	for _, r := range c.readings {
		ch <- r.desc
	}
	ch <- c.drops
}

// collect reads the part; nothing where there is none.
func (c section[S]) collect(part *S, ch chan<- prometheus.Metric) {
	if part == nil {
		return
	}
	for _, r := range c.readings {
		ch <- prometheus.MustNewConstMetric(r.desc, r.kind, r.read(part))
	}
	for reason, n := range c.dropped(part) {
		ch <- prometheus.MustNewConstMetric(c.drops, prometheus.CounterValue, float64(n), reason)
	}
}

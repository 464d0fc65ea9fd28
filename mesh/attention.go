package mesh

import (
	"slices"
	"time"
)

const (
	maxWarnings = 32
	// attentionTime is how long a warning of what can be mended stays without being
	// seen again: hosts with one identity show it once a minute at least.
	attentionTime = 5 * retryMost
)

// passing is a warning that goes when it is not renewed.
type passing struct {
	text  string
	until time.Time
}

// warn logs a condition once and keeps it for the status.
func (m *Mesh) warn(key, text string) {
	if m.warned[key] || len(m.warnings) >= maxWarnings {
		return
	}
	m.warned[key] = true
	m.warnings = append(m.warnings, text)
	m.log.Warn("attention needed", "what", text)
	m.viewChanged()
}

// warnWhile is warn for what is seen again and again as long as it lasts.
func (m *Mesh) warnWhile(now time.Time, key, text string) {
	if p, there := m.passing[key]; there {
		text = p.text // as it was said
	}
	if m.warn(key, text); m.warned[key] {
		m.passing[key] = passing{text, now.Add(attentionTime)}
	}
}

// stepAttention forgets what was not seen again for long.
func (m *Mesh) stepAttention(now time.Time) {
	for key, p := range m.passing {
		if p.until.After(now) {
			m.wakeAt(p.until)
			continue
		}
		delete(m.passing, key)
		delete(m.warned, key)
		m.warnings = slices.DeleteFunc(m.warnings, func(text string) bool { return text == p.text })
		m.log.Info("attention is not needed any more", "what", p.text)
		m.viewChanged()
	}
}

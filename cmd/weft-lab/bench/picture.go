package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"
)

// panel is one part of the picture: a bar for each way.
type panel struct {
	figure, title, unit string
	digits              int
}

func panels() []panel {
	return []panel{
		{"tcp1", "One TCP stream", "Gbit/s, more is better", 2},
		{"tcp4", "Four TCP streams", "Gbit/s, more is better", 2},
		{"udp", "UDP, 1,200 bytes, received", "Gbit/s, more is better", 2},
		{"small", "UDP, 64 bytes, received", "1,000 packets a second, more is better", 0},
		{"tcp-rr-p50", "Request and answer, median", "µs, less is better", 0},
		{"cpu1", "Processor time", "seconds per GB of one TCP stream, less is better", 2},
	}
}

// The picture, in pixels.
const (
	perRow     = 2
	panelWidth = 520
	labelWidth = 210
	barWidth   = 230 // of the longest
	barHeight  = 16
	barStep    = 22
	headHeight = 52
	margin     = 16
)

// Picture writes the medians as bars, with the range of the rounds as a line.
// Bars that are far longer than the plain tunnel's are cut, and marked: they
// would leave no room for the others.
func (r *Results) Picture(w io.Writer) error {
	height := headHeight + barStep*len(r.Ways) + margin
	rows := (len(panels()) + perRow - 1) / perRow
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n",
		perRow*panelWidth, rows*height+2*margin)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	for i, p := range panels() {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", i%perRow*panelWidth+margin, i/perRow*height+margin)
		r.panel(&b, p)
		b.WriteString("</g>\n")
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#777777">medians of %d rounds of %g s, %s, %d × %s; lines: least and most</text>`+"\n</svg>\n",
		margin, rows*height+margin, r.Rounds, r.Seconds, r.When.Format("2006-01-02"), r.Machine.Processors, html.EscapeString(r.Machine.Processor))
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Results) panel(b *strings.Builder, p panel) {
	fmt.Fprintf(b, `<text y="14" font-size="15" font-weight="bold" fill="#222222">%s</text>`+"\n", html.EscapeString(p.title))
	fmt.Fprintf(b, `<text y="32" fill="#777777">%s</text>`+"\n", html.EscapeString(p.unit))
	full := r.fullLength(p.figure)
	length := func(v float64) float64 { return min(v/full, 1.06) * barWidth }
	for i := range r.Ways {
		way := &r.Ways[i]
		y := headHeight - 8 + i*barStep
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#222222">%s</text>`+"\n", labelWidth-8, y+barHeight-4, html.EscapeString(way.Title))
		f := way.Figures[p.figure]
		if f == nil {
			fmt.Fprintf(b, `<text x="%d" y="%d" fill="#777777">not measured</text>`+"\n", labelWidth, y+barHeight-4)
			continue
		}
		end := length(f.Median)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", labelWidth, y, end, barHeight, colour(way.Name))
		text := strconv.FormatFloat(f.Median, 'f', p.digits, 64)
		if f.Median > full { // torn off
			fmt.Fprintf(b, `<path d="M%.1f %d l6 -%d l4 0 l-6 %d z" fill="#ffffff"/>`+"\n", end-16, y+barHeight, barHeight, barHeight)
		} else {
			fmt.Fprintf(b, `<path d="M%.1f %d h%.1f" stroke="#222222"/>`+"\n",
				labelWidth+length(f.Min), y+barHeight/2, length(f.Max)-length(f.Min))
			end = max(end, length(f.Max))
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#222222">%s</text>`+"\n", labelWidth+end+6, y+barHeight-4, text)
	}
}

// fullLength is the value of the longest bar that is drawn whole: the largest
// that is at most 2.5 times the plain tunnel's.
func (r *Results) fullLength(figure string) float64 {
	plain := r.way(plainTunnel).median(figure)
	if math.IsNaN(plain) {
		plain = math.Inf(1)
	}
	full := 0.0
	for i := range r.Ways {
		if v := r.Ways[i].median(figure); v > full && v <= 2.5*plain {
			full = v
		}
	}
	if full == 0 {
		return 1
	}
	return full
}

func colour(way string) string {
	switch {
	case strings.HasPrefix(way, "weft"):
		return "#2b6cb0"
	case way == plainTunnel, way == slowSwitch:
		return "#8aa4bf"
	}
	return "#c3c7cc"
}

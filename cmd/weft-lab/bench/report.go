package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// Results are what one run found, as they are written to a file.
type Results struct {
	When       time.Time
	Machine    Machine
	Weft       string // its version
	Rounds     int
	Seconds    float64 // of one measurement of throughput
	Filter     bool    // frames on bridges pass through the packet filter of IP
	Background float64 // processors that worked for others, before each round; median
	Missing    []string
	Failed     []string
	Ways       []Way
}

// Machine is where it was measured.
type Machine struct {
	Processor, Kernel, Go string
	Processors            int
	Memory                float64 // GiB
}

// Way is one way by which traffic went.
type Way struct {
	Name    string // short
	Title   string
	Between string // hosts | containers
	MTU     int    // of the interfaces at both ends
	Figures map[string]*Figure
}

// Figure is one measure of a way.
type Figure struct {
	Median, Min, Max float64
	Rounds           []float64 // as they were measured
}

func (f *Figure) add(v float64) {
	f.Rounds = append(f.Rounds, v)
	s := slices.Sorted(slices.Values(f.Rounds))
	f.Min, f.Max = s[0], s[len(s)-1]
	f.Median = (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}

func (r *Way) add(name string, v float64) {
	if r.Figures[name] == nil {
		r.Figures[name] = &Figure{}
	}
	r.Figures[name].add(v)
}

// median is not a number when nothing was measured.
func (r *Way) median(name string) float64 {
	if r == nil || r.Figures[name] == nil {
		return math.NaN()
	}
	return r.Figures[name].Median
}

func (r *Results) way(name string) *Way {
	for i := range r.Ways {
		if r.Ways[i].Name == name {
			return &r.Ways[i]
		}
	}
	return nil
}

// Ratio is the median of a figure of one way by that of another; not a number
// when one of them was not measured.
func (r *Results) Ratio(figure, way, to string) float64 {
	return r.way(way).median(figure) / r.way(to).median(figure)
}

// The ways that others are compared with.
const (
	plainTunnel  = "wireguard-go"
	routedTunnel = "wireguard-go-routed"
	slowSwitch   = "vxlan-wireguard-go"
)

// column is one figure in a table.
type column struct {
	name, head string
	digits     int
}

func throughputColumns() []column {
	return []column{
		{"tcp1", "1 TCP stream, Gbit/s", 2},
		{"tcp1-again", "sent again", 0},
		{"tcp1-back", "the other way", 2},
		{"tcp4", "4 TCP streams", 2},
		{"tcp4-again", "sent again", 0},
		{"tcp4-back", "the other way", 2},
		{"udp", "UDP, 1,200 bytes, Gbit/s", 2},
		{"udp-loss", "lost, %", 1},
		{"small", "UDP, 64 bytes, 1,000/s", 0},
		{"small-loss", "lost, %", 1},
		{"flood", "UDP flood, arrived, Gbit/s", 2},
		{"flood-loss", "lost, %", 0},
	}
}

func latencyColumns() []column {
	return []column{
		{"tcp-rr-p50", "TCP request p50, µs", 0},
		{"tcp-rr-p99", "p99", 0},
		{"udp-rr-p50", "UDP request p50, µs", 0},
		{"udp-rr-p99", "p99", 0},
		{"load-p50", "TCP request beside a stream p50, µs", 0},
		{"load-p99", "p99", 0},
	}
}

func cpuColumns() []column {
	return []column{
		{"cpu1-sender", "sending daemon", 2},
		{"cpu1-receiver", "receiving daemon", 2},
		{"cpu1-relay", "relay", 2},
		{"cpu1-iperf3", "iperf3 at both ends", 2},
		{"cpu1-soft", "ksoftirqd", 2},
		{"cpu1", "sum", 2},
		{"cpu4", "sum with 4 streams", 2},
		{"cpu1-machine", "whole machine", 2},
	}
}

// ratioColumns are the figures that are compared, and what their ratios are of.
func ratioColumns() []column {
	return []column{
		{"tcp1", "1 TCP stream", 2},
		{"tcp1-back", "the other way", 2},
		{"tcp4", "4 TCP streams", 2},
		{"tcp4-back", "the other way", 2},
		{"udp", "UDP", 2},
		{"small", "64-byte UDP", 2},
		{"tcp-rr-p50", "request p50", 2},
		{"load-p50", "beside a stream p50", 2},
		{"cpu1", "CPU per GB", 2},
		{"cpu4", "the same, 4 streams", 2},
	}
}

// busyShare of a machine may be taken by others before a run is worth nothing.
const busyShare = 0.1

// Tables writes everything as Markdown.
func (r *Results) Tables(w io.Writer) error {
	m := r.Machine
	ew := &errWriter{w: w}
	fmt.Fprintf(ew, "Medians of %d rounds of %g s, %s: %d × %s, %.0f GiB, Linux %s, %s.\n",
		r.Rounds, r.Seconds, r.When.Format(time.DateOnly), m.Processors, m.Processor, m.Memory, m.Kernel, m.Go)
	fmt.Fprintf(ew, "Others on this machine kept %.2f of its %d processors busy meanwhile.\n", r.Background, m.Processors)
	if r.Filter {
		fmt.Fprintln(ew, "Frames on bridges passed through the packet filter of IP (br_netfilter).")
	}
	if r.Background > busyShare*float64(m.Processors) {
		fmt.Fprintln(ew, "THAT IS TOO MUCH: run it again when the machine is quiet.")
	}
	for _, s := range r.Missing {
		fmt.Fprintf(ew, "NOT MEASURED: %s.\n", s)
	}
	for _, s := range r.Failed {
		fmt.Fprintf(ew, "FAILED, something is missing: %s.\n", s)
	}
	fmt.Fprintf(ew, "\nThroughput. Sent again: TCP segments. UDP: at most %d datagrams are on their way at once; flood: 1,200 bytes as fast as one process sends.\n\n", onTheWay)
	r.table(ew, throughputColumns(), func(way *Way, c column) float64 { return way.median(c.name) })
	fmt.Fprint(ew, "\nLatency:\n\n")
	r.table(ew, latencyColumns(), func(way *Way, c column) float64 { return way.median(c.name) })
	fmt.Fprint(ew, "\nSeconds of processor time for a gigabyte of one TCP stream. Daemons and iperf3: user and system time of the process,\n"+
		"with the interrupts that hit it. Whole machine: everything that was not idle, other people's work too.\n\n")
	r.table(ew, cpuColumns(), func(way *Way, c column) float64 { return way.median(c.name) })
	for _, to := range []string{plainTunnel, slowSwitch} {
		if ref := r.way(to); ref != nil {
			fmt.Fprintf(ew, "\nRatios to %s, of the medians:\n\n", ref.Title)
			r.table(ew, ratioColumns(), func(way *Way, c column) float64 { return r.Ratio(c.name, way.Name, to) })
		}
	}
	return ew.err
}

// table writes one row for each way; what is not a number becomes a dash.
func (r *Results) table(w io.Writer, columns []column, value func(*Way, column) float64) {
	t := tabwriter.NewWriter(w, 0, 1, 1, ' ', 0)
	fmt.Fprint(t, "| way\t| between\t| MTU")
	for _, c := range columns {
		fmt.Fprint(t, "\t| "+c.head)
	}
	fmt.Fprintln(t, "\t|")
	fmt.Fprintln(t, "|---\t|---\t|---:"+strings.Repeat("\t|---:", len(columns))+"\t|")
	for i := range r.Ways {
		way := &r.Ways[i]
		fmt.Fprintf(t, "| %s\t| %s\t| %d", way.Title, way.Between, way.MTU)
		for _, c := range columns {
			text := "–"
			if v := value(way, c); !math.IsNaN(v) && !math.IsInf(v, 0) {
				text = fmt.Sprintf("%.*f", c.digits, v)
			}
			fmt.Fprint(t, "\t| "+text)
		}
		fmt.Fprintln(t, "\t|")
	}
	_ = t.Flush() // the writer below keeps the error
}

// errWriter keeps the first error.
type errWriter struct {
	w   io.Writer
	err error
}

// Write never fails; the error is kept.
func (e *errWriter) Write(b []byte) (int, error) {
	if e.err == nil {
		_, e.err = e.w.Write(b)
	}
	return len(b), nil
}

func thisMachine() Machine {
	m := Machine{Processors: runtime.NumCPU(), Go: runtime.Version(), Processor: runtime.GOARCH, Kernel: "?"}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				m.Processor = strings.TrimSpace(v)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		m.Memory = float64(s.Totalram) * float64(s.Unit) / (1 << 30)
	}
	return m
}

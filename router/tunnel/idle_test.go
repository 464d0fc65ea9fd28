package tunnel_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// What hosts say to each other that have nothing to say, exactly: every packet
// of a cluster whose meshes and tunnels are real, and whose clock, WireGuard and
// network are not. Bytes are those on the underlay, with all headers down to
// IP's; who only answers counts like who asks.
//
// What it costs is printed. The limits are about twice that, for whoever makes
// it cost more by accident. WEFT_SOAK looks at 50 hosts as well, WEFT_HOSTS at any
// number below 255 (100 take minutes, 200 half an hour; GOGC=800 saves a fifth).
func TestIdleCost(t *testing.T) {
	type test struct {
		hosts   int
		joining int // bytes of a host for each peer, in the minute after the last join too; 0: whatever it is
		idle    int // bytes of a host and second
	}
	tests := []test{{3, 90_000, 1_400}, {12, 90_000, 3_700}}
	if os.Getenv("WEFT_SOAK") != "" {
		tests = append(tests, test{50, 90_000, 7_000})
	}
	if n, err := strconv.Atoi(os.Getenv("WEFT_HOSTS")); err == nil {
		tests = append(tests, test{hosts: n})
	}
	for _, tt := range tests {
		t.Run(strconv.Itoa(tt.hosts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { idleCost(t, tt.hosts, tt.joining, tt.idle) })
		})
	}
}

func idleCost(t *testing.T, hosts, most, mostIdle int) {
	const (
		gap    = 100 * time.Millisecond // between two joins
		settle = time.Minute
	)
	look := 2 * time.Minute
	if hosts > 100 { // each second takes many
		look = 40 * time.Second
	}
	s := newSwarm(t, hosts)
	s.join(gap)
	took := s.whole(t, 5*time.Minute)
	joining := s.taken()
	t.Logf("FIGURE %d hosts, one more every %s: all reach all %s after the last one; until then each sent %s",
		hosts, gap, took.Round(10*time.Millisecond), joining.per(hosts, 0))
	time.Sleep(settle)
	settling := s.taken()
	t.Logf("FIGURE %d hosts, the minute after that: each sends %s", hosts, settling.per(hosts, settle))
	before := processor()
	time.Sleep(look)
	idle, worked := s.taken(), processor()-before
	t.Logf("FIGURE %d hosts, idle: each sends %s", hosts, idle.per(hosts, look))
	t.Logf("FIGURE %d hosts, idle: mesh and tunnels of each take %.2f %% of a processor, the simulation of the network included",
		hosts, 100*worked.Seconds()/float64(hosts)/look.Seconds())
	t.Logf("FIGURE %d hosts: mesh and tunnels of each hold %d kB, %d kB for each peer; neither WireGuard nor buffers are in that", hosts, heap()/hosts>>10, heap()/hosts/(hosts-1)>>10)

	if n := (joining.bytes() + settling.bytes()) / hosts / (hosts - 1); most > 0 && n > most {
		t.Errorf("each host sent %d bytes for each peer until %s after the last join; at most %d are allowed", n, settle, most)
	}
	if n := idle.bytes() / hosts / int(look.Seconds()); mostIdle > 0 && n > mostIdle {
		t.Errorf("each host sends %d bytes a second; at most %d are allowed", n, mostIdle)
	}
}

// processor is how long this process has computed. It is no simulated time.
func processor() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// heap is how many bytes are in use.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// kind is why a packet was sent.
type kind uint8

const (
	pings kind = iota
	probes
	sizes // probes of path MTUs
	binds
	keepalives
	handshakes
	gossip  // memberlist's own, and what it carries of ours, in packets
	streams // the same in connections
	kinds
)

var kindNames = [kinds]string{"pings", "probes", "MTU probes", "binds", "keepalives", "handshakes", "gossip", "streams"}

// traffic is packets and bytes by kind.
type traffic [kinds]struct{ packets, bytes int }

func (t traffic) bytes() (n int) {
	for _, k := range t {
		n += k.bytes
	}
	return n
}

// per is the traffic of a host, in a second when it took some time, as text.
func (t traffic) per(hosts int, took time.Duration) string {
	by, unit := float64(hosts), ""
	if took > 0 {
		by, unit = by*took.Seconds(), " a second"
	}
	var packets int
	var parts []string
	for i, k := range t {
		packets += k.packets
		if k.bytes > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f (%.1f)", kindNames[i], float64(k.bytes)/by, float64(k.packets)/by))
		}
	}
	return fmt.Sprintf("%.0f bytes (%.1f packets)%s: %s", float64(t.bytes())/by, float64(packets)/by, unit, strings.Join(parts, ", "))
}

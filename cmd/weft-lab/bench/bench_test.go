package bench

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/curve25519"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

func TestMedians(t *testing.T) {
	for _, tt := range []struct {
		rounds           []float64
		median, min, max float64
	}{
		{[]float64{3}, 3, 3, 3},
		{[]float64{3, 1}, 2, 1, 3},
		{[]float64{9, 1, 2}, 2, 1, 9},
		{[]float64{9, 1, 2, 4}, 3, 1, 9},
	} {
		var f Figure
		for _, v := range tt.rounds {
			f.add(v)
		}
		if f.Median != tt.median || f.Min != tt.min || f.Max != tt.max {
			t.Errorf("%v: %+v, want %v, %v, %v", tt.rounds, f, tt.median, tt.min, tt.max)
		}
	}
}

func TestTrips(t *testing.T) {
	var all trips
	for i := range 200 {
		all = append(all, time.Duration(i))
	}
	for share, want := range map[float64]time.Duration{0: 0, 0.5: 100, 0.99: 198, 1: 199} {
		if got := all.at(share); got != want {
			t.Errorf("%v of 0 … 199 is %d, want %d", share, got, want)
		}
	}
}

func TestProcessorTime(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 120 34 0 0 20 0 1 0 999"
	for _, tt := range []struct {
		text string
		want time.Duration
		bad  bool
	}{
		{"7 (weftd)" + rest, 1540 * time.Millisecond, false},
		{"7 (a) b (c)" + rest, 1540 * time.Millisecond, false},
		{"7 (weftd) S 1 2", 0, true},
		{"", 0, true},
	} {
		if got, err := parseStat(tt.text); got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%q: %s, %v; want %s", tt.text, got, err, tt.want)
		}
	}
	got, err := parseMachine("cpu  100 7 20 5000 9 3 4 50 0 0\ncpu0 1 2 3\n")
	if want := 1270 * time.Millisecond; got != want || err != nil {
		t.Errorf("user 100, system 20, irq 3, softirq 4: %s, %v; want %s", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8", "cpu  a 7 20 5000 9 3 4 50"} {
		if _, err := parseMachine(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if d := (*daemon)(nil); true {
		if got, err := d.cpu(); got != 0 || err != nil {
			t.Errorf("no process computed %s, %v", got, err)
		}
	}
}

// sample has one way that was never measured and one that is far faster.
func sample() *Results {
	r := &Results{
		Rounds: 2, Seconds: 1, Background: 0.3, Machine: Machine{Processor: "A & B <C>", Processors: 2},
		Missing: []string{"tinc: not installed"}, Failed: []string{"veth, UDP, round 1: lost"},
		Ways: []Way{
			{Name: veth, Title: "bare veth", Between: "hosts", MTU: 1500, Figures: map[string]*Figure{}},
			{Name: plainTunnel, Title: "wireguard-go, L3", Between: "hosts", MTU: 1420, Figures: map[string]*Figure{}},
			{Name: weft, Title: "weft", Between: "containers", MTU: 1370, Figures: map[string]*Figure{}},
			{Name: nebula, Title: "Nebula", Between: "hosts", MTU: 1300, Figures: map[string]*Figure{}},
		},
	}
	for i, rates := range [][]float64{{19, 21}, {2, 2}, {2.5, 3.5}} {
		for _, v := range rates {
			r.Ways[i].add("tcp1", v)
		}
	}
	return r
}

func TestTables(t *testing.T) {
	r := sample()
	if got := r.Ratio("tcp1", weft, plainTunnel); got != 1.5 {
		t.Errorf("3 by 2 is %v", got)
	}
	if got := r.Ratio("tcp1", weft, slowSwitch); !math.IsNaN(got) {
		t.Errorf("the ratio to a way that was not there is %v", got)
	}
	var b strings.Builder
	if err := r.Tables(&b); err != nil {
		t.Fatal(err)
	}
	squeezed := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"0.30 of its 2 processors", "TOO MUCH", "NOT MEASURED: tinc", "FAILED, something is missing: veth, UDP",
		"| bare veth | hosts | 1500 | 20.00 | – |", "| weft | containers | 1370 | 3.00 |", "| Nebula | hosts | 1300 | – |",
		"Ratios to wireguard-go, L3", "| weft | containers | 1370 | 1.50 |", "| bare veth | hosts | 1500 | 10.00 |",
	} {
		if !strings.Contains(squeezed, want) {
			t.Errorf("the tables lack %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(squeezed, "NaN") || strings.Contains(squeezed, "kernel VXLAN over") {
		t.Errorf("the tables show what was not measured:\n%s", b.String())
	}
	b.Reset()
	r.Goals(&b)
	if want := "met     one TCP stream: 1.50 × wireguard-go, L3, goal at least 1\n"; b.String() != want {
		t.Errorf("goals:\n%swant:\n%s", b.String(), want)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestTablesTellErrors(t *testing.T) {
	if err := sample().Tables(full{}); err == nil {
		t.Error("nothing could be written, and nobody knows")
	}
}

func TestWrittenFiles(t *testing.T) {
	r, dir := sample(), filepath.Join(t.TempDir(), "new")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back Results
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Ratio("tcp1", weft, plainTunnel); got != 1.5 {
		t.Errorf("bench.json says that 3 by 2 is %v", got)
	}
	picture, err := os.Open(filepath.Join(dir, "bench.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = picture.Close() }()
	count := map[string]int{}
	for d := xml.NewDecoder(picture); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("bench.svg: %v", err)
		}
		if s, ok := token.(xml.StartElement); ok {
			count[s.Name.Local]++
		}
	}
	// The background and three bars, of which two have a range; the third is torn.
	if count["rect"] != 4 || count["path"] != 3 || count["g"] != len(panels()) {
		t.Errorf("bench.svg has %v", count)
	}
	if _, err := os.Stat(filepath.Join(dir, "bench.md")); err != nil {
		t.Error(err)
	}
}

// Each end of a tunnel knows the other's key, and sends it what is for it alone.
func TestTunnelConfigs(t *testing.T) {
	a := tunnelEnd{netip.MustParseAddr("192.0.2.1"), []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	b := tunnelEnd{netip.MustParseAddr("192.0.2.2"), []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}}
	textA, textB, err := tunnelConfigs(51820, a, b)
	if err != nil {
		t.Fatal(err)
	}
	value := func(text, key string) string {
		_, rest, _ := strings.Cut(text, key+"=")
		v, _, _ := strings.Cut(rest, "\n")
		return v
	}
	for _, pair := range [][2]string{{textA, textB}, {textB, textA}} {
		private, err := hex.DecodeString(value(pair[0], "private_key"))
		if err != nil {
			t.Fatal(err)
		}
		public, err := curve25519.X25519(private, curve25519.Basepoint)
		if err != nil {
			t.Fatal(err)
		}
		if got := value(pair[1], "public_key"); got != hex.EncodeToString(public) {
			t.Errorf("the other end expects the key %s", got)
		}
	}
	if got := value(textA, "endpoint"); got != "192.0.2.2:51820" {
		t.Errorf("it sends to %s", got)
	}
	if !strings.Contains(textA, "allowed_ip=10.0.0.2/32\nallowed_ip=fd00::2/128\n") {
		t.Errorf("it sends something else:\n%s", textA)
	}
}

func TestMissingPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for name, want := range map[string]string{tinc: "Debian package tinc", nebula: "Debian package nebula", veth: "", weft: ""} {
		if got := missing(name); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if err := (Options{Ways: []string{veth, "carrier-pigeon"}}).Check(); err == nil || !strings.Contains(err.Error(), "carrier-pigeon") {
		t.Errorf("an unknown way: %v", err)
	}
	if err := (Options{Ways: Ways()}).Check(); err != nil {
		t.Error(err)
	}
}

// A run that is interrupted tells what it knows, if it knows something.
func TestInterrupted(t *testing.T) {
	r := sample()
	if err := r.interrupted(0, Figure{}); err == nil {
		t.Error("it has results of nothing")
	}
	if err := r.interrupted(1, Figure{Median: 0.5}); err != nil || r.Rounds != 1 || r.Background != 0.5 {
		t.Errorf("%d rounds, %v", r.Rounds, err)
	}
	if last := r.Failed[len(r.Failed)-1]; last != "interrupted in round 2 of 2" {
		t.Error(last)
	}
}

// The measurements measure: what passes a wire with a rate, and what a wire that
// loses half of everything does.
func TestMeasurementsOnAWire(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs root")
		}
		t.Skip("SKIPPED, NOT TESTED: this test needs root")
	}
	topology := lab.Flat("bench-test", 2)
	l, err := lab.Up(t.Context(), topology, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	const (
		short = 200 * time.Millisecond
		long  = 3 * time.Second // where a few must be enough, whoever else computes
	)
	h := l.Hosts()
	w := &way{name: veth, from: h[0].Place, to: h[1].Place, at: h[1].Addr()}
	if mtu, err := w.mtu(); mtu != 1500 || err != nil {
		t.Errorf("MTU %d, %v", mtu, err)
	}
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
		got, err := w.ask(t.Context(), kind, long)
		if err != nil || got.at(0) <= 0 || got.at(0.5) > got.at(0.99) {
			t.Fatalf("%d round trips, %v", len(got), err)
		}
		t.Logf("FIGURE %d round trips within %s, p50 %s", len(got), long, got.at(0.5))
	}
	// Without a window the kernel may lose most of it where the processors have
	// other things to do; with one nothing is lost on a whole wire.
	for window, most := range map[int]float64{0: 1, onTheWay: 0.02} {
		got, err := w.send(smallSize, window, short)
		if err != nil || got.rate <= 0 || got.loss < 0 || got.loss > most {
			t.Errorf("window %d: %+v, %v", window, got, err)
		}
		t.Logf("FIGURE window %d: %.0f packets a second, %.1f %% lost", window, got.rate, 100*got.loss)
	}
	stop, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := stop(); err != nil || n < 1<<20 {
		t.Errorf("a stream carried %d bytes, %v", n, err)
	}
	if err := l.SetFault(t.Context(), lab.Fault{From: "host1", To: "host2", Percent: 50}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.send(smallSize, onTheWay, long); err != nil || math.Abs(got.loss-0.5) > 0.1 {
		t.Errorf("half is lost, it found %+v, %v", got, err)
	}
	if err := l.CutPair(t.Context(), "host1", "host2"); err != nil {
		t.Fatal(err)
	}
	if got, err := w.send(smallSize, onTheWay, short); err == nil {
		t.Errorf("all is lost, it found %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if got, err := w.ask(ctx, unix.SOCK_DGRAM, 100*time.Millisecond); err == nil {
		t.Errorf("all is lost, %d requests were answered", len(got))
	}
}

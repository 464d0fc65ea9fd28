package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// settings of the run; constant after the flags were read.
type settings struct {
	bin, datapath, artefacts string
	all                      bool // also what the list leaves out
	mixed                    bool // every second host has the other data path
	turns                    *turns
}

func newSettings() *settings {
	s := &settings{}
	flag.StringVar(&s.bin, "weft-bin", "../../../bin", "`directory` of weft and weftd")
	flag.StringVar(&s.datapath, "datapath", "userspace", "data path of the daemons: kernel or userspace")
	flag.StringVar(&s.artefacts, "artefacts", os.Getenv("ARTEFACTS"), "`directory` for what failed tests leave")
	flag.BoolVar(&s.all, "all", false, "run also tests that are left out with this data path")
	flag.BoolVar(&s.mixed, "mixed", false, "with -datapath kernel: let every second host forward in userspace")
	return s
}

// run is what the flags said.
var run = newSettings()

func TestMain(m *testing.M) {
	lab.Init()
	flag.Parse()
	parallel, _ := strconv.Atoi(flag.Lookup("test.parallel").Value.String())
	run.turns = newTurns(parallel)
	if err := run.check(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

func (s *settings) check() error {
	if s.datapath != "kernel" && s.datapath != "userspace" {
		return fmt.Errorf("-datapath=%s: want kernel or userspace", s.datapath)
	}
	var err error
	s.bin, err = filepath.Abs(s.bin)
	return err
}

// slow is by how much everything takes longer here than where goals are meant:
// without hardware acceleration a guest is slow, and so is a machine on which many
// programs wait for each processor.
func (s *settings) slow() time.Duration {
	if s.emulated() {
		return 4
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		var load float64
		if _, err := fmt.Sscan(string(b), &load); err == nil && load > busy*float64(runtime.NumCPU()) {
			return 2
		}
	}
	return 1
}

// busy is the load of a processor from which on everything takes twice as long.
const busy = 3

// emulated says that this is a guest, where every daemon takes long to start.
func (s *settings) emulated() bool { return s.datapath == "kernel" }

// need ends the test when it cannot run here. It is loud about it, and an error
// where everything is expected to be there.
func need(t testing.TB, programs ...string) {
	t.Helper()
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(run.bin, p)); err != nil {
			missing = append(missing, err.Error())
		}
	}
	if len(missing) == 0 {
		return
	}
	what := "this test needs " + strings.Join(missing, ", ")
	if os.Getenv("CI") == "true" || os.Geteuid() == 0 {
		t.Fatal(what)
	}
	t.Skip("SKIPPED, NOT TESTED: " + what)
}

// skipHere leaves the test, or part of one, out on the data path that the table
// names for it.
func skipHere(t testing.TB) {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	for _, s := range skips() {
		if s.test == name && (s.datapath == run.datapath || run.mixed && s.datapath == "mixed") && !run.all {
			t.Skip("left out with this data path: " + s.reason)
		}
	}
}

// goal is how long two daemons should take to see each other.
func (c *cluster) goal() time.Duration { return 2 * time.Second }

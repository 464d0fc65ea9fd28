package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
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
// without hardware acceleration a guest is slow.
func (s *settings) slow() time.Duration {
	if s.datapath == "kernel" {
		return 4
	}
	return 1
}

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
		if s.test == name && s.datapath == run.datapath && !run.all {
			t.Skip("left out with this data path: " + s.reason)
		}
	}
}

// goal is how long two daemons should take to see each other.
func (c *cluster) goal() time.Duration { return 2 * time.Second }

package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestShiftClock: a running process is told another time, and the right one
// again; what it measures is right all the time.
func TestShiftClock(t *testing.T) {
	if os.Getenv("WEFT_LAB_CLOCK") != "" {
		tellTime(t)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestShiftClock$")
	cmd.Env = append(os.Environ(), "WEFT_LAB_CLOCK=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	for _, ahead := range []time.Duration{0, time.Hour, -3 * time.Minute, 0, 48 * time.Hour, 0} {
		if err := ShiftClock(cmd.Process.Pid, ahead); errors.Is(err, errors.ErrUnsupported) {
			t.Skip("SKIPPED, NOT TESTED: ", err)
		} else if err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(30 * time.Second)
		for near := 0; near < 20; { // some were told before
			if time.Now().After(deadline) {
				t.Fatalf("with %s: it never told that time", ahead)
			}
			if !lines.Scan() {
				t.Fatal("it has ended: ", lines.Err())
			}
			var wall, measured int64
			if _, err := fmt.Sscanf(lines.Text(), "%d %d", &wall, &measured); err != nil {
				continue // of the test's own
			}
			if measured < 0 || time.Duration(measured) > time.Since(started) {
				t.Fatalf("with %s it measures %s", ahead, time.Duration(measured))
			}
			near++
			// A line may have waited in the pipe; the times are minutes apart.
			if d := time.Until(time.Unix(0, wall).Add(-ahead)); d < -30*time.Second || d > time.Second {
				near = 0
			}
		}
	}
}

// tellTime is the process: it says what its clock tells until it is killed.
func tellTime(t *testing.T) {
	begun, tick := time.Now(), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for t.Context().Err() == nil {
		fmt.Printf("%d %d\n", time.Now().UnixNano(), time.Since(begun))
		<-tick.C
	}
}

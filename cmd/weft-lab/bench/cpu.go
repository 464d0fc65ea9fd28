package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// tick is the unit of times in /proc.
const tick = 10 * time.Millisecond

// daemon is a process that carries packets.
type daemon struct{ stat string }

// findDaemon finds the one process of a host whose command line has all words.
func findDaemon(p *lab.Place, words ...string) (*daemon, error) {
	dirs, err := filepath.Glob(filepath.Join(p.Root(), "proc/[0-9]*"))
	if err != nil {
		return nil, err
	}
	var found []*daemon
	for _, d := range dirs {
		b, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(b), "\x00")
		args[0] = filepath.Base(args[0])
		if !slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(args, w) }) {
			found = append(found, &daemon{stat: filepath.Join(d, "stat")})
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%s has %d processes %q, want one", p.Name(), len(found), words)
	}
	return found[0], nil
}

// cpu returns the time that the process has computed, in user mode and in the
// kernel, nothing when there is none. Kernels that do not measure the time of
// interrupts, as most are built, leave those that hit it in there.
func (d *daemon) cpu() (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	b, err := os.ReadFile(d.stat)
	if err != nil {
		return 0, err
	}
	return parseStat(string(b))
}

// parseStat reads utime and stime of a /proc/PID/stat.
func parseStat(text string) (time.Duration, error) {
	i := strings.LastIndex(text, ") ")
	f := strings.Fields(text[max(i, 0):])
	if i < 0 || len(f) < 14 {
		return 0, fmt.Errorf("unreadable stat: %q", text)
	}
	user, err1 := strconv.ParseInt(f[12], 10, 64)
	system, err2 := strconv.ParseInt(f[13], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// machineCPU returns the time that all processors have worked: user, system,
// interrupts and soft interrupts. What programs of less than normal priority
// compute is left out, and so is what the hypervisor took.
func machineCPU() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseMachine(string(b))
}

func parseMachine(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("unreadable /proc/stat: %q", line)
	}
	var sum int64
	for _, i := range []int{1, 3, 6, 7} { // user, system, irq, softirq
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("unreadable /proc/stat: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}

// softThreads returns the time of the threads that do what soft interrupts leave
// to them; nothing where they are not to be seen.
func softThreads() (time.Duration, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil || !strings.HasPrefix(string(b), "ksoftirqd/") {
			continue // it may have ended
		}
		d := daemon{stat: filepath.Join(filepath.Dir(n), "stat")}
		t, err := d.cpu()
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// use is what a measurement cost.
type use struct{ sender, receiver, relay, soft, machine time.Duration }

// used returns what is used so far on a way.
func (w *way) used() (u use, err error) {
	errs := make([]error, 5)
	u.sender, errs[0] = w.sender.cpu()
	u.receiver, errs[1] = w.receiver.cpu()
	u.relay, errs[2] = w.relay.cpu()
	u.soft, errs[3] = softThreads()
	u.machine, errs[4] = machineCPU()
	return u, errors.Join(errs...)
}

// since returns what was used between two moments.
func (u use) since(o use) use {
	return use{u.sender - o.sender, u.receiver - o.receiver, u.relay - o.relay, u.soft - o.soft, u.machine - o.machine}
}

package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The code that tells a wrong time: it asks the kernel, and adds seconds to what
// that says of CLOCK_REALTIME. It lies in the unused end of the vDSO, with the
// bytes behind it that it replaced.
const (
	clockRoom  = 64 // bytes at the end of the vDSO
	clockSaved = 32 // where the replaced bytes are, in there
	clockJump  = 5  // bytes of a jump
)

// clockCode is for amd64: arguments are in edi and rsi, the result in eax.
func clockCode(seconds int32) []byte {
	code := []byte{
		0xb8, 0xe4, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xc0, 0x75, 11, // it failed: return
		0x85, 0xff, 0x75, 7, // another clock than CLOCK_REALTIME: return
		0x48, 0x81, 0x06, // add qword [rsi], seconds
	}
	return append(binary.LittleEndian.AppendUint32(code, uint32(seconds)), 0xc3)
}

// ShiftClock makes the wall clock of one running process go ahead of the
// machine's, or behind it, by whole seconds; zero puts it right. The program is
// as it was: it is its own copy of the kernel's vDSO that tells another time, as
// far as it asks by clock_gettime, as Go does. No namespace can do this. The
// process stands still for some milliseconds. It works on amd64 only.
func ShiftClock(pid int, ahead time.Duration) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("shift the clock of process %d: %w on %s", pid, errors.ErrUnsupported, runtime.GOARCH)
	}
	fail := func(err error) error { return fmt.Errorf("shift the clock of process %d: %w", pid, err) }
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = mem.Close() }()
	v, err := openVDSO(pid, mem)
	if err != nil {
		return fail(err)
	}
	for range 50 {
		busy, err := v.shift(pid, int32(ahead/time.Second))
		if err != nil {
			return fail(err)
		}
		if !busy {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fail(errors.New("it is always about to ask for the time"))
}

// vdso is the part of a process that tells the time.
type vdso struct {
	mem   *os.File
	entry int64 // of clock_gettime
	room  int64 // the unused end
}

func openVDSO(pid int, mem *os.File) (*vdso, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		var low, high int64
		if _, err := fmt.Sscanf(line, "%x-%x", &low, &high); err != nil {
			return nil, err
		}
		image := make([]byte, high-low)
		if _, err := mem.ReadAt(image, low); err != nil {
			return nil, err
		}
		f, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return nil, err
		}
		symbols, err := f.DynamicSymbols()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == "__vdso_clock_gettime" })
		if i < 0 {
			return nil, errors.New("its vDSO has no clock")
		}
		v := &vdso{mem: mem, entry: low + int64(symbols[i].Value), room: high - clockRoom}
		end := image[len(image)-clockRoom:]
		if !bytes.HasPrefix(end, clockCode(0)[:15]) && len(bytes.Trim(end, "\x00")) > 0 {
			return nil, errors.New("its vDSO has no room")
		}
		return v, nil
	}
	return nil, errors.New("it has no vDSO")
}

func (v *vdso) jump() []byte {
	return binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(v.room-v.entry-clockJump))
}

func (v *vdso) shifted(entry []byte) bool { return bytes.HasPrefix(entry, v.jump()) }

// shift stops the process and changes what its clock tells, unless a thread is
// where the change is: busy.
func (v *vdso) shift(pid int, seconds int32) (busy bool, err error) {
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unix.Kill(pid, unix.SIGCONT)) }()
	at, err := standing(pid)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(at, func(pc int64) bool { return pc > v.entry && pc < v.entry+clockJump }) {
		return true, nil
	}
	was := make([]byte, clockJump)
	if _, err := v.mem.ReadAt(was, v.entry); err != nil {
		return false, err
	}
	if v.shifted(was) {
		if _, err := v.mem.ReadAt(was, v.room+clockSaved); err != nil {
			return false, err
		}
	}
	end := make([]byte, clockRoom)
	copy(end, clockCode(seconds))
	copy(end[clockSaved:], was)
	entry := v.jump()
	if seconds == 0 {
		entry = was // who is in the code at the end gets through it
	}
	if _, err := v.mem.WriteAt(end, v.room); err != nil {
		return false, err
	}
	_, err = v.mem.WriteAt(entry, v.entry)
	return false, err
}

// standing waits until all threads of a process that was told so have stopped,
// and returns where.
func standing(pid int) ([]int64, error) {
	for range 500 {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil || len(tasks) == 0 {
			return nil, errors.New("it has ended")
		}
		var at []int64
		for _, task := range tasks {
			stat, err := os.ReadFile(filepath.Join(task, "stat"))
			_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
			if err != nil || !ok || len(rest) == 0 || rest[0] != 'T' {
				break
			}
			call, err := os.ReadFile(filepath.Join(task, "syscall"))
			if err != nil {
				return nil, err
			}
			f := strings.Fields(string(call))
			pc, err := strconv.ParseInt(f[len(f)-1], 0, 64)
			if err != nil {
				break // it is running still
			}
			at = append(at, pc)
		}
		if len(at) == len(tasks) {
			return at, nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil, errors.New("it does not stop")
}

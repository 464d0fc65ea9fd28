package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
)

// needBPF returns a map of groups for the program, where this kernel has such.
func needBPF(t *testing.T) *ebpf.Map {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("SKIPPED: needs root")
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: 8})
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("SKIPPED, NOT TESTED: this kernel runs no BPF: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// multicastFrame is a datagram to a group.
func multicastFrame(group netip.Addr) []byte {
	a := group.AsSlice()
	if group.Is4() {
		b := []byte{1, 0, 0x5e, a[1] & 0x7f, a[2], a[3], 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 1, 17, 0, 0, 10, 32, 0, 1}
		return append(append(b, a...), 0, 7, 0, 7, 0, 8, 0, 0)
	}
	b := append([]byte{0x33, 0x33}, a[12:]...)
	b = append(b, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 1)
	b = append(append(b, make([]byte, 16)...), a...)
	return append(b, 0, 7, 0, 7, 0, 8, 0, 0)
}

// pruning is a table of one remote that wants nothing.
func pruning() *fdb.Table {
	now := time.Unix(1_800_000_000, 0)
	t := fdb.New(fdb.Options{Now: func() time.Time { return now }})
	far := netip.MustParseAddr("fd77:6566:7400::2")
	t.Set([]fdb.Remote{{Overlay: far}}, nil)
	// IGMPv3: an answer, that it is in no group.
	answer := []byte{
		1, 0, 0x5e, 0, 0, 22, 2, 0, 0, 0, 0, 2, 8, 0,
		0x45, 0, 0, 36, 0, 0, 0, 0, 1, 2, 0, 0, 10, 32, 0, 2, 224, 0, 0, 22,
		0x22, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 239, 1, 2, 3,
	}
	binary.BigEndian.PutUint16(answer[24:], ^sum16(answer[14:34]))
	binary.BigEndian.PutUint16(answer[36:], ^sum16(answer[34:]))
	now = now.Add(time.Minute) // it answers all that it is asked
	t.Sweep()
	t.Snoop(answer, far)
	now = now.Add(time.Minute)
	t.Sweep()
	return t
}

func sum16(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	return uint16(s>>16 + s&0xffff)
}

// The program diverts what the table prunes, and nothing else, whatever a frame
// looks like.
func TestDivertsWhatIsPruned(t *testing.T) {
	groups := needBPF(t)
	p, err := newDiverter(groups, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	const redirect = 7 // TC_ACT_REDIRECT
	diverted := func(frame []byte) bool {
		t.Helper()
		got, err := p.Run(&ebpf.RunOptions{Data: frame})
		if errors.Is(err, unix.EINVAL) && len(frame) < 54 {
			return false // newer kernels try no program on frames without a whole header
		}
		if err != nil {
			t.Fatal(err)
		}
		if got != redirect && int32(got) != tcxNext {
			t.Fatalf("the program said %d", int32(got))
		}
		return got == redirect
	}
	table := pruning()
	list := []netip.Addr{
		netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("232.200.7.7"), netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("224.0.1.1"),
		netip.MustParseAddr("ff05::7"), netip.MustParseAddr("ff02::fb"), netip.MustParseAddr("ff0e::1:2:3"), netip.MustParseAddr("ff13::9"),
	}
	const seed = 6
	r := rand.New(rand.NewPCG(seed, seed))
	var count [2]int
	var hidden int
	for range 20_000 {
		f := multicastFrame(list[r.IntN(len(list))])
		for range r.IntN(3) {
			f[r.IntN(min(len(f), 54))] = []byte{0, 1, 2, 4, 6, 17, 0x45, 0x60, 0x5e, 0x33, 0xe0, 0xff, 58, 103, byte(r.Uint32())}[r.IntN(15)]
		}
		switch r.IntN(10) {
		case 0:
			f = f[:14+r.IntN(len(f)-13)]
		case 1: // with a VLAN tag
			f = append(append(bytes.Clone(f[:12]), 0x81, 0, 0, 5), f[12:]...)
		}
		_, flood := table.Members(f)
		if table.Pruning().Flood {
			// It may be a report in a form that is not read: the table floods all
			// for a while, and who keeps the program takes it away.
			hidden++
			table = pruning()
			continue
		}
		got := diverted(f)
		if got == flood {
			t.Fatalf("%x: diverted %v, and the table floods it: %v", f, got, flood)
		}
		if got {
			count[1]++
		} else {
			count[0]++
		}
	}
	t.Logf("FIGURE %d frames as they are, %d diverted, %d perhaps reports", count[0], count[1], hidden)
	if count[0] < 1000 || count[1] < 1000 || hidden > 2000 {
		t.Errorf("%d frames as they are, %d diverted, %d perhaps reports", count[0], count[1], hidden)
	}
	// What is excepted is not diverted, and the rest is.
	d := &diversion{groups: groups}
	for _, g := range []netip.Addr{list[0], list[4]} {
		for _, on := range []bool{true, true, false, false} {
			if err := d.Except(g, on); err != nil {
				t.Fatal(err)
			}
			if diverted(multicastFrame(g)) == on || !diverted(multicastFrame(list[6])) {
				t.Errorf("%s excepted: %v", g, on)
			}
		}
	}
}

// BenchmarkDivert is what the program costs a multicast frame, and any other.
func BenchmarkDivert(b *testing.B) {
	groups, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: 8})
	if err != nil {
		b.Skip(err)
	}
	defer func() { _ = groups.Close() }()
	p, err := newDiverter(groups, 7)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	other := multicastFrame(netip.MustParseAddr("239.1.2.3"))
	copy(other, []byte{2, 0, 0, 0, 0, 1})
	b.Run("no program", func(b *testing.B) {
		empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = empty.Close() }()
		_, per, err := empty.Benchmark(other, 1_000_000, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(per.Nanoseconds()), "ns/frame")
	})
	for name, f := range map[string][]byte{"multicast": multicastFrame(netip.MustParseAddr("239.1.2.3")), "other": other} {
		b.Run(name, func(b *testing.B) {
			_, per, err := p.Benchmark(f, 1_000_000, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(per.Nanoseconds()), "ns/frame")
		})
	}
}

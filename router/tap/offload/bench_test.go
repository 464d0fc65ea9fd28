package offload

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// bulk is what a container sends: full super-frames, one after the other.
func bulk(v4 bool, proto byte, mss int) (h Header, frames [][]byte) {
	r := rand.New(rand.NewPCG(1, 1))
	s := spec{v4: v4, proto: proto, ttl: 64, off: 0x4000, src: 1, dst: 2, ports: [2]uint16{40000, 5201}, flags: 0x10, window: 500}
	if proto == 6 {
		s.tcpOpts = []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	}
	for range 4 {
		s.payload = make([]byte, min(65000/mss, 64)*mss)
		for i := range s.payload {
			s.payload[i] = byte(r.Uint32())
		}
		var f []byte
		h, f = s.super(mss)
		frames = append(frames, f)
		s.seq += uint32(len(s.payload))
		s.id += uint16(len(s.payload) / mss)
	}
	return h, frames
}

// kinds runs fn with TCP and UDP over both families, with segments of usual
// sizes: the least that IPv4 hosts send, our switch's, jumbo frames.
func kinds(b *testing.B, fn func(b *testing.B, h Header, frames [][]byte)) {
	for _, v4 := range []bool{true, false} {
		for _, proto := range []byte{6, 17} {
			for _, mss := range []int{536, 1318, 8888} {
				name := fmt.Sprintf("%s-%s-%d", map[byte]string{6: "TCP", 17: "UDP"}[proto], map[bool]string{true: "IPv4", false: "IPv6"}[v4], mss)
				h, frames := bulk(v4, proto, mss)
				b.Run(name, func(b *testing.B) { fn(b, h, frames) })
			}
		}
	}
}

// BenchmarkCut is of payload as it leaves the TAP, into the buffers of a batch.
func BenchmarkCut(b *testing.B) {
	kinds(b, func(b *testing.B, h Header, frames [][]byte) {
		buffers := make([][]byte, 128)
		for i := range buffers {
			buffers[i] = make([]byte, 9100)
		}
		var c Cut
		n, segments := 0, 0
		b.SetBytes(int64(len(frames[0])))
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Start(h, frames[n%len(frames)]); err != nil {
				b.Fatal(err)
			}
			n++
			for {
				_, ok := c.Next(buffers[segments%len(buffers)])
				if !ok {
					break
				}
				segments++
			}
		}
		b.ReportMetric(float64(b.Elapsed())/float64(segments), "ns/segment")
	})
}

// BenchmarkJoin is of frames as they come from a tunnel, 128 at a time.
func BenchmarkJoin(b *testing.B) {
	kinds(b, func(b *testing.B, h Header, frames [][]byte) {
		var batch, saved [][]byte
		total := 0
		for _, f := range frames {
			list, err := slowCut(h, f)
			if err != nil {
				b.Fatal(err)
			}
			for _, s := range list {
				if len(batch) < 128 {
					batch = append(batch, s)
					saved = append(saved, append([]byte(nil), s[:min(len(s), 80)]...))
					total += len(s)
				}
			}
		}
		join(b, New(true), batch, saved, total)
	})
}

// BenchmarkJoinFlows is of frames of many flows, which take turns, one frame
// of each.
func BenchmarkJoinFlows(b *testing.B) {
	for _, flows := range []int{4, 32, 128} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			var batch, saved [][]byte
			total := 0
			for n := range 128 {
				s := spec{
					v4: true, proto: 6, ttl: 64, off: 0x4000, src: 1, dst: 2, ports: [2]uint16{uint16(40000 + n%flows), 80}, flags: 0x10,
					seq: uint32(n / flows * 1318), id: uint16(n / flows), payload: make([]byte, 1318),
				}
				f, _ := s.frame()
				batch = append(batch, f)
				saved = append(saved, append([]byte(nil), f[:80]...))
				total += len(f)
			}
			join(b, New(true), batch, saved, total)
		})
	}
}

func join(b *testing.B, j *Join, batch, saved [][]byte, total int) {
	pieces := 0
	write := func(Header, [][]byte) { pieces++ }
	for _, f := range batch {
		j.Add(f) // makes room
	}
	j.Flush(write)
	pieces = 0
	for i, s := range saved {
		copy(batch[i], s)
	}
	b.SetBytes(int64(total))
	b.ReportAllocs()
	rounds := 0
	for b.Loop() {
		for _, f := range batch {
			j.Add(f)
		}
		j.Flush(write)
		for i, s := range saved { // the headers were changed
			copy(batch[i], s)
		}
		rounds++
	}
	b.ReportMetric(float64(len(batch)*rounds)/float64(pieces), "frames/piece")
	b.ReportMetric(float64(b.Elapsed())/float64(rounds*len(batch)), "ns/frame")
}

// BenchmarkSum is of the checksum alone.
func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 64, 536, 1318, 8888} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			var s uint64
			for b.Loop() {
				s = add(s, p)
			}
			if fold(s) != 0 {
				b.Error("sum of nothing")
			}
		})
	}
}

// Once used, neither direction allocates.
func TestAllocations(t *testing.T) {
	h, frames := bulk(true, 6, 1318)
	list, err := slowCut(h, frames[0])
	if err != nil {
		t.Fatal(err)
	}
	var c Cut
	j := New(true)
	buffer := make([]byte, 2000)
	write := func(Header, [][]byte) {}
	if n := testing.AllocsPerRun(100, func() {
		if err := c.Start(h, frames[1]); err != nil {
			t.Fatal(err)
		}
		for _, ok := c.Next(buffer); ok; {
			_, ok = c.Next(buffer)
		}
		for _, s := range list {
			j.Add(s)
		}
		j.Flush(write)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

package offload

import (
	"bytes"
	"encoding/hex"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// joinAll is what a Join makes of the frames, which stay as they are.
func joinAll(j *Join, frames [][]byte) (list []output) {
	for _, f := range frames {
		j.Add(bytes.Clone(f))
	}
	j.Flush(func(h Header, parts [][]byte) {
		list = append(list, output{h, bytes.Join(parts, nil)})
	})
	return list
}

// sameJoin compares a Join with its twin. It returns how many frames each
// output has.
func sameJoin(t testing.TB, j *Join, frames [][]byte) (sizes []int) {
	t.Helper()
	want, got := slowJoin(frames, j.uso), joinAll(j, frames)
	for i := range max(len(want), len(got)) {
		var w, g output
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w.h != g.h || !bytes.Equal(w.bytes, g.bytes) {
			t.Fatalf("%d frames: %d outputs, want %d; number %d: %+v, want %+v (-want +got):\n%s", len(frames), len(got), len(want), i, g.h, w.h,
				cmp.Diff(hex.Dump(w.bytes), hex.Dump(g.bytes)))
		}
		sizes = append(sizes, 1)
		if g.h.GSOSize > 0 {
			sizes[i] = (len(g.bytes) - int(g.h.HdrLen) + int(g.h.GSOSize) - 1) / int(g.h.GSOSize)
		}
	}
	return sizes
}

// Coalescing undoes segmentation: what a sender gave away comes out again, bit
// for bit, if it was a super-frame and nothing could be added to it.
func TestIdentity(t *testing.T) {
	var c Cut
	j := New(true)
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 4))
		k := randomConnection(r)
		h, f := k.send(r, min(20000, 64*k.mss))
		if k.proto == 6 && k.flags&8 == 0 { // as the last segment
			h, f = k.super(k.mss)
		}
		segments, err := cutAll(t, &c, h, f)
		if err != nil {
			t.Fatal(err)
		}
		got := joinAll(j, segments)
		if len(segments) == 1 {
			h, f = Header{}, segments[0]
		}
		if len(got) != 1 || got[0].h != h || !bytes.Equal(got[0].bytes, f) {
			t.Fatalf("seed %d, %d segments: %d outputs, %+v, want %+v (-want +got)\n%s", seed, len(segments), len(got), got[0].h, h,
				cmp.Diff(hex.Dump(f), hex.Dump(got[0].bytes)))
		}
	}
}

// Streams of several connections, in batches: cutting what was joined gives
// the frames again, those of each flow in order.
func TestStreams(t *testing.T) {
	j := New(true)
	frames, outputs := 0, 0
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 5))
		flows := map[*connection][][]byte{}
		for range 1 + r.IntN(40) {
			flows[randomConnection(r)] = nil
		}
		var sent, got, batch [][]byte
		for range 10 {
			for k, queue := range flows {
				if len(queue) == 0 {
					h, f := k.send(r, min(20000, 30*k.mss))
					queue, _ = slowCut(h, f)
				}
				n := 1 + r.IntN(len(queue))
				batch = append(batch, queue[:n]...)
				flows[k] = queue[n:]
			}
		}
		for list := range slices.Chunk(batch, 128) {
			o := joinAll(j, list)
			sent, got = append(sent, list...), append(got, cutOutputs(t, o)...)
			outputs += len(o)
		}
		if !maps.EqualFunc(byFlow(sent), byFlow(got), bytes.Equal) {
			t.Fatalf("seed %d: other frames", seed)
		}
		frames += len(sent)
	}
	t.Logf("%d frames in %d pieces", frames, outputs)
	if outputs > frames/2 {
		t.Error("hardly anything was coalesced")
	}
}

// cutOutputs is segmentation of all.
func cutOutputs(t testing.TB, list []output) (frames [][]byte) {
	t.Helper()
	for _, o := range list {
		if o.h == (Header{}) {
			frames = append(frames, o.bytes)
			continue
		}
		segments, err := slowCut(o.h, o.bytes)
		if err != nil {
			t.Fatalf("%+v is not a super-frame: %v", o.h, err)
		}
		frames = append(frames, segments...)
	}
	return frames
}

// byFlow is the frames of every flow, in order.
func byFlow(frames [][]byte) map[string][]byte {
	m := map[string][]byte{}
	for _, f := range frames {
		flow, hosts := slowFlow(f, true)
		m[flow+hosts] = append(m[flow+hosts], essence(f)...)
	}
	return m
}

// mangle gives a frame that differs from f in something that matters, or adds
// one that is between others.
func mangle(r *rand.Rand, f []byte) [][]byte {
	f = bytes.Clone(f)
	switch r.IntN(8) {
	case 0: // any bit of the headers, checksums not
		f[r.IntN(min(len(f), 80))] ^= 1 << r.IntN(8)
	case 1: // lost
		return nil
	case 2: // twice
		return [][]byte{f, bytes.Clone(f)}
	case 3: // padded
		return [][]byte{append(f, make([]byte, r.IntN(6))...)}
	case 4:
		return [][]byte{f[:r.IntN(len(f)+1)]}
	case 5: // any bit
		f[r.IntN(len(f))] ^= 1 << r.IntN(8)
	case 6:
		s := randomSpec(r, 100)
		g, _ := s.frame()
		return [][]byte{f, g}
	default: // a field, with right checksums
		s := spec{v4: f[12] == 8}
		at, err := slowWalk(f, 6)
		if err != nil || !s.v4 {
			break
		}
		s.proto, s.tos, s.ttl, s.src, s.dst = 6, f[15], f[22], f[29], f[33]
		s.id, s.off, s.ports = uint16(f[18])<<8+uint16(f[19]), uint16(f[20])<<8, [2]uint16{uint16(f[34])<<8 + uint16(f[35]), uint16(f[36])<<8 + uint16(f[37])}
		s.seq, s.ack = uint32(f[38])<<24+uint32(f[39])<<16+uint32(f[40])<<8+uint32(f[41]), uint32(f[42])<<24+uint32(f[43])<<16+uint32(f[44])<<8+uint32(f[45])
		s.flags, s.window, s.tcpOpts, s.payload = uint16(f[46]&15)<<8+uint16(f[47]), uint16(f[48])<<8+uint16(f[49]), bytes.Clone(f[54:at.head]), f[at.head:]
		switch r.IntN(9) {
		case 0:
			s.tos++
		case 1:
			s.ttl--
		case 2:
			s.id += uint16(r.IntN(3))
		case 3:
			s.off ^= pick[uint16](r, 0x8000, 0x4000, 0x2000, 1)
		case 4:
			s.ack++
		case 5:
			s.flags ^= 1 << r.IntN(12)
		case 6:
			s.window++
		case 7:
			if len(s.tcpOpts) > 0 {
				s.tcpOpts[r.IntN(len(s.tcpOpts))]++
			}
		default:
			s.urgent++
		}
		f, _ = s.frame()
	}
	return [][]byte{f}
}

func TestJoinTwin(t *testing.T) {
	sizes := map[int]int{}
	joins := map[bool]*Join{true: New(true), false: New(false)}
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 6))
		j := joins[chance(r, 70)]
		// The table has room for four flows wherever they are.
		var flows []*connection
		for range 1 + r.IntN(4) {
			flows = append(flows, randomConnection(r))
		}
		if chance(r, 30) {
			k := *flows[0]
			k.ports[1]++
			flows[len(flows)-1] = &k
		}
		var batch [][]byte
		for range 1 + r.IntN(6) {
			k := pick(r, flows...)
			h, f := k.send(r, min(4000, 12*k.mss))
			list, err := slowCut(h, f)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range list {
				if chance(r, 4) {
					batch = append(batch, mangle(r, s)...)
				} else {
					batch = append(batch, s)
				}
			}
		}
		for range r.IntN(3) * r.IntN(3) {
			a, b := r.IntN(len(batch)+1), r.IntN(len(batch)+1)
			if a < len(batch) && b < len(batch) {
				batch[a], batch[b] = batch[b], batch[a]
			}
		}
		for _, n := range sameJoin(t, j, batch) {
			sizes[n]++
		}
	}
	t.Log(sizes)
}

// What must not be coalesced, though segmentation would give it back.
func TestJoinAlone(t *testing.T) {
	base := spec{v4: true, proto: 6, ttl: 64, off: 0x4000, src: 1, dst: 2, ports: [2]uint16{1, 2}, flags: 0x10, window: 9, payload: make([]byte, 100)}
	for _, tt := range []struct {
		name   string
		change func(first, second *spec)
		pieces int
	}{
		{"nothing", func(a, b *spec) {}, 1},
		{"push at the end", func(a, b *spec) { b.flags |= 8 }, 1},
		{"push in between", func(a, b *spec) { a.flags |= 8 }, 2},
		{"longer", func(a, b *spec) { b.payload = make([]byte, 101) }, 2},
		{"shorter", func(a, b *spec) { b.payload = make([]byte, 1) }, 1},
		{"no data", func(a, b *spec) { b.payload = nil }, 2},
		{"no data but options", func(a, b *spec) { a.tcpOpts, b.tcpOpts, b.payload = make([]byte, 4), make([]byte, 4), nil }, 2},
		{"no data at all", func(a, b *spec) {
			a.tcpOpts, b.tcpOpts, a.payload, b.payload, b.seq = make([]byte, 4), make([]byte, 4), nil, nil, 0
		}, 2},
		{"without ACK", func(a, b *spec) { a.flags, b.flags = 0, 0 }, 2},
		{"end", func(a, b *spec) { b.flags |= 1 }, 2},
		{"reset", func(a, b *spec) { b.flags |= 4 }, 2},
		{"urgent", func(a, b *spec) { a.flags |= 0x20; b.flags |= 0x20 }, 2},
		{"ECE", func(a, b *spec) { a.flags |= 0x40; b.flags |= 0x40 }, 1},
		{"ECE begins", func(a, b *spec) { b.flags |= 0x40 }, 2},
		{"CWR at first", func(a, b *spec) { a.flags |= 0x80 }, 1},
		{"CWR later", func(a, b *spec) { b.flags |= 0x80 }, 2},
		{"congestion experienced", func(a, b *spec) { b.tos = 3 }, 2},
		{"window", func(a, b *spec) { b.window++ }, 2},
		{"reserved bits", func(a, b *spec) { b.flags |= 0x100 }, 2},
		{"hop limit", func(a, b *spec) { b.ttl++ }, 2},
		{"other ID", func(a, b *spec) { b.id += 7 }, 1},
		{"other ID, may be fragmented", func(a, b *spec) { a.off, b.off = 0, 0; b.id += 7 }, 2},
		{"may be fragmented", func(a, b *spec) { b.off = 0 }, 2},
		{"evil bit", func(a, b *spec) { a.off, b.off = 0xc000, 0xc000 }, 2},
		{"fragments", func(a, b *spec) { a.off, b.off = 0x2000, 0x2000 }, 2},
		{"same connection, other host", func(a, b *spec) { b.src++ }, 2},
		{"VLAN", func(a, b *spec) { a.tags = []uint16{0x8100}; b.tags = a.tags }, 2},
		{"IPv4 options", func(a, b *spec) { a.options = []byte{1, 1, 1, 1}; b.options = a.options }, 2},
		{"IPv6", func(a, b *spec) { a.v4 = false; b.v4 = false }, 1},
		{"IPv6 flow label", func(a, b *spec) { a.v4 = false; b.v4 = false; b.label++ }, 2},
		{"IPv6 options", func(a, b *spec) {
			a.v4 = false
			a.options = []byte{60, 6, 0, 1, 4, 0, 0, 0, 0}
			b.v4, b.options = false, a.options
		}, 2},
		{"timestamp", func(a, b *spec) { a.tcpOpts = []byte{1, 2, 3, 4}; b.tcpOpts = []byte{1, 2, 3, 5} }, 2},
		{"UDP", func(a, b *spec) { a.proto = 17; b.proto = 17 }, 1},
		{"UDP, longer", func(a, b *spec) { a.proto = 17; b.proto = 17; b.payload = make([]byte, 101) }, 2},
		{"UDP of nothing", func(a, b *spec) { a.proto = 17; b.proto = 17; b.payload = nil }, 2},
	} {
		a, b := base, base
		b.seq, b.id = 100, 1
		tt.change(&a, &b)
		first, _ := a.frame()
		second, _ := b.frame()
		if got := joinAll(New(true), [][]byte{first, second}); len(got) != tt.pieces {
			t.Errorf("%s: %d pieces, want %d", tt.name, len(got), tt.pieces)
		}
		if got := joinAll(New(false), [][]byte{first, second}); a.proto == 17 && len(got) != 2 {
			t.Errorf("%s: without USO %d pieces", tt.name, len(got))
		}
		// Checksums are not looked at: those of what was coalesced are right again.
		if tt.pieces == 1 {
			wrong := bytes.Clone(second)
			wrong[len(wrong)-1] ^= 4
			got := joinAll(New(true), [][]byte{first, wrong})
			if len(got) != 1 {
				t.Errorf("%s: a wrong checksum keeps frames apart", tt.name)
				continue
			}
			segments, err := slowCut(got[0].h, got[0].bytes)
			ok(t, err)
			for i, f := range segments {
				at, err := slowWalk(f, a.proto)
				ok(t, err)
				if sum := slowAdd(slowPseudo(f, at, a.proto), uint16(len(f)-at.l4), slowSum(f[at.l4:])); sum != 0xffff {
					t.Errorf("%s: checksum of segment %d is wrong", tt.name, i)
				}
			}
		}
	}
}

// What may be of a flow is not overtaken by what comes after it.
func TestJoinOrder(t *testing.T) {
	base := spec{v4: true, proto: 6, off: 0x4000, src: 1, dst: 2, ports: [2]uint16{1, 2}, flags: 0x10, payload: make([]byte, 100)}
	for _, tt := range []struct {
		name    string
		v4, v6  bool // to be tried with
		between func(s *spec)
		pieces  int
	}{
		{"no data", true, true, func(s *spec) { s.payload = nil }, 3},
		{"another connection", true, true, func(s *spec) { s.ports[0]++ }, 2},
		{"VLAN", true, true, func(s *spec) { s.tags = []uint16{0x8100} }, 2},
		{"IPv4 options", true, false, func(s *spec) { s.options = make([]byte, 4) }, 3},
		{"IPv6 options", false, true, func(s *spec) { s.options = []byte{60, 6, 0, 1, 4, 0, 0, 0, 0} }, 3},
		{"IPv4 fragment", true, false, func(s *spec) { s.off = 100; s.ports[0] = 9 }, 3},
		{"IPv6 fragment", false, true, func(s *spec) { s.options = []byte{44, 6, 0, 0, 100, 0, 0, 0, 0} }, 3},
		{"fragment of other hosts", true, false, func(s *spec) { s.off = 100; s.ports[0] = 9; s.src = 7 }, 2},
		{"fragment of no TCP", true, false, func(s *spec) { s.off = 100; s.proto = 1 }, 2},
		{"fragment of another family", true, false, func(s *spec) { s.v4 = false; s.options = []byte{44, 6, 0, 0, 100, 0, 0, 0, 0} }, 2},
	} {
		for v4, try := range map[bool]bool{true: tt.v4, false: tt.v6} {
			if !try {
				continue
			}
			a, b, c := base, base, base
			a.v4, b.v4, c.v4 = v4, v4, v4
			tt.between(&b)
			c.seq, c.id = 100, 1
			var frames [][]byte
			for _, s := range []spec{a, b, c} {
				f, _ := s.frame()
				frames = append(frames, f)
			}
			if sizes := sameJoin(t, New(true), frames); len(sizes) != tt.pieces {
				t.Errorf("%s, IPv4 %v: %d pieces, want %d", tt.name, v4, len(sizes), tt.pieces)
			}
		}
	}
	// Short datagrams, and then what closes another family.
	var frames [][]byte
	for _, s := range []spec{
		{v4: true, proto: 17, payload: []byte{1}},
		{proto: 17, options: []byte{44, 17, 0, 0, 100, 0, 0, 0, 0}, payload: []byte{1}},
	} {
		f, _ := s.frame()
		frames = append(frames, f)
	}
	sameJoin(t, New(true), frames)
	// IPv6 that is not version 6.
	for i := range frames {
		s := spec{proto: 6, flags: 0x10, seq: uint32(i), payload: []byte{1}}
		frames[i], _ = s.frame()
		frames[i][14] = 0x50
	}
	if sizes := sameJoin(t, New(true), frames); len(sizes) != 2 {
		t.Error("coalesced what is not IPv6")
	}
}

// Nothing is kept of a batch, however many flows it had.
func TestJoinForgets(t *testing.T) {
	j := New(true)
	for n := range 2000 {
		s := spec{v4: n%2 == 0, proto: 6, src: 1, dst: 2, ports: [2]uint16{uint16(n % 700), 1}, flags: 0x10, seq: uint32(n / 700), payload: []byte{1}}
		f, _ := s.frame()
		j.Add(f)
	}
	total := 0
	j.Flush(func(h Header, parts [][]byte) { total += len(parts) })
	if total != 2000 || j.table != [slots]int32{} || len(j.frames)+len(j.groups)+len(j.parts) != 0 {
		t.Errorf("%d frames came out; left: %v", total, j.groups)
	}
	for _, e := range j.frames[:cap(j.frames)] {
		if e.frame != nil {
			t.Fatal("a frame is kept")
		}
	}
	for _, p := range j.parts[:cap(j.parts)] {
		if p != nil {
			t.Fatal("a part is kept")
		}
	}
}

// Super-frames are as long as they can be, and not longer.
func TestJoinLimits(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		head := map[bool]int{true: 40, false: 60}[v4]
		for _, size := range []int{10, 1023, 1024, 8900, 40000} {
			want := min(64, (65535-head)/size)
			var frames [][]byte
			s := spec{v4: v4, proto: 6, off: 0x4000, flags: 0x10, payload: make([]byte, size)}
			for range 70 {
				f, _ := s.frame()
				frames = append(frames, f)
				s.seq += uint32(size)
			}
			if got := sameJoin(t, New(false), frames); got[0] != want {
				t.Errorf("%d bytes: %d frames in one, want %d", size, got[0], want)
			}
		}
	}
}

package offload

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzHeader: what was parsed is put back as it was, and nothing else.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{1, 4, 0, 66, 5, 40, 0, 34, 0, 16})
	f.Fuzz(func(t *testing.T, in []byte) {
		var h Header
		if err := h.Parse(in); err != nil {
			if len(in) >= HeaderLen || h != (Header{}) {
				t.Errorf("%d bytes: %v, %+v", len(in), err, h)
			}
			return
		}
		out := make([]byte, HeaderLen+1)
		h.Put(out)
		if !bytes.Equal(out, append(in[:HeaderLen:HeaderLen], 0)) {
			t.Errorf("% x gives % x", in[:HeaderLen], out)
		}
	})
}

// FuzzCut compares Cut and its twin on any header and frame.
func FuzzCut(f *testing.F) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 10))
		h, frame := randomSpec(r, 300).super(1 + r.IntN(200))
		var b [HeaderLen]byte
		h.Put(b[:])
		f.Add(b[:], frame)
	}
	var c Cut
	f.Fuzz(func(t *testing.T, header, frame []byte) {
		var h Header
		if h.Parse(header) == nil && len(frame) <= 70000 && len(frame) < 200*max(int(h.GSOSize), 1) {
			sameCut(t, &c, h, bytes.Clone(frame)) // its end is that of memory
		}
	})
}

// FuzzJoin compares Join and its twin on frames that a script makes. The first
// byte chooses UDP or not, what follows are steps of four bytes: a flow, what
// is done, and how.
func FuzzJoin(f *testing.F) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 11))
		b := noise(r, 1+4*r.IntN(40))
		if chance(r, 70) {
			for i := 2; i < len(b); i += 4 {
				b[i] = pick[byte](r, 0, 0, 0, b[i])
			}
		}
		f.Add(b)
	}
	joins := [2]*Join{New(false), New(true)}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 || len(script) > 4*150 {
			return
		}
		j, frames := joins[script[0]&1], play(script[1:])
		if sent := byFlow(frames); len(sent) <= reach { // there is room for all of them
			sameJoin(t, j, frames)
		} else if got := byFlow(cutOutputs(t, joinAll(j, frames))); !maps.EqualFunc(sent, got, bytes.Equal) {
			t.Errorf("other frames (-sent +got)\n%s", cmp.Diff(sent, got))
		}
	})
}

// play makes the frames of a script.
func play(script []byte) (frames [][]byte) {
	flows := make([]*connection, 4)
	for i := range flows {
		flows[i] = randomConnection(rand.New(rand.NewPCG(uint64(i), 12)))
		flows[i].v4, flows[i].proto, flows[i].mss, flows[i].off = i%2 == 0, 6, 100, 0x4000
	}
	flows[2].proto, flows[2].off, flows[3].proto = 17, 0, 17
	for len(script) >= 4 {
		k := flows[script[0]%4]
		what, how := script[1], script[3]
		size := int(script[2])
		if size >= 128 {
			size = k.mss
		}
		k.payload = bytes.Repeat([]byte{how}, size)
		x := k.spec
		var raw func(frame []byte) []byte
		switch what % 24 {
		case 1:
			x.flags |= 8
		case 2:
			x.flags ^= 1 << (how % 12)
		case 3:
			k.flags ^= 0xc0 & uint16(how)
			x = k.spec
		case 4:
			x.seq += uint32(how)
		case 5:
			k.ack++
			x = k.spec
		case 6:
			x.window ^= uint16(how)
		case 7:
			x.tos ^= how
		case 8:
			x.ttl ^= how
		case 9:
			x.id += uint16(how)
		case 10:
			x.off ^= 1 << (how % 16)
		case 11:
			k.tcpOpts = bytes.Repeat([]byte{how}, 4*int(how%4))
			x = k.spec
		case 12:
			x.tags = []uint16{0x8100}
		case 13:
			if x.options = []byte{1, 1, 1, how}; !x.v4 {
				x.options = []byte{60, x.proto, 0, 1, 4, 0, 0, 0, how}
			}
		case 14:
			x.urgent = uint16(how)
		case 15:
			x.src ^= how
		case 16:
			x.ports[1] ^= uint16(how)
		case 17:
			x.label ^= uint32(how)
		case 18: // a bit, checksums as they were
			raw = func(f []byte) []byte { f[int(how)%len(f)] ^= 1 << (how % 8); return f }
		case 19:
			raw = func(f []byte) []byte { return f[:min(int(how), len(f))] }
		case 20:
			raw = func(f []byte) []byte { return append(f, make([]byte, how%8)...) }
		case 21:
			raw = func(f []byte) []byte { f[11] = how; return f }
		case 22: // no checksum
			raw = func(f []byte) []byte { binary.BigEndian.PutUint16(f[min(40, len(f)-2):], 0); return f }
		}
		f, _ := x.frame()
		if raw != nil {
			f = raw(f)
		}
		frames = append(frames, bytes.Clone(f))
		k.seq += uint32(size)
		k.id++
		script = script[4:]
	}
	return frames
}

// FuzzJoinRaw does so on frames that are anything: a length, a frame, and so on.
func FuzzJoinRaw(f *testing.F) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 13))
		k := randomConnection(r)
		k.mss = 1 + r.IntN(100)
		h, super := k.send(r, 5*k.mss)
		list, err := slowCut(h, super)
		if err != nil {
			f.Fatal(err)
		}
		var b []byte
		for _, s := range list {
			b = append(append(b, byte(len(s))), s[:min(len(s), 255)]...)
		}
		f.Add(b)
	}
	j := New(true)
	f.Fuzz(func(t *testing.T, in []byte) {
		var frames [][]byte
		for len(in) > 0 && len(frames) < 4 { // as many flows as the table has room for in any case
			n := min(int(in[0]), len(in)-1)
			frames = append(frames, bytes.Clone(in[1:1+n]))
			in = in[1+n:]
		}
		sameJoin(t, j, frames)
	})
}

package ipam

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// loneCore returns a core that owns all of 10.32.0.0/12 and has given n
// addresses.
func loneCore(tb testing.TB, n int) (*core, time.Time) {
	tb.Helper()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	id := crypto.Identity{1}
	c, err := newCore(coreConfig{Self: id, Name: id.Name(), Range: netip.MustParsePrefix("10.32.0.0/12")}, nil, true, now)
	if err != nil {
		tb.Fatal(err)
	}
	c.step(now, adoptEvent{})
	c.step(now, peersEvent{})
	for i := range n {
		c.step(now, allocateEvent{Ticket: ticket(i + 1), Key: "docker:" + strconv.Itoa(i), Label: "box"})
		c.take()
	}
	if len(c.local) != n {
		tb.Fatalf("%d addresses given, want %d", len(c.local), n)
	}
	return c, now
}

// What one attach and its detach cost when so many addresses are given
// already, without the disk.
func BenchmarkAllocateLocal(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint("given=", n), func(b *testing.B) {
			c, now := loneCore(b, n)
			t := ticket(n)
			for b.Loop() {
				t += 2
				c.step(now, allocateEvent{Ticket: t - 1, Key: "docker:new", Label: "box"})
				c.step(now, releaseEvent{Ticket: t, Key: "docker:new"})
				if out := c.take(); len(out.Answers) != 2 || !out.Answers[0].Result.Fresh {
					b.Fatalf("%+v", out.Answers)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "allocations/s")
		})
	}
}

// The same through the run loop and the database, for clients that wait for
// each answer. Many at a time share one write.
func BenchmarkAllocateStored(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			dir := b.TempDir()
			id := crypto.Identity{1}
			a, err := Open(Config{
				Self: id, Name: id.Name(), Range: netip.MustParsePrefix("10.32.0.0/12"), New: true, Net: silence{},
				Path: filepath.Join(dir, "ipam.db"), Mark: filepath.Join(dir, "ipam.mark"),
			})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error)
			go func() { done <- a.Run(ctx) }()
			a.SetPeers(nil)
			if err := a.Adopt(ctx, nil); err != nil {
				b.Fatal(err)
			}
			var next atomic.Int64
			b.SetParallelism(max(1, clients/runtime.GOMAXPROCS(0)))
			b.ResetTimer()
			if clients == 1 {
				for i := range b.N {
					if _, err := a.Allocate(ctx, Request{Key: fmt.Sprint("docker:", i)}); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := a.Allocate(ctx, Request{Key: fmt.Sprint("docker:", next.Add(1))}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "allocations/s")
			b.StopTimer()
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// silence is a [Net] without anybody.
type silence struct{}

func (silence) Send(crypto.Identity, []byte) {}
func (silence) Broadcast([]byte)             {}
func (silence) Put(string, []byte) error     { return nil }
func (silence) Delete(string) error          { return nil }
func (silence) Expel(crypto.Identity)        {}

// What 100,000 addresses need in memory, and how long it takes to load them
// at a start.
func BenchmarkMemory(b *testing.B) {
	const n = 100_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var used uint64
	for b.Loop() {
		before := heap()
		c, _ := loneCore(b, n)
		used = heap() - before
		runtime.KeepAlive(c)
	}
	b.ReportMetric(float64(used)/n, "B/address")
	b.ReportMetric(float64(used)/(1<<20), "MB")
}

// crowd returns cores that share one ring of 1,024 blocks and know each other,
// each with an equal share.
func crowd(tb testing.TB, n int) ([]*core, time.Time) {
	tb.Helper()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	geo, err := space.NewGeometry(netip.MustParsePrefix("10.32.0.0/22"))
	if err != nil {
		tb.Fatal(err)
	}
	ids := make([]crypto.Identity, n)
	peers := make([]Peer, n)
	for i := range ids {
		ids[i] = crypto.Identity(sha256.Sum256([]byte(strconv.Itoa(i))))
		peers[i] = Peer{ID: ids[i], Name: ids[i].Name(), Alive: true}
	}
	cores := make([]*core, n)
	for i, id := range ids {
		c, err := newCore(coreConfig{Self: id, Name: id.Name(), Range: geo.Range(), Seed: id}, nil, true, now)
		if err != nil {
			tb.Fatal(err)
		}
		c.step(now, adoptEvent{})
		c.step(now, peersEvent{Peers: peers})
		c.adoptRing(ring.NewDivision(ring.ID{1}, geo, ids), "for a benchmark")
		c.sureness.mustMeet, c.changed = false, space.BlockSet{}
		for _, p := range c.peers {
			p.heard = true
		}
		c.take()
		cores[i] = c
	}
	return cores, now
}

// What one donation makes all hosts say, when no message is lost: the answer,
// and a broadcast by everybody for whom it was news. How often a broadcast is
// then sent is the mesh's business.
func BenchmarkDonationGossip(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint("peers=", n), func(b *testing.B) {
			cores, now := crowd(b, n)
			asker, donor := cores[0], cores[1]
			var said, donations int
			for b.Loop() {
				want := wire.Want{Op: asker.nextOp(), Subnet: asker.geo.Range(), Key: "k", Unsure: true} // one block
				donor.step(now, messageEvent{asker.cfg.Self, asker.pack(want)})
				out := donor.take()
				if len(out.Casts) != 1 {
					b.Fatal("nothing was given")
				}
				for _, l := range out.Sends {
					said += len(l.Data)
				}
				casts := []messageEvent{{donor.cfg.Self, out.Casts[0]}}
				for len(casts) > 0 {
					e := casts[0]
					casts = casts[1:]
					said += len(e.Data)
					for _, c := range cores {
						if c.cfg.Self == e.From {
							continue
						}
						c.step(now, e)
						for _, data := range c.take().Casts {
							casts = append(casts, messageEvent{c.cfg.Self, data})
						}
					}
				}
				donations++
				// And back, so that it can go on for ever.
				asker, donor = donor, asker
			}
			for _, c := range cores {
				if c.ring.Hash() != cores[0].ring.Hash() {
					b.Fatal("not all know the same")
				}
			}
			b.ReportMetric(float64(said)/float64(donations), "B/donation")
			b.ReportMetric(float64(said)/float64(donations)/float64(n), "B/donation/host")
		})
	}
}

// How many rounds, one digest of each host, 100 hosts need to agree after each
// of them gave a block away, when every broadcast is lost.
func BenchmarkConvergence(b *testing.B) {
	const n = 100
	var rounds, bytes int
	for b.Loop() {
		cores, now := crowd(b, n)
		byID := make(map[crypto.Identity]*core, n)
		for i, c := range cores {
			byID[c.cfg.Self] = c
			to := cores[(i+1)%n].cfg.Self
			c.now = now
			owned := c.ring.Owned(c.cfg.Self)
			for block := range owned.All() {
				c.giveBlock(block, to)
				break
			}
			c.changed = space.BlockSet{}
			c.take()
		}
		agreed := func() bool {
			for _, c := range cores {
				if c.ring.Hash() != cores[0].ring.Hash() {
					return false
				}
			}
			return true
		}
		for round := 0; !agreed(); round++ {
			if round > 100 {
				b.Fatal("they never agree")
			}
			rounds++
			now = now.Add(digestEvery)
			var queue []sentBy
			for _, c := range cores {
				c.now = now
				mates := c.mates()
				c.exchange(mates[c.rand.IntN(len(mates))])
				queue = append(queue, takeSends(c)...)
			}
			for len(queue) > 0 {
				l := queue[0]
				queue = queue[1:]
				bytes += len(l.Data)
				to := byID[l.To]
				to.now = now
				to.receive(l.from, l.Data)
				to.changed = space.BlockSet{}
				queue = append(queue, takeSends(to)...)
			}
		}
	}
	b.ReportMetric(float64(rounds)/float64(b.N), "rounds")
	b.ReportMetric(float64(bytes)/float64(rounds)/n, "B/host/round")
}

type sentBy struct {
	from crypto.Identity
	letter
}

func takeSends(c *core) []sentBy {
	var list []sentBy
	for _, l := range c.take().Sends {
		list = append(list, sentBy{c.cfg.Self, l})
	}
	return list
}

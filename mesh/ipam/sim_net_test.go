package ipam

import (
	"slices"
	"time"
)

// network carries letters between hosts, and is what mesh is to the daemon: a
// list of members that changes late, and entries that arrive late.
type network struct {
	w     *world
	cut   [][]bool // [from][to]
	sent  int
	bytes int
}

func (n *network) init(w *world, hosts int) {
	n.w = w
	n.cut = make([][]bool, hosts)
	for i := range n.cut {
		n.cut[i] = make([]bool, hosts)
	}
}

// open reports whether a letter can go from a to b now.
func (n *network) open(a, b *host) bool { return a.on && b.on && !n.cut[a.n][b.n] }

// linked reports whether both are on and hear each other. A daemon that is
// frozen does not answer the mesh either.
func (n *network) linked(a, b *host) bool {
	return n.open(a, b) && n.open(b, a) && a.frozen <= n.w.now && b.frozen <= n.w.now
}

// send carries a letter, or loses or doubles it.
func (n *network) send(from, to *host, data []byte) {
	w := n.w
	n.sent++
	n.bytes += len(data)
	if from == to || !n.open(from, to) || w.p(w.loss) && !w.calm {
		return
	}
	copies := 1
	if w.p(w.dup) {
		copies = 2
	}
	life := from.disks
	for range copies {
		w.after(n.delay(), func() {
			// A copy of a disk takes longer to restore than a letter travels.
			if n.open(from, to) && from.disks == life {
				to.push(messageEvent{From: from.id, Data: slices.Clone(data)})
			}
		})
	}
}

func (n *network) delay() time.Duration {
	w := n.w
	switch {
	case w.p(w.slow):
		return w.between(100*time.Millisecond, 6*time.Second)
	case w.p(0.2):
		return w.between(10*time.Millisecond, 150*time.Millisecond)
	default:
		return w.between(200*time.Microsecond, 8*time.Millisecond)
	}
}

// sides cuts the hosts into groups that do not hear each other.
func (n *network) sides(side func(*host) int) {
	n.each(func(a, b *host) { n.cut[a.n][b.n] = n.cut[a.n][b.n] || side(a) != side(b) })
}

// mend joins everything.
func (n *network) mend() { n.each(func(a, b *host) { n.cut[a.n][b.n] = false }) }

func (n *network) each(do func(a, b *host)) {
	for _, a := range n.w.hosts {
		for _, b := range n.w.hosts {
			if a != b {
				do(a, b)
			}
		}
	}
	n.notice()
}

// notice lets everybody see, sooner or later, who is reached now.
func (n *network) notice() {
	for _, a := range n.w.hosts {
		for _, b := range n.w.hosts {
			n.look(a, b)
		}
	}
}

// acquainted reports whether one of them knows the other, or was told to meet
// it.
func (n *network) acquainted(a, b *host) bool {
	return a.knows(b) || b.knows(a) || slices.Contains(a.targets, b.n) || slices.Contains(b.targets, a.n)
}

// reaches reports whether a, if it were on, would meet b.
func (n *network) reaches(a, b *host) bool {
	return b.on && !n.cut[a.n][b.n] && !n.cut[b.n][a.n] && n.acquainted(a, b)
}

// look lets a see after a while whether b is there.
func (n *network) look(a, b *host) {
	if a == b || !a.on || a.alive[b.n] == n.linked(a, b) || !n.acquainted(a, b) {
		return
	}
	n.w.after(n.w.between(50*time.Millisecond, 3*time.Second), func() {
		if alive := n.linked(a, b); a.on && a.alive[b.n] != alive {
			a.alive[b.n] = alive
			if alive {
				n.meet(a, b)
			}
			a.peersChanged()
			a.entriesChanged()
		}
	})
}

// meet makes a learn what b knows of hosts and their entries.
func (n *network) meet(a, b *host) {
	n.hear(a, b.n, b.advert)
	for i, advert := range b.known {
		n.hear(a, i, advert)
	}
	for _, o := range n.w.hosts {
		if o == a {
			continue
		}
		from := b.copies[o.n]
		if o == b {
			from = b.own
		}
		if from.version > a.copies[o.n].version {
			a.copies[o.n] = from
			if a.alive[o.n] {
				a.entriesChanged()
			}
		}
	}
}

// hear makes a know host i, if the advert is newer than what it forgot. The
// last advert of a host that left for good is gone.
func (n *network) hear(a *host, i, advert int) {
	switch {
	case i == a.n || advert == 0 || advert <= a.known[i]:
		return
	case advert == gone:
		a.known[i] = gone
		a.peersChanged()
	case advert > a.expelled[i] || a.alive[i]:
		fresh := a.known[i] == 0
		a.known[i] = advert
		if fresh {
			a.peersChanged()
			n.look(a, n.w.hosts[i])
			n.look(n.w.hosts[i], a)
		}
	}
}

// gossip brings the copies of entries together, now and then, for as long as
// the host's present run lasts.
func (n *network) gossip(a *host) {
	life := a.life
	var again func()
	again = func() {
		if !a.on || a.life != life {
			return
		}
		if n.w.p(0.05) {
			a.advert++ // who forgot a hears of it again
		}
		if b := n.w.pick(func(b *host) bool { return b != a && a.alive[b.n] && n.linked(a, b) }); b != nil {
			n.meet(a, b)
			n.meet(b, a)
		}
		n.w.after(n.w.between(500*time.Millisecond, 2*time.Second), again)
	}
	n.w.after(n.w.between(0, time.Second), again)
}

// spread brings new entries to most members at once.
func (n *network) spread(a *host) {
	for _, b := range n.w.hosts {
		if b != a && n.open(a, b) && !n.w.p(n.w.loss) {
			n.w.after(n.w.between(20*time.Millisecond, 300*time.Millisecond), func() {
				if n.open(a, b) && a.own.version > b.copies[a.n].version {
					b.copies[a.n] = a.own
					b.entriesChanged()
				}
			})
		}
	}
}

// gone is the last advert of a host that left for good.
const gone = 1 << 30

package doctor

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/path"
)

// The measure of asking others.
const (
	// someWhile is how many peers each look of its own asks: others than before,
	// by chance. What they said counts until they are asked again.
	someWhile = 16
	// newsGap is how often such a look lets a peer dial back.
	newsGap = 10 * time.Minute
	// replyLife is how long an answer counts without another one.
	replyLife = 20 * time.Minute
	// silences in a row are needed before a peer is said to be silent.
	silences = 2
	// untolds in a row are enough: the peer cannot tell.
	untolds = 3
	// maxAdvertised bounds the addresses that are dialled of a relayed peer.
	maxAdvertised = 2
)

// DialBack implements [Host].
func (p *Physician) DialBack(ctx context.Context, peer crypto.Identity) Reach {
	for _, t := range p.c.Patient.Peers() {
		if t.Identity == peer {
			return p.dial(ctx, t)
		}
	}
	return Unknown
}

// knocks are where the introduction port of a peer is dialled: where its tunnel
// stands, which it has proved to be its own. A relayed peer has proved nothing;
// the first addresses that it tells are tried. Nothing is dialled of others, so
// that no member makes hosts knock at addresses of its choice.
func knocks(t Peer) []netip.AddrPort {
	var at []netip.AddrPort
	switch r := t.Path.Route; {
	case t.Path.State != path.Established:
	case r.Direct():
		at = []netip.AddrPort{r.Endpoint}
	case r.Relayed():
		at = t.Endpoints[:min(len(t.Endpoints), maxAdvertised)]
	}
	out := make([]netip.AddrPort, 0, len(at))
	for _, ep := range at {
		out = append(out, netip.AddrPortFrom(ep.Addr().Unmap(), t.HelloPort))
	}
	return out
}

// dial reaches one of the addresses of a peer, or none that there are.
func (p *Physician) dial(ctx context.Context, t Peer) Reach {
	reach := Unknown
	results := make(chan error, maxAdvertised)
	asked := 0
	for _, ep := range knocks(t) {
		if !p.c.Patient.Usable(ep) {
			continue
		}
		asked++
		go func() {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", ep.String())
			if err == nil {
				_ = c.Close()
			}
			results <- err
		}()
	}
	for range asked {
		if <-results == nil {
			return Reached
		}
		reach = Closed
	}
	return reach
}

// some returns at most n of the peers whose tunnels carry, by chance: with
// hundreds of them not everybody asks the same.
func (p *Physician) some(s api.Status, n int) []Peer {
	var list []Peer
	reached := connected(s)
	for _, t := range p.c.Patient.Peers() {
		if t.Alive && reached[t.Name] {
			list = append(list, t)
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), n)]
}

// ask asks peers how they do; the result is by name.
func (p *Physician) ask(ctx context.Context, peers []Peer, news func(name string) bool) map[string]Checkup {
	var ids []crypto.Identity
	name := make(map[crypto.Identity]string)
	for _, t := range peers {
		ids = append(ids, t.Identity)
		name[t.Identity] = t.Name
	}
	got := make(map[string]Checkup)
	for id, c := range p.checkups.Ask(ctx, ids, func(id crypto.Identity) bool { return news(name[id]) }) {
		got[name[id]] = c
	}
	return got
}

// askPeers asks for somebody who waits, also for news: the peer that the status
// has, or all that it has in their bounds.
func (p *Physician) askPeers(s api.Status, peer string) Step {
	return Step{Name: "peers", Variant: peer, Run: func(ctx context.Context) (func(*Facts), error) {
		got := p.ask(ctx, p.some(s, maxWhy), func(string) bool { return true })
		return func(f *Facts) { merge(f, got) }, nil
	}}
}

// reply is what a peer said when the daemon's own look asked it last.
type reply struct {
	said   Checkup
	at     time.Time // of said
	news   time.Time // when it last dialled back, or was asked to often enough
	untold int       // times in a row that it was asked and did not say what came of it
	silent int       // times in a row
}

// askSome asks some peers and adds what is known of all of them.
func (p *Physician) askSome(ctx context.Context, f *Facts) {
	now := time.Now()
	news := make(map[string]bool)
	got := p.ask(ctx, p.some(*f.Status, someWhile), func(name string) bool {
		a := p.replies[name]
		// Who did not get in is asked each time, so that what is mended is not told for long.
		news[name] = a == nil || now.Sub(a.news) >= newsGap || a.said.Back == Closed
		return news[name]
	})
	for name, c := range got {
		a := p.replies[name]
		if a == nil {
			a = &reply{}
			p.replies[name] = a
		}
		a.take(c, now, news[name])
	}
	known, reached := make(map[string]Checkup), connected(*f.Status)
	for name, a := range p.replies {
		if now.Sub(a.at) >= replyLife || !reached[name] {
			delete(p.replies, name)
			continue
		}
		if a.said.Answered || a.silent >= silences {
			known[name] = a.said
		}
	}
	merge(f, known)
}

// take joins what a peer says with what it said: silence counts when it lasts,
// and news until there are others.
func (a *reply) take(c Checkup, now time.Time, news bool) {
	a.at = now
	if !c.Answered {
		if a.silent++; a.silent >= silences {
			a.said = Checkup{}
		}
		return
	}
	a.silent = 0
	if news {
		// A port that drops keeps it busy for nearly as long as its answer is
		// waited for, so what it says may come too late.
		if a.untold++; c.Back != Unknown || a.untold >= untolds {
			a.news, a.untold = now, 0
		}
	}
	if c.Back == Unknown {
		c.Back = a.said.Back
	}
	if c.Names == Unknown {
		c.Names = a.said.Names
	}
	a.said = c
}

// reach dials the introduction ports of the peers.
func (p *Physician) reach(s api.Status, peer string) Step {
	return Step{Name: "ports of peers", Variant: peer, Run: func(ctx context.Context) (func(*Facts), error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		got := make(map[string]Checkup)
		type result struct {
			name string
			r    Reach
		}
		results := make(chan result)
		peers := p.some(s, maxWhy)
		for _, t := range peers {
			go func() { results <- result{t.Name, p.dial(ctx, t)} }()
		}
		for range peers {
			switch x := <-results; x.r {
			case Unknown:
			case Reached:
				got[x.name] = Checkup{Looked: true}
			case Closed:
				got[x.name] = Checkup{Looked: true, There: "it does not accept"}
			}
		}
		return func(f *Facts) { merge(f, got) }, nil
	}}
}

// merge joins what two steps tell of the same peers.
func merge(f *Facts, got map[string]Checkup) {
	if f.Checkups == nil {
		f.Checkups = make(map[string]Checkup)
	}
	for name, c := range got {
		was, known := f.Checkups[name]
		switch {
		case !known:
		case c.Looked:
			was.Looked, was.There = c.Looked, c.There
			c = was
		default:
			c.Looked, c.There = was.Looked, was.There
		}
		f.Checkups[name] = c
	}
}

// connected has the names of the peers to which a connection carries.
func connected(s api.Status) map[string]bool {
	names := make(map[string]bool, len(s.Connections))
	for _, c := range s.Connections {
		if c.State.Carries() {
			names[c.Name] = true
		}
	}
	return names
}

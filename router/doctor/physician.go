package doctor

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/path"
)

// The rhythm of the daemon's own look at its host.
const (
	lookTime  = 30 * time.Second
	lookFirst = 5 * time.Second
	// maxWhy bounds the peers whose paths are looked into, and asked how they do.
	maxWhy = 64
)

// Patient is a host as its daemon knows it. Its methods may be called from any
// goroutine.
type Patient interface {
	Sender
	Status(ctx context.Context) (api.Status, error)
	Why(ctx context.Context, peer string) (api.Why, error)
	// Whys is Why of all peers, at most so many of them, by one look.
	Whys(ctx context.Context, most int) []api.Why
	Peers() []Peer
	Kernel() *kernel.Kernel
	// Exposed says that containers reach other networks through this host.
	Exposed() bool
	// Usable says that a peer can be at an address, by the rules for endpoints.
	Usable(at netip.AddrPort) bool
}

// Peer is what is known of another host.
type Peer struct {
	Identity  crypto.Identity
	Name      string // six octets
	Version   string
	Alive     bool // a member
	Path      path.Status
	Endpoints []netip.AddrPort // that it tells
	HelloPort uint16           // TCP, of introductions
}

// Config is what a physician knows from the start.
type Config struct {
	Patient Patient
	Log     *slog.Logger

	Nickname, Version  string
	Overlay            netip.Addr // ours
	Datapath, StateDir string     // as in the settings
	Port               uint16     // of introductions
	Plugin             bool       // Docker's networks are ours, too
	DNS                string     // address of our name server; empty: there is none
	Domain             string     // of the names that it answers
}

// Physician looks at the host it runs on, when asked and by itself. It is safe for
// concurrent use.
type Physician struct {
	// Constant after NewPhysician.
	c        Config
	gatherer *Gatherer
	rules    Step // for the look of its own
	listed   Step // for somebody who asks
	checkups *Checkups

	// Owned by Run.
	replies map[string]*reply // of peers, by name

	found atomic.Pointer[[]api.Finding] // of the last look of its own
}

// NewPhysician returns one that looks at nothing yet, and asks the patient nothing.
func NewPhysician(c Config) *Physician {
	p := &Physician{c: c, gatherer: NewGatherer(), replies: make(map[string]*reply)}
	p.rules, p.listed = ChangedRules(func() (uint32, error) { return c.Patient.Kernel().FirewallGeneration() })
	p.checkups = NewCheckups(c.Patient, p)
	return p
}

// Receive takes a checkup of another host, see [Checkups.Receive].
func (p *Physician) Receive(from crypto.Identity, payload []byte) { p.checkups.Receive(from, payload) }

// OwnNames implements [Host].
func (p *Physician) OwnNames(ctx context.Context) Reach {
	if p.c.DNS == "" {
		return Unknown
	}
	if Answers(ctx, p.c.DNS, "weft-doctor."+p.c.Domain) != "" {
		return Closed
	}
	return Reached
}

// Findings is what was found wrong when the host was looked at last, unasked.
func (p *Physician) Findings() []api.Finding {
	if list := p.found.Load(); list != nil {
		return *list
	}
	return nil
}

// Doctor implements [api.Backend]: it looks thoroughly, for at most some seconds.
func (p *Physician) Doctor(ctx context.Context, q api.DoctorRequest) (api.Diagnosis, error) {
	begun := time.Now()
	out := api.Diagnosis{Host: p.c.Nickname, Version: p.c.Version, Time: begun, Daemon: true}
	facts, err := p.known(ctx)
	if err != nil {
		return out, err
	}
	if q.Peer == "" {
		facts = p.gatherer.Gather(ctx, facts, p.thorough(*facts.Status)...)
		out.Findings = Check(facts)
	} else {
		w, err := p.c.Patient.Why(ctx, q.Peer)
		if err != nil {
			return out, err
		}
		only(&facts, w)
		out.Peer = w.Nickname
		facts = p.gatherer.Gather(ctx, facts, p.listed, Settings(p.c.Patient.Kernel()), p.askPeers(*facts.Status, q.Peer), p.reach(*facts.Status, q.Peer))
		p.large(ctx, &facts, w)
		out.Findings = CheckPeer(facts, w.Nickname)
	}
	out.Took = time.Since(begun)
	return out, nil
}

// only leaves one peer in the facts.
func only(facts *Facts, w api.Why) {
	s := *facts.Status
	s.Connections = nil
	for _, c := range facts.Status.Connections {
		if c.Name == w.Name {
			s.Connections = append(s.Connections, c)
		}
	}
	facts.Status, facts.Whys = &s, map[string]api.Why{w.Name: w}
}

// known is what the daemon knows without looking anywhere.
func (p *Physician) known(ctx context.Context) (Facts, error) {
	s, err := p.c.Patient.Status(ctx)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{
		Daemon: true, Status: &s, Datapath: p.c.Datapath, Port: p.c.Port, Version: p.c.Version, Exposed: p.c.Patient.Exposed(),
		Whys: make(map[string]api.Why), Versions: make(map[string]string), Names: Names{Off: p.c.DNS == ""},
	}
	for _, t := range p.c.Patient.Peers() {
		f.Versions[t.Name] = t.Version
	}
	for _, w := range p.c.Patient.Whys(ctx, maxWhy) {
		f.Whys[w.Name] = w
	}
	return f, nil
}

// thorough is what is looked at for somebody who asks and waits.
func (p *Physician) thorough(s api.Status) []Step {
	list := []Step{
		p.listed, Settings(p.c.Patient.Kernel()), Room(p.c.StateDir, true), Abilities(), NeighbourTables("/"), Engine("/", p.c.Plugin),
		p.askPeers(s, ""), p.reach(s, ""),
	}
	if s.DNS != nil {
		list = append(list, Resolvers(s.DNS.Address, s.DNS.Domain, s.DNS.Upstream))
	}
	return list
}

// large sends the largest packet that the path is said to carry, and waits for
// it to come back.
func (p *Physician) large(ctx context.Context, f *Facts, w api.Why) {
	k, ok := f.Checkups[w.Name]
	if !ok || w.MTU == 0 || !w.Overlay.IsValid() {
		return
	}
	if err := Echo(ctx, p.c.Overlay, w.Overlay, w.MTU+fdb.Encapsulation); err == nil {
		k.MTU, k.Sent = w.MTU, w.MTU
	} else if Echo(ctx, p.c.Overlay, w.Overlay, 100) == nil { // small ones pass
		k.Sent = w.MTU
	}
	f.Checkups[w.Name] = k
}

// Run looks at the host now and then, and says what has changed: `weft status`,
// the log and the metrics tell of it. It returns when ctx ends.
func (p *Physician) Run(ctx context.Context) {
	timer := time.NewTimer(lookFirst)
	defer timer.Stop()
	var before []api.Finding
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		before = p.look(ctx, before)
		timer.Reset(lookTime)
	}
}

func (p *Physician) look(ctx context.Context, before []api.Finding) []api.Finding {
	facts, err := p.known(ctx)
	if err != nil || ctx.Err() != nil {
		return before
	}
	facts = p.gatherer.Gather(ctx, facts, p.rules, Settings(p.c.Patient.Kernel()), Room(p.c.StateDir, false), NeighbourTables("/"))
	p.askSome(ctx, &facts)
	now := Kept(Lasting(Check(facts)), before, facts)
	p.found.Store(&now)
	for _, f := range Fewer(now, before) {
		p.c.Log.Warn("found", "id", f.ID, "subject", f.Subject, "severity", string(f.Severity), "what", f.What, "remedy", f.Remedy)
	}
	for _, f := range Fewer(before, now) {
		p.c.Log.Info("found no more", "id", f.ID, "subject", f.Subject, "what", f.What)
	}
	return now
}

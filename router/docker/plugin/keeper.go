package plugin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"

	"github.com/weftnet/weft/router/bell"
)

const (
	// awayTime is how long containers that start wait for a daemon that is not
	// there: one that is restarted is back sooner. An engine that starts lets the
	// containers of a network ask one after the other, so this is for all that
	// ask with less than calmTime between them.
	awayTime = 3 * time.Second
	calmTime = 10 * time.Second
	// awayPoll is how often it is looked for.
	awayPoll = 50 * time.Millisecond
	// briefTime bounds what the daemon does at once, or can do later.
	briefTime = 3 * time.Second
	// queueTime is how long one that was told to leave goes on accepting.
	queueTime = 200 * time.Millisecond
	// owedTime is how much of a container's time goes into what is owed before it
	// gets its turn. The daemon has its whole setUpTime left.
	owedTime = awayTime - time.Second
	// owedTries is how often a request is made before others that are owed go
	// first.
	owedTries = 3
	// owedPoll bounds the time between tries with a daemon that cannot do it yet.
	owedPoll = 10 * time.Second
	// owedMax bounds what is said later, in requests. What is forgotten beyond it
	// the daemon finds out when it compares with the engine.
	owedMax = 4096
)

// errLater says that the daemon answers and cannot do yet what it is asked for.
var errLater = errors.New("weftd cannot do it yet")

// errAway is what the engine shows people.
var errAway = errors.New("weft is not running: start it with 'weft launch'")

// Keeper is an [http.Handler] that lives in a process of its own and holds the
// socket on which engines find the plugin, whether a daemon runs or not: an
// engine that finds nobody there tries again for 15 s, for each question. It
// passes requests on to the daemon. While that does not answer it says yes to what
// containers let go of, and hands it on later; what they ask for is refused,
// after a moment in which the daemon may come back. It is safe for concurrent
// use.
type Keeper struct {
	// Constant after NewKeeper.
	info  Info
	http  *http.Client
	alone *Plugin // answers what needs no daemon
	left  chan struct{}
	leave func() // closes left; may be called twice
	log   *slog.Logger

	turn chan struct{} // holds a token while nobody hands on
	wake bell.Bell     // something is owed

	mu   sync.Mutex // guards what follows
	owed []*request // in the order in which they came
	away bool       // the daemon did not answer when it was last asked
	last time.Time  // when it was last looked for in vain; zero: it answered since
	wait time.Time  // until when it is worth to look for it
}

// request is one of an engine.
type request struct {
	path  string
	body  []byte
	tries int // in vain, since it was put where it is in owed; guarded by the keeper's mu
}

// answer is one to an engine.
type answer struct {
	status int
	body   []byte
}

// later says that the daemon is there and cannot do it yet.
func (a answer) later() bool { return a.status == http.StatusServiceUnavailable }

// NewKeeper makes one for the daemon behind a door. It dials nobody.
func NewKeeper(info Info, log *slog.Logger) *Keeper {
	k := &Keeper{
		info: info, log: log, alone: newAlone(), left: make(chan struct{}),
		turn: make(chan struct{}, 1), wake: bell.New(),
	}
	k.leave = sync.OnceFunc(func() { close(k.left) })
	k.turn <- struct{}{}
	k.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", info.Door)
		},
	}}
	return k
}

// newAlone makes a plugin that has no daemon. Networks that exist were checked
// when they were made.
func newAlone() *Plugin {
	p := &Plugin{
		backend: func(context.Context) (Backend, error) { return nil, errAway },
		space:   netip.PrefixFrom(netip.IPv4Unspecified(), 0), log: slog.New(slog.DiscardHandler),
		networks: &networks{},
	}
	p.handle()
	return p
}

// Serve answers on ln until ctx ends or somebody tells it to leave. Requests
// under way are answered; it closes ln. It is called once.
func (k *Keeper) Serve(ctx context.Context, ln net.Listener) error {
	living, die := context.WithCancel(context.WithoutCancel(ctx))
	defer die()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-k.left:
		case <-living.Done():
			return
		}
		select { // who came before another one took over is in the queue
		case <-time.After(queueTime):
		case <-living.Done():
		}
		stop()
	}()
	go k.repay(living)
	return serve(serving, newServer(living, k, k.log), ln, setUpTime+awayTime)
}

// ServeHTTP implements [http.Handler].
func (k *Keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case infoPath:
		write(w, k.info, nil)
		return
	case leavePath:
		write(w, none{}, nil)
		k.leave()
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = errTooLarge
	}
	if err != nil {
		write(w, none{}, err)
		return
	}
	q := &request{path: r.URL.Path, body: body}
	a, ok := k.pass(r.Context(), q)
	switch {
	case ok:
		w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body) // the engine is gone; nobody to tell
	case q.needs():
		write(w, none{}, errAway)
	default:
		r.Body = io.NopCloser(bytes.NewReader(body))
		k.alone.ServeHTTP(w, r)
	}
}

// letsGo says that a request only gives back, so that it can be granted now and
// done later. Without its content nobody can do it.
func (q *request) letsGo() bool {
	return len(bytes.TrimSpace(q.body)) > 0 && slices.Contains([]string{
		networkDriver + "Leave", networkDriver + "DeleteEndpoint", networkDriver + "DeleteNetwork", ipamDriver + "ReleaseAddress",
	}, q.path)
}

// needs says that only a daemon can answer a request.
func (q *request) needs() bool {
	switch q.path {
	case networkDriver + "CreateNetwork", networkDriver + "CreateEndpoint", networkDriver + "Join":
		return true
	case ipamDriver + "RequestAddress":
		return !bytes.Contains(q.body, []byte(gatewayKey))
	}
	return false
}

// pass returns the daemon's answer, or yes. It is not ok when the daemon does
// not answer and nothing is promised in its name.
func (k *Keeper) pass(ctx context.Context, q *request) (a answer, ok bool) {
	if q.needs() {
		return k.insist(ctx, q)
	}
	if !q.letsGo() || !k.owes() { // what was let go before goes first
		if a, err := k.ask(ctx, q, briefTime); err == nil && !(q.letsGo() && a.later()) {
			return a, true
		}
	}
	if q.letsGo() {
		k.owe(q)
		return answer{http.StatusOK, []byte("{}\n")}, true
	}
	return answer{}, false
}

// insist asks the daemon, after it was told what it is owed or did not get that
// done in time, and again when it ended meanwhile or is not there yet.
func (k *Keeper) insist(ctx context.Context, q *request) (a answer, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, setUpTime+awayTime)
	defer cancel()
	for {
		err := k.handOnFirst(ctx)
		if err == nil {
			if a, err = k.ask(ctx, q, setUpTime+time.Second); err == nil {
				return a, true
			}
		}
		if isAbsent(err) && !k.hopes(time.Now()) {
			return answer{}, false
		}
		select {
		case <-ctx.Done():
			return answer{}, false
		case <-time.After(awayPoll):
		}
	}
}

// hopes reports whether to go on looking for a daemon that is not there.
func (k *Keeper) hopes(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Sub(k.last) > calmTime {
		k.wait = now.Add(awayTime)
	}
	k.last = now
	return now.Before(k.wait)
}

// ask passes one request on.
func (k *Keeper) ask(ctx context.Context, q *request, limit time.Duration) (answer, error) {
	short, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	a, err := k.exchange(short, q)
	if ctx.Err() == nil { // else it is the engine that left
		k.note(err)
	}
	return a, err
}

func (k *Keeper) exchange(ctx context.Context, q *request) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://weft"+q.path, bytes.NewReader(q.body))
	if err != nil {
		return answer{}, err
	}
	res, err := k.http.Do(r)
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the address, which means nothing on a socket
	}
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	return answer{res.StatusCode, body}, err
}

// isAbsent says that there was nobody to be asked.
func isAbsent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// note logs when the daemon goes and comes.
func (k *Keeper) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err != nil && !k.away:
		k.log.Warn("weftd does not answer Docker: no container can start on its networks; what ends it is told later", "err", err)
	case err == nil && k.away:
		k.log.Info("weftd answers Docker again", "owed", len(k.owed))
	}
	if k.away = err != nil; !k.away {
		k.last = time.Time{}
	}
}

func (k *Keeper) owes() bool { return k.next() != nil }

// next is what the daemon is to be told first; nil: nothing.
func (k *Keeper) next() *request {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.owed) == 0 {
		return nil
	}
	return k.owed[0]
}

// owe notes what was said yes to in the daemon's name.
func (k *Keeper) owe(q *request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.owed = append(k.owed, q); len(k.owed) > owedMax {
		k.owed = k.owed[1:]
	}
	k.wake.Ring()
}

// handOnFirst is handOn for a container that waits: what takes longer, or cannot
// be done yet, is left to [Keeper.repay].
func (k *Keeper) handOnFirst(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, owedTime)
	defer cancel()
	err := k.handOn(short)
	if errors.Is(err, errLater) || err != nil && short.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// handOn tells the daemon what it is owed, in order. A request whose answer was
// lost is made again, for every one may be made twice. An answer is one also
// when it is an error, unless that says that it cannot be done yet. What was
// tried in vain some times lets others go first.
func (k *Keeper) handOn(ctx context.Context) error {
	select {
	case <-k.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { k.turn <- struct{}{} }()
	for q := k.next(); q != nil; q = k.next() {
		a, err := k.ask(ctx, q, tearDownTime+time.Second)
		if err == nil && a.later() {
			err = errLater
		}
		if err == nil {
			k.settle(q)
			continue
		}
		if !isAbsent(err) && ctx.Err() == nil {
			k.putOff(q)
		}
		return err
	}
	return nil
}

// settle forgets what was done.
func (k *Keeper) settle(q *request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.owed = slices.DeleteFunc(k.owed, func(o *request) bool { return o == q })
}

// putOff counts a try in vain.
func (k *Keeper) putOff(q *request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if q.tries++; q.tries < owedTries {
		return
	}
	q.tries = 0
	if i := slices.Index(k.owed, q); i >= 0 { // else it is too old
		k.owed = append(slices.Delete(k.owed, i, i+1), q)
	}
}

// repay hands on as soon as there is a daemon, whether or not a container asks
// for something.
func (k *Keeper) repay(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		}
		rest := awayPoll
		for err := k.handOn(ctx); err != nil && ctx.Err() == nil; err = k.handOn(ctx) {
			if rest *= 2; !errors.Is(err, errLater) {
				rest = awayPoll
			}
			rest = min(rest, owedPoll)
			select {
			case <-ctx.Done():
			case <-time.After(rest):
			}
		}
	}
}

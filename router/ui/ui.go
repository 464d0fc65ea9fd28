// Package ui serves the picture: one embedded page that shows the hosts of the
// cluster, the paths between them, the address space, names and events, as this
// host knows them.
//
// It owns the page, what guards it, and the form of its data. It decides
// nothing and knows nothing by itself: everything comes from the backend that
// the other doors use, and nobody can change anything through it.
package ui

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/base64"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/router/api"
)

// Root is where the page is, below the address of the listener.
const Root = "/ui/"

const (
	inviteTime  = 10 * time.Minute // how long an address that opens the page is good
	maxInvites  = 16               // the oldest goes first
	sessionTime = 12 * time.Hour   // how long a browser that was let in is good
	maxSessions = 16               // likewise
	maxStreams  = 16               // followers of events at the same time
)

//go:embed page
var page embed.FS

// Backend is the part of [api.Backend] that the page looks at.
type Backend interface {
	Status(ctx context.Context) (api.Status, error)
	Why(ctx context.Context, peer string) (api.Why, error)
	PS(ctx context.Context, containers []string) ([]api.Attachment, error)
	Events(ctx context.Context, r api.EventRequest) iter.Seq2[api.Event, error]
}

// Config is what the page is made of.
type Config struct {
	Backend Backend
	Log     *slog.Logger     // nil is silence
	Now     func() time.Time // nil: the clock
}

// UI is the page and its data. It is off, and answers nothing, until [UI.Invite]
// or [UI.TurnOn] is called. It is safe for concurrent use.
type UI struct {
	// Constant after New.
	backend Backend
	log     *slog.Logger
	now     func() time.Time
	mux     *http.ServeMux
	cookie  string // the name of what browsers keep; other daemons of the machine have others

	// Safe by themselves.
	on      atomic.Bool
	streams atomic.Int32
	latest  latest

	mu       sync.Mutex // guards what follows
	invites  []pass     // each opens the page once; the oldest first
	sessions []pass     // each is one browser's cookie; likewise
}

// pass is a secret that is good for some time.
type pass struct {
	code    string
	expires time.Time
	ended   chan struct{} // is closed when it is taken away before that
}

// New returns a page that is off.
func New(c Config) *UI {
	u := &UI{backend: c.Backend, log: c.Log, now: c.Now, mux: http.NewServeMux()}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	if u.now == nil {
		u.now = time.Now
	}
	// Cookies do not know ports: two daemons must not overwrite each other's.
	u.cookie = "weft_ui_" + strings.NewReplacer("-", "x", "_", "y").Replace(random(6))
	u.mux.HandleFunc(Root, u.file)
	u.mux.HandleFunc(Root+"table", u.table)
	u.mux.HandleFunc(Root+"data/picture", u.picture)
	u.mux.HandleFunc(Root+"data/why", u.why)
	u.mux.HandleFunc(Root+"data/host", u.host)
	u.mux.HandleFunc(Root+"data/names", u.names)
	u.mux.HandleFunc(Root+"data/events", u.events)
	return u
}

// random returns n random bytes in a form that URLs and cookies take.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// TurnOn lets those in who were invited.
func (u *UI) TurnOn() {
	if !u.on.Swap(true) {
		u.log.Info("the picture is on: 'weft ui' gives its address")
	}
}

// TurnOff ends all sessions and streams, and what nobody used yet.
func (u *UI) TurnOff() {
	u.mu.Lock()
	for _, s := range u.sessions {
		close(s.ended)
	}
	u.invites, u.sessions = nil, nil
	u.mu.Unlock()
	if u.on.Swap(false) {
		u.log.Info("the picture is off")
	}
}

// while returns a context that ends with ctx, or with the session.
func (u *UI) while(ctx context.Context, session pass) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, session.expires.Sub(u.now()))
	go func() {
		select {
		case <-session.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// Invite turns the page on and returns what to put behind the address of the
// listener to open it: once, within ten minutes. Whoever holds it can see
// everything that the page shows.
func (u *UI) Invite() (path string, expires time.Time) {
	u.TurnOn()
	u.mu.Lock()
	defer u.mu.Unlock()
	i := issue(&u.invites, maxInvites, u.now().Add(inviteTime))
	return Root + "?code=" + i.code, i.expires
}

// issue adds one to a list of at most so many.
func issue(list *[]pass, most int, expires time.Time) pass {
	p := pass{code: random(32), expires: expires, ended: make(chan struct{})}
	over := max(0, len(*list)-most+1)
	for _, old := range (*list)[:over] {
		close(old.ended)
	}
	*list = append((*list)[over:], p)
	return p
}

// accept takes a code that was not used yet, and returns the session that it
// begins.
func (u *UI) accept(code string) (session pass, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	i := find(u.invites, code, u.now())
	if i < 0 {
		return pass{}, false
	}
	u.invites = slices.Delete(u.invites, i, i+1)
	return issue(&u.sessions, maxSessions, u.now().Add(sessionTime)), true
}

// find returns where in a list one is that is still good, or -1. How long it
// takes says nothing about how much of a code is right.
func find(list []pass, code string, now time.Time) int {
	found := -1
	for i, p := range list {
		if subtle.ConstantTimeCompare([]byte(p.code), []byte(code)) == 1 && now.Before(p.expires) {
			found = i
		}
	}
	return found
}

// session returns that of the browser that a request comes from; !ok: it was not
// let in.
func (u *UI) session(r *http.Request) (s pass, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range r.CookiesNamed(u.cookie) {
		if i := find(u.sessions, c.Value, u.now()); i >= 0 {
			return u.sessions[i], true
		}
	}
	return pass{}, false
}

// invited says that a request comes from a browser that was let in.
func (u *UI) invited(r *http.Request) bool {
	_, ok := u.session(r)
	return ok
}

package main

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/bell"
	"github.com/weftnet/weft/router/tunnel"
)

const (
	// startPoll is how often a daemon that starts is looked at.
	startPoll = 50 * time.Millisecond
	// statusTime is how often systemd's status line is made without a watchdog.
	statusTime = 10 * time.Second
	// slowTime is how long a part that waits for a disk or a firewall may be silent
	// before the watchdog is starved: packets go on, and a restart would make
	// neither quicker.
	slowTime = 5 * time.Minute
)

// question is put to a part of the daemon whose loop must go round. It blocks
// until there is an answer, and should end with its context.
type question struct {
	part string
	ask  func(context.Context) error
	slow bool // it moves no packets, and has slowTime
}

// watch says READY when the status says so and all questions are answered, and
// from then on feeds the watchdog when all are answered in time: a loop that is
// stuck starves it, a slow one after slowTime. It returns when ctx ends.
func (s *systemd) watch(ctx context.Context, questions []question, status func(context.Context) (api.Status, error)) {
	rest, patience := statusTime, statusTime
	if s.watchdog > 0 { // asking begins after a quarter and ends before three quarters
		rest, patience = s.watchdog/4, s.watchdog/2
	}
	if !s.awaitReady(ctx, patience, status) {
		return
	}
	var latest atomic.Pointer[api.Status]
	round := newRound(append(questions, question{part: "api", ask: func(ctx context.Context) error {
		now, err := status(ctx)
		if err == nil {
			latest.Store(&now)
		}
		return err
	}}))
	for ready := false; ; {
		silent, starve := round.ask(ctx, patience)
		switch {
		case ctx.Err() != nil:
			return
		case starve || len(silent) > 0 && !ready:
			s.log.Error("parts of the daemon do not answer; systemd's watchdog is not fed", "silent", silent, "waited", patience)
			s.say("Stuck: " + strings.Join(silent, ", ") + " does not answer")
		case len(silent) > 0:
			s.log.Error("parts of the daemon do not answer; systemd's watchdog is fed for some minutes yet", "silent", silent, "waited", patience)
			s.tell("WATCHDOG=1")
			s.say("Slow: " + strings.Join(silent, ", ") + " does not answer")
		case !ready:
			ready = true
			s.tell("READY=1", "WATCHDOG=1")
			s.log.Info("systemd knows that the daemon is ready", "watchdog", s.watchdog)
			s.say(statusLine(*latest.Load()))
		default:
			s.tell("WATCHDOG=1")
			s.say(statusLine(*latest.Load()))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

// awaitReady waits for the status to say so. It returns false when ctx ended.
func (s *systemd) awaitReady(ctx context.Context, patience time.Duration, status func(context.Context) (api.Status, error)) bool {
	for {
		short, cancel := context.WithTimeout(ctx, patience)
		now, err := status(short)
		cancel()
		if err == nil {
			s.say(statusLine(now))
		}
		if err == nil && now.Ready {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(startPoll):
		}
	}
}

// round asks all questions at once. A question that is not answered is not put
// again until it is.
type round struct {
	questions []question
	answers   chan answer
	open      map[string]bool      // by part
	since     map[string]time.Time // by part: when the question was put that was the first without an answer
}

type answer struct {
	part string
	err  error
}

func newRound(questions []question) *round {
	return &round{questions: questions, answers: make(chan answer, len(questions)), open: map[string]bool{}, since: map[string]time.Time{}}
}

// ask returns the parts that did not answer within patience, and whether that
// can go on.
func (r *round) ask(ctx context.Context, patience time.Duration) (silent []string, starve bool) {
	begun := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	answered := map[string]bool{}
	for len(r.answers) > 0 { // too late for the last round
		r.open[(<-r.answers).part] = false
	}
	for _, q := range r.questions {
		if r.open[q.part] {
			continue
		}
		r.open[q.part] = true
		go func() { r.answers <- answer{q.part, q.ask(ctx)} }()
	}
	for len(answered) < len(r.questions) && ctx.Err() == nil {
		select {
		case a := <-r.answers:
			r.open[a.part] = false
			answered[a.part] = a.err == nil
		case <-ctx.Done():
		}
	}
	for _, q := range r.questions {
		if answered[q.part] {
			delete(r.since, q.part)
			continue
		}
		if r.since[q.part].IsZero() {
			r.since[q.part] = begun
		}
		silent = append(silent, q.part)
		starve = starve || !q.slow || time.Since(r.since[q.part]) >= slowTime
	}
	return silent, starve
}

// watchedTunnels are the tunnels as the router sees them. It looks for changes
// each time its loop goes round, which is how it is seen to.
type watchedTunnels struct {
	*tunnel.Tunnels
	rounds bell.Bell // it has gone round
}

// watchRouter returns the tunnels for the router.
func (d *daemon) watchRouter() *watchedTunnels {
	d.watched = &watchedTunnels{d.tunnels, bell.New()}
	return d.watched
}

// Changed implements the router's interface.
func (w *watchedTunnels) Changed() <-chan struct{} {
	w.rounds.Ring()
	return w.Tunnels.Changed()
}

// alive blocks until the router's loop has gone round, or ctx ends.
func (w *watchedTunnels) alive(ctx context.Context) error {
	select {
	case <-w.rounds: // of before
	default:
	}
	if err := w.Alive(ctx); err != nil { // it makes the router look
		return err
	}
	select {
	case <-w.rounds:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/router/api"
)

// manager is systemd as a daemon sees it.
type manager struct {
	mu   sync.Mutex // guards what follows
	told []string
	fed  time.Time // when the watchdog was last fed
}

func (m *manager) send(state string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range strings.SplitSeq(state, "\n") {
		if s == "WATCHDOG=1" {
			m.fed = time.Now()
		} else {
			m.told = append(m.told, s)
		}
	}
	return nil
}

func (m *manager) heard() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.told)
}

// hungry is how long the watchdog has not been fed.
func (m *manager) hungry() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.fed)
}

// loop is a run loop that can be held: it answers one question at a time.
type loop struct {
	questions chan chan struct{}
	held      chan chan struct{} // takes what it is held by
}

func newLoop(ctx context.Context) *loop {
	l := &loop{make(chan chan struct{}), make(chan chan struct{})}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case q := <-l.questions:
				close(q)
			case release := <-l.held:
				<-release
			}
		}
	}()
	return l
}

func (l *loop) alive(ctx context.Context) error {
	q := make(chan struct{})
	select {
	case l.questions <- q:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func readyStatus(context.Context) (api.Status, error) {
	return api.Status{Ready: true, Nickname: "host1"}, nil
}

func watchTest(t *testing.T, f func(ctx context.Context, m *manager, s *systemd)) {
	synctest.Test(t, func(t *testing.T) {
		m := &manager{fed: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f(ctx, m, &systemd{send: m.send, watchdog: time.Minute, log: slog.New(slog.DiscardHandler)})
	})
}

// pass lets time go by in the bubble of [watchTest].
func pass(d time.Duration) { time.Sleep(d) }

// A loop that is held starves the watchdog, whichever it is; when it goes on,
// so does the feeding.
func TestHeldLoopStarvesWatchdog(t *testing.T) {
	watchTest(t, func(ctx context.Context, m *manager, s *systemd) {
		loops := []*loop{newLoop(ctx), newLoop(ctx), newLoop(ctx)}
		var list []question
		for i, l := range loops {
			list = append(list, question{part: string(rune('a' + i)), ask: l.alive})
		}
		go s.watch(ctx, list, readyStatus)
		for i, l := range loops {
			for range 100 { // while all answer it is never hungry
				pass(3 * time.Second)
				if h := m.hungry(); h > s.watchdog/2 {
					t.Fatalf("fed %s ago although everybody answers", h)
				}
			}
			release := make(chan struct{})
			l.held <- release
			pass(2 * time.Minute)
			if h := m.hungry(); h < s.watchdog {
				t.Errorf("fed %s ago although loop %d is held for two minutes", h, i)
			}
			if told := m.heard(); told[len(told)-1] != "STATUS=Stuck: "+list[i].part+" does not answer" {
				t.Errorf("last words: %q", told[len(told)-1])
			}
			close(release)
			pass(s.watchdog) // a question is open for half of it, and then there is a rest
			if h := m.hungry(); h > s.watchdog/2 {
				t.Errorf("fed %s ago although loop %d goes on for a minute", h, i)
			}
		}
	})
}

// A part that waits for a disk starves the watchdog after some minutes only, and
// tells until then; one that is slow again has its time again.
func TestSlowPart(t *testing.T) {
	watchTest(t, func(ctx context.Context, m *manager, s *systemd) {
		disk := newLoop(ctx)
		go s.watch(ctx, []question{{part: "disk", ask: disk.alive, slow: true}}, readyStatus)
		for range 2 {
			pass(time.Minute)
			release := make(chan struct{})
			disk.held <- release
			for range 50 { // five seconds each
				pass(5 * time.Second)
				if h := m.hungry(); h >= s.watchdog {
					t.Fatalf("fed %s ago although a disk is slow for minutes only", h)
				}
			}
			if told := m.heard(); told[len(told)-1] != "STATUS=Slow: disk does not answer" {
				t.Errorf("last words: %q", told[len(told)-1])
			}
			close(release)
			pass(s.watchdog)
		}
		release := make(chan struct{})
		defer close(release)
		disk.held <- release
		pass(slowTime + 2*s.watchdog)
		if h := m.hungry(); h < s.watchdog {
			t.Errorf("fed %s ago although the disk is silent for more than %s", h, slowTime)
		}
		if told := m.heard(); told[len(told)-1] != "STATUS=Stuck: disk does not answer" {
			t.Errorf("last words: %q", told[len(told)-1])
		}
	})
}

// A question that does not even end with its context is put once, not once per
// round.
func TestDeafQuestion(t *testing.T) {
	watchTest(t, func(ctx context.Context, m *manager, s *systemd) {
		var asked atomic.Int32
		release := make(chan struct{})
		go s.watch(ctx, []question{{part: "deaf", ask: func(context.Context) error {
			if asked.Add(1) == 2 {
				<-release
			}
			return nil
		}}}, readyStatus)
		pass(10 * time.Minute)
		if asked.Load() != 2 || m.hungry() < 9*time.Minute {
			t.Errorf("asked %d times, fed %s ago", asked.Load(), m.hungry())
		}
		close(release)
		pass(s.watchdog)
		if m.hungry() > s.watchdog/2 {
			t.Errorf("fed %s ago after the answer", m.hungry())
		}
	})
}

// READY comes when the daemon is ready and everybody answers, and not before.
func TestReadyWhenAnswering(t *testing.T) {
	watchTest(t, func(ctx context.Context, m *manager, s *systemd) {
		l := newLoop(ctx)
		release := make(chan struct{})
		l.held <- release
		var mu sync.Mutex
		now := api.Status{Waiting: "containers are being restored"}
		go s.watch(ctx, []question{{part: "loop", ask: l.alive}}, func(context.Context) (api.Status, error) {
			mu.Lock()
			defer mu.Unlock()
			return now, nil
		})
		isReady := func() bool { return slices.Contains(m.heard(), "READY=1") }
		pass(time.Minute)
		if isReady() {
			t.Error("ready although the status is not")
		}
		mu.Lock()
		now = api.Status{Ready: true, Nickname: "host1"}
		mu.Unlock()
		pass(time.Minute)
		if isReady() {
			t.Error("ready although a loop does not answer")
		}
		close(release)
		pass(time.Minute)
		if !isReady() {
			t.Errorf("not ready although all is well: %q", m.heard())
		}
		want := []string{"STATUS=Starting: containers are being restored", "STATUS=host1: connected to 0 of 0 peers", "STATUS=Stuck: loop does not answer", "READY=1", "STATUS=host1: connected to 0 of 0 peers"}
		if !slices.Equal(m.heard(), want) {
			t.Errorf("told %q, want %q", m.heard(), want)
		}
	})
}

// An API that does not answer is a reason, too.
func TestStatusStarvesWatchdog(t *testing.T) {
	watchTest(t, func(ctx context.Context, m *manager, s *systemd) {
		var mu sync.Mutex
		broken := false
		go s.watch(ctx, nil, func(ctx context.Context) (api.Status, error) {
			mu.Lock()
			defer mu.Unlock()
			if broken {
				return api.Status{}, errors.New("no such socket")
			}
			return readyStatus(ctx)
		})
		pass(10 * time.Minute)
		if m.hungry() > s.watchdog/2 {
			t.Errorf("fed %s ago", m.hungry())
		}
		mu.Lock()
		broken = true
		mu.Unlock()
		pass(10 * time.Minute)
		if m.hungry() < 9*time.Minute {
			t.Errorf("fed %s ago although the socket is gone", m.hungry())
		}
	})
}

func TestStatusLine(t *testing.T) {
	peers := []api.Peer{{Self: true}, {}, {}, {}}
	for _, tt := range []struct {
		s    api.Status
		want string
	}{
		{api.Status{Waiting: "the switch is being set up"}, "Starting: the switch is being set up"},
		{api.Status{Ready: true, Nickname: "host1"}, "host1: connected to 0 of 0 peers"},
		{
			api.Status{Ready: true, Nickname: "host1", Peers: peers, Connections: []api.Connection{{State: api.Established}, {State: api.Relayed}, {State: api.Retrying}}, Warnings: []string{"x"}},
			"host1: connected to 2 of 3 peers, 1 of them through relays; 1 warning, see 'weft status'",
		},
		{api.Status{Ready: true, Nickname: "host1", Peers: peers[:2], Warnings: []string{"x", "y"}}, "host1: connected to 0 of 1 peers; 2 warnings, see 'weft status'"},
	} {
		if got := statusLine(tt.s); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestUsageCode(t *testing.T) {
	if got := usageCode(func(string) string { return "" }); got != exitUsage {
		t.Errorf("by hand: %d", got)
	}
	if got := usageCode(func(string) string { return "/run/systemd/notify" }); got != exitConfig {
		t.Errorf("under systemd: %d", got)
	}
}

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

// fakeDoor is the daemon as a keeper sees it.
type fakeDoor struct {
	mu     sync.Mutex // guards what follows
	state  string     // "" answers, "absent", "breaks" once when it was asked, "hangs"
	asked  []string   // what was answered
	status int
	stuck  string // the content that is not answered, as by a slow disk
}

// RoundTrip implements [http.RoundTripper].
func (f *fakeDoor) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.state
	if state == "" && f.stuck != "" && f.stuck == string(body) {
		state = "hangs"
	}
	switch state {
	case "absent":
		return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.ErrNotExist}
	case "breaks":
		f.state = ""
		return nil, io.ErrUnexpectedEOF
	case "hangs":
		f.mu.Unlock() // others are asked meanwhile
		<-r.Context().Done()
		f.mu.Lock()
		return nil, r.Context().Err()
	}
	f.asked = append(f.asked, strings.TrimPrefix(r.URL.Path, "/")+" "+string(body))
	w := httptest.NewRecorder()
	w.WriteHeader(f.status)
	_, _ = fmt.Fprintf(w, `{"Answer":%q}`, body)
	return w.Result(), nil
}

func (f *fakeDoor) is(state string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = state
}

func (f *fakeDoor) answers(status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = status
}

func (f *fakeDoor) stick(body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stuck = body
}

func (f *fakeDoor) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

// keeperBubble runs f with a keeper whose daemon is fake.
func keeperBubble(t *testing.T, f func(t *testing.T, k *Keeper, d *fakeDoor)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDoor{status: http.StatusOK}
		k := NewKeeper(Info{}, slog.New(slog.DiscardHandler))
		k.http.Transport = d
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go k.repay(ctx)
		f(t, k, d)
	})
}

// later lets a bubble's time pass.
func later(d time.Duration) { time.Sleep(d) }

// want asks a keeper for something, and wants an answer after a time.
func (k *Keeper) want(t *testing.T, method, body string, after time.Duration, answer string) {
	t.Helper()
	begun := time.Now()
	w := httptest.NewRecorder()
	k.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/"+method, strings.NewReader(body)))
	took := time.Since(begun)
	if got := strings.TrimSpace(w.Body.String()); got != answer || took != after {
		t.Errorf("%s %s: %s after %s, want %s after %s", method, body, got, took, answer, after)
	}
	if ok := w.Code == http.StatusOK; ok != !strings.Contains(answer, `"Err"`) {
		t.Errorf("%s %s: %d %s", method, body, w.Code, answer)
	}
}

const away = `{"Err":"weft is not running: start it with 'weft launch'"}`

// While the daemon answers, it is the one who answers, with all that it says.
func TestKeeperPasses(t *testing.T) {
	keeperBubble(t, func(t *testing.T, k *Keeper, d *fakeDoor) {
		k.want(t, "NetworkDriver.Join", `{"a":1}`, 0, `{"Answer":"{\"a\":1}"}`)
		k.want(t, "IpamDriver.ReleaseAddress", `b`, 0, `{"Answer":"b"}`)
		k.want(t, "Plugin.Activate", ``, 0, `{"Answer":""}`)
		k.want(t, "NetworkDriver.OfTomorrow", `c`, 0, `{"Answer":"c"}`)
		want := []string{`NetworkDriver.Join {"a":1}`, "IpamDriver.ReleaseAddress b", "Plugin.Activate ", "NetworkDriver.OfTomorrow c"}
		if diff := cmp.Diff(want, d.took()); diff != "" {
			t.Error(diff)
		}
		d.status = http.StatusInternalServerError
		w := httptest.NewRecorder()
		k.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/NetworkDriver.Join", strings.NewReader("x")))
		if w.Code != http.StatusInternalServerError || w.Body.String() != `{"Answer":"x"}` {
			t.Errorf("an error of the daemon's comes as %d %s", w.Code, w.Body)
		}
	})
}

// Without a daemon nobody waits: what ends, ends, and the daemon is told of it
// before anything else when it is back.
func TestKeeperAlone(t *testing.T) {
	keeperBubble(t, func(t *testing.T, k *Keeper, d *fakeDoor) {
		d.is("absent")
		k.want(t, "NetworkDriver.Leave", "1", 0, "{}")
		k.want(t, "NetworkDriver.DeleteEndpoint", "2", 0, "{}")
		k.want(t, "IpamDriver.ReleaseAddress", "3", 0, "{}")
		k.want(t, "NetworkDriver.DeleteNetwork", "4", 0, "{}")
		// What an engine asks when it starts.
		k.want(t, "Plugin.Activate", ``, 0, `{"Implements":["NetworkDriver","IpamDriver"]}`)
		k.want(t, "IpamDriver.RequestPool", `{"Pool":"192.0.2.0/24","SubPool":"192.0.2.64/26"}`, 0,
			`{"PoolID":"192.0.2.0/24,192.0.2.64/26","Pool":"192.0.2.0/24","Data":{"com.docker.network.gateway":"192.0.2.0/24"}}`)
		k.want(t, "IpamDriver.RequestAddress", `{"PoolID":"10.32.0.0/12","Address":"10.32.0.1","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, 0,
			`{"Address":"10.32.0.0/12","Data":null}`)
		k.want(t, "IpamDriver.ReleasePool", `{"PoolID":"10.32.0.0/12"}`, 0, "{}")
		k.want(t, "IpamDriver.RequestPool", `{}`, 0, away)
		// Containers that start wait for a moment, all in all.
		for _, method := range []string{"IpamDriver.RequestAddress", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join", "NetworkDriver.CreateNetwork"} {
			after := time.Duration(0)
			if method == "IpamDriver.RequestAddress" {
				after = awayTime
			}
			k.want(t, method, `{}`, after, away)
		}
		later(calmTime + time.Second)
		k.want(t, "NetworkDriver.Join", `{}`, awayTime, away)
		later(calmTime + time.Second)
		time.AfterFunc(awayTime-time.Second-time.Millisecond, func() { d.is("") })
		k.want(t, "NetworkDriver.Join", "5", awayTime-time.Second, `{"Answer":"5"}`)
		want := []string{"NetworkDriver.Leave 1", "NetworkDriver.DeleteEndpoint 2", "IpamDriver.ReleaseAddress 3", "NetworkDriver.DeleteNetwork 4", "NetworkDriver.Join 5"}
		if diff := cmp.Diff(want, d.took()); diff != "" {
			t.Error(diff)
		}
		d.is("absent") // it was there meanwhile
		k.want(t, "NetworkDriver.Join", `{}`, awayTime, away)
		k.want(t, "NetworkDriver.Leave", "6", 0, "{}")
		k.want(t, "NetworkDriver.Leave", "", 0, `{"Err":"`+errNoContent.Error()+`"}`)
		d.is("")
		later(time.Second) // nobody asks for anything
		if diff := cmp.Diff([]string{"NetworkDriver.Leave 6"}, d.took()); diff != "" {
			t.Error(diff)
		}
	})
}

// A daemon that is killed while it is asked is asked again, with the content.
func TestKeeperAsksAgain(t *testing.T) {
	keeperBubble(t, func(t *testing.T, k *Keeper, d *fakeDoor) {
		d.is("breaks")
		k.want(t, "IpamDriver.RequestAddress", "1", awayPoll, `{"Answer":"1"}`)
		d.is("breaks")
		k.want(t, "NetworkDriver.Leave", "2", 0, "{}")
		synctest.Wait()
		k.want(t, "NetworkDriver.Join", "3", 0, `{"Answer":"3"}`)
		if want := []string{"IpamDriver.RequestAddress 1", "NetworkDriver.Leave 2", "NetworkDriver.Join 3"}; !slices.Equal(d.took(), want) {
			t.Errorf("want %v", want)
		}
	})
}

// A daemon that hangs is waited for once by those that end.
func TestKeeperHangs(t *testing.T) {
	keeperBubble(t, func(t *testing.T, k *Keeper, d *fakeDoor) {
		d.is("hangs")
		k.want(t, "NetworkDriver.Leave", "1", briefTime, "{}")
		k.want(t, "NetworkDriver.DeleteEndpoint", "2", 0, "{}")
		k.want(t, "NetworkDriver.Join", "3", setUpTime+awayTime, away)
	})
}

// What is owed is bounded: the oldest is forgotten.
func TestKeeperOwesLittle(t *testing.T) {
	keeperBubble(t, func(t *testing.T, k *Keeper, d *fakeDoor) {
		d.is("absent")
		for i := range owedMax + 2 {
			k.want(t, "NetworkDriver.Leave", fmt.Sprint(i), 0, "{}")
		}
		d.is("")
		later(time.Second)
		if got := d.took(); len(got) != owedMax || got[0] != "NetworkDriver.Leave 2" {
			t.Errorf("%d were told, the first is %s", len(got), got[0])
		}
	})
}

// keep starts a keeper at a socket, and returns what waits for its end.
func keep(t *testing.T, socket, version string) (wait func()) {
	t.Helper()
	ln, err := TakeOver(t.Context(), socket)
	check(t, err)
	k := NewKeeper(Info{Version: version, Door: socket + "-door"}, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { done <- k.Serve(ctx, ln) }()
	t.Cleanup(stop)
	return func() { check(t, <-done) }
}

// A keeper has the socket until another one takes it over, or somebody lets it
// end; at no moment is there none, and nothing stays.
func TestTakeOver(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	socket := filepath.Join(t.TempDir(), "plugins", "weft.sock")
	want := func(version string) {
		t.Helper()
		if is, err := Find(t.Context(), socket); err != nil || is.Version != version {
			t.Errorf("%+v %v, want version %s", is, err, version)
		}
	}
	if _, err := Find(t.Context(), socket); !errors.Is(err, ErrNobody) {
		t.Errorf("before there is one: %v", err)
	}
	first := keep(t, socket, "1")
	want("1")
	stop, asked := make(chan struct{}), make(chan error, 1)
	go func() { // an engine that asks all the time
		defer close(asked)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := Find(context.Background(), socket); err != nil {
				asked <- err
				return
			}
		}
	}()
	second := keep(t, socket, "2")
	first()
	want("2")
	third := keep(t, socket, "3")
	second()
	want("3")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Watch(context.Background(), socket)
	}()
	close(stop)
	if err := <-asked; err != nil {
		t.Errorf("while one takes over from another: %v", err)
	}
	check(t, Dismiss(t.Context(), socket))
	third()
	<-ended
	left, err := filepath.Glob(filepath.Join(filepath.Dir(socket), "*"))
	if hidden, _ := filepath.Glob(filepath.Join(filepath.Dir(socket), ".*")); err != nil || len(left)+len(hidden) > 0 {
		t.Errorf("left: %v %v %v", left, hidden, err)
	}
	check(t, Dismiss(t.Context(), socket))

	// What a killed one leaves is nobody's; what is somebody else's stays.
	ln, err := listen(socket)
	check(t, err)
	ln.SetUnlinkOnClose(false)
	check(t, ln.Close())
	fourth := keep(t, socket, "4")
	want("4")
	check(t, Dismiss(t.Context(), socket))
	fourth()
	ln, err = listen(socket)
	check(t, err)
	other := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = other.Serve(ln)
	}()
	for name, f := range map[string]func() error{
		"take over": func() error { _, err := TakeOver(t.Context(), socket); return err },
		"dismiss":   func() error { return Dismiss(t.Context(), socket) },
	} {
		if err := f(); !errors.Is(err, errStranger) {
			t.Errorf("%s from a stranger: %v", name, err)
		}
	}
	check(t, other.Close())
	<-done
	check(t, os.WriteFile(socket, nil, 0o600))
	if _, err := TakeOver(t.Context(), socket); err == nil {
		t.Error("a file is taken over")
	}
}

// What the daemon cannot do yet is kept until it can: while it restores, and
// while its disk is full.
func TestKeeperKeepsWhatIsNotDone(t *testing.T) {
	keeperBubble(t, func(t *testing.T, k *Keeper, d *fakeDoor) {
		d.answers(http.StatusServiceUnavailable)
		k.want(t, "NetworkDriver.Leave", "1", 0, "{}")
		k.want(t, "IpamDriver.ReleaseAddress", "2", 0, "{}")
		later(time.Minute)
		// A container is not refused because of that.
		d.took()
		w := httptest.NewRecorder()
		k.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/NetworkDriver.Join", strings.NewReader("3")))
		if w.Code != http.StatusServiceUnavailable || w.Body.String() != `{"Answer":"3"}` {
			t.Errorf("what the daemon cannot do for a container comes as %d %s", w.Code, w.Body)
		}
		d.answers(http.StatusOK)
		d.took()
		later(2 * owedPoll)
		got := d.took()
		slices.Sort(got)
		if diff := cmp.Diff([]string{"IpamDriver.ReleaseAddress 2", "NetworkDriver.Leave 1"}, got); diff != "" {
			t.Error(diff)
		}
		if k.owes() {
			t.Error("what is done is still owed")
		}
		d.answers(http.StatusInternalServerError) // an answer
		k.owe(&request{path: "/NetworkDriver.Leave", body: []byte("4")})
		later(time.Second)
		if k.owes() {
			t.Error("what the daemon refuses is owed for ever")
		}
	})
}

// One request that cannot be done neither keeps others from being done nor takes
// the time of a container that starts.
func TestKeeperIsNotBlocked(t *testing.T) {
	keeperBubble(t, func(t *testing.T, k *Keeper, d *fakeDoor) {
		d.is("absent")
		k.want(t, "NetworkDriver.Leave", "stuck", 0, "{}")
		k.want(t, "NetworkDriver.Leave", "1", 0, "{}")
		d.stick("stuck")
		d.is("")
		later(time.Second) // the other one has the turn, and waits
		k.want(t, "IpamDriver.RequestAddress", "2", owedTime, `{"Answer":"2"}`)
		later(time.Minute)
		if diff := cmp.Diff([]string{"IpamDriver.RequestAddress 2", "NetworkDriver.Leave 1"}, d.took()); diff != "" {
			t.Error(diff)
		}
		d.stick("")
		later(2 * owedPoll)
		if diff := cmp.Diff([]string{"NetworkDriver.Leave stuck"}, d.took()); diff != "" || k.owes() {
			t.Error(diff)
		}
	})
}

package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Event is one change of state of the daemon: a record of its log.
type Event struct {
	Seq      uint64            `json:"seq"` // counts from 1 in each run of the daemon, without gaps
	Time     time.Time         `json:"time"`
	Level    string            `json:"level"`              // one of the three constants
	Part     string            `json:"part"`               // of the daemon; empty: the daemon itself
	Message  string            `json:"message"`            // for people; the same for all events of a kind
	Peer     string            `json:"peer,omitempty"`     // whom it is about: six octets, or the start of an identity
	Nickname string            `json:"nickname,omitempty"` // of the peer, when it is known
	Fields   map[string]string `json:"fields,omitempty"`   // everything else that the log says
	// Missed is how many events before this one were lost to whoever follows
	// and did not read for too long.
	Missed uint64 `json:"missed,omitempty"`
}

// Levels of events.
const (
	LevelInfo    = "info"
	LevelWarning = "warning"
	LevelError   = "error"
)

// EventRequest says which events are wanted; its zero value is all that are
// kept, which is about a thousand.
type EventRequest struct {
	// After is the Seq of the last one that is known. One that the daemon has
	// not reached is from another run of it: everything is given then.
	After  uint64
	Last   int  // not more than the newest ones; 0: no limit; less: only what comes
	Follow bool // go on with what comes
}

// values writes a request as a query, and eventRequest reads it.
func (r EventRequest) values() url.Values {
	return url.Values{
		"after": {strconv.FormatUint(r.After, 10)}, "last": {strconv.Itoa(r.Last)}, "follow": {strconv.FormatBool(r.Follow)},
	}
}

func eventRequest(q url.Values) (r EventRequest, err error) {
	if s := q.Get("after"); s != "" {
		if r.After, err = strconv.ParseUint(s, 10, 64); err != nil {
			return r, usage("after=%s: want the number of an event", s)
		}
	}
	if s := q.Get("last"); s != "" {
		if r.Last, err = strconv.Atoi(s); err != nil {
			return r, usage("last=%s: want a number", s)
		}
	}
	if s := q.Get("follow"); s != "" {
		if r.Follow, err = strconv.ParseBool(s); err != nil {
			return r, usage("follow=%s: want true or false", s)
		}
	}
	return r, nil
}

// events streams lines of JSON, each an [Event]. An error before the first line
// is an ordinary problem, a later one travels in the trailer.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	q, err := eventRequest(r.URL.Query())
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	out := &stream{w: w, control: http.NewResponseController(w), kind: streamType}
	if q.Follow {
		out.start() // it may be silent for long, and the caller waits for a status
	}
	for e, err := range s.backend.Events(r.Context(), q) {
		if err != nil {
			out.fail(err)
			return
		}
		b, err := json.Marshal(e)
		if err != nil {
			out.fail(err)
			return
		}
		if _, err := out.Write(append(b, '\n')); err != nil {
			return // the caller is gone
		}
	}
	out.start()
}

// Events implements [Backend].
func (c *Client) Events(ctx context.Context, r EventRequest) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		// Whoever stops reading lets the daemon know.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if err := c.readEvents(ctx, r, func(e Event) bool { return yield(e, nil) }); err != nil {
			yield(Event{}, err)
		}
	}
}

// readEvents is nil when take had enough, and when the context of somebody who
// follows ended.
func (c *Client) readEvents(ctx context.Context, r EventRequest, take func(Event) bool) error {
	over := func(err error) error {
		switch {
		case r.Follow && ctx.Err() != nil:
			return nil //nolint:nilerr // an end that was asked for
		case r.Follow && hungUp(err):
			return errEnded
		}
		return err
	}
	res, err := c.do(ctx, http.MethodGet, "/v1/events", r.values(), nil, "")
	if err != nil {
		return over(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		e, err := parseEvent(lines.Bytes())
		switch {
		case err != nil && lines.Err() != nil: // half a line
			return over(brokenStream(lines.Err()))
		case err != nil:
			return over(fmt.Errorf("read the answer of weftd: %w", err))
		case !take(e):
			return nil // it had enough
		}
	}
	if err := lines.Err(); err != nil {
		return over(brokenStream(err))
	}
	if text := res.Trailer.Get(logProblem); text != "" {
		p, err := parseProblem([]byte(text))
		if err != nil {
			return err
		}
		return p.err()
	}
	if r.Follow {
		return over(errEnded)
	}
	return nil
}

// errEnded is said to whoever follows.
var errEnded = fmt.Errorf("%w any more: it has ended", ErrUnreachable)

// parseEvent reads one line. What a newer daemon may add is not looked at.
func parseEvent(b []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(b, &e); err != nil {
		return Event{}, fmt.Errorf("parse event: %w", err)
	}
	if e.Seq == 0 {
		return Event{}, errors.New("parse event: it has no number")
	}
	return e, nil
}

package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/weftnet/weft/router/bell"
)

// streamType is the form of an answer that says on the way what it waits for:
// lines of JSON, each a [part], the last one with a result or a problem. A
// client asks for it with the Accept header, and gets it only when there is
// something to say before the answer; otherwise the answer is a plain one.
const streamType = "application/x-ndjson"

// maxReasons bounds the reasons that a client which does not read leaves in
// memory; the oldest go first.
const maxReasons = 64

// part is one line of a stream. Exactly one field is there.
type part struct {
	Progress string          `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Problem  *problem        `json:"problem,omitempty"`
}

// parsePart reads one line of a stream. What a newer server may add is not
// looked at; that one of the three is there, is.
func parsePart(b []byte) (part, error) {
	var p part
	if err := json.Unmarshal(b, &p); err != nil {
		return part{}, fmt.Errorf("parse line of a stream: %w", err)
	}
	n := 0
	for _, there := range []bool{p.Progress != "", p.Result != nil, p.Problem != nil} {
		if there {
			n++
		}
	}
	if n != 1 {
		return part{}, fmt.Errorf("parse line of a stream: %d of progress, result and problem in it, want one", n)
	}
	return p, nil
}

// accepts reports whether a client takes a stream.
func accepts(r *http.Request) bool {
	for _, list := range r.Header.Values("Accept") {
		for kind := range strings.SplitSeq(list, ",") {
			if kind, _, err := mime.ParseMediaType(kind); err == nil && kind == streamType {
				return true
			}
		}
	}
	return false
}

// waiting answers a request that may have to wait for other hosts.
func waiting[In, Out any](f func(context.Context, In) (Out, error)) http.HandlerFunc {
	plain := request(f)
	return func(w http.ResponseWriter, r *http.Request) {
		if !accepts(r) {
			plain(w, r)
			return
		}
		in, err := decode[In](r.Body)
		if err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		s := startReasons(w)
		defer s.end() // also when f panics
		out, err := f(WithProgress(r.Context(), s.add), in)
		if started := s.end(); !started {
			answer(w, out, err)
			return
		}
		s.write(lastPart(out, err))
	}
}

func lastPart(v any, err error) part {
	if err == nil {
		b, merr := json.Marshal(v)
		if merr == nil {
			return part{Result: b}
		}
		err = merr
	}
	p := problemOf(err)
	return part{Problem: &p}
}

// reasons writes what a request waits for, on a goroutine of its own: whoever
// reports must never wait for a client that does not read.
type reasons struct {
	// Constant.
	w       http.ResponseWriter
	control *http.ResponseController
	more    bell.Bell
	done    chan struct{} // closed when the goroutine has ended

	// Owned by the goroutine until done is closed.
	started bool

	mu    sync.Mutex
	queue []string
	ended bool
}

func startReasons(w http.ResponseWriter) *reasons {
	s := &reasons{w: w, control: http.NewResponseController(w), more: bell.New(), done: make(chan struct{})}
	go s.run()
	return s
}

// add never blocks; after end it does nothing.
func (s *reasons) add(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if len(s.queue) == maxReasons {
		s.queue = s.queue[1:]
	}
	s.queue = append(s.queue, reason)
	s.more.Ring()
}

// end waits until everything is written and reports whether that was anything.
func (s *reasons) end() bool {
	s.mu.Lock()
	s.ended = true
	s.more.Ring()
	s.mu.Unlock()
	<-s.done
	return s.started
}

func (s *reasons) run() {
	defer close(s.done)
	for range s.more {
		s.mu.Lock()
		queue, ended := s.queue, s.ended
		s.queue = nil
		s.mu.Unlock()
		for _, reason := range queue {
			s.write(part{Progress: reason})
		}
		if ended {
			return
		}
	}
}

// write sends one line at once.
func (s *reasons) write(p part) {
	b, err := json.Marshal(p)
	if err != nil {
		panic("api: a part is text and JSON: " + err.Error())
	}
	if !s.started {
		s.started = true
		s.w.Header().Set("Content-Type", streamType)
		s.w.WriteHeader(http.StatusOK)
	}
	_, _ = s.w.Write(append(b, '\n')) // the caller is gone; its context says so
	_ = s.control.Flush()
}

// readStream reports what a server says on the way and returns its result.
func readStream[Out any](ctx context.Context, body io.Reader) (Out, error) {
	var out, none Out
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		p, err := parsePart(lines.Bytes())
		switch {
		case err != nil && lines.Err() != nil: // half a line
			return none, brokenStream(lines.Err())
		case err != nil:
			return none, fmt.Errorf("read the answer of weftd: %w", err)
		case p.Progress != "":
			Progress(ctx, p.Progress)
		case p.Problem != nil:
			return none, p.Problem.err()
		default:
			if err := json.Unmarshal(p.Result, &out); err != nil {
				return none, fmt.Errorf("read the answer of weftd: %w", err)
			}
			return out, nil
		}
	}
	return none, brokenStream(lines.Err())
}

// brokenStream says why a stream had no last line.
func brokenStream(err error) error {
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return answerError(err)
}

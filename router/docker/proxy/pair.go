package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// What is held of a body that has to be read before it is passed on.
const (
	maxCreate  = 4 << 20 // a request to create a container
	maxAnswer  = 8 << 20 // an answer that is rewritten
	lingerTime = time.Second
)

// pair is a client's connection and one to the engine that belongs to it alone:
// what the one does, the other does, too. Bytes pass as they are; messages are
// only told apart, because some of them concern us.
//
//	client ── up: heads of requests, bodies ──▶ engine
//	client ◀── down: heads of answers, bodies ── engine
type pair struct {
	// Constant.
	proxy  *Proxy
	client *stream // up reads
	door   *Door

	// Made by up before down begins.
	engine *stream // down reads
	turns  chan *turn
	ended  chan struct{} // down has ended

	last *turn // up's

	closing sync.Once
}

// turn is one request and its answer. The next one waits for its end.
type turn struct {
	method string
	// edit returns what the client gets in place of an answer; nil: the answer
	// as it came. One that is longer than maxAnswer passes without it.
	edit func(r *http.Response, head, body []byte) []byte
	// abandon gives back what was taken for an answer that never came; it may
	// be called after edit, too. It may be nil.
	abandon func()

	// Set before over is closed: the connection carries something else from
	// here on.
	taken bool
	over  chan struct{}
}

func (t *turn) end(taken bool) {
	t.taken = taken
	close(t.over)
}

// refusal is an answer of ours in place of the engine's.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, a ...any) *refusal {
	return &refusal{status, "weft: " + fmt.Sprintf(format, a...)}
}

// run is the way up, and the life of the pair.
func (p *pair) run(ctx context.Context) {
	defer p.finish()
	if raw, err := p.serve(ctx); err != nil {
		p.answer(err)
	} else if raw {
		p.passRaw()
	}
}

// finish ends both connections, and waits for the other way.
func (p *pair) finish() {
	p.close()
	if p.engine != nil {
		<-p.ended
	}
	if p.last != nil && p.last.abandon != nil {
		p.last.abandon()
	}
}

// serve takes requests until the connections end, or carry something else.
func (p *pair) serve(ctx context.Context) (raw bool, err error) {
	for {
		head, err := p.client.head()
		switch {
		case errors.Is(err, errHeadTooLong):
			// What the engine says to it is what the client shall hear.
			return true, p.reach(ctx)
		case err != nil:
			if p.engine != nil {
				// It may have said all that it wants to say and still listen.
				p.engine.closeWrite()
				<-p.ended
			}
			return false, nil // that a client is gone is no error of ours
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil || req.Method == "PRI" { // the beginning of HTTP/2
			return true, p.reach(ctx)
		}
		if err := p.door.admit(req); err != nil {
			return false, err
		}
		if err := p.reach(ctx); err != nil {
			return false, err
		}
		t := &turn{method: req.Method, over: make(chan struct{})}
		p.last = t
		if err := p.forward(ctx, t, req, head); err != nil {
			if _, ours := errors.AsType[*refusal](err); ours {
				return false, err
			}
			if _, engineGone := errors.AsType[*writeError](err); engineGone {
				p.client.closeRead() // it has heard enough, and its answer is on the way
			} else {
				p.engine.closeWrite()
			}
			<-p.ended
			return false, nil
		}
		// The next bytes belong to another request, or to what the connection
		// carries now.
		if _, err := p.client.peek(); err != nil {
			p.engine.closeWrite()
			<-p.ended
			return false, nil //nolint:nilerr // that a client is gone is no error of ours
		}
		select {
		case <-t.over:
		case <-p.ended:
			select {
			case <-t.over: // and then it ended
			default:
				return false, nil
			}
		}
		if t.taken {
			return true, nil
		}
	}
}

// forward passes one request on, changed where it concerns us.
func (p *pair) forward(ctx context.Context, t *turn, req *http.Request, head []byte) error {
	f := requestFrame(req)
	handle := p.proxy.handler(req)
	if handle == nil {
		p.turns <- t
		n := len(head)
		if f.kind == sizedBody && uint64(len(p.client.buf[p.client.r:p.client.w])) >= uint64(n)+f.left {
			n += int(f.left) // all of it is here
			f.left = 0
		}
		_, err := p.engine.Write(p.client.buf[p.client.r : p.client.r+n])
		p.client.use(n)
		if err != nil {
			return &writeError{err}
		}
		if f.left == 0 && f.kind == sizedBody {
			return nil
		}
		return p.client.send(p.engine, &f)
	}
	raw := bytes.Clone(head)
	p.client.use(len(head))
	if f.kind != noBody && req.Header.Get("Expect") != "" {
		if _, err := io.WriteString(p.client, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return err
		}
	}
	framed, err := p.client.collect(&f, maxCreate)
	switch {
	case errors.Is(err, errBodyTooLong):
		return refuse(http.StatusRequestEntityTooLarge, "the request is longer than %d MB, which no container needs", maxCreate>>20)
	case errors.Is(err, errFrame):
		return refuse(http.StatusBadRequest, "%v", err)
	case err != nil:
		return err
	}
	body, err := unframe(raw, framed)
	if err != nil { // what is malformed is for the engine to refuse
		p.turns <- t
		_, err := p.engine.Write(append(raw, framed...))
		return err
	}
	changed, err := handle(ctx, t, req, body)
	if err != nil {
		return err
	}
	message := append(raw, framed...)
	if changed != nil {
		message = append(withLength(raw, len(changed)), changed...)
	}
	p.turns <- t
	if _, err := p.engine.Write(message); err != nil {
		return &writeError{err}
	}
	return nil
}

// unframe returns the body of a request.
func unframe(head, framed []byte) ([]byte, error) {
	if len(framed) == 0 {
		return nil, nil
	}
	r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(head), bytes.NewReader(framed))))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r.Body)
}

// withLength returns a head with another framing: the length of a body that
// has been read already. Other lines stay as they are, in their order.
func withLength(head []byte, n int) []byte {
	out := make([]byte, 0, len(head)+32)
	for line := range bytes.Lines(head) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		switch http.CanonicalHeaderKey(string(name)) {
		case "Content-Length", "Transfer-Encoding", "Trailer", "Expect":
			continue
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
		out = append(out, line...)
	}
	return fmt.Appendf(out, "Content-Length: %d\r\n\r\n", n)
}

// reach opens the engine's connection, which every request of the client uses.
func (p *pair) reach(ctx context.Context) error {
	if p.engine != nil {
		return nil
	}
	c, err := p.proxy.dialEngine(ctx)
	if err != nil {
		return err
	}
	p.engine = newStream(c)
	p.turns, p.ended = make(chan *turn, 1), make(chan struct{})
	if !p.proxy.hold(p, c) {
		_ = c.Close()
		p.engine = nil
		return refuse(http.StatusServiceUnavailable, "weftd ends")
	}
	go func() {
		defer close(p.ended)
		p.down()
	}()
	return nil
}

// passRaw passes on what is no message that we know.
func (p *pair) passRaw() {
	if err := p.client.send(p.engine, &frame{kind: endlessBody}); err != nil {
		if _, engineGone := errors.AsType[*writeError](err); engineGone {
			p.client.closeRead()
		}
	}
	p.engine.closeWrite()
	<-p.ended
}

// down passes answers on until the engine ends its connection.
func (p *pair) down() {
	raw, err := p.answers()
	if err == nil && raw {
		err = p.engine.send(p.client, &frame{kind: endlessBody})
	}
	if _, clientGone := errors.AsType[*writeError](err); clientGone || !raw {
		p.close() // the other way has nothing to wait for
		return
	}
	p.client.closeWrite()
}

// answers passes answers on, each to its turn. Raw says that the rest is no
// answer.
func (p *pair) answers() (raw bool, err error) {
	var t *turn
	for {
		head, err := p.engine.head()
		if errors.Is(err, errHeadTooLong) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if t == nil {
			select {
			case t = <-p.turns:
			default:
				return true, nil // nobody asked: a parting word
			}
		}
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: t.method})
		if err != nil {
			t.end(true)
			return true, nil //nolint:nilerr // the client is to judge what this is
		}
		f := answerFrame(t.method, r)
		switch {
		case f.kind == endlessBody:
			// Before the client sees it, and sends what is no request.
			t.end(true)
			return true, nil
		case r.StatusCode < 200: // the answer is still to come
			if _, err := p.client.Write(head); err != nil {
				return false, &writeError{err}
			}
			p.engine.use(len(head))
			continue
		case t.edit == nil:
			if err := p.pass(head, &f); err != nil {
				return false, err
			}
		default:
			if err := p.edited(t, r, bytes.Clone(head), f); err != nil {
				return false, err
			}
		}
		t.end(false)
		t = nil
	}
}

// pass passes one answer on as it comes; what came together leaves together.
func (p *pair) pass(head []byte, f *frame) error {
	have := p.engine.buf[p.engine.r:p.engine.w]
	n, done, err := f.take(have[len(head):])
	if err != nil {
		*f, n, done = frame{kind: endlessBody}, len(have)-len(head), false
	}
	if _, err := p.client.Write(have[:len(head)+n]); err != nil {
		return &writeError{err}
	}
	p.engine.use(len(head) + n)
	if done {
		return nil
	}
	return p.engine.send(p.client, f)
}

// edited passes one answer on that has to be read first.
func (p *pair) edited(t *turn, r *http.Response, head []byte, f frame) error {
	p.engine.use(len(head))
	framed, err := p.engine.collect(&f, maxAnswer)
	long := errors.Is(err, errBodyTooLong) || errors.Is(err, errFrame)
	if err != nil && !long {
		return err
	}
	message := append(head, framed...)
	if !long {
		full, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(message)), &http.Request{Method: t.method})
		if err != nil {
			return err
		}
		body, err := io.ReadAll(full.Body)
		if err != nil {
			return err
		}
		if other := t.edit(r, message[:len(head)], body); other != nil {
			message = other
		}
	}
	if _, err := p.client.Write(message); err != nil {
		return &writeError{err}
	}
	if long {
		return p.engine.send(p.client, &f)
	}
	return nil
}

// answer tells the client what went wrong, in the engine's form, and ends the
// connection.
func (p *pair) answer(err error) {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		r = refuse(http.StatusBadGateway, "%v", err)
	}
	if _, err := p.client.Write(r.message()); err != nil {
		return
	}
	// Closing with bytes unread would make the answer vanish on TCP.
	p.client.closeWrite()
	_ = p.client.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, p.client.Conn)
}

func (p *pair) close() {
	p.closing.Do(func() {
		_ = p.client.Close()
		if p.engine != nil {
			_ = p.engine.Close()
		}
		p.proxy.release(p)
	})
}

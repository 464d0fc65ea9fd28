package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
)

// Bytes that are held of one connection: to begin with, and at most, which is
// what Go's servers take as the head of a message.
const (
	bufferSize = 64 << 10
	maxHead    = 1 << 20
)

var (
	errHeadTooLong = errors.New("the head of a message is longer than 1 MiB")
	errBodyTooLong = errors.New("the body of a message is too long")
)

// stream is one end of a connection with what was read of it and not used yet.
// One goroutine reads; writing needs no order of its own.
type stream struct {
	net.Conn
	buf  []byte
	r, w int // buf[r:w] was read and not used
}

func newStream(c net.Conn) *stream { return &stream{Conn: c} }

// peek returns what there is, at least one byte, until the next peek. It
// blocks while there is nothing.
func (s *stream) peek() ([]byte, error) {
	if s.r == s.w {
		s.r, s.w = 0, 0
		if err := s.more(); err != nil {
			return nil, err
		}
	}
	return s.buf[s.r:s.w], nil
}

// more reads once, behind what there is.
func (s *stream) more() error {
	if s.buf == nil {
		s.buf = make([]byte, bufferSize)
	}
	if s.w == len(s.buf) {
		if s.r > 0 {
			s.w = copy(s.buf, s.buf[s.r:s.w])
			s.r = 0
		} else {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
	}
	for range 100 {
		n, err := s.Conn.Read(s.buf[s.w:])
		s.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

func (s *stream) use(n int) { s.r += n }

// head returns the head of the next message, through its empty line, without
// using it. It is valid until the next call. The error is io.EOF between
// messages.
func (s *stream) head() ([]byte, error) {
	if _, err := s.peek(); err != nil {
		return nil, err
	}
	for seen := 0; ; {
		have := s.buf[s.r:s.w]
		if n := headEnd(have[seen:]); n > 0 {
			return have[:seen+n], nil
		}
		if len(have) > maxHead {
			return nil, errHeadTooLong
		}
		seen = max(0, len(have)-2)
		if err := s.more(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// headEnd returns the number of bytes through the first empty line that
// follows another one, or zero.
func headEnd(b []byte) int {
	for i := 0; ; {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return 0
		}
		i += j + 1
		switch rest := b[i:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return i + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return i + 2
		}
	}
}

// send passes a body on as it comes.
func (s *stream) send(to io.Writer, f *frame) error {
	if f.kind == noBody {
		return nil
	}
	for {
		b, err := s.peek()
		if err != nil {
			return err
		}
		n, done, err := f.take(b)
		if err != nil {
			// The other end is to judge what this is; no later message
			// can be found behind it.
			*f, n = frame{kind: endlessBody}, len(b)
		}
		if _, err := to.Write(b[:n]); err != nil {
			return &writeError{err}
		}
		s.use(n)
		if done {
			return nil
		}
	}
}

// writeError tells that it was the other end that failed.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }

func (e *writeError) Unwrap() error { return e.err }

// collect returns a framed body as it came, if it is not longer than most
// bytes. What is longer is left half used, and f says where.
func (s *stream) collect(f *frame, most int) ([]byte, error) {
	if f.kind == noBody {
		return nil, nil
	}
	if f.kind == sizedBody && f.left > uint64(most) {
		return nil, errBodyTooLong
	}
	var all []byte
	for {
		b, err := s.peek()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return all, err
		}
		n, done, err := f.take(b)
		if err != nil {
			return all, err
		}
		all = append(all, b[:n]...)
		s.use(n)
		switch {
		case len(all) > most:
			return all, errBodyTooLong
		case done:
			return all, nil
		}
	}
}

// closeWrite tells the other end that nothing more comes, and still listens.
func (s *stream) closeWrite() {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // who is gone needs not be told
		return
	}
	_ = s.Conn.Close()
}

// closeRead lets the other end's writes fail.
func (s *stream) closeRead() {
	if c, ok := s.Conn.(interface{ CloseRead() error }); ok {
		_ = c.CloseRead()
	}
}

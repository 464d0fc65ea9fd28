package udp

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Receiver is the receiving side of a socket, for one goroutine at a time.
type Receiver struct {
	s       *Socket
	headers [Batch]header
	pieces  [Batch]unix.Iovec
	names   [Batch][nameSize]byte
	control [Batch][controlSize]byte

	// Of the call under way. The function is made once: it would be an
	// allocation for every call.
	wanted, n int
	errno     unix.Errno
	try       func(fd uintptr) bool
}

// NewReceiver returns a receiver of s.
func (s *Socket) NewReceiver() *Receiver {
	r := &Receiver{s: s}
	r.try = func(fd uintptr) bool {
		r.n, r.errno = call(unix.SYS_RECVMMSG, fd, r.headers[:r.wanted])
		return r.errno != unix.EAGAIN
	}
	return r
}

// Receive waits for packets, takes as many as there are, each into one of
// bufs, and describes them in into, whose Bytes are parts of bufs. When the
// socket coalesces, only buffers of 64 KiB hold everything that may come. It
// uses no more than [Batch] of bufs, nor more than there is room for in into.
func (r *Receiver) Receive(bufs [][]byte, into []Message) (int, error) {
	r.wanted = min(len(bufs), len(into), Batch)
	for i, b := range bufs[:r.wanted] {
		p := &r.pieces[i]
		p.Base = unsafe.SliceData(b)
		p.SetLen(len(b))
		h := &r.headers[i].Msghdr
		*h = unix.Msghdr{Name: &r.names[i][0], Namelen: nameSize, Iov: p, Control: &r.control[i][0]}
		h.SetIovlen(1)
		h.SetControllen(controlSize)
	}
	err := r.s.raw.Read(r.try)
	if err == nil && r.errno != 0 {
		err = fmt.Errorf("recvmmsg: %w", r.errno)
	}
	if err != nil {
		return 0, err
	}
	for i := range r.n {
		h := &r.headers[i]
		m := &into[i]
		m.Bytes = bufs[i][:h.n]
		m.Flow.Remote, m.Flow.Scope = parseName(r.names[i][:min(h.Namelen, nameSize)])
		m.Flow.Local, m.Segment = parseControl(r.control[i][:h.Controllen])
	}
	return r.n, nil
}

package udp

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPayload is the largest UDP payload that both protocols carry.
const maxPayload = 65535 - 20 - 8

// outgoing is what one send needs; it is kept for the next.
type outgoing struct {
	headers [Batch]header
	pieces  [Batch]unix.Iovec
	control [Batch][controlSize]byte
	names   [Batch][nameSize]byte
	groups  [Batch]group
	list    [Batch]Message

	// What was learnt of flows: the source address of one is gone, another is
	// over an interface too narrow for what is coalesced.
	bare, single Flow

	// Of the call under way, as in [Receiver].
	rest  []header
	n     int
	errno unix.Errno
	try   func(fd uintptr) bool
}

// group is what one header sends.
type group struct {
	end       position
	coalesced bool
}

// position is a place in a list of messages: what is before it is done.
type position struct{ message, offset int }

func newOutgoing() any {
	o := new(outgoing)
	o.try = func(fd uintptr) bool {
		o.n, o.errno = call(unix.SYS_SENDMMSG, fd, o.rest)
		return o.errno != unix.EAGAIN
	}
	return o
}

// put gives o back for the next send; until then it keeps no packet alive.
func (s *Socket) put(o *outgoing, messages int) {
	clear(o.pieces[:])
	clear(o.list[:messages])
	o.bare, o.single = Flow{}, Flow{}
	s.out.Put(o)
}

// Send sends packets along f, coalesced where they can be. It waits as long as
// the socket's buffer is full. The error is that of the last packet that could
// not be sent, and wraps the [unix.Errno].
func (s *Socket) Send(packets [][]byte, f Flow) error {
	s.fragments.RLock()
	defer s.fragments.RUnlock()
	o := s.out.Get().(*outgoing)
	used := min(len(packets), len(o.list))
	var last error
	for len(packets) > 0 {
		n := min(len(packets), len(o.list))
		for i, b := range packets[:n] {
			o.list[i] = Message{Flow: f, Bytes: b}
		}
		if err := s.send(o, o.list[:n], true); err != nil {
			last = err
		}
		packets = packets[n:]
	}
	s.put(o, used)
	return last
}

// Forward sends messages, each along its flow, and joins those that follow one
// another on the same. It waits and fails as [Socket.Send] does; the trouble of
// one flow does not touch the others.
func (s *Socket) Forward(list []Message) error {
	s.fragments.RLock()
	defer s.fragments.RUnlock()
	o := s.out.Get().(*outgoing)
	err := s.send(o, list, true)
	s.put(o, 0)
	return err
}

// Fragment is like [Socket.Forward], but what exceeds the MTU of the route leaves
// in fragments, which is for paths that are narrower than the interface. Only
// for the time of the call the socket believes path MTUs; a route with a locked
// MTU believes none. It is slow: nothing leaves coalesced, and nothing else
// meanwhile.
func (s *Socket) Fragment(list []Message) error {
	s.fragments.Lock()
	defer s.fragments.Unlock()
	if err := s.fragmentBy(unix.IP_PMTUDISC_DONT); err != nil {
		return err
	}
	o := s.out.Get().(*outgoing)
	err := s.send(o, list, false)
	s.put(o, 0)
	return errors.Join(err, s.fragmentBy(unix.IP_PMTUDISC_OMIT))
}

func (s *Socket) send(o *outgoing, list []Message, gso bool) error {
	var last error
	for at := (position{}); at.message < len(list); {
		n := o.fill(list, at, gso && s.gso.Load())
		sent, errno, err := s.write(o, n)
		if err != nil {
			return err
		}
		if sent > 0 {
			at = o.groups[sent-1].end
		}
		if errno == 0 {
			continue
		}
		// It is the first of the rest that failed.
		failed, f := o.groups[sent], list[at.message].Flow
		switch {
		case f.Local.IsValid() && f != o.bare && sourceGone(errno):
			o.bare = f
		case failed.coalesced && errno == unix.EIO: // the interface computes no checksums
			s.gso.Store(false)
		case failed.coalesced && tooLarge(errno):
			o.single = f
		case tooLarge(errno):
			last = fmt.Errorf("sendmmsg: %w", errno)
			at = failed.end
		default: // no other of this flow will get through
			last = fmt.Errorf("sendmmsg: %w", errno)
			for at.offset = 0; at.message < len(list) && list[at.message].Flow == f; {
				at.message++
			}
		}
	}
	return last
}

// sourceGone says that a send may work from another address.
func sourceGone(errno unix.Errno) bool {
	return errno == unix.EINVAL || errno == unix.ENODEV || errno == unix.EADDRNOTAVAIL || errno == unix.ENETUNREACH
}

// tooLarge says that a packet exceeds the interface's MTU. Kernels before 6.14
// say EINVAL when it is one of several.
func tooLarge(errno unix.Errno) bool { return errno == unix.EMSGSIZE || errno == unix.EINVAL }

// write sends the first n headers and returns how many it sent before errno.
// The error is of a socket that is closed.
func (s *Socket) write(o *outgoing, n int) (sent int, errno unix.Errno, err error) {
	for sent < n {
		o.rest = o.headers[sent:n]
		if err := s.raw.Write(o.try); err != nil {
			return sent, 0, err
		}
		if o.errno != 0 {
			return sent, o.errno, nil
		}
		sent += o.n
	}
	return sent, 0, nil
}

// fill makes groups of the messages from at on, as many as there is room for,
// and returns how many.
func (o *outgoing) fill(list []Message, at position, gso bool) (groups int) {
	for pieces := 0; at.message < len(list) && pieces < len(o.pieces); groups++ {
		m := &list[at.message]
		limit := 1
		if gso && !m.Flow.Single && m.Flow != o.single {
			limit = MaxSegments
		}
		// What the first message has is cut where the kernel has its limit;
		// others join in whole.
		first, size := pieces, m.size()
		rest := m.Bytes[at.offset:]
		total := fit(len(rest), size, limit)
		o.piece(pieces, rest[:total])
		pieces++
		if total < len(rest) {
			at.offset += total
		} else {
			at = position{message: at.message + 1}
		}
		for at.offset == 0 && at.message < len(list) && pieces < len(o.pieces) {
			next := &list[at.message]
			if next.Flow != m.Flow || !joins(next, size, total, limit) {
				break
			}
			o.piece(pieces, next.Bytes)
			pieces++
			total += len(next.Bytes)
			at.message++
		}
		o.groups[groups] = group{end: at, coalesced: total > size}
		o.header(groups, &m.Flow, o.pieces[first:pieces])
		if total > size {
			o.segment(groups, size)
		}
	}
	return groups
}

// fit returns how many of n bytes in packets of size can go as one message.
func fit(n, size, limit int) int {
	room := min(limit*size, maxPayload)
	if n <= max(room, size) {
		return n
	}
	return max(room-room%size, size)
}

// joins says whether m can go in one message with the total bytes before it, in
// packets of size: the kernel cuts it up again, and only the last may be
// shorter.
func joins(m *Message, size, total, limit int) bool {
	n := len(m.Bytes)
	return n > 0 && total > 0 && total%size == 0 && total+n <= min(limit*size, maxPayload) &&
		(m.size() == size || m.size() == n && n < size)
}

func (o *outgoing) piece(i int, b []byte) {
	o.pieces[i].Base = unsafe.SliceData(b)
	o.pieces[i].SetLen(len(b))
}

func (o *outgoing) header(i int, f *Flow, pieces []unix.Iovec) {
	name := putName(o.names[i][:], f)
	h := &o.headers[i].Msghdr
	*h = unix.Msghdr{Name: &name[0], Namelen: uint32(len(name)), Iov: &pieces[0], Control: &o.control[i][0]}
	h.SetIovlen(len(pieces))
	if *f != o.bare {
		h.SetControllen(len(putSource(o.control[i][:0], f.Local, f.Scope)))
	}
}

func (o *outgoing) segment(i, size int) {
	h := &o.headers[i].Msghdr
	h.SetControllen(len(putSegmentSize(o.control[i][:h.Controllen], size)))
}

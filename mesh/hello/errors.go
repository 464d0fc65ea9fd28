package hello

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// What can be wrong with an introduction. Both ends see the same one, unless
// its comment says otherwise; errors of Dial wrap them, with more to say where
// there is more.
var (
	// ErrSelf: the address is one of our own.
	ErrSelf = errors.New("cannot connect to ourself")
	// ErrClone: the other end has our identity and another boot id.
	ErrClone = errors.New("another host has our identity (a copied state directory?); run 'weft reset' on one of the two")
	// ErrSecret: the other end has another cluster secret.
	ErrSecret = errors.New("wrong password")
	// ErrCluster: the other end is in a cluster of another name.
	ErrCluster = errors.New("it belongs to a cluster of another name (see --cluster)")
	// ErrVersion: the other end speaks no version of this protocol that we do.
	ErrVersion = errors.New("other protocol version")
	// ErrNotWeft: something else is listening. Only the dialler sees it.
	ErrNotWeft = errors.New("something else than weft is listening there")
	// ErrIdentity: the pinned identity is another one.
	ErrIdentity = errors.New("identity is not the expected one")
	// ErrRefused: the other end does not want us now, or Check did not want it.
	ErrRefused = errors.New("introduction refused")

	// errStranger is the listener's side of ErrNotWeft.
	errStranger = errors.New("what connected does not speak weft")
	// errNoWord is for who closed the connection without a byte.
	errNoWord   = errors.New("what connected said nothing")
	errProtocol = errors.New("introduction: malformed message")
	errTooMuch  = errors.New("too much before the proof")
	errCrowd    = errors.New("ended to make room: strangers took all places")
	errCert     = errors.New("no weft certificate")
)

// reason sorts an error for the log: a sentinel, or nil for all others.
func reason(err error) error {
	for _, r := range []error{
		ErrSelf, ErrClone, ErrSecret, ErrCluster, ErrVersion,
		ErrNotWeft, ErrIdentity, ErrRefused, errStranger, errProtocol, errCrowd,
	} {
		if errors.Is(err, r) {
			return r
		}
	}
	return nil
}

// broken explains a connection that ended in the middle. TLS stood by then, so
// the other end is weft.
func (s *session) broken(err error) error {
	switch {
	case reason(err) != nil:
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("introduction: the other end stopped answering")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return errors.New("introduction: the other end closed the connection")
	}
	return fmt.Errorf("introduction: %w", err)
}

// explainHandshake says what is listening there when TLS did not come about.
func explainHandshake(err error, raw *meteredConn, limit time.Duration) error {
	if raw.busy() {
		return errBusy()
	}
	head := string(raw.head)
	hint := "it closed the connection"
	switch {
	case strings.HasPrefix(head, "SSH-"):
		hint = "it speaks SSH"
	case strings.HasPrefix(head, "HTTP/"):
		hint = "it speaks HTTP"
	case len(head) > 0 && !raw.tls():
		hint = "it does not speak TLS"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		hint = fmt.Sprintf("no answer within %s", limit)
	case len(head) > 0:
		hint = "it speaks TLS, but not weft's"
	}
	return fmt.Errorf("%w: %s", ErrNotWeft, hint)
}

func errBusy() error {
	return fmt.Errorf("%w by the peer: it is busy, or saw too many failures from our address", ErrRefused)
}

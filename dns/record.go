package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"unicode"
	"unicode/utf8"
)

// Limits of a record's bytes.
const (
	MaxContainer  = 255 // bytes
	MaxRecordSize = 2 + 16 + 1 + MaxName + 1 + MaxContainer
)

// recordFormat is the first byte of every record. Another one is refused: the
// name is unknown here until this host is updated, rather than half understood.
const recordFormat = 1

// Record says that a name stands for an address.
type Record struct {
	Hostname  string     // full, with the final dot; case as given
	Container string     // who it belongs to, for people; may be empty
	Addr      netip.Addr // IPv4 or IPv6, without zone
}

// Marshal returns the bytes that are replicated:
//
//	1       format, 1
//	1       length of the address, 4 or 16
//	n       address
//	1       length of the hostname, 2 to 254
//	n       hostname with its final dot
//	1       length of the container, 0 to 255
//	n       container
//
// It fails for a record that [Parse] would refuse.
func (r Record) Marshal() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("record of %q: %w", r.Hostname, err)
	}
	addr := r.Addr.AsSlice()
	b := make([]byte, 0, 2+len(addr)+1+len(r.Hostname)+1+len(r.Container))
	b = append(b, recordFormat, byte(len(addr)))
	b = append(b, addr...)
	b = append(b, byte(len(r.Hostname)))
	b = append(b, r.Hostname...)
	b = append(b, byte(len(r.Container)))
	return append(b, r.Container...), nil
}

// Parse is the inverse of [Record.Marshal]. It accepts exactly the bytes that
// Marshal makes: every record has one encoding.
func Parse(b []byte) (Record, error) {
	r, err := parse(b)
	if err != nil {
		return Record{}, fmt.Errorf("parse name record: %w", err)
	}
	return r, nil
}

func parse(b []byte) (Record, error) {
	if len(b) > MaxRecordSize {
		return Record{}, fmt.Errorf("%d bytes: at most %d", len(b), MaxRecordSize)
	}
	if len(b) == 0 || b[0] != recordFormat {
		return Record{}, errors.New("unknown format")
	}
	addr, b, err := field(b[1:])
	if err != nil {
		return Record{}, fmt.Errorf("address: %w", err)
	}
	host, b, err := field(b)
	if err != nil {
		return Record{}, fmt.Errorf("hostname: %w", err)
	}
	container, b, err := field(b)
	if err != nil {
		return Record{}, fmt.Errorf("container: %w", err)
	}
	if len(b) != 0 {
		return Record{}, fmt.Errorf("%d bytes too many", len(b))
	}
	a, ok := netip.AddrFromSlice(addr)
	if !ok {
		return Record{}, fmt.Errorf("address of %d bytes", len(addr))
	}
	r := Record{Hostname: string(host), Container: string(container), Addr: a}
	return r, r.check()
}

// field splits off a value that is preceded by its length in one byte.
func field(b []byte) (value, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, errors.New("missing")
	}
	n := 1 + int(b[0])
	if len(b) < n {
		return nil, nil, fmt.Errorf("%d of %d bytes", len(b)-1, n-1)
	}
	return b[1:n], b[n:], nil
}

func (r Record) check() error {
	full, err := ParseName(r.Hostname)
	if err != nil {
		return err
	}
	if full != r.Hostname {
		return errors.New("hostname lacks its final dot")
	}
	switch {
	case !r.Addr.IsValid():
		return errors.New("no address")
	case r.Addr.Is4In6():
		return fmt.Errorf("address %s is an IPv4 address written as IPv6", r.Addr)
	case r.Addr.Zone() != "":
		return fmt.Errorf("address %s has a zone", r.Addr)
	case len(r.Container) > MaxContainer:
		return fmt.Errorf("container of %d bytes: at most %d", len(r.Container), MaxContainer)
	case !printable(r.Container):
		return errors.New("container is not printable UTF-8")
	}
	return nil
}

// printable keeps what a peer sends from playing with a terminal.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return true
}

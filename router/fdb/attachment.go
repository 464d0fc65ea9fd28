package fdb

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// EntryPrefix begins the keys of attachments among the entries of a host; a
// MAC address follows.
const EntryPrefix = "m/"

// MaxAddrs is how many addresses of one attachment are told.
const MaxAddrs = 16

// attachmentFormat is the first byte of every value. Another one is refused:
// frames to there are flooded until this host is updated.
const attachmentFormat = 1

// Attachment is an interface on the switch.
type Attachment struct {
	MAC   MAC
	Addrs []netip.Addr // sorted; IPv4 or IPv6, without zone
}

// Marshal returns the key and the value that are replicated:
//
//	key: EntryPrefix and the MAC address in lower case with colons
//	1    format, 1
//	for each address, sorted:
//	  1  length, 4 or 16
//	  n  address
//
// It fails for what [ParseAttachment] would refuse.
func (a Attachment) Marshal() (key string, value []byte, err error) {
	if err := a.check(); err != nil {
		return "", nil, fmt.Errorf("attachment %s: %w", a.MAC, err)
	}
	value = append(value, attachmentFormat)
	for _, addr := range a.Addrs {
		b := addr.AsSlice()
		value = append(append(value, byte(len(b))), b...)
	}
	return EntryPrefix + a.MAC.String(), value, nil
}

// ParseAttachment is the inverse of [Attachment.Marshal]. It accepts exactly
// what Marshal makes.
func ParseAttachment(key string, value []byte) (Attachment, error) {
	a, err := parseAttachment(key, value)
	if err != nil {
		return Attachment{}, fmt.Errorf("parse attachment: %w", err)
	}
	return a, nil
}

func parseAttachment(key string, value []byte) (Attachment, error) {
	text, ok := strings.CutPrefix(key, EntryPrefix)
	hw, err := net.ParseMAC(text)
	if !ok || err != nil || len(hw) != 6 || hw.String() != text {
		return Attachment{}, errors.New("the key has no MAC address")
	}
	if len(value) == 0 || value[0] != attachmentFormat {
		return Attachment{}, errors.New("unknown format")
	}
	a := Attachment{MAC: MAC(hw)}
	for value = value[1:]; len(value) > 0; {
		n := 1 + int(value[0])
		if len(value) < n || len(a.Addrs) == MaxAddrs {
			return Attachment{}, fmt.Errorf("%d bytes left after %d addresses", len(value), len(a.Addrs))
		}
		addr, ok := netip.AddrFromSlice(value[1:n])
		if !ok {
			return Attachment{}, fmt.Errorf("address of %d bytes", n-1)
		}
		a.Addrs, value = append(a.Addrs, addr), value[n:]
	}
	return a, a.check()
}

func (a Attachment) check() error {
	if a.MAC[0]&1 != 0 || a.MAC == (MAC{}) {
		return errors.New("no address of one interface")
	}
	if len(a.Addrs) > MaxAddrs {
		return fmt.Errorf("%d addresses, at most %d", len(a.Addrs), MaxAddrs)
	}
	for i, addr := range a.Addrs {
		switch {
		case !addr.IsValid() || addr.Is4In6() || addr.Zone() != "":
			return fmt.Errorf("address %s", addr)
		case addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback():
			return fmt.Errorf("address %s belongs to no interface", addr)
		case i > 0 && !a.Addrs[i-1].Less(addr):
			return errors.New("addresses out of order")
		}
	}
	return nil
}

// Claim is an attachment and the host that says it has it.
type Claim struct {
	Attachment

	At netip.Addr // overlay address of the host
}

// Bounds of what is known: each entry costs the kernel calls and memory, and any
// member can claim anything. What is beyond them is learnt from frames.
const (
	MaxPerHost = 2048
	MaxKnown   = 32768
)

// Settle returns what is known beyond doubt, sorted by MAC. A MAC address that
// two hosts claim is left out, and so is an address that two attachments claim:
// while a container moves, or when a member lies, frames are flooded and the
// container itself answers.
func Settle(claims []Claim) []Known {
	macs := make(map[MAC]int, len(claims))
	addrs := make(map[netip.Addr]int, len(claims))
	for _, c := range claims {
		macs[c.MAC]++
		for _, a := range c.Addrs {
			addrs[a]++
		}
	}
	known := make([]Known, 0, min(len(claims), MaxKnown))
	hosts := make(map[netip.Addr]int)
	for _, c := range claims {
		if macs[c.MAC] > 1 || hosts[c.At] == MaxPerHost || len(known) == MaxKnown {
			continue
		}
		hosts[c.At]++
		k := Known{MAC: c.MAC, At: c.At}
		for _, a := range c.Addrs {
			if addrs[a] == 1 {
				k.Addrs = append(k.Addrs, a)
			}
		}
		known = append(known, k)
	}
	slices.SortFunc(known, func(a, b Known) int { return slices.Compare(a.MAC[:], b.MAC[:]) })
	return known
}

// Replica is where a host's own entries are kept.
type Replica interface {
	Put(key string, value []byte) error
	Delete(key string) error
}

// Register turns the attachments of this host into entries of the replica. It
// is safe for concurrent use.
type Register struct {
	replica Replica // constant after NewRegister

	mu   sync.Mutex // guards what follows
	told map[string]string
}

// NewRegister returns an empty register.
func NewRegister(r Replica) *Register {
	return &Register{replica: r, told: make(map[string]string)}
}

// Set makes the attachments of this host exactly those given. Their addresses
// need no order; what is beyond [MaxAddrs] is not told, and the container
// answers for it by itself. What fails is tried again by the next Set.
func (r *Register) Set(list []Attachment) error {
	want := make(map[string]string, len(list))
	var errs []error
	for _, a := range list {
		a.Addrs = slices.Compact(slices.SortedFunc(slices.Values(a.Addrs), netip.Addr.Compare))
		a.Addrs = a.Addrs[:min(len(a.Addrs), MaxAddrs)]
		key, value, err := a.Marshal()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		want[key] = string(value)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range slices.SortedFunc(maps.Keys(want), cmp.Compare) {
		if r.told[key] == want[key] {
			continue
		}
		if err := r.replica.Put(key, []byte(want[key])); err != nil {
			errs = append(errs, err)
			continue
		}
		r.told[key] = want[key]
	}
	for _, key := range slices.SortedFunc(maps.Keys(r.told), cmp.Compare) {
		if _, ok := want[key]; ok {
			continue
		}
		if err := r.replica.Delete(key); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(r.told, key)
	}
	return errors.Join(errs...)
}

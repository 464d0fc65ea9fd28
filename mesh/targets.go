package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/hello"
)

const (
	retryFirst    = time.Second
	retryMost     = time.Minute
	pendingFor    = 10 * time.Second // from an introduction to the next one without membership
	knownGrace    = 3 * time.Second  // after our start or its end: a known peer is met without introduction
	lookupTimeout = 10 * time.Second
	maxAddresses  = 8 // of one name
)

// targetSpec is a target as typed and as read.
type targetSpec struct {
	typed string
	host  string // lower case; an address in its usual form
	addr  netip.Addr
	port  uint16
}

func (t targetSpec) same(o targetSpec) bool { return t.host == o.host && t.port == o.port }

// parseTarget reads ip-or-name[:port]. An IPv6 address with a port stands in
// brackets, without one it may.
func parseTarget(s string, port uint16) (targetSpec, error) {
	fail := func(why string) (targetSpec, error) {
		return targetSpec{}, fmt.Errorf("target %q: %s; want an address or a name, and perhaps :port", s, why)
	}
	t := targetSpec{typed: s, host: s, port: port}
	if a, err := netip.ParseAddr(s); err == nil { // also a bare IPv6 address
		return t.literal(a), nil
	}
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !a.Is6() {
			return fail("no IPv6 address in the brackets")
		}
		return t.literal(a), nil
	}
	if strings.Contains(s, ":") {
		host, text, err := net.SplitHostPort(s)
		if err != nil {
			return fail("too many colons, or brackets that do not match")
		}
		p, err := strconv.ParseUint(text, 10, 16)
		if err != nil || p == 0 {
			return fail("port " + strconv.Quote(text) + " is not a number from 1 to 65535")
		}
		t.host, t.port = host, uint16(p)
		if a, err := netip.ParseAddr(host); err == nil {
			return t.literal(a), nil
		}
		if strings.HasPrefix(s, "[") {
			return fail("no IPv6 address in the brackets")
		}
	}
	if !isHostname(t.host) {
		return fail("that is no host name")
	}
	t.host = strings.ToLower(strings.TrimSuffix(t.host, "."))
	return t, nil
}

func (t targetSpec) literal(a netip.Addr) targetSpec {
	t.addr = a.Unmap()
	t.host = t.addr.String()
	return t
}

// isHostname accepts what a resolver may be asked for. A name of digits and
// dots alone is an address that somebody mistyped.
func isHostname(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return false
			}
		}
	}
	return true
}

func parseTargets(typed []string, port uint16) ([]targetSpec, error) {
	out := make([]targetSpec, 0, len(typed))
	for _, s := range typed {
		t, err := parseTarget(s, port)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// target is a target's state.
type target struct {
	targetSpec
	state TargetState
	err   error
	tried netip.AddrPort
	next  time.Time // of the next attempt
	never bool
	delay time.Duration
	busy  bool
	peer  crypto.Identity // who answered there last
	pin   *crypto.Identity
	stop  context.CancelFunc
}

// isSelf reports whether we answered ourselves there.
func (t *target) isSelf() bool { return errors.Is(t.err, hello.ErrSelf) }

// dialled says how a worker's attempt at a target ended.
type dialled struct {
	target *target
	addr   netip.AddrPort
	result hello.Result
	err    error
}

// retarget brings the targets to those on the desk.
func (m *Mesh) retarget(now time.Time, specs []targetSpec) {
	old := m.targets
	m.targets = make([]*target, 0, len(specs))
	for _, s := range specs {
		var t *target
		for i, o := range old {
			if o != nil && o.same(s) {
				t, old[i] = o, nil
				break
			}
		}
		if t == nil {
			t = &target{targetSpec: s, state: Connecting, next: now, delay: retryFirst, peer: m.hints[targetKey(s)]}
			if p := m.peers[t.peer]; p != nil && !p.member && m.ml == nil {
				t.next = now.Add(knownGrace)
			}
			m.log.Info("target added", "target", s.typed)
		}
		m.targets = append(m.targets, t)
	}
	for _, o := range old {
		if o == nil {
			continue
		}
		delete(m.hints, targetKey(o.targetSpec))
		if o.stop != nil {
			o.stop()
		}
		m.log.Info("target removed", "target", o.typed)
	}
	m.nameTargets()
	m.saveSoon(now)
}

func targetKey(t targetSpec) string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// nameTargets notes at each peer the target that it is known as.
func (m *Mesh) nameTargets() {
	for _, p := range m.peers {
		p.target = ""
	}
	for _, t := range m.targets {
		if p := m.peers[t.peer]; p != nil && p.target == "" {
			p.target = t.typed
		}
	}
	m.viewChanged()
}

// stepTargets starts what is due.
func (m *Mesh) stepTargets(now time.Time) {
	if m.gone {
		return
	}
	for _, t := range m.targets {
		p := m.peers[t.peer]
		switch {
		case p != nil && p.member:
			if t.state != Established {
				t.state, t.err, t.delay = Established, nil, retryFirst
			}
			continue
		case t.state == Established:
			t.state, t.err = Retrying, errors.New("it is a member no longer")
			t.next = now.Add(max(t.delay, knownGrace)) // one that was only started again is back before
		}
		if t.busy || t.never {
			continue
		}
		if t.next.After(now) {
			m.wakeAt(t.next)
			continue
		}
		m.dialTarget(t)
	}
}

func (m *Mesh) dialTarget(t *target) {
	t.busy = true
	ctx, stop := context.WithCancel(m.ctx)
	t.stop = stop
	spec, pin := t.targetSpec, t.pin
	m.workers.Go(func() {
		defer stop()
		d := m.introduceTo(ctx, spec, pin)
		d.target = t
		m.report(d)
	})
}

// introduceTo resolves a target and tries its addresses in turn. Of several
// failures it reports the one that says most.
func (m *Mesh) introduceTo(ctx context.Context, t targetSpec, pin *crypto.Identity) dialled {
	addrs := []netip.Addr{t.addr}
	if !t.addr.IsValid() {
		short, stop := context.WithTimeout(ctx, lookupTimeout)
		found, err := m.resolve(short, t.host)
		stop()
		if err == nil && len(found) == 0 {
			err = errors.New("no addresses")
		}
		if err != nil {
			return dialled{err: fmt.Errorf("look up %s: %w", t.host, err)}
		}
		addrs = found[:min(len(found), maxAddresses)]
	}
	var last dialled
	for _, a := range addrs {
		d := dialled{addr: netip.AddrPortFrom(a.Unmap(), t.port)}
		d.result, d.err = m.cfg.Hello.Dial(ctx, d.addr, pin)
		if d.err == nil || ctx.Err() != nil {
			return d
		}
		if last.err == nil || weight(d.err) >= weight(last.err) {
			last = d
		}
	}
	return last
}

// weight orders failures by how much they say: a refusal more than silence.
func weight(err error) int {
	switch {
	case errors.Is(err, hello.ErrSelf):
		return 0 // one of several addresses may well be ours
	case refusal(err):
		return 2
	}
	return 1
}

// refusal reports whether somebody answered and will answer the same again.
func refusal(err error) bool {
	for _, r := range []error{
		hello.ErrSelf, hello.ErrClone, hello.ErrSecret, hello.ErrCluster,
		hello.ErrVersion, hello.ErrNotWeft, hello.ErrIdentity, hello.ErrRefused,
	} {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

func (m *Mesh) targetDialled(now time.Time, d dialled) {
	t := d.target
	t.busy, t.stop = false, nil
	if d.addr.IsValid() {
		t.tried = d.addr
	}
	if d.err == nil {
		t.state, t.err, t.peer, t.pin = Pending, nil, d.result.Peer, nil
		t.delay = max(t.delay, pendingFor)
		m.hints[targetKey(t.targetSpec)] = t.peer
		m.introduced(now, d.result)
		m.nameTargets()
		m.saveSoon(now)
	} else {
		m.targetFailed(now, t, d.err)
	}
	t.next = now.Add(jitter(t.delay))
	t.delay = min(2*t.delay, retryMost)
}

func (m *Mesh) targetFailed(now time.Time, t *target, err error) {
	state := Retrying
	if refusal(err) {
		state, t.delay = Failed, retryMost
		t.never = errors.Is(err, hello.ErrSelf) && t.addr.IsValid()
	}
	if errors.Is(err, hello.ErrClone) {
		m.warnWhile(now, "clone "+t.typed, fmt.Sprintf("target %s: %v", t.typed, err))
	}
	if errors.Is(err, hello.ErrSelf) && !t.isSelf() {
		m.viewChanged() // it counts as met
	}
	if t.state != state || t.err == nil || t.err.Error() != err.Error() {
		m.log.Warn("target not connected", "target", t.typed, "address", t.tried, "err", err, "retry", !t.never)
	}
	t.state, t.err = state, err
}

// metTargets returns the targets, by key, of whom it is known who they are.
func (m *Mesh) metTargets() map[string]bool {
	met := make(map[string]bool)
	for _, t := range m.targets {
		if m.peers[t.peer] != nil || t.isSelf() {
			met[targetKey(t.targetSpec)] = true
		}
	}
	return met
}

func (m *Mesh) targetStatus() []Target {
	out := make([]Target, 0, len(m.targets))
	for _, t := range m.targets {
		s := Target{Name: t.typed, Address: t.tried, State: t.state, Never: t.never, Peer: t.peer}
		if !s.Address.IsValid() && t.addr.IsValid() {
			s.Address = netip.AddrPortFrom(t.addr, t.port)
		}
		if t.err != nil {
			s.Err = t.err.Error()
		}
		if !t.busy && !t.never && t.state != Established {
			s.Retry = t.next
		}
		out = append(out, s)
	}
	return out
}

package attach

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/router/kernel"
)

// An endpoint is what an engine calls one interface of one container. The
// engine moves the interface into the container and configures it, before the
// container's process starts; so we make the pair with both ends in the host's
// namespace, wait until one has left, and set what the engine does not.

// ErrNotReady says that the engine has not put the interface of an endpoint
// into its container yet, or is about to.
var ErrNotReady = errors.New("the engine has not configured the interface yet")

// endpointAlias begins the alias of an endpoint's host end; its id follows.
const endpointAlias = "endpoint "

// guestMark makes a name that is no host end's, and that the firewall takes
// for a port all the same should somebody set it up in the host's namespace.
const guestMark = "g"

// EndpointEnds returns the names of the veth of an endpoint, the same at every
// call: the end on the bridge, and the one that the engine is to move.
func EndpointEnds(id string) (end, guest string) {
	sum := sha256.Sum256([]byte("weft endpoint " + id))
	digits := hex.EncodeToString(sum[:endDigits/2])
	return endPrefix + digits, endPrefix + guestMark + digits[1:]
}

// EndpointOf returns the id of the endpoint that a host end belongs to, by its
// alias; empty: none.
func EndpointOf(end kernel.Link) string {
	id, ok := strings.CutPrefix(end.Alias, endpointAlias)
	if host, _ := EndpointEnds(id); !ok || host != end.Name {
		return ""
	}
	return id
}

// AddEndpoint makes the interface of an endpoint, the end on the bridge up and
// the other one down, and returns the name of the latter. With anew, both are
// in the host's namespace afterwards: an interface that was moved is made
// again. Otherwise such a one is left alone, and none is made.
func (a *Attacher) AddEndpoint(id string, mac kernel.MAC, anew bool) (guest string, err error) {
	end, guest := EndpointEnds(id)
	g, ok := a.host.(Guest)
	if !ok {
		return "", fmt.Errorf("%T cannot be the guest of itself", a.host)
	}
	r := run{Attacher: a, guest: g, end: end, as: guest, spec: Spec{Label: endpointAlias + id, MAC: mac}, waiting: true, keep: !anew}
	if _, err := r.converge(); err != nil {
		if uerr := r.undo(); uerr != nil {
			a.log.Warn("what was begun is not undone; the next sweep tries again", "end", end, "err", uerr)
		}
		return "", err
	}
	return guest, nil
}

// SettleEndpoint sets what the engine does not once it has configured the
// interface of an endpoint, which it shows by having set it up with all the
// addresses of s. It gives [ErrNotReady] until then, and leaves routes to the
// engine, which might be at work on them. More is what the interface has to
// have besides.
func (a *Attacher) SettleEndpoint(path, id string, s Spec, more []netip.Prefix) (Namespace, State, error) {
	g, ns, err := a.enter(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, kernel.ErrNoNamespace):
		return Namespace{}, State{}, ErrNotReady
	case err != nil:
		return Namespace{}, State{}, err
	}
	defer g.Close()
	r := a.endpointRun(g, id, s)
	r.waiting = true
	_, seen, err := r.look()
	if errors.Is(err, fs.ErrNotExist) { // it has just got another name
		return ns, State{}, ErrNotReady
	}
	if err != nil {
		return ns, State{}, err
	}
	missing := slices.ContainsFunc(s.Addresses, func(p netip.Prefix) bool { return !slices.Contains(seen.addrs, p) })
	if seen.link == nil || !seen.link.Up || missing {
		return ns, State{}, ErrNotReady
	}
	r.spec.Addresses = slices.Concat(s.Addresses, more)
	st, err := r.converge()
	if err != nil {
		return ns, State{}, errors.Join(err, r.undo())
	}
	if a.redirect != nil && !s.NoDNS {
		if err := a.redirect(g, st.Interface); err != nil {
			// It can still talk to others, and ask the name server itself.
			a.log.Warn("a container's resolver is not led to the name server; it finds no names of other hosts", "end", r.end, "err", err)
		}
	}
	r.waitForwarding()
	for _, p := range s.Addresses { // the others were, when they were added
		if err := g.Announce(st.Interface, p.Addr()); err != nil {
			return ns, st, err
		}
	}
	return ns, st, nil
}

// SetEndpoint is [Attacher.Set] for the interface of an endpoint that was
// settled in ns: it also makes it anew, should somebody have deleted it.
func (a *Attacher) SetEndpoint(path string, ns Namespace, id string, s Spec) (State, error) {
	g, now, err := a.enter(path)
	if err != nil {
		return State{}, err
	}
	defer g.Close()
	if now != ns {
		return State{}, ErrChanged
	}
	r := a.endpointRun(g, id, s)
	st, err := r.converge()
	if err != nil {
		return State{}, errors.Join(err, r.undo())
	}
	return st, nil
}

func (a *Attacher) endpointRun(g Guest, id string, s Spec) run {
	end, _ := EndpointEnds(id)
	s.Label = endpointAlias + id
	return run{Attacher: a, guest: g, end: end, spec: s}
}

// RemoveEndpoint deletes the interface of an endpoint, both ends, wherever the
// engine has put one; nil when it is gone.
func (a *Attacher) RemoveEndpoint(id string) error {
	end, _ := EndpointEnds(id)
	if err := a.host.DelLink(end); err != nil {
		return fmt.Errorf("delete %s: %w", end, err)
	}
	return nil
}

// WithdrawDNS takes back what [Attacher.SettleEndpoint] did for names in the
// namespace at path; nil when that is not ns any more.
func (a *Attacher) WithdrawDNS(path string, ns Namespace) error {
	if a.withdraw == nil {
		return nil
	}
	g, now, err := a.enter(path)
	if err != nil {
		return nil // it went with its namespace
	}
	defer g.Close()
	if now != ns {
		return nil
	}
	return a.withdraw(g)
}

// SoundEndpoint is [Attacher.Sound] for an endpoint. There says whether the
// host end exists at all.
func (a *Attacher) SoundEndpoint(links []kernel.Link, id string) (there, sound bool) {
	end, _ := EndpointEnds(id)
	return a.sound(links, end)
}

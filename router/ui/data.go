package ui

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/router/api"
)

// freshness is how old a status may be that is drawn: many who look cost no more
// than one.
const freshness = 900 * time.Millisecond

// latest is the last status that was read.
type latest struct {
	mu     sync.Mutex // also keeps a second reader from asking at the same time
	at     time.Time
	status api.Status
}

// status is at most freshness old.
func (u *UI) status(ctx context.Context) (api.Status, error) {
	u.latest.mu.Lock()
	defer u.latest.mu.Unlock()
	if age := u.now().Sub(u.latest.at); age >= 0 && age < freshness {
		return u.latest.status, nil
	}
	s, err := u.backend.Status(ctx)
	if err != nil {
		return s, err
	}
	u.latest.status, u.latest.at = s, u.now()
	return s, nil
}

func (u *UI) picture(w http.ResponseWriter, r *http.Request) {
	s, err := u.status(r.Context())
	if err != nil {
		refuse(w, err)
		return
	}
	write(w, Draw(s, u.now()))
}

// why is asked of the backend as it is: what `weft why` tells.
func (u *UI) why(w http.ResponseWriter, r *http.Request) {
	v, err := u.backend.Why(r.Context(), r.URL.Query().Get("peer"))
	if err != nil {
		refuse(w, err)
		return
	}
	write(w, v)
}

// Name is a name and its addresses.
type Name struct {
	Name      string   `json:"name"`
	Host      string   `json:"host"` // nickname
	Container string   `json:"container"`
	Addresses []string `json:"addresses"`
}

func (u *UI) names(w http.ResponseWriter, r *http.Request) {
	s, err := u.status(r.Context())
	if err != nil {
		refuse(w, err)
		return
	}
	write(w, namesOf(s))
}

// namesOf lists names in their order, each once for each host.
func namesOf(s api.Status) []Name {
	list := []Name{}
	if s.DNS == nil {
		return list
	}
	nick := make(map[string]string)
	for _, p := range s.Peers {
		nick[p.Name] = p.Nickname
	}
	index := make(map[[3]string]int)
	for _, e := range liveNames(s.DNS) {
		key := [3]string{e.Hostname, e.Origin, e.ContainerID}
		i, there := index[key]
		if !there {
			i = len(list)
			index[key] = i
			list = append(list, Name{Name: e.Hostname, Host: cmp.Or(nick[e.Origin], e.Origin), Container: short(e.ContainerID)})
		}
		list[i].Addresses = append(list[i].Addresses, e.Address.String())
	}
	slices.SortStableFunc(list, func(a, b Name) int { return cmp.Or(natural(a.Name, b.Name), natural(a.Host, b.Host)) })
	return list
}

// short is how Docker prints an id.
func short(id string) string {
	if len(id) == 64 {
		return id[:12]
	}
	return id
}

// Attached is one interface on the switch.
type Attached struct {
	Container string   `json:"container,omitempty"` // of other hosts it is known for names only
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"`
	Names     []string `json:"names"`
}

// Link is a path of a host as that host tells of it.
type Link struct {
	Peer  string  `json:"peer"` // nickname
	ID    string  `json:"id"`
	State State   `json:"state"`
	RTT   float64 `json:"rtt,omitempty"` // in milliseconds
	MTU   int     `json:"mtu,omitempty"`
}

// hostDetail is what is told of one host on demand.
type hostDetail struct {
	ID       string     `json:"id"`
	Nickname string     `json:"nick"`
	Attached []Attached `json:"attached"`
	Links    []Link     `json:"links"`
}

func (u *UI) host(w http.ResponseWriter, r *http.Request) {
	s, err := u.status(r.Context())
	if err != nil {
		refuse(w, err)
		return
	}
	id := r.URL.Query().Get("peer")
	i := slices.IndexFunc(s.Peers, func(p api.Peer) bool { return p.Name == id })
	if i < 0 {
		refuse(w, fmt.Errorf("%q is %w among the hosts that answer", id, api.ErrNotFound))
		return
	}
	p := s.Peers[i]
	d := hostDetail{ID: p.Name, Nickname: p.Nickname, Attached: attachedOf(s, p), Links: []Link{}}
	if p.Self {
		own, err := u.backend.PS(r.Context(), nil)
		if err != nil {
			refuse(w, err)
			return
		}
		d.Attached = ownAttached(own)
	}
	for _, l := range p.Connections {
		d.Links = append(d.Links, Link{
			Peer: cmp.Or(l.Nickname, l.Name, l.Address), ID: l.Name, State: stateOf(l.State), MTU: l.MTU,
			RTT: float64(l.RTT) / float64(time.Millisecond),
		})
	}
	slices.SortStableFunc(d.Links, func(a, b Link) int {
		return cmp.Or(cmp.Compare(b.State.rank(), a.State.rank()), natural(a.Peer, b.Peer))
	})
	write(w, d)
}

// ownAttached is `weft ps`, without the host itself while it is not exposed.
func ownAttached(list []api.Attachment) []Attached {
	out := []Attached{}
	for _, a := range list {
		if a.Container == api.ExposeName && len(a.Addresses) == 0 {
			continue
		}
		x := Attached{Container: a.Container, MAC: a.MAC, Addresses: []string{}, Names: append([]string{}, a.Names...)}
		for _, p := range a.Addresses {
			x.Addresses = append(x.Addresses, p.Addr().String())
		}
		out = append(out, x)
	}
	return out
}

// attachedOf is what another host tells of its containers: interfaces with
// their addresses, and names with theirs.
func attachedOf(s api.Status, p api.Peer) []Attached {
	type label struct{ container, name string }
	labels := make(map[netip.Addr][]label)
	if s.DNS != nil {
		for _, e := range liveNames(s.DNS) {
			if e.Origin == p.Name {
				labels[e.Address] = append(labels[e.Address], label{short(e.ContainerID), e.Hostname})
			}
		}
	}
	out := []Attached{}
	for _, a := range p.Attached {
		x := Attached{MAC: a.MAC, Addresses: []string{}, Names: []string{}}
		for _, addr := range a.Addresses {
			x.Addresses = append(x.Addresses, addr.String())
			for _, l := range labels[addr] {
				if !strings.HasPrefix(l.container, "weft:") || l.container == api.ExposeName {
					x.Container = l.container
				}
				if !slices.Contains(x.Names, l.name) {
					x.Names = append(x.Names, l.name)
				}
			}
		}
		out = append(out, x)
	}
	return out
}

// events sends what happens as server-sent events (HTML standard, section 9.2):
// first the last ones, then what comes, for as long as the session is good.
func (u *UI) events(w http.ResponseWriter, r *http.Request) {
	session, ok := u.session(r)
	if !ok { // it ended just now
		u.show(w, "closed.html", http.StatusUnauthorized)
		return
	}
	if u.streams.Add(1) > maxStreams {
		u.streams.Add(-1)
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many pages follow the events already", http.StatusServiceUnavailable)
		return
	}
	defer u.streams.Add(-1)
	q := api.EventRequest{Last: 200, Follow: true}
	if _, err := fmt.Sscan(r.Header.Get("Last-Event-ID"), &q.After); err != nil {
		q.After = 0 // it begins
	}
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(text string) error {
		_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second)) // not every listener can
		_, err := w.Write([]byte(text))
		return errors.Join(err, out.Flush())
	}
	if send("retry: 2000\n\n") != nil {
		return
	}
	ctx, cancel := u.while(r.Context(), session)
	defer cancel()
	for e, err := range u.backend.Events(ctx, q) {
		if err != nil {
			u.log.Debug("the picture gets no events", "err", err)
			return
		}
		b, err := json.Marshal(e)
		if err != nil || send(fmt.Sprintf("id: %d\ndata: %s\n\n", e.Seq, b)) != nil {
			return // nobody listens any more
		}
	}
}

func write(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // the caller is gone; nobody to tell
}

// refuse answers with the error's text, as JSON.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, api.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, api.ErrUsage):
		status = http.StatusBadRequest
	case errors.Is(err, api.ErrConflict):
		status = http.StatusConflict
	}
	b, _ := json.Marshal(map[string]string{"error": err.Error()}) // two strings
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

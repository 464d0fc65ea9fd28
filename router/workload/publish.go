package workload

import (
	"net/netip"

	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
)

// Attachments takes what is attached on this host, so that the switches of the
// others need neither learn nor ask. Set replaces all. It must not block for
// long.
type Attachments interface {
	Set(list []fdb.Attachment) error
}

// publish tells the other hosts what is attached here. What cannot be told is
// learnt by them from frames, so that an error is only logged; the next change
// tries again. Before Restore we do not know it ourselves.
func (w *Workload) publish() {
	if w.attachments == nil {
		return
	}
	select {
	case <-w.restored:
	default:
		return
	}
	w.publishing.Lock()
	defer w.publishing.Unlock()
	var bridge kernel.MAC
	if w.host != nil {
		bridge = w.host.MAC()
	}
	var list []fdb.Attachment
	w.journal.view(func(s *state) { list = s.attachments(bridge) })
	if err := w.attachments.Set(list); err != nil {
		w.log.Warn("the other hosts are not told of every attachment; they learn the others from frames", "err", err)
	}
}

// attachments returns the interfaces that stand: one for each namespace, one for
// each endpoint of an engine, and the host's own when it is exposed.
func (s *state) attachments(bridge kernel.MAC) []fdb.Attachment {
	var list []fdb.Attachment
	at := make(map[attach.Namespace]int)
	for i := range s.Containers {
		e := &s.Containers[i]
		hw, err := parseMAC(e.MAC)
		if err != nil || hw == (kernel.MAC{}) || e.Interface == "" {
			continue
		}
		n, ok := at[e.NS]
		if !ok {
			n = len(list)
			at[e.NS] = n
			list = append(list, fdb.Attachment{MAC: fdb.MAC(hw)})
		}
		list[n].Addrs = append(list[n].Addrs, addrsOf(e.Addresses)...)
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if hw, err := parseMAC(e.MAC); err == nil && e.Joined {
			list = append(list, fdb.Attachment{MAC: fdb.MAC(hw), Addrs: addrsOf(e.held())})
		}
	}
	if len(s.Exposed) > 0 {
		exposed := make([]netip.Addr, 0, len(s.Exposed))
		for _, e := range s.Exposed {
			exposed = append(exposed, e.Address.Addr())
		}
		list = append(list, fdb.Attachment{MAC: fdb.MAC(bridge), Addrs: exposed})
	}
	return list
}

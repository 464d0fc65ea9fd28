package workload

import (
	"context"
	"slices"

	"github.com/weftnet/weft/router/api"
)

// PS lists the attachments of this host. See api.Backend.
func (w *Workload) PS(ctx context.Context, containers []string) ([]api.Attachment, error) {
	if len(containers) == 0 {
		return append(w.list(append([]string{exposeKey}, w.keys()...)), w.listEndpoints(w.endpointIDs(nil))...), nil
	}
	var ids []string
	var keys []string
	for _, arg := range containers {
		found := []string{exposeKey}
		if arg != api.ExposeName {
			t, err := w.resolve(ctx, arg)
			some := w.endpointsOf(arg, t)
			if found, err = w.entriesFor(arg, t, err); err != nil && len(some) == 0 {
				return nil, err
			}
			for _, id := range some {
				if !slices.Contains(ids, id) {
					ids = append(ids, id)
				}
			}
		}
		for _, key := range found {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return append(w.list(keys), w.listEndpoints(ids)...), nil
}

// endpointsOf returns the ids of the endpoints that a container has.
func (w *Workload) endpointsOf(arg string, t target) (ids []string) {
	w.journal.view(func(s *state) {
		for _, e := range s.endpointsFor(arg, t) {
			ids = append(ids, e.ID)
		}
	})
	return ids
}

// listEndpoints lists those of some endpoints that have an interface.
func (w *Workload) listEndpoints(ids []string) (list []api.Attachment) {
	w.journal.view(func(s *state) {
		for _, id := range ids {
			if e := s.endpoint(id); e != nil && e.Joined {
				list = append(list, api.Attachment{
					Container: e.label(), ID: e.Container, Interface: e.Interface, MAC: e.MAC,
					Addresses: e.held(), Names: hostnames(e.Names),
				})
			}
		}
	})
	return list
}

func (w *Workload) list(keys []string) []api.Attachment {
	list := []api.Attachment{}
	w.journal.view(func(s *state) {
		for _, key := range keys {
			if key == exposeKey {
				list = append(list, w.hostAttachment(s))
				continue
			}
			e := s.find(key)
			if e == nil || len(e.Addresses) == 0 {
				continue
			}
			list = append(list, api.Attachment{
				Container: e.Label, ID: e.ID, Interface: e.Interface, MAC: e.MAC,
				Addresses: slices.Clone(e.Addresses), Names: hostnames(e.Names),
			})
		}
	})
	return list
}

func (w *Workload) hostAttachment(s *state) api.Attachment {
	a := api.Attachment{Container: api.ExposeName, Names: hostnames(s.ExposeName)}
	if w.host != nil {
		a.MAC = w.host.MAC().String()
	}
	for _, e := range s.Exposed {
		a.Addresses = append(a.Addresses, e.Address)
	}
	return a
}

// hostnames returns each name once.
func hostnames(list []name) []string {
	var out []string
	for _, n := range list {
		if !slices.Contains(out, n.Hostname) {
			out = append(out, n.Hostname)
		}
	}
	return out
}

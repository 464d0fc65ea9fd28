package workload

import (
	"context"
	"slices"

	"github.com/weftnet/weft/router/api"
)

// PS lists the attachments of this host. See api.Backend.
func (w *Workload) PS(ctx context.Context, containers []string) ([]api.Attachment, error) {
	if len(containers) == 0 {
		return w.list(append([]string{exposeKey}, w.keys()...)), nil
	}
	var keys []string
	for _, arg := range containers {
		found := []string{exposeKey}
		if arg != api.ExposeName {
			var err error
			if found, err = w.lookup(ctx, arg); err != nil {
				return nil, err
			}
		}
		for _, key := range found {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return w.list(keys), nil
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

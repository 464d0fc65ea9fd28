package tunnel

import (
	"strings"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/fdb"
)

// Attached is what every host tells of the interfaces that it has on the switch,
// by MAC address. What does not parse is left out.
func (s *Snapshot) Attached() map[crypto.Identity][]api.Attached {
	all := make(map[crypto.Identity][]api.Attached)
	for _, e := range s.View.Entries { // by owner and key
		if !strings.HasPrefix(e.Key, fdb.EntryPrefix) || len(all[e.Owner]) == fdb.MaxPerHost {
			continue
		}
		if a, err := fdb.ParseAttachment(e.Key, e.Value); err == nil {
			all[e.Owner] = append(all[e.Owner], api.Attached{MAC: a.MAC.String(), Addresses: a.Addrs})
		}
	}
	return all
}

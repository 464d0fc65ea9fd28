package router

import (
	"strings"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/fdb"
)

// known reads out of the cluster's entries what is attached on other hosts.
// What does not parse was written by a newer or a broken member: it is counted,
// and frames to there are flooded.
func known(self crypto.Identity, entries []mesh.Entry) (list []fdb.Known, bad int) {
	var claims []fdb.Claim
	for _, e := range entries {
		if !strings.HasPrefix(e.Key, fdb.EntryPrefix) {
			continue
		}
		a, err := fdb.ParseAttachment(e.Key, e.Value)
		if err != nil {
			bad++
			continue
		}
		claims = append(claims, fdb.Claim{Attachment: a, At: e.Owner.Overlay()})
	}
	own := self.Overlay()
	for _, k := range fdb.Settle(claims) {
		if k.At != own {
			list = append(list, k)
		}
	}
	return list, bad
}

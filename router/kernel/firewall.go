package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FirewallGeneration returns the number of the namespace's nftables rules as
// they are. Every transaction, of whomever and on whatever table, gives them the
// next one, those of iptables-nft too and those of legacy iptables not: two
// equal numbers mean that nothing was changed in between. It costs one netlink
// message, listing rules costs a process.
func (k *Kernel) FirewallGeneration() (uint32, error) {
	var generation uint32
	err := k.Do(func() error {
		r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
		r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
		answers, err := r.Execute(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN)
		if err != nil {
			return err
		}
		for _, b := range answers {
			if len(b) < nl.SizeofNfgenmsg {
				continue
			}
			attributes, err := nl.ParseRouteAttr(b[nl.SizeofNfgenmsg:])
			if err != nil {
				return err
			}
			for _, a := range attributes {
				if a.Attr.Type == unix.NFTA_GEN_ID && len(a.Value) == 4 {
					generation = binary.BigEndian.Uint32(a.Value)
					return nil
				}
			}
		}
		return errors.New("the answer has no number")
	})
	if err != nil {
		return 0, fmt.Errorf("read the generation of nftables: %w", translate(err))
	}
	return generation, nil
}

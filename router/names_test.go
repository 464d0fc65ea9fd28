package router

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/mesh"
)

func TestOwnedSkipsWhatIsNoName(t *testing.T) {
	value, err := dns.Record{Hostname: "web.weft.internal.", Container: "c1", Addr: netip.MustParseAddr("10.32.0.1")}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	names, bad := owned([]mesh.Entry{
		{Key: dns.EntryPrefix + "c1/web", Value: value},
		{Key: dns.EntryPrefix + "x", Value: []byte("rubbish")},
		{Key: "l/1"},
	})
	if len(names) != 1 || bad != 1 || names[0].Hostname != "web.weft.internal." {
		t.Errorf("owned: %v, %d bad", names, bad)
	}
}

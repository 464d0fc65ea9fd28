package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/ipam/wire"
	"github.com/weftnet/weft/mesh/replica"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router"
	"github.com/weftnet/weft/router/doctor"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/tunnel"
)

// What docs/protocol.md says in numbers is what the code does, as far as the
// numbers have names that can be seen from here.
func TestProtocolPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(text)), " ")
	count := func(n int) string { // with commas
		s := fmt.Sprint(n)
		if len(s) > 3 {
			s = s[:len(s)-3] + "," + s[len(s)-3:]
		}
		return s
	}
	want := []string{
		fmt.Sprintf("`%s` in every cluster", crypto.OverlayPrefix),
		fmt.Sprintf("| frames | UDP %d at overlay addresses", router.VXLANPort),
		fmt.Sprintf("| gossip | TCP and UDP %d at overlay addresses", mesh.GossipPort),
		fmt.Sprintf("At most %s adverts and %d MiB", count(hello.MaxAdverts), hello.MaxAdvertBytes>>20),
		fmt.Sprintf("At most %s bytes. | size | field |", count(advert.MaxSize)),
		fmt.Sprintf("| nickname, at most %d,", advert.MaxNickname),
		fmt.Sprintf("| version of the program, at most %d,", advert.MaxVersion),
		fmt.Sprintf("| number of endpoints, at most %d;", advert.MaxEndpoints),
		fmt.Sprintf("%s owners, %s live entries and %d MiB of a log, %s tombstones", count(replica.MaxOwners), count(replica.MaxEntries), replica.MaxLog>>20, count(replica.MaxTombstones)),
		fmt.Sprintf("%d KiB of a request or delta", replica.MaxMessage>>10),
		fmt.Sprintf("key (uvarint length, at most %d), and unless deleted the value (uvarint length, at most %d KiB)", replica.MaxKey, replica.MaxValue>>10),
		fmt.Sprintf("over a connection (at most %d MiB), or as a broadcast (at most %d bytes)", mesh.MaxPayload>>20, mesh.MaxBroadcast),
		fmt.Sprintf("| %#x | messages about [addresses]", wire.MessageByte),
		fmt.Sprintf("| %#x | checkup:", doctor.CheckupByte),
		fmt.Sprintf("| %#x | punch:", tunnel.PunchByte),
		fmt.Sprintf("| `%s` | the signed [report of links]", topology.EntryKey),
		fmt.Sprintf("| `%sCONTAINER/name/address` |", dns.EntryPrefix),
		fmt.Sprintf("| `%sMAC` |", fdb.EntryPrefix),
		fmt.Sprintf("| `%s` | what the host has of the address range", wire.EntryInfo),
		fmt.Sprintf("sorted, 1 length each, at most %d |", fdb.MaxAddrs),
		fmt.Sprintf("At most %s of one host and %s in all are believed", count(fdb.MaxPerHost), count(fdb.MaxKnown)),
		fmt.Sprintf("At most %d links are told", topology.MaxLinks),
		fmt.Sprintf("| 1 | %#x | | 1 | kind |", signal.First),
		fmt.Sprintf("milliseconds 2 (at most %s)", count(int(signal.MaxHush.Milliseconds()))),
		fmt.Sprintf("tested by rows of %s ordinary probes", []string{3: "three"}[path.RowLength]),
		fmt.Sprintf("The switch is %d on every host", fdb.InnerMTU(1500, false)),
		fmt.Sprintf("%s, the name server", router.DNSAddress),
		fmt.Sprintf("and %d in all with the last dot", dns.MaxName),
		fmt.Sprintf("TTL %d s", dns.DefaultTTL),
	}
	for kind := signal.Probe; kind <= signal.Invite; kind++ {
		size := count(kind.Least())
		if most := kind.Most(); most > kind.Least() {
			size += "–" + count(most)
		}
		want = append(want, fmt.Sprintf("| %d %s | %s |", kind, kind, size))
	}
	for _, w := range want {
		if !strings.Contains(page, w) {
			t.Errorf("docs/protocol.md does not say %q", w)
		}
	}
}

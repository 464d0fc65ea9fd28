package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const someNeighbours = `entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast periodic_gc_runs forced_gc_runs unresolved_discards table_fulls
00000400 0001c54b 0001df22 00000006   0048b6d3 0009737b 00008921   00000000         00000000         00001242         000046c8       000001e5            000045db
00000400 0001d311 0001b922 00000005   0049b994 0008f629 000082c9   00000000         00000000         00000000         00004d11       0000008d            00004bff
`

func TestParseNeighbours(t *testing.T) {
	for name, tt := range map[string]struct {
		text    string
		entries int
		full    uint64
		bad     bool
	}{
		"two processors": {someNeighbours, 0x400, 0x45db + 0x4bff, false},
		"an old kernel":  {"entries allocs\n0000000a 00000000\n", 10, 0, false},
		"nothing":        {"", 0, 0, true},
		"no numbers":     {"entries table_fulls\n", 0, 0, true},
		"no entries":     {"allocs table_fulls\n00000001 00000002\n", 0, 0, true},
		"a short line":   {"entries table_fulls\n00000001\n", 0, 0, true},
		"no number":      {"entries table_fulls\nx 00000001\n", 0, 0, true},
	} {
		entries, full, err := parseNeighbours(tt.text)
		if entries != tt.entries || full != tt.full || (err != nil) != tt.bad {
			t.Errorf("%s: %d entries, %d times full, %v", name, entries, full, err)
		}
	}
}

// TestNeighbourTables: where the kernel shows nothing, as in every network
// namespace but the first, nothing is known and nothing is wrong.
func TestNeighbourTables(t *testing.T) {
	root := t.TempDir()
	look := func(want ...Neighbours) {
		t.Helper()
		f := NewGatherer().Gather(t.Context(), Facts{}, NeighbourTables(root))
		if diff := cmp.Diff(want, f.Neighbours); diff != "" || len(f.Stuck) > 0 {
			t.Errorf("%s\n%v", diff, f.Stuck)
		}
	}
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	look()
	put(neighbourFiles[0].limit, "1024\n")
	look() // there are no counts
	put(neighbourFiles[0].counts, someNeighbours)
	look(Neighbours{"IPv4", 1024, 1024, 0x45db + 0x4bff})
	put(neighbourFiles[1].limit, "1024\n")
	put(neighbourFiles[1].counts, "what is this\nno table\n")
	if f := NewGatherer().Gather(t.Context(), Facts{}, NeighbourTables(root)); len(f.Stuck) != 1 || f.Neighbours != nil {
		t.Errorf("%+v", f)
	}
}

// TestMoreNeighbours: what the remedy sets mends what was found, whatever that is.
func TestMoreNeighbours(t *testing.T) {
	for _, tt := range []struct {
		entries, limit, peers int
		want                  string
	}{
		{1000, 1024, 0, "gc_thresh3=4096 "},
		{20, 1024, 600, "gc_thresh3=8192 "},
		{8, 8, 0, "gc_thresh3=32 "},
		{40000, 32768, 3, "gc_thresh3=262144 "},
	} {
		n := Neighbours{"IPv6", tt.entries, tt.limit, 1}
		remedy := moreNeighbours(n, entriesPerPeer*tt.peers)
		if !strings.Contains(remedy, tt.want) || !strings.Contains(remedy, "'sysctl -w net.ipv6.neigh.default.gc_thresh2=") {
			t.Errorf("%+v: %s, want %s", tt, remedy, tt.want)
		}
	}
}

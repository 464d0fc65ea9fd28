package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/router/api"
)

// Neighbours is one of the kernel's tables of neighbours: who has which address on
// the links of this machine. All its network namespaces share it, and only the
// first one sees how large it may become.
type Neighbours struct {
	Family  string // IPv4 | IPv6
	Entries int
	Limit   int    // gc_thresh3: nothing is added beyond it, and packets are dropped
	Full    uint64 // times that there was no room, since the machine started
}

// neighbourFiles are where the kernel tells of its tables.
var neighbourFiles = []struct{ family, limit, counts string }{
	{"IPv4", "proc/sys/net/ipv4/neigh/default/gc_thresh3", "proc/net/stat/arp_cache"},
	{"IPv6", "proc/sys/net/ipv6/neigh/default/gc_thresh3", "proc/net/stat/ndisc_cache"},
}

// NeighbourTables looks at the tables of neighbours, where they are shown; root is
// before the paths of their files.
func NeighbourTables(root string) Step {
	return Step{Name: "neighbours", Run: func(context.Context) (func(*Facts), error) {
		var list []Neighbours
		for _, n := range neighbourFiles {
			t, err := readNeighbours(filepath.Join(root, n.limit), filepath.Join(root, n.counts))
			if errors.Is(err, fs.ErrNotExist) {
				continue // another namespace, or no IPv6
			}
			if err != nil {
				return nil, err
			}
			t.Family = n.family
			list = append(list, t)
		}
		return func(f *Facts) { f.Neighbours = list }, nil
	}}
}

func readNeighbours(limit, counts string) (n Neighbours, err error) {
	b, err := os.ReadFile(limit)
	if err != nil {
		return n, err
	}
	if n.Limit, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
		return n, fmt.Errorf("%s: %w", limit, err)
	}
	if b, err = os.ReadFile(counts); err != nil {
		return n, err
	}
	if n.Entries, n.Full, err = parseNeighbours(string(b)); err != nil {
		return n, fmt.Errorf("%s: %w", counts, err)
	}
	return n, nil
}

// parseNeighbours reads a line of names and one line of hexadecimal numbers for
// each processor: entries is the whole table's on each, table_fulls each one's own.
func parseNeighbours(text string) (entries int, full uint64, err error) {
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Scan()
	names := strings.Fields(lines.Text())
	entriesAt, fullAt := slices.Index(names, "entries"), slices.Index(names, "table_fulls")
	rows := 0
	for ; lines.Scan(); rows++ {
		f := strings.Fields(lines.Text())
		if entriesAt < 0 || len(f) != len(names) {
			return 0, 0, errors.New("it has another form than is known")
		}
		n, err := strconv.ParseUint(f[entriesAt], 16, 32)
		if err != nil {
			return 0, 0, err
		}
		entries = int(n)
		if fullAt < 0 { // before Linux 4.3
			continue
		}
		if n, err = strconv.ParseUint(f[fullAt], 16, 64); err != nil {
			return 0, 0, err
		}
		full += n
	}
	if rows == 0 {
		return 0, 0, errors.New("it is empty")
	}
	return entries, full, lines.Err()
}

// entriesPerPeer is how many neighbours a peer may be: its host on the underlay,
// and a container or the host itself on the switch.
const entriesPerPeer = 2

// checkNeighbours finds a table that is too small: the kernel then says "neighbor
// table overflow", and drops what is sent to those that it has no room for.
func checkNeighbours(f *findings, facts Facts) {
	peers := 0
	if facts.Status != nil {
		for _, c := range facts.Status.Connections {
			if c.Name != "" {
				peers++
			}
		}
	}
	bad := false
	for _, n := range facts.Neighbours {
		if n.Limit <= 0 {
			continue
		}
		was := ""
		if n.Full > 0 {
			was = fmt.Sprintf(" and was full %d times since the machine started", n.Full)
		}
		need := entriesPerPeer * peers
		var s api.Severity
		what := fmt.Sprintf("the kernel's table of %s neighbours has %d entries of %d%s", n.Family, n.Entries, n.Limit, was)
		switch {
		case n.Entries >= n.Limit-n.Limit/8:
			s, what = api.Problem, what+": packets to hosts and containers that are not in it are dropped"
		case n.Full > 0 && n.Entries >= n.Limit/2:
			s, what = api.Warning, what+": packets were dropped then"
		case need > n.Limit:
			s, what = api.Warning, fmt.Sprintf("%s: %d peers may need %d", what, peers, need)
		default:
			continue
		}
		bad = true
		f.add(s, "neighbours", n.Family, what, moreNeighbours(n, need))
	}
	if len(facts.Neighbours) > 0 && !bad {
		f.ok("neighbours", "the kernel's tables of neighbours have room")
	}
}

// moreNeighbours is a command that gives a table four times the room that it needs,
// now and after a reboot: sysctl prints what sysctl.d(5) reads.
func moreNeighbours(n Neighbours, need int) string {
	limit := 1 << bits.Len(uint(4*max(n.Entries, n.Limit/2, need)-1))
	table := "net." + strings.ToLower(n.Family) + ".neigh.default."
	return fmt.Sprintf("'sysctl -w %sgc_thresh2=%d %sgc_thresh3=%d | tee /etc/sysctl.d/60-neighbours-%s.conf'", table, limit/2, table, limit, strings.ToLower(n.Family))
}

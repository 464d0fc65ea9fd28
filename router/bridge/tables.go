package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/knftables"
)

// tableID says which table.
type tableID struct {
	family knftables.Family
	name   string
}

// places are our tables.
var places = [...]tableID{
	{knftables.InetFamily, tableName},
	{knftables.BridgeFamily, tableName},
	{knftables.InetFamily, pathsName},
}

// tables are our nftables tables, written and read by nft.
type tables struct {
	// Constant.

	kernel  Kernel
	commits *commits

	// Guarded by Bridge.mu.

	nft  knftables.Interface   // nil: not tried yet
	were [len(places)]struct { // by places
		written string // the last transaction; "": none
		seen    string // what nft lists after it
		at      point  // when it listed that
	}

	cutsMu sync.Mutex // guards cuts and the counters behind them; taken after Bridge.mu
	cuts   map[netip.AddrPort]counted
}

// set writes the tables that are not those written last, or which nft does not
// list any more as it listed them then; it is asked when somebody else changed
// anything since. Each is written alone: with the one for IP packets go the
// elements of its sets (see [Bridge.Quiet]).
func (t *tables) set(ctx context.Context, r ruleset) (repaired []string, err error) {
	err = t.kernel.Do(func() error {
		if err := t.open(); err != nil {
			return err
		}
		for i, p := range places {
			words, err := t.setTable(ctx, i, r.of(p))
			if err != nil {
				return err
			}
			for _, w := range words {
				if !slices.Contains(repaired, w) {
					repaired = append(repaired, w)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return repaired, nil
}

// setTable does it for one of them.
func (t *tables) setTable(ctx context.Context, i int, r ruleset) (repaired []string, err error) {
	is, p := &t.were[i], places[i]
	tx := t.nft.NewTransaction()
	r.write(tx, p)
	want := tx.String()
	at := t.commits.now() // before the look: what changes meanwhile is seen then, or makes us look again
	if want == is.written {
		if at.same(is.at) {
			return nil, nil
		}
		seen, err := list(ctx, p)
		if err != nil {
			return nil, err
		}
		if seen == is.seen {
			is.at = at
			return nil, nil
		}
		repaired = []string{"nftables rules of weft were changed or gone"}
	} else {
		repaired = []string{"nftables rules of weft were not those wanted"}
	}
	is.written = ""
	if err := t.write(ctx, tx, p, r.cuts); err != nil {
		return nil, fmt.Errorf("write nftables rules: %w", err)
	}
	at = t.commits.now()
	seen, err := list(ctx, p)
	if err != nil {
		return nil, err
	}
	broken, err := r.compare(seen)
	if err != nil {
		return nil, err
	}
	if broken != "" {
		// Somebody was faster than we looked. What is there now must not
		// be taken for what we wrote: the next look writes again.
		return append(repaired, "nftables rules of weft were changed while they were written: "+broken), nil
	}
	is.written, is.seen, is.at = want, seen, at
	return repaired, nil
}

// write writes a table. What its counters say is read before.
func (t *tables) write(ctx context.Context, tx *knftables.Transaction, p tableID, cuts map[netip.AddrPort]int) error {
	if p.name == pathsName {
		t.cutsMu.Lock()
		defer t.cutsMu.Unlock()
		_ = t.countLocked(ctx) // what was counted since the last look is no reason to go without rules
	}
	if err := t.commits.write(func() error { return t.nft.Run(ctx, tx) }); err != nil {
		return err
	}
	if p.name == pathsName {
		t.renewLocked(cuts)
	}
	return nil
}

// compare says what a list lacks, or has too much, of the rules of each chain,
// by their comments and in their order; nothing when it is whole.
func (r ruleset) compare(list string) (broken string, err error) {
	type at struct{ family, chain string }
	got := map[at][]string{}
	for tables := json.NewDecoder(strings.NewReader(list)); tables.More(); {
		var table struct {
			Nftables []struct {
				Rule *struct{ Family, Chain, Comment string }
			}
		}
		if err := tables.Decode(&table); err != nil {
			return "", fmt.Errorf("list nftables rules: %w", err)
		}
		for _, o := range table.Nftables {
			if o.Rule != nil {
				chain := at{o.Rule.Family, o.Rule.Chain}
				got[chain] = append(got[chain], o.Rule.Comment)
			}
		}
	}
	for _, c := range r.chains {
		chain := at{string(c.family), c.name}
		var want []string
		for _, l := range c.rules {
			want = append(want, l.comment)
		}
		if !slices.Equal(got[chain], want) {
			return fmt.Sprintf("chain %s has rules %q", c.name, got[chain]), nil
		}
	}
	return "", nil
}

// remove deletes all tables. Without nft there cannot be any of ours.
func (t *tables) remove(ctx context.Context) error {
	return t.kernel.Do(func() error {
		if err := t.open(); err != nil {
			if errors.Is(err, exec.ErrNotFound) {
				return nil
			}
			return err
		}
		clear(t.were[:])
		tx := t.nft.NewTransaction()
		for _, p := range places {
			table := &knftables.Table{Family: p.family, Name: p.name}
			tx.Add(table) // deleting what is not there is an error
			tx.Delete(table)
		}
		if err := t.nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("delete nftables tables: %w", err)
		}
		return nil
	})
}

func (t *tables) open() error {
	if t.nft != nil {
		return nil
	}
	nft, err := openNFT()
	if err != nil {
		return err
	}
	t.nft = nft
	return nil
}

func openNFT() (knftables.Interface, error) {
	nft, err := knftables.New("", "", knftables.NoObjectCommentEmulation)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("the program nft is missing: install the package nftables (apt install nftables): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return nft, nil
}

// list returns a table in a form that is equal when it is. knftables lists
// names only, so nft is asked itself.
func list(ctx context.Context, p tableID) (string, error) {
	out, err := runList(ctx, p)
	if err != nil {
		return "", err
	}
	plain, err := withoutHandles(out)
	if err != nil {
		// nft 1.0.6 stops in the middle when a table is dormant. Whatever
		// this is, it is not what we wrote.
		plain = out
	}
	return string(plain), nil
}

// runList is what nft says of a table: an empty object when there is none.
func runList(ctx context.Context, p tableID) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "nft", "--json", "list", "table", string(p.family), p.name).Output()
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed) && failed.ExitCode() > 0 && ctx.Err() == nil:
		return []byte("{}"), nil
	case err != nil:
		return nil, fmt.Errorf("list nftables rules: %w", err)
	}
	return out, nil
}

// withoutHandles drops what differs between equal tables: handles, the elements
// of named sets, and what was counted.
func withoutHandles(list []byte) ([]byte, error) {
	var v any
	if err := json.Unmarshal(list, &v); err != nil {
		return nil, err
	}
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				strip(x)
			}
		case map[string]any:
			delete(v, "handle")
			delete(v, "metainfo")
			if s, ok := v["set"].(map[string]any); ok {
				delete(s, "elem") // they come and go
			}
			if c, ok := v["counter"].(map[string]any); ok {
				delete(c, "packets")
				delete(c, "bytes")
			}
			for _, x := range v {
				strip(x)
			}
		}
	}
	strip(v)
	return json.Marshal(v) // sorts keys
}

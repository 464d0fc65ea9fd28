package ipam

import (
	"errors"
	"maps"

	"github.com/weftnet/weft/mesh/ipam/store"
)

// disk is what a host's database is to a core: a map that changes by batches,
// each of them as a whole or not at all, and a mark in a directory that does
// not survive a reboot.
type disk struct {
	now   map[string][]byte
	past  [][]store.Write // every batch ever written to this database
	marks int             // len(past) as the mark says; -1: no mark
	fails int             // so many of the next saves fail
	lose  func(*disk, store.Write) bool
}

var errDiskFull = errors.New("save: no space left on device")

func newDisk() disk { return disk{now: make(map[string][]byte), marks: -1} }

// save writes a batch, without the mark.
func (d *disk) save(batch []store.Write) error {
	if len(batch) == 0 {
		return nil
	}
	if d.fails > 0 {
		d.fails--
		return errDiskFull
	}
	if d.lose != nil {
		var kept []store.Write
		for _, x := range batch {
			if !d.lose(d, x) {
				kept = append(kept, x)
			}
		}
		batch = kept
	}
	d.past = append(d.past, batch)
	apply(d.now, batch)
	return nil
}

// stamp writes the mark, which happens after the commit.
func (d *disk) stamp() { d.marks = len(d.past) }

// load returns what newCore gets.
func (d *disk) load() (stored map[string][]byte, proven bool) {
	return maps.Clone(d.now), d.marks >= 0 && len(d.past) >= d.marks
}

// restore goes back to what the disk was after n batches, of which the mark
// knows nothing.
func (d *disk) restore(n int) {
	d.past = d.past[:n:n]
	d.now = make(map[string][]byte)
	for _, batch := range d.past {
		apply(d.now, batch)
	}
}

// reboot loses the mark.
func (d *disk) reboot() { d.marks = -1 }

// wipe makes it a new disk: another database, so that the mark means nothing.
func (d *disk) wipe() { *d = disk{now: make(map[string][]byte), marks: -1, lose: d.lose} }

func apply(to map[string][]byte, batch []store.Write) {
	for _, x := range batch {
		if x.Value == nil {
			delete(to, x.Key)
		} else {
			to[x.Key] = x.Value
		}
	}
}

package topology

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/weftnet/weft/crypto"
)

// Book holds the report of every peer that counts, and checks no signature
// twice. An entry may be forged, or an old one be brought again, by any member
// that hands it on; a page of the book is replaced only by what its owner
// signed later.
//
// A report counts while its boot is that of the owner's advert: what a former
// run said of its links is not true of this one, least of all where it is
// bound.
//
// The zero Book is empty. It is not safe for concurrent use.
type Book struct {
	pages map[crypto.Identity]*page
}

// page is what the book has of one owner.
type page struct {
	boot  uint64 // of the owner's advert
	value []byte // of its entry, good or not; nil: there is none
	good  Report // the newest that its owner signed; Owner zero: none
}

func (p *page) counts() bool {
	return p.value != nil && !p.good.Owner.IsZero() && p.good.Boot == p.boot
}

// Take brings what is known of owner: the boot of its advert, and the value of
// its entry, nil when there is none. It keeps the value, which must not change
// afterwards. It reports whether [Book.Reports] changed. A value that is
// refused is an error when it comes, not each time it is brought; the last
// good one stays.
func (b *Book) Take(owner crypto.Identity, boot uint64, value []byte) (changed bool, err error) {
	p := b.pages[owner]
	if p == nil {
		if b.pages == nil {
			b.pages = make(map[crypto.Identity]*page)
		}
		p = &page{}
		b.pages[owner] = p
	}
	counted, seq := p.counts(), p.good.Seq
	again := p.boot != boot // a report may have come before its advert
	p.boot = boot
	switch {
	case value == nil:
		p.value = nil
	case again || !same(p.value, value):
		p.value = value
		err = p.read(owner)
	}
	return p.counts() != counted || counted && (again || p.good.Seq != seq), err
}

// same compares values; that of an entry that did not change is the same one.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) > 0 && &a[0] == &b[0] || bytes.Equal(a, b))
}

func (p *page) read(owner crypto.Identity) error {
	r, err := Parse(p.value)
	switch {
	case err != nil:
		return fmt.Errorf("report of %s: %w", owner.Fingerprint(), err)
	case r.Owner != owner:
		return fmt.Errorf("report of %s: it is that of %s", owner.Fingerprint(), r.Owner.Fingerprint())
	case r.Boot != p.boot: // of a former run, or its advert is still to come
	case r.Boot == p.good.Boot && r.Seq < p.good.Seq:
		return fmt.Errorf("report of %s: number %d came after %d", owner.Fingerprint(), r.Seq, p.good.Seq)
	default:
		p.good = r
	}
	return nil
}

// Keep forgets everybody for whom known is false, and reports whether
// [Book.Reports] changed.
func (b *Book) Keep(known func(crypto.Identity) bool) (changed bool) {
	for id, p := range b.pages {
		if !known(id) {
			changed = changed || p.counts()
			delete(b.pages, id)
		}
	}
	return changed
}

// Reports returns the reports that count, by owner. Their links are shared and
// must not be written to.
func (b *Book) Reports() []Report {
	out := make([]Report, 0, len(b.pages))
	for _, p := range b.pages {
		if p.counts() {
			out = append(out, p.good)
		}
	}
	slices.SortFunc(out, func(x, y Report) int { return x.Owner.Compare(y.Owner) })
	return out
}

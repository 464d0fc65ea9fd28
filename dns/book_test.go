package dns

import (
	"errors"
	"maps"
	"net/netip"
	"strings"
	"testing"
)

type fakeReplica struct {
	entries map[string]string
	fail    bool
}

func (f *fakeReplica) Put(key string, value []byte) error {
	if f.fail {
		return errors.New("full")
	}
	f.entries[key] = string(value)
	return nil
}

func (f *fakeReplica) Delete(key string) error {
	delete(f.entries, key)
	return nil
}

func TestBookWritesDifferences(t *testing.T) {
	f := &fakeReplica{entries: map[string]string{}}
	b := NewBook(f)
	rec := func(name, addr string) Record {
		return Record{Hostname: name, Container: "c1", Addr: netip.MustParseAddr(addr)}
	}
	set := func(container string, recs ...Record) {
		t.Helper()
		if err := b.Set(container, recs); err != nil {
			t.Fatal(err)
		}
	}
	set("c1", rec("web.weft.internal.", "10.32.0.1"), rec("web.weft.internal.", "10.32.0.2"))
	set("c2", rec("db.weft.internal.", "10.32.0.3"))
	if len(f.entries) != 3 {
		t.Fatalf("entries: %v", f.entries)
	}
	before := maps.Clone(f.entries)
	set("c1", rec("web.weft.internal.", "10.32.0.1"))
	set("c2")
	if len(f.entries) != 1 {
		t.Fatalf("after the removal: %v", f.entries)
	}
	for key, value := range f.entries {
		if before[key] != value {
			t.Errorf("%s was written again", key)
		}
		if rec, err := Parse([]byte(value)); err != nil || rec.Hostname != "web.weft.internal." || !strings.HasPrefix(key, EntryPrefix) {
			t.Errorf("%s: %v, %v", key, rec, err)
		}
	}
}

func TestBookTriesAgainAfterAFailure(t *testing.T) {
	f := &fakeReplica{entries: map[string]string{}, fail: true}
	b := NewBook(f)
	rec := []Record{{Hostname: "web.weft.internal.", Addr: netip.MustParseAddr("10.32.0.1")}}
	if b.Set("c1", rec) == nil {
		t.Fatal("no error")
	}
	f.fail = false
	if err := b.Set("c1", rec); err != nil || len(f.entries) != 1 {
		t.Errorf("second try: %v, %v", err, f.entries)
	}
}

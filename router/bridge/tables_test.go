package bridge

import (
	"bytes"
	"testing"
)

func TestWithoutHandles(t *testing.T) {
	a := `{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"rule": {"handle": 4, "expr": [{"drop": null}]}}]}`
	b := `{"nftables": [{"metainfo": {"version": "1.0.9"}}, {"rule": {"expr": [{"drop": null}], "handle": 9}}]}`
	c := `{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"rule": {"handle": 4, "expr": [{"accept": null}]}}]}`
	plain := func(s string) string {
		out, err := withoutHandles([]byte(s))
		ok(t, err)
		return string(out)
	}
	if plain(a) != plain(b) {
		t.Errorf("equal rules differ:\n%s\n%s", plain(a), plain(b))
	}
	if plain(a) == plain(c) {
		t.Errorf("different rules are equal: %s", plain(a))
	}
}

func FuzzWithoutHandles(f *testing.F) {
	f.Add([]byte(`{"nftables": [{"metainfo": {}}, {"rule": {"handle": 4, "expr": [{"drop": null}]}}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, list []byte) {
		once, err := withoutHandles(list)
		if err != nil {
			return
		}
		twice, err := withoutHandles(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%q, then %q, %v", once, twice, err)
		}
	})
}

func TestFindAccept(t *testing.T) {
	ours := "-A DOCKER-USER " + accepted
	tests := []struct {
		name      string
		rules     []string
		n         int
		effective bool
	}{
		{"empty", []string{"-N DOCKER-USER"}, 0, false},
		{"there", []string{"-N DOCKER-USER", ours, "-A DOCKER-USER -j RETURN"}, 1, true},
		{"behind", []string{"-N DOCKER-USER", "-A DOCKER-USER -j RETURN", ours}, 1, false},
		{"behind a condition", []string{"-N DOCKER-USER", "-A DOCKER-USER -i lo -j RETURN", ours}, 1, true},
		{"twice", []string{ours, "-A DOCKER-USER -j RETURN", ours}, 2, true},
		{"another mark", []string{"-A DOCKER-USER -m mark --mark 0x1/0x1 -j ACCEPT"}, 0, false},
		{"our mark, another verdict", []string{"-A DOCKER-USER -m mark --mark 0x57000000/0xff000000 -j DROP"}, 0, false},
	}
	for _, tt := range tests {
		if n, effective := findAccept(tt.rules, "DOCKER-USER"); n != tt.n || effective != tt.effective {
			t.Errorf("%s: %d, %v, want %d, %v", tt.name, n, effective, tt.n, tt.effective)
		}
	}
}

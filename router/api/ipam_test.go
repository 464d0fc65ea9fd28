package api

import (
	"errors"
	"strings"
	"testing"
)

func TestFindPeers(t *testing.T) {
	known := []PeerID{
		{"8a:3e:3e:3e:3e:3e", "host1", "8a"},
		{"f6:42:1d:0a:5e:01", "host2", "f6"},
		{"f6:42:1d:0a:5e:01", "host2", "f6"}, // one peer, seen twice
		{"02:9c:11:ab:7d:66", "twin", "02"},
		{"02:9c:11:ab:7d:67", "twin", "03"},
		{"00:00:00:00:00:01", "", "04"},
		{"02:00:00:00:00:05", "::1", "05"},
		{"02:00:00:00:00:06", "f6:42:1d:0a:5e:01", "06"},
		{"02:00:00:00:00:08", "old", "07"},
		{"02:00:00:00:00:08", "old", "0a"}, // one name, two identities
	}
	tests := []struct{ ids, want string }{
		{"host2", "f6:42:1d:0a:5e:01(host2)"},
		{"f6:42:1d:0a:5e:01", "f6:42:1d:0a:5e:01(host2)"},
		{"F6-42-1D-0A-5E-01", "f6:42:1d:0a:5e:01(host2)"},
		{"f642.1d0a.5e01 host1 host2", "f6:42:1d:0a:5e:01(host2) 8a:3e:3e:3e:3e:3e(host1)"},
		{"0:0:0:0:0:1", "00:00:00:00:00:01"},
		{"::1", "02:00:00:00:00:05(::1)"},
		{"twin", "error: 2 peers are called twin: 02:9c:11:ab:7d:66(twin), 02:9c:11:ab:7d:67(twin); use the name of the one that is meant"},
		{"02:00:00:00:00:08", "error: 2 peers are called 02:00:00:00:00:08: 02:00:00:00:00:08(old) 07, 02:00:00:00:00:08(old) 0a; use the identity of the one that is meant"},
		{"0A", "02:00:00:00:00:08(old)"},
		{"host1 host9", "error: no peer is called host9; see 'weft status ipam' and 'weft status peers'"},
		{"", ""},
	}
	for _, tt := range tests {
		list, err := FindPeers(known, strings.Fields(tt.ids))
		var words []string
		for _, p := range list {
			words = append(words, p.String())
		}
		got := strings.Join(words, " ")
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tt.want {
			t.Errorf("FindPeers(%q): %s\nwant %s", tt.ids, got, tt.want)
		}
	}
	for id, class := range map[string]error{"twin": ErrConflict, "host9": ErrNotFound, "": ErrUsage} {
		if _, err := FindPeers(known, []string{id}); !errors.Is(err, class) {
			t.Errorf("FindPeers(%q): %v is not %v", id, err, class)
		}
	}
}

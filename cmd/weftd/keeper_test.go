package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/cmd/settings"
)

// A typing error in weft.yaml, and one that cannot be read, leave nobody who
// asks the given socket without an answer. Without one the error counts.
func TestKeeperSettings(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name    string
		args    []string
		environ string
		wrong   bool
		door    string
	}{
		{"all is well", []string{"--config=" + write("good.yaml", "socket: /run/other/weft.sock\n")}, "", false, "/run/other/plugin.sock"},
		{"no YAML", []string{"--config=" + write("bad.yaml", "peers: [host1\n")}, "", true, "/run/weft/plugin.sock"},
		{"a wrong value", []string{"--config=" + write("value.yaml", "socket: here\n")}, "", true, "/run/weft/plugin.sock"},
		{"it cannot be read", []string{"--config=" + dir}, "", true, "/run/weft/plugin.sock"},
		{"flags count", []string{"--config=" + filepath.Join(dir, "bad.yaml"), "--socket=/run/third/weft.sock"}, "", true, "/run/third/plugin.sock"},
		{"wrong flags", []string{"--socket=here"}, "", true, "/run/weft/plugin.sock"},
		{"a wrong variable", nil, "here", true, "/run/weft/plugin.sock"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.environ != "" {
				t.Setenv("WEFT_SOCKET", tt.environ)
			}
			for _, given := range []bool{true, false} {
				cmd := keeperCommand()
				if err := cmd.ParseFlags(tt.args); err != nil {
					t.Fatal(err)
				}
				var said strings.Builder
				s, err := keeperSettings(cmd, given, slog.New(slog.NewTextHandler(&said, nil)))
				if fails := tt.wrong && !given; (err != nil) != fails {
					t.Errorf("given %t: %v", given, err)
				}
				if err == nil && (s.PluginDoor() != tt.door || s.PluginSocket != settings.DefaultPluginSocket) {
					t.Errorf("given %t: it asks at %s and listens at %s, want %s", given, s.PluginDoor(), s.PluginSocket, tt.door)
				}
				if warned := strings.Contains(said.String(), "level=ERROR"); warned != (tt.wrong && given) {
					t.Errorf("given %t: %s", given, said.String())
				}
			}
		})
	}
}

package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/weftnet/weft/cmd/settings"
)

// Only packages have manual pages: `make man` runs this test with a directory.
var manDir = flag.String("man", "", "write the manual pages below this `directory`")

const daemonLong = `weftd is one host's part of the switch. It makes the bridge, the tunnels and the rules, serves names, and answers
weft(1) at its socket. When it ends, the switch stays.

A PEER is IP-OR-NAME[:PORT]. Without peers, with **--resume** or from *weft.yaml*, those that are known are met again.

Under systemd it says when it is ready and how it is, and feeds the watchdog for as long as all its run loops and its API answer.

# FILES

*/etc/weft/weft.yaml*: settings, see weft.yaml(5)

*/var/lib/weft*: identity, secret, known peers and what is attached

*/run/weft*: the socket, and the log where nobody else keeps it

# EXIT STATUS

0: it was asked to end. 1: failed. 2, or 78 under systemd: the configuration is wrong. 3: another weftd runs already.

# SEE ALSO

weft(1), weft.yaml(5), systemctl(1)`

// The daemon and its reset have a page, its hidden commands have none.
func TestManPages(t *testing.T) {
	day := time.Unix(0, 0).UTC()
	if n, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		day = time.Unix(n, 0).UTC()
	}
	root := command()
	root.Long = daemonLong
	root.InitDefaultHelpFlag()
	root.InitDefaultVersionFlag()
	for _, c := range append([]*cobra.Command{root}, root.Commands()...) {
		if c.Hidden {
			continue
		}
		c.DisableAutoGenTag = true
		name := strings.ReplaceAll(c.CommandPath(), " ", "-")
		var b bytes.Buffer
		header := &doc.GenManHeader{Title: strings.ToUpper(name), Section: "8", Date: &day, Source: "weft " + settings.Version, Manual: "weft"}
		if err := doc.GenMan(c, header, &b); err != nil {
			t.Fatal(err)
		}
		if name == "weftd" && !strings.Contains(strings.ReplaceAll(b.String(), `\-`, "-"), "--check-config") {
			t.Error("weftd(8) does not have --check-config")
		}
		if strings.Contains(b.String(), "keep-secret") {
			t.Errorf("%s tells of hidden commands", name)
		}
		if *manDir == "" {
			continue
		}
		dir := filepath.Join(*manDir, "man8")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".8"), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

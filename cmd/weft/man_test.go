package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
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

// Only packages have manual pages, so the program does not carry what makes
// them: `make man` runs this test with a directory.
var manDir = flag.String("man", "", "write the manual pages below this `directory`")

func manHeader(title, section string) *doc.GenManHeader {
	day := time.Unix(0, 0).UTC()
	if n, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		day = time.Unix(n, 0).UTC()
	}
	return &doc.GenManHeader{Title: title, Section: section, Date: &day, Source: "weft " + settings.Version, Manual: "weft"}
}

// pages returns weft(1) and one page per command, by file name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	p := &program{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, dial: dialSocket}
	root := p.command()
	out := map[string]string{}
	var add func(*cobra.Command)
	add = func(c *cobra.Command) {
		for _, child := range c.Commands() {
			add(child)
		}
		if c.Hidden || c.Deprecated != "" {
			return
		}
		c.DisableAutoGenTag = true
		name := strings.ReplaceAll(c.CommandPath(), " ", "-")
		var b bytes.Buffer
		if err := doc.GenMan(c, manHeader(strings.ToUpper(name), "1"), &b); err != nil {
			t.Fatal(err)
		}
		out[name+".1"] = b.String() + seeAlso(name)
	}
	add(root)
	return out
}

// seeAlso is what cobra does not know: pages of other programs.
func seeAlso(name string) string {
	also := []string{"weftd(8)", "weft.yaml(5)"}
	if name != "weft" {
		return ""
	}
	return "\n.SH FILES\n.TP\n\\fI/etc/weft/weft.yaml\\fP\nsettings, see weft.yaml(5)\n" +
		".TP\n\\fI/var/lib/weft\\fP\nidentity, secret, known peers and what is attached\n" +
		".TP\n\\fI/run/weft/weft.sock\\fP\nwhere the daemon is asked\n" +
		"\n.SH EXIT STATUS\n0: done. 1: failed. 2: wrong usage. 3: the daemon is not reachable, or for launch: runs already.\n" +
		"\n.SH SEE ALSO\n" + strings.Join(also, ", ") + "\n"
}

// yamlPage is weft.yaml(5), made of the table.
func yamlPage(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("Settings of weftd: a map of keys to values. Every key is optional.\n\n" +
		"A flag of **weft launch** or **weftd** of the same name beats the variable, which beats the file. Lists may be written " +
		"as lists or with commas. An unknown key, a key given twice and a bad value are errors that name file and line; " +
		"**weftd --check-config** finds them without starting anything.\n\n" +
		"At most one secret may be set, here or as one of systemd's credentials *weft.token* and *weft.password*. Without any the " +
		"one that was kept is used. A file that everybody can read may not hold one.\n\n# KEYS\n\n")
	for _, k := range settings.Keys() {
		value := k.Value
		if value == "" {
			value = "true|false"
		}
		fmt.Fprintf(&b, "**%s**: *%s*\n:   %s.", k.Name, value, strings.ToUpper(k.Help[:1])+k.Help[1:])
		if k.Default != "" {
			fmt.Fprintf(&b, " Default: `%s`.", k.Default)
		}
		if !k.Flag {
			b.WriteString(" There is no such flag: peers are arguments.")
		}
		fmt.Fprintf(&b, " Variable: `%s`.\n\n", k.Variable)
	}
	b.WriteString("# FILES\n\n*/etc/weft/weft.yaml*, or what **--config** or *WEFT_CONFIG* names.\n\n# SEE ALSO\n\nweftd(8), weft(1)\n")
	c := &cobra.Command{Use: "weft.yaml", Short: "settings of weftd", Long: b.String(), DisableFlagsInUseLine: true, DisableAutoGenTag: true}
	var page bytes.Buffer
	if err := doc.GenMan(c, manHeader("WEFT.YAML", "5"), &page); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func writePages(t *testing.T, dir string, pages map[string]string) {
	t.Helper()
	if dir == "" {
		return
	}
	for name, text := range pages {
		to := filepath.Join(dir, "man"+strings.TrimPrefix(filepath.Ext(name), "."))
		if err := os.MkdirAll(to, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Every command has a page that says what it does and takes, and every key of
// the configuration file its paragraph.
func TestManPages(t *testing.T) {
	all := pages(t)
	for _, want := range []struct{ page, text string }{
		{"weft.1", "SEE ALSO"},
		{"weft-launch.1", `--ipalloc-range`},
		{"weft-attach.1", "netns:NAME-or-path"},
		{"weft-status.1", "--wait"},
		{"weft-why.1", "weft why host3"},
	} {
		if !strings.Contains(strings.ReplaceAll(all[want.page], `\-`, "-"), want.text) {
			t.Errorf("%s does not have %q", want.page, want.text)
		}
	}
	if len(all) < 25 {
		t.Errorf("only %d pages", len(all))
	}
	for name := range all {
		if strings.Contains(name, "completion-") || strings.Contains(name, "__") {
			t.Errorf("%s is no page for people", name)
		}
	}
	page := yamlPage(t)
	for _, k := range settings.Keys() {
		if !strings.Contains(page, k.Name) && !strings.Contains(page, strings.ReplaceAll(k.Name, "-", `\-`)) {
			t.Errorf("weft.yaml(5) does not have %s", k.Name)
		}
	}
	all["weft.yaml.5"] = page
	writePages(t, *manDir, all)
}

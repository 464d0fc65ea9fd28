package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// files are the text files of the repository whose name is wanted.
func files(t *testing.T, want func(name string) bool) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "artefacts" || d.Name() == "testdata"):
			return fs.SkipDir
		case !d.Type().IsRegular() || !want(d.Name()):
			return nil
		}
		text, err := os.ReadFile(path)
		if bytes.IndexByte(text, 0) < 0 {
			out[path] = string(text)
		}
		return err
	})
	if err != nil || len(out) < 10 {
		t.Fatalf("%d files, %v", len(out), err)
	}
	return out
}

// documents are the documents of the repository.
func documents(t *testing.T) map[string]string {
	t.Helper()
	return files(t, func(name string) bool { return strings.HasSuffix(name, ".md") })
}

var (
	fence    = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```")
	codeSpan = regexp.MustCompile("`(weft [^`]*)`")
	command  = regexp.MustCompile(`(?:^|[\s(/])weft ([^|;&>()]*)`)
)

// commandsIn finds what a page says to type: lines of shell blocks, and what is
// set as code.
func commandsIn(page string) (list []string) {
	for _, block := range fence.FindAllStringSubmatch(page, -1) {
		if block[1] != "sh" {
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(block[2], "\\\n", " ")) {
			line, _, _ = strings.Cut(line, " #")
			for _, m := range command.FindAllStringSubmatch(line, -1) {
				list = append(list, m[1])
			}
		}
	}
	for _, m := range codeSpan.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		if !strings.Contains(m[1], "…") && !strings.Contains(m[1], ": ") { // which is what weft says
			list = append(list, strings.TrimPrefix(m[1], "weft "))
		}
	}
	return list
}

// Every command that a page names exists, with the flags and as many arguments
// as it says. Decisions tell what was once.
func TestDocCommands(t *testing.T) {
	found := 0
	for path, page := range documents(t) {
		if strings.Contains(path, "decisions/") {
			continue
		}
		for _, line := range commandsIn(page) {
			found++
			args := strings.Fields(strings.NewReplacer(`"`, "", "'", "").Replace(line))
			root := (&program{}).command()
			root.InitDefaultCompletionCmd()
			root.InitDefaultHelpCmd()
			cmd, rest, err := root.Find(args)
			if err != nil || cmd == root && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
				t.Errorf("%s: weft %s: there is no such command", path, line)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%s: weft %s: %v", path, line, err)
				continue
			}
			// A page may name a command without saying all that it takes.
			if given := cmd.Flags().Args(); len(given) > 0 {
				if err := cmd.ValidateArgs(given); err != nil {
					t.Errorf("%s: weft %s: %v", path, line, err)
				}
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d commands were found", found)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	punct   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are what links may point to in a page.
func anchors(page string) map[string]bool {
	out := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		out[strings.ReplaceAll(strings.ToLower(punct.ReplaceAllString(h[1], "")), " ", "-")] = true
	}
	return out
}

// Links between pages, and to files of the repository, lead somewhere.
func TestDocLinks(t *testing.T) {
	all := documents(t)
	found := 0
	for path, page := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			found++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			} else if anchor != "" && !anchors(all[target])[anchor] {
				t.Errorf("%s links to %s: there is no such heading", path, m[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d links were found", found)
	}
}

var (
	comment  = regexp.MustCompile(`(?m)(?:^|\s)//.*$`)
	citation = regexp.MustCompile(`[\w./-]*\w\.md\b(#[\w-]*\w)?`)
	// nowhere are citations by which nobody finds anything.
	nowhere = regexp.MustCompile(`\b[A-Z]{4,}(\.md)?,? section \d+`)
	made    = regexp.MustCompile(`(^|/)(bench|drawing)\.md$`) // by our programs
)

// cited are the documents that a text names, with their headings. In a test the
// strings are made up.
func cited(path, text string) (list []string) {
	if strings.HasSuffix(path, "_test.go") {
		text = strings.Join(comment.FindAllString(text, -1), "\n")
	}
	for _, c := range citation.FindAllString(text, -1) {
		if !made.MatchString(c) {
			list = append(list, c)
		}
	}
	return append(list, nowhere.FindAllString(text, -1)...)
}

// resolve finds a cited document: beside who cites it, below the root, or in
// docs.
func resolve(all map[string]string, path, name string) (target string, ok bool) {
	for _, dir := range []string{filepath.Dir(path), root, filepath.Join(root, "docs")} {
		target = filepath.Join(dir, name)
		if _, ok = all[target]; ok {
			return target, true
		}
	}
	return "", false
}

// What a comment, a message or a page names as a document is there, and has
// the heading: a reader without the history has nothing else.
func TestCitations(t *testing.T) {
	all := documents(t)
	found := 0
	for path, text := range files(t, func(name string) bool { return name != "go.sum" }) {
		for _, c := range cited(path, text) {
			if strings.Contains(text, "://"+c) {
				continue
			}
			found++
			name, anchor, _ := strings.Cut(c, "#")
			target, ok := resolve(all, path, name)
			switch {
			case !ok:
				t.Errorf("%s cites %s, which is not there", path, c)
			case anchor != "" && !anchors(all[target])[anchor]:
				t.Errorf("%s cites %s: there is no such heading", path, c)
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d citations were found", found)
	}
}

func TestCitationsComplain(t *testing.T) {
	for text, want := range map[string]string{
		"See docs/nowhere.md.":                 "docs/nowhere.md",
		"The times (PLAN section 4).":          "PLAN section 4",
		"(docs/protocol.md#no-such-heading)":   "docs/protocol.md#no-such-heading",
		"(RFC 4291 section 2.5.5.2), ../x.md.": "../x.md",
	} {
		if got := cited("a.go", "// "+text); len(got) != 1 || got[0] != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	const page = "b." + "md" // not a citation of this file's
	if got := cited("a_test.go", "x(`docs/a.md`)\n// see "+page); len(got) != 1 || got[0] != page {
		t.Errorf("in a test: %q", got)
	}
}

var place = regexp.MustCompile("`((?:crypto|mesh|router|dns|cmd|scripts|packaging|docs)(?:/[\\w.-]+)*)`")

// Packages and files that a page names are there. Decisions tell what was once.
func TestDocPlaces(t *testing.T) {
	found := 0
	for path, page := range documents(t) {
		if strings.Contains(path, "decisions/") || strings.HasSuffix(path, "CHANGELOG.md") {
			continue
		}
		for _, m := range place.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			found++
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s names %s, which is not there", path, m[1])
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d places were found", found)
	}
}

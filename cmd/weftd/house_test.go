package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rules of the house (docs/design.md#the-house). Each is a small function over
// the module's files; TestHouseComplains shows that each can complain.

const (
	module     = "github.com/weftnet/weft/"
	laboratory = "cmd/weft-lab"
	maxLines   = 450  // of a file
	maxRouter  = 1500 // of package router without tests
	maxMethod  = 15   // of a Backend method in package router
	documented = 0.95 // share of exported identifiers
)

// file is a text file of the repository.
type file struct {
	path, dir, text string // path and directory relative to the root
	lines           int
	test, lab       bool // the laboratory is free like a test
	set             *token.FileSet
	syntax          *ast.File // nil unless it is Go
}

func newFile(name, text string) (file, error) {
	f := file{path: name, dir: path.Dir(name), text: text, lines: strings.Count(text, "\n"), set: token.NewFileSet()}
	f.test, f.lab = strings.HasSuffix(name, "_test.go"), strings.HasPrefix(name, laboratory+"/")
	var err error
	if strings.HasSuffix(name, ".go") {
		f.syntax, err = parser.ParseFile(f.set, name, text, parser.ParseComments|parser.SkipObjectResolution)
	}
	return f, err
}

func (f file) line(p token.Pos) int { return f.set.Position(p).Line }

func (f file) at(p token.Pos) string { return fmt.Sprintf("%s:%d", f.path, f.line(p)) }

// imports returns the paths that begin with prefix, without it.
func (f file) imports(prefix string) (list []string) {
	for _, spec := range f.syntax.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil && strings.HasPrefix(p, prefix) {
			list = append(list, strings.TrimPrefix(p, prefix))
		}
	}
	return list
}

type house []file

func (h house) keep(ok func(file) bool) house {
	return slices.DeleteFunc(slices.Clone(h), func(f file) bool { return !ok(f) })
}

func (h house) code() house    { return h.keep(func(f file) bool { return f.syntax != nil }) }
func (h house) program() house { return h.code().keep(func(f file) bool { return !f.test && !f.lab }) }

// packages returns what is in every directory with Go files.
func (h house) packages() map[string]house {
	dirs := make(map[string]house)
	for _, f := range h.code() {
		dirs[f.dir] = append(dirs[f.dir], f)
	}
	return dirs
}

type complain func(format string, args ...any)

func floor(dir string) int {
	if faked, ok := fakes[dir]; ok {
		dir = faked
	}
	return slices.IndexFunc(floors, func(list []string) bool { return slices.Contains(list, dir) })
}

func packagesAreKnown(h house, bad complain) {
	for dir := range h.packages() {
		if floor(dir) < 0 {
			bad("%s: unknown package: give it a floor in house_plan_test.go and a line in docs/architecture.md", dir)
		}
	}
}

func importsGoDown(h house, bad complain) {
	for _, f := range h.code() {
		for _, p := range f.imports(module) {
			allowed, isDoor := doors[f.dir]
			switch {
			case strings.HasPrefix(p, laboratory) && !f.lab:
				bad("%s: imports the laboratory: %s", f.path, p)
			case f.test:
			case fakes[p] != "":
				bad("%s: imports a fake outside of tests: %s", f.path, p)
			case strings.HasPrefix(f.dir, p+"/"):
				bad("%s: a child imports its parent %s", f.path, p)
			case isDoor && !slices.Contains(allowed, p):
				bad("%s: a door may not know %s", f.path, p)
			case floor(p) >= floor(f.dir) && fakes[f.dir] != p:
				bad("%s: imports %s, which is not on a lower floor", f.path, p)
			}
		}
	}
}

func modulesHaveOwners(h house, bad complain) {
	for _, f := range h.program().keep(func(f file) bool { return fakes[f.dir] == "" }) {
		for _, p := range f.imports("") {
			owner := ""
			for prefix := range owners {
				if strings.HasPrefix(p, prefix) && len(prefix) > len(owner) {
					owner = prefix
				}
			}
			domain, _, _ := strings.Cut(p, "/")
			free := !strings.Contains(domain, ".") || strings.HasPrefix(p, module) || slices.Contains(owners[owner], "*")
			if !free && !slices.Contains(owners[owner], f.dir) && !slices.Contains(owners[owner], path.Base(f.path)) {
				bad("%s: imports %s, which belongs to %v", f.path, p, owners[owner])
			}
		}
	}
}

func filesAreShort(h house, bad complain) {
	for _, f := range h.code() {
		if f.lines > maxLines && !ast.IsGenerated(f.syntax) {
			bad("%s: %d lines, more than %d", f.path, f.lines, maxLines)
		}
	}
}

var negation = regexp.MustCompile(`(?i)\b(not|no|nor|never|nothing|neither)\b`)

func packagesSayWhatTheyOwn(h house, bad complain) {
	for dir, files := range h.packages() {
		if program := files.keep(func(f file) bool { return !f.test }); len(program) > 0 {
			files = program // a package of tests only says it there
		}
		docs := files.keep(func(f file) bool { return f.syntax.Doc != nil })
		if len(docs) != 1 {
			bad("%s: %d package comments, want exactly one", dir, len(docs))
		} else if s := docs[0].syntax; s.Name.Name != "main" && !negation.MatchString(s.Doc.Text()) {
			bad("%s: the package comment does not say what the package does not own", dir)
		}
	}
}

func packagesHaveNames(h house, bad complain) {
	for dir, files := range h.packages() {
		for _, name := range []string{path.Base(dir), strings.TrimSuffix(files[0].syntax.Name.Name, "_test")} {
			if slices.Contains(badNames, name) {
				bad("%s: the name %q says nothing about what is in there", dir, name)
			}
		}
	}
}

func routerStaysSmall(h house, bad complain) {
	total, router, methods := 0, h.program().packages()["router"], make(map[string]bool)
	for _, f := range h.program().packages()["router/api"] {
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			for i := 0; ok && spec.Name.Name == "Backend" && i < spec.Type.(*ast.InterfaceType).Methods.NumFields(); i++ {
				methods[spec.Type.(*ast.InterfaceType).Methods.List[i].Names[0].Name] = true
			}
			return true
		})
	}
	for _, f := range router {
		total += f.lines
		for _, decl := range f.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv != nil && methods[fn.Name.Name] {
				if n := f.line(fn.End()) - f.line(fn.Pos()) + 1; n >= maxMethod {
					bad("%s: Backend method %s has %d lines: it should delegate", f.at(fn.Pos()), fn.Name.Name, n)
				}
			}
		}
	}
	if total >= maxRouter {
		bad("router: %d lines without tests, must stay below %d", total, maxRouter)
	}
}

// name returns the text of x or p.x, without pointers and type arguments.
func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return name(e.X) + "." + e.Sel.Name
	case *ast.StarExpr:
		return name(e.X)
	case *ast.IndexExpr:
		return name(e.X)
	case *ast.IndexListExpr:
		return name(e.X)
	}
	return ""
}

// testsDoNotSleep: such a test is slow when it works and fails when the machine
// is busy. In synctest.Test, and in what it may call, sleeping costs nothing.
func testsDoNotSleep(h house, bad complain) {
	for _, files := range h.code().keep(func(f file) bool { return f.test && !f.lab }).packages() {
		bubbles := slices.ContainsFunc(files, func(f file) bool { return len(f.imports("testing/synctest")) > 0 })
		for _, f := range files {
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					return !bubbles || strings.HasPrefix(n.Name.Name, "Test")
				case *ast.CallExpr:
					if name(n.Fun) == "time.Sleep" {
						bad("%s: time.Sleep in a test: use testing/synctest, or wait for what is to happen", f.at(n.Pos()))
					}
					return name(n.Fun) != "synctest.Test"
				}
				return true
			})
		}
	}
}

func exportsAreDocumented(h house, bad complain) {
	all, missing := 0, []string(nil)
	count := func(f file, id *ast.Ident, docs ...*ast.CommentGroup) {
		if id.IsExported() {
			all++
			if !slices.ContainsFunc(docs, func(c *ast.CommentGroup) bool { return c != nil }) {
				missing = append(missing, f.at(id.Pos())+" "+id.Name)
			}
		}
	}
	for _, f := range h.program() {
		for _, decl := range f.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && (fn.Recv == nil || ast.IsExported(name(fn.Recv.List[0].Type))) {
				count(f, fn.Name, fn.Doc)
			}
			group, ok := decl.(*ast.GenDecl)
			for i := 0; ok && i < len(group.Specs); i++ {
				switch s := group.Specs[i].(type) {
				case *ast.TypeSpec:
					count(f, s.Name, group.Doc, s.Doc)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						count(f, id, group.Doc, s.Doc, s.Comment)
					}
				}
			}
		}
	}
	if share := 1 - float64(len(missing))/float64(max(all, 1)); share < documented {
		bad("%.0f %% of %d exported identifiers have a comment, want %.0f %%: %v", 100*share, all, 100*documented, missing)
	}
}

// constant are calls whose results nobody changes.
var constant = regexp.MustCompile(`^(errors\.New|fmt\.Errorf|regexp\.MustCompile|netip\.\w+|strings\.NewReplacer)$`)

func variablesAreTables(h house, bad complain) {
	fixed := func(v *ast.ValueSpec) bool {
		if v.Names[0].Name == "_" || len(v.Values) == 0 {
			return v.Names[0].Name == "_"
		}
		switch e := v.Values[0].(type) {
		case *ast.CallExpr:
			return constant.MatchString(name(e.Fun))
		case *ast.CompositeLit:
			return len(e.Elts) > 0 // an empty one is there to be filled
		case *ast.BasicLit:
			return true // set by the linker
		}
		return false
	}
	for _, f := range h.program() {
		for _, decl := range f.syntax.Decls {
			d, ok := decl.(*ast.GenDecl)
			embedded := ok && d.Doc != nil && strings.HasPrefix(d.Doc.List[len(d.Doc.List)-1].Text, "//go:embed ")
			for i := 0; ok && d.Tok == token.VAR && !embedded && i < len(d.Specs); i++ {
				if v := d.Specs[i].(*ast.ValueSpec); !fixed(v) {
					bad("%s: package variable %s: only errors and tables, state belongs to a value", f.at(v.Pos()), v.Names[0].Name)
				}
			}
		}
	}
}

func pathsAreNobodys(h house, bad complain) {
	pattern := `/home/[a-z_]\w*/|/Users/\w+/|/root/(go|src)/|[A-Z]:\\Users`
	if wd, err := os.Getwd(); err == nil && strings.Count(wd, "/") > 3 { // cmd/weftd in a checkout below something
		pattern += "|" + regexp.QuoteMeta(filepath.Dir(filepath.Dir(wd))) + `\b`
	}
	paths := regexp.MustCompile(`(?:^|[^\w./-])(` + pattern + `)`)
	for _, f := range h.keep(func(f file) bool { return !strings.HasSuffix(f.path, "weftd/house_test.go") }) {
		for i, text := range strings.Split(f.text, "\n") {
			if m := paths.FindStringSubmatch(text); m != nil {
				bad("%s:%d: a path of somebody's machine: %s", f.path, i+1, m[1])
			}
		}
	}
}

func TestHouse(t *testing.T) {
	var h house
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			if d.IsDir() && slices.Contains([]string{".git", "bin", "artefacts", "testdata", "vendor"}, d.Name()) {
				return fs.SkipDir
			}
			return err
		}
		text, err := fs.ReadFile(root, name)
		if err != nil || name == "go.sum" || bytes.IndexByte(text, 0) >= 0 {
			return err
		}
		f, err := newFile(name, string(text))
		h = append(h, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, rule := range map[string]func(house, complain){
		"packages are known": packagesAreKnown, "imports go down": importsGoDown, "modules have owners": modulesHaveOwners,
		"files are short": filesAreShort, "packages say what they own": packagesSayWhatTheyOwn, "packages have names": packagesHaveNames,
		"router stays small": routerStaysSmall, "tests do not sleep": testsDoNotSleep, "exports are documented": exportsAreDocumented,
		"variables are tables": variablesAreTables, "paths are nobody's": pathsAreNobodys,
	} {
		t.Run(name, func(t *testing.T) { rule(h, t.Errorf) })
	}
}

func TestHouseComplains(t *testing.T) {
	const lib, quoted = "// Package x owns x and not y.\npackage x\n", "package x\nimport _ %q\n"
	imports := func(p string) string { return fmt.Sprintf(quoted, p) }
	long := "\nfunc (r *R) Stop() {" + strings.Repeat("\n", maxMethod) + "}\n"
	for _, tt := range []struct {
		rule  func(house, complain)
		want  string   // in the only complaint; "": none
		files []string // path, text, path, text …
	}{
		{packagesAreKnown, "router/extra: unknown", []string{"router/extra/a.go", lib, "mesh/meshtest/a.go", lib}},
		{importsGoDown, "", []string{"mesh/a.go", imports(module + "mesh/hello"), "router/kerneltest/a.go", imports(module + "router/kernel")}},
		{importsGoDown, "not on a lower floor", []string{"dns/a.go", imports(module + "mesh/advert")}},
		{importsGoDown, "child imports its parent", []string{"mesh/hello/a.go", imports(module + "mesh")}},
		{importsGoDown, "fake outside", []string{"mesh/a.go", imports(module + "mesh/meshtest"), "mesh/a_test.go", imports(module + "mesh/meshtest")}},
		{importsGoDown, "laboratory", []string{"cmd/weft/a_test.go", imports(module + "cmd/weft-lab/lab"), "cmd/weft-lab/a.go", imports(module + "cmd/weft-lab/lab")}},
		{importsGoDown, "door may not know mesh", []string{"cmd/weft/a.go", imports(module + "mesh"), "cmd/weftd/a.go", imports(module + "mesh")}},
		{modulesHaveOwners, "[dns]", []string{"mesh/a.go", imports("github.com/miekg/dns"), "dns/a.go", imports("github.com/miekg/dns")}},
		{modulesHaveOwners, "[router/wireguard router/tap]", []string{"router/a.go", imports("golang.zx2c4.com/wireguard/tun")}},
		{modulesHaveOwners, "belongs to []", []string{"mesh/a.go", imports("example.com/new"), "mesh/a_test.go", imports("example.com/new")}},
		{modulesHaveOwners, "mesh/b.go", []string{"mesh/b.go", imports("github.com/prometheus/client_golang/prometheus"), "mesh/metrics.go", imports("github.com/prometheus/client_golang/prometheus")}},
		{filesAreShort, "451 lines", []string{"dns/a.go", "package x" + strings.Repeat("\n", 451), "dns/b.go", "// Code generated by x. DO NOT EDIT.\n\npackage x" + strings.Repeat("\n", 451)}},
		{packagesSayWhatTheyOwn, "", []string{"dns/a.go", lib, "dns/b.go", "package x", "dns/a_test.go", lib}},
		{packagesSayWhatTheyOwn, "0 package comments", []string{"dns/a.go", "package x", "dns/a_test.go", lib}},
		{packagesSayWhatTheyOwn, "2 package comments", []string{"dns/a.go", lib, "dns/b.go", lib}},
		{packagesSayWhatTheyOwn, "does not say", []string{"dns/a.go", "// Package x owns x.\npackage x"}},
		{packagesHaveNames, `"util"`, []string{"dns/util/a.go", "package x"}},
		{packagesHaveNames, `"helpers"`, []string{"dns/x/a.go", "package helpers"}},
		{routerStaysSmall, "router: 1500 lines", []string{"router/a.go", "package x" + strings.Repeat("\n", 1500), "router/a_test.go", "package x\n"}},
		{routerStaysSmall, "Stop has 16 lines", []string{"router/api/a.go", "package x\ntype Backend interface { Stop() }", "router/a.go", "package x" + long, "dns/a.go", "package x" + long}},
		{testsDoNotSleep, "a_test.go:2: time.Sleep", []string{"dns/a_test.go", "package x\nfunc f() { time.Sleep(1) }", "cmd/weft-lab/a_test.go", "package x\nfunc f() { time.Sleep(1) }"}},
		{testsDoNotSleep, "", []string{"dns/a_test.go", "package x\nfunc TestF() { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }) }"}},
		{testsDoNotSleep, "a_test.go:4: time.Sleep", []string{"dns/a_test.go", "package x\nimport `testing/synctest`\nfunc f() { time.Sleep(1) }\nfunc TestF() { time.Sleep(1) }"}},
		{exportsAreDocumented, "50 % of 2", []string{"dns/a.go", "package x\n// A is.\nfunc A() {}\nfunc (t *T[int]) B() {}\nfunc (t t) C() {}"}},
		{exportsAreDocumented, "[dns/a.go:3 A]", []string{"dns/a.go", "package x\ntype (\nA int\n)\n// C is.\nconst (\nB = 1\nC = 2\n)"}},
		{variablesAreTables, "", []string{"dns/a.go", "package x\nvar a = []int{1}\nvar b = errors.New(``)\nvar _ I = (*T)(nil)\nvar v = `dev`\n//go:embed x\nvar f embed.FS"}},
		{variablesAreTables, "variable m:", []string{"dns/a.go", "package x\nvar m = make(map[int]int)"}},
		{variablesAreTables, "variable m:", []string{"dns/a.go", "package x\nvar m = map[int]int{}", "dns/a_test.go", "package x\nvar m = map[int]int{}"}},
		{variablesAreTables, "variable mu:", []string{"dns/a.go", "package x\nvar mu sync.Mutex"}},
		{variablesAreTables, "variable now:", []string{"dns/a.go", "package x\nvar now = time.Now"}},
		{pathsAreNobodys, "docs/a.md:2: a path of somebody's machine: /home/alice/", []string{"docs/a.md", "see\n(/home/alice/weft) and /run/home/alice/x"}},
	} {
		var h house
		for i := 0; i < len(tt.files); i += 2 {
			f, err := newFile(tt.files[i], tt.files[i+1])
			if err != nil {
				t.Fatal(err)
			}
			h = append(h, f)
		}
		var got []string
		tt.rule(h, func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) })
		if len(got) != min(len(tt.want), 1) || len(got) == 1 && !strings.Contains(got[0], tt.want) {
			t.Errorf("%v: got %q, want one complaint with %q in it", tt.files, got, tt.want)
		}
	}
}

package settings

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Key is a row of the table, for those who document it.
type Key struct {
	Name     string // the key in the file, and the flag
	Variable string
	Default  string // as people would type it
	Value    string // what a value is called; empty: true or false
	Help     string // one line
	Flag     bool   // there is a flag of that name
	Secret   bool
}

// Keys returns what the configuration file may set, in the order of the table.
func Keys() []Key {
	var keys []Key
	for _, o := range options() {
		if o.noFile {
			continue
		}
		k := Key{Name: o.name, Variable: o.variable(), Default: o.def, Help: strings.ReplaceAll(o.help, "`", ""), Flag: !o.noFlag, Secret: o.secret}
		if o.isBool && k.Default == "" {
			k.Default = "false"
		}
		if _, after, ok := strings.Cut(o.help, "`"); ok {
			k.Value, _, _ = strings.Cut(after, "`")
		}
		keys = append(keys, k)
	}
	return keys
}

// keyLines says on which line of a YAML file each key of the outermost level
// stands. What cannot be read has none.
func keyLines(path string) map[string]int {
	b, err := os.ReadFile(path)
	var doc yaml.Node
	if err != nil || yaml.Unmarshal(b, &doc) != nil || len(doc.Content) == 0 {
		return nil
	}
	lines, pairs := make(map[string]int), doc.Content[0].Content
	for i := 0; i+1 < len(pairs); i += 2 {
		lines[pairs[i].Value] = pairs[i].Line
	}
	return lines
}

// at names the place of a key in the file.
func (l *loader) at(key string) string {
	if n := l.lines[key]; n > 0 {
		return fmt.Sprintf("%s:%d", l.path, n)
	}
	return l.path
}

// checkFile refuses keys that nobody knows, and a secret that others can read.
func (l *loader) checkFile() error {
	var names []string
	secret := ""
	for name := range l.file.Raw() {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return l.lines[a] - l.lines[b] })
	for _, name := range names {
		o, ok := find(name)
		if !ok || o.noFile {
			hint := ""
			if o, ok := find(strings.ReplaceAll(strings.ToLower(name), "_", "-")); ok && !o.noFile {
				hint = ", did you mean " + o.name + "?"
			}
			return invalid("%s: unknown key %q%s", l.at(name), name, hint)
		}
		if o.secret && !strings.HasSuffix(name, "-file") {
			secret = name
		}
	}
	if info, err := os.Stat(l.path); secret != "" && err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 {
		return invalid("%s: %s: everybody on this host can open the secret: run 'chmod 600 %s'", l.at(secret), secret, l.path)
	}
	return nil
}

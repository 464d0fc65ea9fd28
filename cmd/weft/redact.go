package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/cmd/settings"
)

// redactor takes secrets out of text. Nothing that weft prints or logs has one
// in it; this is for the day when that is wrong, and for what people wrote into
// their configuration.
type redactor struct {
	known []string // the longest first
}

// leftOut stands where a secret was.
const leftOut = "(left out)"

var (
	// assigned is a secret by the name of what is set to it: in YAML, JSON,
	// variables and flags. Without quotes it is one word.
	assigned = regexp.MustCompile(`(?im)((?:--(?:password|token)[ \t]+|` + named + `)[ \t]*)(` + quoted + `|[^\s,}]+)`)
	// begun is one at the start of a line. Without quotes it is all of that.
	begun = regexp.MustCompile(`(?im)(^[ \t#-]*["']?[\w.-]*?` + named + `[ \t]*)(` + quoted + `|[^\n]+)`)
	// joining is a token, wherever it stands.
	joining = regexp.MustCompile(`weft1\.[A-Za-z0-9_-]{8,}={0,2}`)
	// wireguard is a key in the form of WireGuard, of which nobody can see
	// whether it is the public or the private one.
	wireguard = regexp.MustCompile(`[A-Za-z0-9+/]{43}=`)
)

// named is the name of a secret, and quoted a value that says where it ends.
const (
	named  = `(?:password|passwd|passphrase|token|secret|(?:private|preshared|pre-shared|gossip)[-_ ]?key|psk)["']?[ \t]*[=:]`
	quoted = `"(?:[^"\\\n]|\\.)*"|'(?:[^'\n]|'')*'|(?:[|>][-+0-9]*)?[ \t]*\n(?:[ \t]+[^\n]*\n?)+`
)

func newRedactor() *redactor { return &redactor{} }

// shortest is the length in bytes of what is taken for a secret when nobody
// says that it is one: a shorter text would take out half of everything.
const shortest = 6

// add takes out a text wherever it stands, also as JSON and logs write it.
func (r *redactor) add(secret string) {
	var plain bytes.Buffer
	e := json.NewEncoder(&plain)
	e.SetEscapeHTML(false)
	_ = e.Encode(secret) // a string has a form
	html, _ := json.Marshal(secret)
	for _, form := range []string{secret, strings.TrimSpace(plain.String()), string(html), strconv.Quote(secret), strconv.QuoteToASCII(secret)} {
		if form != secret {
			form = form[1 : len(form)-1]
		}
		if form != "" && !slices.Contains(r.known, form) {
			r.known = append(r.known, form)
		}
	}
	slices.SortFunc(r.known, func(a, b string) int { return len(b) - len(a) })
}

// addConfig adds what a configuration sets secrets to, and returns it without.
func (r *redactor) addConfig(text []byte) []byte {
	clean, secrets := settings.HideSecrets(text, leftOut)
	for _, s := range secrets {
		r.add(s)
		for line := range strings.Lines(s) { // each alone: logs have lines
			if line = strings.TrimSpace(line); len(line) >= shortest {
				r.add(line)
			}
		}
	}
	for _, m := range begun.FindAllSubmatch(text, -1) { // in comments, and in what is no YAML
		s := strings.TrimSpace(string(m[2]))
		for _, marks := range []string{`"'`, `"'*&!`} { // YAML takes some for a reference, and tells of it without
			if bare := strings.Trim(s, marks); len(bare) >= shortest {
				r.add(bare)
			}
		}
	}
	return clean
}

// clean returns the text without secrets. A nil redactor leaves them in.
func (r *redactor) clean(text []byte) []byte {
	if r == nil {
		return text
	}
	var pairs []string
	for _, k := range r.known {
		pairs = append(pairs, k, leftOut)
	}
	text = []byte(strings.NewReplacer(pairs...).Replace(string(text)))
	text = joining.ReplaceAll(text, []byte(leftOut))
	text = wireguard.ReplaceAll(text, []byte(leftOut))
	for _, by := range []*regexp.Regexp{begun, assigned} {
		text = by.ReplaceAllFunc(text, func(m []byte) []byte {
			parts := by.FindSubmatch(m)
			if parts == nil || string(bytes.TrimRight(parts[2], ", \t\r")) == leftOut || by == assigned && bytes.HasPrefix(parts[2], []byte("(left")) {
				return m
			}
			out := append(bytes.Clone(parts[1]), leftOut...)
			if bytes.HasSuffix(m, []byte("\n")) {
				out = append(out, '\n')
			}
			return out
		})
	}
	return text
}

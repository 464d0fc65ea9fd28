package settings

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// HideSecrets returns the text of a configuration file with instead in the place
// of what its secret keys are set to, and what that was, each as the file has it
// and as [Load] understands it. The name of a file that holds a secret is none.
// Of what is no YAML everything from such a key to the next key is left out, and
// nothing is known of the values.
func HideSecrets(text []byte, instead string) (clean []byte, secrets []string) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return cutSecrets(text, instead), nil
	}
	if hideIn(&doc, instead, &secrets); len(secrets) == 0 {
		return text, nil
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil || e.Close() != nil {
		return cutSecrets(text, instead), secrets
	}
	return out.Bytes(), secrets
}

// secretKey tells the names of secrets, also when they are not written as they
// should be.
func secretKey(name string) bool {
	o, ok := find(strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-"))
	return ok && o.secret && !strings.HasSuffix(o.name, "-file")
}

// hideIn replaces the values of secret keys below n, at whatever depth.
func hideIn(n *yaml.Node, instead string, secrets *[]string) {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && secretKey(n.Content[i-1].Value) {
			n.Content[i-1].LineComment = ""
			hideAll(c, instead, secrets)
			continue
		}
		hideIn(c, instead, secrets)
	}
}

// hideAll replaces all that a secret is set to.
func hideAll(n *yaml.Node, instead string, secrets *[]string) {
	if n.Alias != nil {
		n = n.Alias
	}
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	if n.Kind != yaml.ScalarNode {
		for _, c := range n.Content {
			hideAll(c, instead, secrets)
		}
		return
	}
	if n.Value == instead {
		return // by another alias
	}
	var v any
	if n.Value != "" {
		*secrets = append(*secrets, n.Value)
	}
	if n.Decode(&v) == nil && v != nil && !slices.Contains(*secrets, fmt.Sprint(v)) && fmt.Sprint(v) != "" {
		*secrets = append(*secrets, fmt.Sprint(v)) // a number
	}
	n.SetString(instead)
}

// looseKey is where a secret is set in what is no YAML.
var looseKey = regexp.MustCompile(`(?i)(?:password|token)["']?[ \t]*:`)

// cutSecrets leaves out everything from a secret key to the next line that
// begins with a key of the table and is not further in.
func cutSecrets(text []byte, instead string) []byte {
	var out bytes.Buffer
	hiding, within := false, 0
	for line := range bytes.Lines(text) {
		bare := bytes.TrimLeft(line, " \t")
		indent := len(line) - len(bare)
		name, _, colon := strings.Cut(string(bare), ":")
		_, known := find(strings.Trim(name, `"' `+"\t"))
		if hiding && (!colon || !known || indent > within) {
			continue
		}
		if hiding = false; looseKey.Match(line) {
			hiding, within = true, indent
			line = append(bytes.Clone(line[:looseKey.FindIndex(line)[1]]), " "+instead+"\n"...)
		}
		out.Write(line)
	}
	return out.Bytes()
}

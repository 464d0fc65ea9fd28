package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// unpack returns the files of a bundle.
func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil || h.Mode != 0o600 {
			t.Fatalf("%s: mode %o, %v", h.Name, h.Mode, err)
		}
		files[h.Name] = string(text)
	}
}

func says(name, text string) bundlePart {
	return bundlePart{name: name, make: func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, text); return err }}
}

// leaks are texts that hold a secret, each in another way. The secret is
// "Tr0ub4dor&3-horse" or a key that looks like one.
func leaks() map[string]string {
	const key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	return map[string]string{
		"yaml":            "password: Tr0ub4dor&3-horse\nport: 7000\n",
		"yaml quoted":     "password: 'Tr0ub4dor&3-horse'\n",
		"yaml double":     `token: "Tr0ub4dor&3-horse \" more"` + "\n",
		"yaml block":      "password: |\n  Tr0ub4dor&3-horse\n  Tr0ub4dor&3-horse\nport: 7\n",
		"yaml below":      "password:\n  Tr0ub4dor&3-horse\nport: 7\n",
		"yaml flow":       "{port: 1, password: Tr0ub4dor&3-horse, mtu: 5}",
		"yaml words":      "password: a long phrase Tr0ub4dor&3-horse\nport: 7\n",
		"yaml comma":      "password: a,b}c Tr0ub4dor&3-horse\n",
		"yaml apostrophe": "password: 'it''s Tr0ub4dor&3-horse'\n",
		"yaml comment":    "# token: it was Tr0ub4dor&3-horse\n",
		"yaml keep":       "password: >2-\n  Tr0ub4dor&3-horse\n",
		"variable, words": "WEFT_PASSWORD=a long Tr0ub4dor&3-horse\n",
		"json":            `{"token":"Tr0ub4dor&3-horse","a":1}`,
		"variable":        "WEFT_PASSWORD=Tr0ub4dor&3-horse weftd",
		"flag":            "weftd --token=Tr0ub4dor&3-horse host1",
		"flag and value":  "weftd --password Tr0ub4dor&3-horse host1",
		"private key":     "private_key=Tr0ub4dor&3-horse",
		"wireguard":       "weft-wg\t" + key + "\t6784",
		"preshared":       "peer: preshared key: Tr0ub4dor&3-horse",
		"a join command":  "weft launch --token weft1.Tr0ub4dor-3-horse_x 192.0.2.1",
		"a bare token":    "level=INFO msg=weft1.Tr0ub4dor-3-horse_x",
		"capitals":        "PassWord = Tr0ub4dor&3-horse",
	}
}

func secret(text string) bool {
	return strings.Contains(text, "Tr0ub4dor") || strings.Contains(text, "yAnz5TF")
}

// TestBundleHidesSecrets: none of the leaks gets into a bundle, and each does
// without the redactor, so that the test sees what it looks for.
func TestBundleHidesSecrets(t *testing.T) {
	for name, text := range leaks() {
		for _, hide := range []*redactor{newRedactor(), nil} {
			var b bytes.Buffer
			if _, err := writeBundle(t.Context(), &b, []bundlePart{says("a.txt", text)}, hide); err != nil {
				t.Fatal(err)
			}
			if got := unpack(t, b.Bytes())["weft-report/a.txt"]; secret(got) != (hide == nil) {
				t.Errorf("%s, redacted %t: %s", name, hide != nil, got)
			}
		}
	}
}

// TestBundleHidesWhatIsConfigured: a password of the configuration is taken out
// everywhere, in whatever words it stands, also in what failed.
func TestBundleHidesWhatIsConfigured(t *testing.T) {
	for _, config := range []string{
		"password: Tr0ub4dor&3-horse\n", "password: >-\n    Tr0ub4dor&3-horse\nport: 1\n", `token: "Tr0ub4dor&3-horse"`, "password: it's Tr0ub4dor&3-horse, \"is it\"\nport: 1\n",
		"password: \"it's Tr0ub4dor&3-horse,\n  \\\"is it\\\"\"\n", "password: it's Tr0ub4dor&3-horse,\n  \"is it\"\n",
	} {
		hide := newRedactor()
		said := `Tr0ub4dor&3-horse`
		if strings.Contains(config, "it's") {
			said = `it's Tr0ub4dor&3-horse, "is it"`
		}
		inJSON, err := json.Marshal(map[string]string{"what": said})
		if err != nil {
			t.Fatal(err)
		}
		config = string(hide.addConfig([]byte(config)))
		var b bytes.Buffer
		parts := []bundlePart{says("log.txt", "somebody said "+said+" aloud"), says("weft.yaml", config), says("e.json", string(inJSON)), {name: "bad", make: func(context.Context, io.Writer) error {
			return errors.New("cannot ask " + said)
		}}}
		if _, err := writeBundle(t.Context(), &b, parts, hide); err != nil {
			t.Fatal(err)
		}
		for name, text := range unpack(t, b.Bytes()) {
			if secret(text) || strings.Contains(text, "is it") {
				t.Errorf("%q: %s: %s", config, name, text)
			}
		}
	}
}

// TestShortPassword: a configured password is taken out whatever its length, and
// once: what stands in its place is not looked into.
func TestShortPassword(t *testing.T) {
	hide := newRedactor()
	hide.addConfig([]byte("password: out\ntoken: left\n"))
	if got := string(hide.clean([]byte("say out, not left"))); got != "say (left out), not (left out)" {
		t.Error(got)
	}
}

// TestRedactorLeavesTheRest: what is no secret stays readable.
func TestRedactorLeavesTheRest(t *testing.T) {
	for _, text := range []string{
		"port: 7000\ndns-domain: weft.internal.\n", "the cluster secret was replaced by the one given", `level=INFO msg="made a cluster secret; 'weft token' prints it"`,
		"wrong password, retry: never", "identity ab12cd34", "{\n  \"mtu\": 1370,\n  \"Port\": 6783\n}", "password: (left out)\nport: 1\n", `{"Name":"8a:3e:3e:3e:3e:3e","Peers":[{"NickName":"host2"}]}`,
	} {
		if got := string(newRedactor().clean([]byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// TestBundleIsBounded: a part that hangs is given up, and one without end is
// cut to its end; the others are there.
func TestBundleIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		begun := time.Now()
		parts := []bundlePart{
			{name: "stuck", make: func(context.Context, io.Writer) error { <-free; return nil }},
			{name: "long", make: func(_ context.Context, w io.Writer) error {
				for i := range 1 << 17 {
					fmt.Fprintf(w, "line %d of a log that has very many of them\n", i)
				}
				return nil
			}},
			{name: "slow", make: func(ctx context.Context, _ io.Writer) error { <-ctx.Done(); return ctx.Err() }},
			says("fine", "fine"),
		}
		var b bytes.Buffer
		failed, err := writeBundle(t.Context(), &b, parts, newRedactor())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > bundleStep+time.Second {
			t.Errorf("took %s", took)
		}
		close(free)
		files := unpack(t, b.Bytes())
		want := []string{"stuck: no answer within 5s; it was given up", "slow: context deadline exceeded"}
		if diff := cmp.Diff(want, failed); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(strings.Join(want, "\n")+"\n", files["weft-report/missing.txt"]); diff != "" {
			t.Error(diff)
		}
		long := files["weft-report/long"]
		if len(long) > bundleFile+10 || !strings.HasPrefix(long, "(cut)\nline ") || !strings.HasSuffix(long, "line 131071 of a log that has very many of them\n") || files["weft-report/fine"] != "fine" {
			t.Errorf("%d bytes: %.60q", len(long), long)
		}
	})
}

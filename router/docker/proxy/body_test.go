package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testConfig() *Config {
	return &Config{
		Subnet: netip.MustParsePrefix("10.32.0.0/12"), Domain: "weft.internal.", DNS: netip.MustParseAddr("169.254.67.83"),
		Label: "host", Match: regexp.MustCompile("^aws-(.*)$"), Replacement: "my-$1",
	}
}

func TestNames(t *testing.T) {
	const dns = `"HostConfig":{"Dns":["169.254.67.83"],"DnsSearch":["weft.internal"]}`
	tests := []struct {
		what, name, in, want string
		change               func(*Config)
	}{
		{what: "a name", name: "web", in: `{"Image":"x"}`, want: `{"Domainname":"weft.internal",` + dns + `,"Hostname":"web","Image":"x"}`},
		{what: "no name", in: `{"Image":"x"}`, want: `{` + dns + `,"Image":"x"}`},
		{
			what: "empty fields, as Docker's client sends them", name: "web",
			in:   `{"Hostname":"","Domainname":"","HostConfig":{"Dns":[],"DnsSearch":null,"Memory":0}}`,
			want: `{"Domainname":"weft.internal","HostConfig":{"Dns":["169.254.67.83"],"DnsSearch":["weft.internal"],"Memory":0},"Hostname":"web"}`,
		},
		{what: "the user's own host name", name: "web", in: `{"Hostname":"me"}`, want: `{` + dns + `,"Hostname":"me"}`},
		{what: "the user's own domain", name: "web", in: `{"Domainname":"example.com"}`, want: `{"Domainname":"example.com",` + dns + `}`},
		{
			what: "the user's own name server", name: "web", in: `{"HostConfig":{"Dns":["192.0.2.1"]}}`,
			want: `{"Domainname":"weft.internal","HostConfig":{"Dns":["192.0.2.1"]},"Hostname":"web"}`,
		},
		{
			what: "the user's own search domain", name: "web", in: `{"HostConfig":{"DnsSearch":["."]}}`,
			want: `{"Domainname":"weft.internal","HostConfig":{"Dns":["169.254.67.83"],"DnsSearch":["."]},"Hostname":"web"}`,
		},
		{what: "a label", name: "web", in: `{"Labels":{"host":"aws-7"}}`, want: `{"Domainname":"weft.internal",` + dns + `,"Hostname":"my-7","Labels":{"host":"aws-7"}}`},
		{what: "a name that matches", name: "aws-db", in: `{}`, want: `{"Domainname":"weft.internal",` + dns + `,"Hostname":"my-db"}`},
		{what: "a name that no host has", name: "a.b", in: `{}`, want: `{` + dns + `}`},
		{what: "a long name", name: strings.Repeat("x", 64), in: `{}`, want: `{` + dns + `}`},
		{
			what: "numbers and unknown fields stay", name: "web", in: `{"A":12345678901234567890.10,"z":{"b":1,"a":[ 1 ]},"HostConfig":{"Q":1e3}}`,
			want: `{"A":12345678901234567890.10,"Domainname":"weft.internal","HostConfig":{"Dns":["169.254.67.83"],"DnsSearch":["weft.internal"],"Q":1e3},"Hostname":"web","z":{"b":1,"a":[1]}}`,
		},
		{
			what: "case does not matter", name: "web", in: `{"hostname":"","hostconfig":{"dns":[]}}`,
			want: `{"Domainname":"weft.internal","hostconfig":{"DnsSearch":["weft.internal"],"dns":["169.254.67.83"]},"hostname":"web"}`,
		},
		{what: "no name server", name: "web", in: `{}`, want: `{}`, change: func(c *Config) { c.DNS, c.Domain = netip.Addr{}, "" }},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			cfg := testConfig()
			if tt.change != nil {
				tt.change(cfg)
			}
			c, err := parseCreation([]byte(tt.in))
			check(t, err)
			check(t, c.setNames(cfg, tt.name))
			got, err := c.body()
			check(t, err)
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWanted(t *testing.T) {
	body := func(cidr, mode string) string {
		return `{"Env":["A=b","WEFT_CIDR=1.1.1.1/8","WEFT_CIDR=` + cidr + `"],"HostConfig":{"NetworkMode":"` + mode + `"}}`
	}
	tests := []struct{ in, want string }{
		{`{}`, "net:default in weft"},
		{`{"HostConfig":null}`, "net:default in weft"},
		{body("", "default"), "net:default in weft"},
		{body("net:default", "bridge"), "net:default in weft"},
		{body("none", ""), "nothing"},
		{body("", "host"), "nothing"},
		{body("", "none"), "nothing"},
		{body("", "container:x"), "nothing"},
		{body("", "weft"), "nothing"},
		{body("10.32.0.9/12", ""), "10.32.0.9/12 in weft"},
		{body("ip:10.32.2.9/24", ""), "ip:10.32.2.9/24 in weft-10.32.2.0-24"},
		{body("net:10.32.2.0/24 10.9.0.1/16  net:default", ""), "net:10.32.2.0/24 in weft-10.32.2.0-24 and 10.9.0.1/16 net:default"},
		{body("fd00::1/64 10.32.0.9/12", ""), "10.32.0.9/12 in weft and fd00::1/64"},
		{body("fd00::1/64", ""), "weft: WEFT_CIDR=fd00::1/64: name an IPv4 address, too, or one to allocate"},
		{body("net:10.99.2.0/24", ""), "weft: WEFT_CIDR=net:10.99.2.0/24: that is not inside 10.32.0.0/11, from which weft gives addresses (--ipalloc-range)"},
		{body("10.32.0.9", ""), "weft: WEFT_CIDR=10.32.0.9: address 10.32.0.9 needs a prefix length, such as 10.32.0.9/24"},
		{body("none net:default", ""), `weft: WEFT_CIDR=none net:default: address "none": want ADDRESS/LENGTH such as 10.32.0.1/12`},
	}
	for _, tt := range tests {
		p := New(Config{Range: netip.MustParsePrefix("10.32.0.0/11"), Subnet: netip.MustParsePrefix("10.32.0.0/12"), NoRewriteHosts: true})
		if got := wishText(p, tt.in); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.in, got, tt.want)
		}
	}
	p := New(Config{Range: netip.MustParsePrefix("10.32.0.0/11"), Subnet: netip.MustParsePrefix("10.32.0.0/12"), NoDefault: true, NoRewriteHosts: true})
	if got := wishText(p, `{}`); got != "nothing" {
		t.Errorf("with --no-default-ipalloc: %s", got)
	}
	if got, want := wishText(p, body("net:default", "")), "net:default in weft"; got != want {
		t.Errorf("with --no-default-ipalloc: %s, want %s", got, want)
	}
	p = New(Config{NoRewriteHosts: true})
	for in, want := range map[string]string{
		`{}`: "nothing", body("10.2.1.1/24", ""): "10.2.1.1/24 in weft-10.2.1.0-24",
		body("net:default", ""): "weft: WEFT_CIDR=net:default: weft has no allocator (--ipalloc-range is empty); name an address",
	} {
		if got := wishText(p, in); got != want {
			t.Errorf("without an allocator, %s: %s, want %s", in, got, want)
		}
	}
}

func wishText(p *Proxy, body string) string {
	c, err := parseCreation([]byte(body))
	if err != nil {
		return err.Error()
	}
	w, ok, err := p.wanted(c)
	switch {
	case err != nil:
		return err.Error()
	case !ok:
		return "nothing"
	case len(w.more) == 0:
		return w.asked + " in " + p.networkOf(w.first.Prefix.Masked())
	}
	return w.asked + " in " + p.networkOf(w.first.Prefix.Masked()) + " and " + strings.Join(w.more, " ")
}

// FuzzCreation: whatever is sent, what we do not set survives as it came.
func FuzzCreation(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, ``, `[]`, `{"Hostname":1}`, `{"HostConfig":{"Dns":["1.1.1.1"],"X":1.0}}`, `{"hostconfig":{"dns":null}}`, `{"Env":["WEFT_CIDR=none"]}`,
		`{"Labels":{"host":"aws-1"},"A":"<>&\u2028"}`, `{"HostConfig":[]}`, `{"":{},"Env":null}`, `{"Env":["WEFT_CIDR=net:default 10.1.1.1/8"],"Q":-0.0}`,
	} {
		f.Add([]byte(s), "web")
	}
	p := New(Config{Range: netip.MustParsePrefix("10.32.0.0/11"), Subnet: netip.MustParsePrefix("10.32.0.0/12"), NoRewriteHosts: true})
	f.Fuzz(func(t *testing.T, in []byte, name string) {
		c, err := parseCreation(in)
		if err != nil {
			return
		}
		if _, _, err := p.wanted(c); err != nil && !strings.HasPrefix(err.Error(), "weft: WEFT_CIDR=") {
			t.Fatal(err)
		}
		check(t, c.setNames(testConfig(), name))
		out, err := c.body()
		check(t, err)
		if !json.Valid(out) {
			t.Fatalf("%s becomes %s", in, out)
		}
		before, err := parseObject(in)
		check(t, err)
		after, err := parseObject(out)
		check(t, err)
		host := before.key("HostConfig")
		survive(t, before, after, "Hostname", "Domainname", "HostConfig")
		inside, err := parseObject(before[host])
		check(t, err)
		then, err := parseObject(after[host])
		check(t, err)
		survive(t, inside, then, "Dns", "DnsSearch")
		// What is ours is there, whatever the case of its name.
		again, err := parseCreation(out)
		check(t, err)
		if len(again.dns) == 0 {
			t.Fatalf("no name server in %s", out)
		}
	})
}

func survive(t *testing.T, before, after object, ours ...string) {
	t.Helper()
	for k, v := range before {
		if slices.ContainsFunc(ours, func(o string) bool { return strings.EqualFold(o, k) }) {
			continue
		}
		var a, b any
		if err := errors.Join(decodeNumbers(v, &a), decodeNumbers(after[k], &b)); err != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("%s was %s and is %s (%v)", k, v, after[k], err)
		}
	}
	for k := range maps.Keys(after) {
		if _, ok := before[k]; !ok && !slices.Contains(ours, k) {
			t.Fatalf("%s is new", k)
		}
	}
}

// decodeNumbers keeps numbers as they are written.
func decodeNumbers(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(v)
}

func TestRewriteInspection(t *testing.T) {
	find := func(id string) (netip.Prefix, string, bool) {
		return netip.MustParsePrefix("10.32.0.5/12"), "7a:00:00:00:00:05", id == "web"
	}
	in := `{"Id":"web","Odd":1.0,"NetworkSettings":{"IPAddress":"172.17.0.2","IPPrefixLen":16,"MacAddress":"x","Ports":{ "80/tcp":null}}}`
	want := `{"Id":"web","NetworkSettings":{"IPAddress":"10.32.0.5","IPPrefixLen":12,"MacAddress":"7a:00:00:00:00:05","Ports":{"80/tcp":null}},"Odd":1.0}`
	got, err := rewriteInspection([]byte(in), find)
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	for _, in := range []string{`{"Id":"other","NetworkSettings":{"IPAddress":""}}`, `{"Id":"web"}`, `{}`, `[]`, ``, `{"Id":1}`} {
		if got, err := rewriteInspection([]byte(in), find); got != nil {
			t.Errorf("%s becomes %s, %v", in, got, err)
		}
	}
}

func FuzzInspection(f *testing.F) {
	f.Add([]byte(`{"Id":"web","NetworkSettings":{"IPAddress":"172.17.0.2"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := rewriteInspection(in, func(string) (netip.Prefix, string, bool) { return netip.MustParsePrefix("10.32.0.5/12"), "m", true })
		if err == nil && out != nil && !json.Valid(out) {
			t.Fatalf("%s becomes %s", in, out)
		}
	})
}

func TestWithLength(t *testing.T) {
	in := "POST /x?a:b HTTP/1.1\r\nHost: docker\r\ncontent-length: 7\r\nTransfer-Encoding: chunked\r\nX-A: b:c\r\nExpect: 100-continue\r\nTrailer: A\r\n\r\n"
	want := "POST /x?a:b HTTP/1.1\r\nHost: docker\r\nX-A: b:c\r\nContent-Length: 42\r\n\r\n"
	if got := string(withLength([]byte(in), 42)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPaths(t *testing.T) {
	p := New(Config{RewriteInspect: true, NoRewriteHosts: true})
	for request, want := range map[string]bool{
		"POST /containers/create": true, "POST /v1.41/containers/create?name=x": true, "POST /v1.999/containers/create": true, "POST /v2/containers/create": true,
		"GET /containers/create": false, "POST /containers/x/create": false, "POST /vx/containers/create": false, "POST /containers/create/": false,
		"POST /v1.41/containers/web/start": true, "POST /containers/web/restart?t=1": true, "POST /containers/web/stop": false, "GET /containers/web/start": false,
		"GET /containers/web/json": true, "GET /containers/json": false, "GET /containers/json/json": true, "POST /exec/x/start": false, "POST /containers/a/b/start": false,
		"HEAD /_ping": false, "POST /containers/web/exec": false, "POST /networks/create": false,
	} {
		method, path, _ := strings.Cut(request, " ")
		r, err := http.NewRequest(method, path, nil)
		check(t, err)
		if got := p.handler(r) != nil; got != want {
			t.Errorf("%s: ours %t, want %t", request, got, want)
		}
	}
	p.cfg.RewriteInspect = false
	r, err := http.NewRequest(http.MethodGet, "/containers/web/json", nil)
	check(t, err)
	if p.handler(r) != nil {
		t.Error("inspect is read without need")
	}
}

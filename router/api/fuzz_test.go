package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzRequests: what is understood, written again, is understood as the same,
// and what is not is the caller's fault.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, `["host2"]`, `{"Targets":["host2"],"Replace":true}`,
		`{"Container":"web","Addresses":["10.32.0.1/12"],"AddHosts":["a:1"],"MAC":"02:00:00:00:00:01"}`,
		`{"Container":"web","Addresses":["10.32.0.1","fd00::1%eth0"],"FQDN":"x."}`, `{"Addresses":[""]}`,
		`{"Peers":["host9","::8"],"Force":true}`, `{"a":1}`, `{} {}`, `{"Container":"\ud800"}`,
		`{"Subnet":"10.32.0.0/12","Within":"","Address":"10.32.0.9"}`, `{"ID":"e","Addresses":["10.32.0.1/12"],"Extra":["net:default"]}`,
		`{"ID":"e","Sandbox":"/run/x"}`, `"10.32.0.9"`, `""`, `"fd00::1%eth0"`, "{}\x00", `{"container":"case"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again[ConnectRequest](t, b)
		again[[]string](t, b)
		again[AttachRequest](t, b)
		again[DetachRequest](t, b)
		again[ExposeRequest](t, b)
		again[HideRequest](t, b)
		again[NameRequest](t, b)
		again[RemoveRequest](t, b)
		again[ReserveRequest](t, b)
		again[netip.Addr](t, b)
		again[EndpointRequest](t, b)
		again[EndpointJoin](t, b)
		again[string](t, b)
		again[struct{}](t, b)
	})
}

func again[T any](t *testing.T, b []byte) {
	v, err := decode[T](bytes.NewReader(b))
	if err != nil {
		if !errors.Is(err, ErrUsage) {
			t.Fatalf("%T: %v is not ErrUsage", v, err)
		}
		return
	}
	first, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%T: %v", v, err)
	}
	w, err := decode[T](bytes.NewReader(first))
	if err != nil {
		t.Fatalf("%T: %s: %v", v, first, err)
	}
	if diff := cmp.Diff(v, w, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Fatalf("%T: %s", v, diff)
	}
}

// FuzzAnswers: what a client understands of an answer, written again, is
// understood as the same.
func FuzzAnswers(f *testing.F) {
	for _, v := range []any{fullStatus(), fullWhy(), []Removed{{Name: "a", IPs: 1<<64 - 1}}, HandOver{Nickname: "host9"}, fullEndpoint(), prefixes("10.32.0.1/12", "fd00::1/64")} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"IPAM":{"Range":"","Entries":[{"IPs":-1}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		answered[Status](t, b)
		answered[Why](t, b)
		answered[[]Removed](t, b)
		answered[HandOver](t, b)
		answered[Addresses](t, b)
		answered[netip.Prefix](t, b)
		answered[Endpoint](t, b)
	})
}

func answered[T any](t *testing.T, b []byte) {
	var v, w T
	if json.Unmarshal(b, &v) != nil {
		return
	}
	again, err := json.Marshal(v)
	if err != nil {
		return // years that RFC 3339 has no digits for
	}
	if err := json.Unmarshal(again, &w); err != nil {
		t.Fatalf("%T: %s: %v", v, again, err)
	}
	if diff := cmp.Diff(v, w, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%T: %s", v, diff)
	}
}

// FuzzStream: whatever a server sends as a stream ends in a result or in an
// error with a text, and what is heard on the way is not more than was sent.
func FuzzStream(f *testing.F) {
	for _, s := range []string{
		`{"progress":"a"}` + "\n" + `{"result":["10.32.0.1/12"]}` + "\n", `{"result":null}`, `{"problem":{"detail":"d"}}`,
		`{"problem":null}`, `{"progress":"a","result":1}`, `{}`, "\n\n", `{"result":7}`, `{"progress":""}`, `{"progress":"a"}`, "[",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		heard := 0
		ctx := WithProgress(t.Context(), func(reason string) { heard += len(reason) })
		_, err := readStream[Addresses](ctx, bytes.NewReader(b))
		if err != nil && err.Error() == "" {
			t.Fatal("an error without text")
		}
		if heard > 3*len(b) { // bytes that are no text become three
			t.Fatalf("heard %d bytes of %d", heard, len(b))
		}
		p, err := parsePart(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := parsePart(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if twice, err := json.Marshal(q); err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("%s became %s: %v", again, twice, err)
		}
	})
}

// FuzzProblem: whatever a server calls a problem becomes an error with a text.
func FuzzProblem(f *testing.F) {
	f.Add([]byte(`{"type":"urn:weft:problem:conflict","title":"t","status":409,"detail":"d"}`))
	f.Add([]byte(`{"type":7}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseProblem(b)
		if err != nil {
			return
		}
		e := p.err()
		if e.Error() == "" {
			t.Fatal("an error without text")
		}
		if back := problemOf(e); p.Detail != "" && back.Detail != p.Detail {
			t.Fatalf("detail %q became %q", p.Detail, back.Detail)
		}
		if errors.Is(e, ErrConflict) && problemOf(e).Type != p.Type {
			t.Fatalf("class of %+v was lost", p)
		}
	})
}

// FuzzArguments: what people type and we take, written in full, is the same.
func FuzzArguments(f *testing.F) {
	for _, s := range []string{"10.32.0.1/12", "ip:10.32.0.1/12", "net:10.2.2.0/24", "net:default", "[fd00::1]:7", "host:1", "fe80::1%a", "x.y."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseAddress(s); err == nil && a.Prefix.IsValid() {
			full := "ip:" + a.Prefix.String()
			if a.Allocate {
				full = "net:" + a.Prefix.String()
			}
			if b, err := ParseAddress(full); err != nil || b != a {
				t.Fatalf("%q became %q: %v, %v", s, full, b, err)
			}
		}
		host, port, err := ParseTarget(s)
		if err == nil && port != 0 {
			h, p, err := ParseTarget(net.JoinHostPort(host, strconv.Itoa(int(port))))
			if err != nil || h != host || p != port {
				t.Fatalf("%q: %q %d became %q %d: %v", s, host, port, h, p, err)
			}
		}
		if name, err := ParseFQDN(s); err == nil {
			if n, err := ParseFQDN(name); err != nil || n != name {
				t.Fatalf("%q: %q became %q: %v", s, name, n, err)
			}
		}
	})
}

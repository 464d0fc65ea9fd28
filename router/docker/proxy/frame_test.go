package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// cut feeds b to a frame in pieces of given sizes, in turn, and returns how many
// bytes belong to the body.
func cut(f frame, b []byte, sizes []byte) (n int, done bool, err error) {
	for i := 0; n < len(b) && !done && err == nil; i++ {
		size := 1
		if len(sizes) > 0 {
			size += int(sizes[i%len(sizes)])
		}
		var k int
		k, done, err = f.take(b[n:min(len(b), n+size)])
		n += k
	}
	return n, done, err
}

// FuzzChunked compares with what Go's own reader takes.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\nrest", "A;x\r\n0123456789\r\n0\r\nA: b\r\n\r\n", "1\nx\n0\n\n", "g\r\n", "\r\n", "5\r\nhello00\r\n\r\n", "fffffffffffffffff\r\n"} {
		f.Add([]byte(s), []byte{0}, 3)
	}
	f.Fuzz(func(t *testing.T, b, sizes []byte, _ int) {
		n, done, err := cut(frame{kind: chunkedBody}, b, sizes)
		if n > len(b) || done && err != nil {
			t.Fatalf("took %d of %d, %t, %v", n, len(b), done, err)
		}
		whole, wdone, werr := cut(frame{kind: chunkedBody}, b, []byte{255})
		if done != wdone || (err == nil) != (werr == nil) || done && n != whole {
			t.Fatalf("in pieces %d, %t, %v; else %d, %t, %v", n, done, err, whole, wdone, werr)
		}
		head := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
		src := bytes.NewReader(append([]byte(head), b...))
		br := bufio.NewReader(src)
		r, rerr := http.ReadRequest(br)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if _, rerr = io.Copy(io.Discard, r.Body); rerr != nil {
			return // Go is the stricter one: the engine refuses what we pass
		}
		if used := len(b) - src.Len() - br.Buffered(); !done || n != used {
			t.Fatalf("took %d, %t, %v; Go takes %d", n, done, err, used)
		}
	})
}

func TestHeadEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(rapid.StringMatching("[a\r\n]{0,20}").Draw(t, "head"))
		want := 0
		for i := 1; i <= len(b) && want == 0; i++ {
			if s := string(b[:i]); strings.HasSuffix(s, "\n\n") || strings.HasSuffix(s, "\n\r\n") {
				want = i
			}
		}
		if got := headEnd(b); got != want {
			t.Fatalf("headEnd(%q) = %d, want %d", b, got, want)
		}
		// In pieces, through a stream.
		if want > 0 {
			s := newStream(pieces{reader: bytes.NewReader(b), n: rapid.IntRange(1, 5).Draw(t, "piece")})
			if got, err := s.head(); err != nil || len(got) != want {
				t.Fatalf("head() of %q: %q, %v", b, got, err)
			}
		}
	})
}

// TestAnswerFrame wants every kind of answer to end where it does.
func TestAnswerFrame(t *testing.T) {
	for head, want := range map[string]frameKind{
		"HTTP/1.1 200 OK\r\nContent-Length: 5":          sizedBody,
		"HTTP/1.1 200 OK\r\nContent-Length: 0":          noBody,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked": chunkedBody,
		"HTTP/1.1 200 OK":                               endlessBody,
		"HTTP/1.0 200 OK":                               endlessBody,
		"HTTP/1.1 101 UPGRADED":                         endlessBody,
		"HTTP/1.1 100 Continue":                         noBody,
		"HTTP/1.1 204 No Content":                       noBody,
		"HTTP/1.1 304 Not Modified":                     noBody,
		"HTTP/1.1 404 Not Found\r\nX: y":                endlessBody,
		"HTTP/1.1 500 X\r\nContent-Length: 1":           sizedBody,
	} {
		r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head+"\r\n\r\n")), &http.Request{Method: http.MethodGet})
		check(t, err)
		if f := answerFrame(http.MethodGet, r); f.kind != want {
			t.Errorf("%q: %v, want %v", head, f.kind, want)
		}
		if f := answerFrame(http.MethodHead, r); f.kind != noBody && r.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%q to HEAD: %v", head, f.kind)
		}
	}
}

// pieces gives n bytes at a time.
type pieces struct {
	net.Conn
	reader io.Reader
	n      int
}

func (p pieces) Read(b []byte) (int, error) { return p.reader.Read(b[:min(len(b), p.n)]) }

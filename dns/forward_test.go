package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

var (
	upstream1 = netip.MustParseAddrPort("192.0.2.1:53")
	upstream2 = netip.MustParseAddrPort("192.0.2.2:53")
	upstream3 = netip.MustParseAddrPort("[2001:db8::3]:53")
)

// network plays the upstreams. Each one behaves as its word says: answers,
// silent, refuses (nothing listens), servfail, nxdomain, slow (answers after
// 1.2 s), big (does not fit into UDP), bigbroken (and TCP fails), other (another
// question's answer). What was asked when is kept as text.
type network struct {
	// Constant.
	start  time.Time
	behave map[netip.AddrPort]string

	// mu guards the field below.
	mu  sync.Mutex
	log []string
}

func (n *network) exchange(ctx context.Context, proto string, to netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	n.mu.Lock()
	n.log = append(n.log, fmt.Sprintf("%v %s %s", time.Since(n.start).Round(time.Millisecond), proto, to.Addr()))
	n.mu.Unlock()
	m, err := oracle(ctx, proto, to, q)
	switch n.behave[to] {
	case "answers":
	case "servfail":
		m = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	case "nxdomain":
		m = new(dns.Msg).SetRcode(q, dns.RcodeNameError)
	case "other":
		m.Question[0].Name = "other.example."
	case "query":
		m.Response = false
	case "refuses":
		return nil, syscall.ECONNREFUSED
	case "big", "bigbroken":
		if proto == "udp" {
			m.Truncated, m.Answer = true, nil
		} else if n.behave[to] == "bigbroken" {
			return nil, syscall.ECONNRESET
		}
	case "slow":
		select {
		case <-time.After(1200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	default:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return m, err
}

func TestForward(t *testing.T) {
	answer := `NOERROR rd ra
		example.com. 300 TXT "upstream"`
	for _, tt := range []struct {
		name      string
		upstreams string // words of network, in the order of upstream1, 2, 3
		want      string // what was asked when; then the answer
	}{
		{"first answers", "answers answers", "0s udp 192.0.2.1\n" + answer},
		{"unknown is an answer", "nxdomain answers", "0s udp 192.0.2.1\nNXDOMAIN rd ra"},
		{"none known", "", "SERVFAIL rd ra"},
		{"first silent", "silent answers", "0s udp 192.0.2.1\n1s udp 192.0.2.2\n" + answer},
		{"first does not listen", "refuses answers", "0s udp 192.0.2.1\n0s udp 192.0.2.2\n" + answer},
		{"first fails", "servfail answers", "0s udp 192.0.2.1\n0s udp 192.0.2.2\n" + answer},
		{"all fail", "servfail refuses", "0s udp 192.0.2.1\n0s udp 192.0.2.2\nSERVFAIL rd ra"},
		{"answer to another question", "other answers", "0s udp 192.0.2.1\n0s udp 192.0.2.2\n" + answer},
		{"not an answer", "query answers", "0s udp 192.0.2.1\n0s udp 192.0.2.2\n" + answer},
		{"slow alone", "slow", "0s udp 192.0.2.1\n" + answer},
		{"slow among silent ones is asked again", "slow silent", `0s udp 192.0.2.1
			1s udp 192.0.2.2
			2s udp 192.0.2.1
			3s udp 192.0.2.2
			SERVFAIL rd ra`},
		{"none listens: at once", "refuses refuses", `0s udp 192.0.2.1
			0s udp 192.0.2.2
			0s udp 192.0.2.1
			0s udp 192.0.2.2
			SERVFAIL rd ra`},
		{"all silent", "silent silent silent", `0s udp 192.0.2.1
			667ms udp 192.0.2.2
			1.333s udp 2001:db8::3
			2s udp 192.0.2.1
			2.667s udp 192.0.2.2
			3.333s udp 2001:db8::3
			SERVFAIL rd ra`},
		{"does not fit into UDP", "big", "0s udp 192.0.2.1\n0s tcp 192.0.2.1\n" + answer},
		{"does not fit and TCP fails", "bigbroken", "0s udp 192.0.2.1\n0s tcp 192.0.2.1\nNOERROR tc rd ra"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ups := []netip.AddrPort{upstream1, upstream2, upstream3}
				words := strings.Fields(tt.upstreams)
				n := &network{start: time.Now(), behave: make(map[netip.AddrPort]string)}
				for i, word := range words {
					n.behave[ups[i]] = word
				}
				s := server(t, testZone(), n.exchange)
				s.forward.upstreams = func() []netip.AddrPort { return ups[:len(words)] }
				got, _ := s.respond(t.Context(), testCase{ask: "example.com. A"}.question(t), dns.MinMsgSize, s.forward.shared)
				if d := time.Since(n.start); d > forwardTime {
					t.Errorf("took %v", d)
				}
				want := strings.ReplaceAll(tt.want, "\t", "")
				if diff := cmp.Diff(want, strings.Join(append(n.log, text(got)), "\n")); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestForwardSkipsSelf: the host's resolv.conf may name us.
func TestForwardSkipsSelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{start: time.Now(), behave: map[netip.AddrPort]string{upstream2: "answers"}}
		f := newForwarder(func() []netip.AddrPort {
			return []netip.AddrPort{upstream1, netip.MustParseAddrPort("[::ffff:192.0.2.1]:53"), upstream2}
		}, []netip.AddrPort{upstream1}, slog.New(slog.DiscardHandler))
		f.exchange = n.exchange
		if _, err := f.shared(t.Context(), testCase{ask: "example.com. A"}.question(t)); err != nil {
			t.Error(err)
		}
		if want := []string{"0s udp 192.0.2.2"}; !slices.Equal(n.log, want) {
			t.Errorf("asked %v", n.log)
		}
		f.upstreams = func() []netip.AddrPort { return []netip.AddrPort{upstream1} }
		if _, err := f.shared(t.Context(), testCase{ask: "example.com. A"}.question(t)); !errors.Is(err, errNoUpstream) {
			t.Errorf("only ourselves: %v", err)
		}
	})
}

// TestForwardLoop: two servers are each other's upstream. The question dies
// after one patience; nothing multiplies.
func TestForwardLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		var mu sync.Mutex
		var a, b *Server
		link := func(other **Server) exchange {
			return func(ctx context.Context, _ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
				mu.Lock()
				asked++
				mu.Unlock()
				answer := make(chan *dns.Msg, 1)
				go func() {
					m, _ := (*other).respond(context.WithoutCancel(ctx), q, dns.MinMsgSize, (*other).forward.shared)
					answer <- m
				}()
				select {
				case m := <-answer:
					return m, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
		}
		a, b = server(t, testZone(), link(&b)), server(t, testZone(), link(&a))
		start := time.Now()
		m, how := a.respond(t.Context(), testCase{ask: "example.com. A"}.question(t), dns.MinMsgSize, a.forward.shared)
		if m.Rcode != dns.RcodeServerFailure || how != failed && how != forwarded {
			t.Errorf("got %s", text(m))
		}
		if d := time.Since(start); d > 2*forwardTime {
			t.Errorf("took %v", d)
		}
		synctest.Wait()
		if asked > 2*forwardRounds {
			t.Errorf("the loop carried %d questions", asked)
		}
	})
}

// TestForwardBounded: questions beyond the bound fail at once, and the places
// come back.
func TestForwardBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, testZone(), (&network{}).exchange) // silent
		ask := func(i int) (*dns.Msg, outcome) {
			return s.respond(t.Context(), testCase{ask: fmt.Sprintf("h%d.example.com. A", i)}.question(t), dns.MinMsgSize, s.forward.shared)
		}
		var wg sync.WaitGroup
		for i := range maxWaiting {
			wg.Go(func() {
				if _, how := ask(i); how != failed {
					t.Errorf("question %d: outcome %d", i, how)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		if m, how := ask(maxWaiting); how != busy || m.Rcode != dns.RcodeServerFailure || time.Since(start) != 0 {
			t.Errorf("one too many: outcome %d after %v: %s", how, time.Since(start), text(m))
		}
		wg.Wait()
		s.forward.exchange = oracle
		if _, how := ask(0); how != forwarded {
			t.Errorf("afterwards: outcome %d", how)
		}
	})
}

// TestForwardShares: equal questions under way are asked once, each client gets
// its own answer; different ones are asked apart.
func TestForwardShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{start: time.Now(), behave: map[netip.AddrPort]string{upstream1: "slow"}}
		s := server(t, testZone(), n.exchange)
		cases := []testCase{
			{"example.com. A", "NOERROR rd ra\nexample.com. 300 TXT \"upstream\""},
			{"EXAMPLE.com. A", "NOERROR rd ra\nEXAMPLE.com. 300 TXT \"upstream\""},
			{"example.com. A edns=512 do", "NOERROR rd ra\nexample.com. 300 TXT \"upstream\"\nedns 1232 do"},
		}
		var wg sync.WaitGroup
		for i := range 30 {
			c := cases[i%len(cases)]
			req := c.question(t)
			wg.Go(func() {
				got, _ := s.respond(t.Context(), req, dns.MinMsgSize, s.forward.shared)
				c.check(t, req, got)
			})
		}
		wg.Wait()
		if len(n.log) != len(cases) {
			t.Errorf("%d questions went upstream: %v", len(n.log), n.log)
		}
	})
}

// TestForwardLog: one line when upstreams fall silent, one when they are back.
func TestForwardLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		n := &network{behave: make(map[netip.AddrPort]string)}
		f := newForwarder(func() []netip.AddrPort { return []netip.AddrPort{upstream1} }, nil, log)
		f.exchange = n.exchange
		for _, word := range []string{"answers", "answers", "refuses", "refuses", "answers", "answers"} {
			n.behave[upstream1] = word
			_, _ = f.shared(t.Context(), testCase{ask: "example.com. A"}.question(t)) // only the log is looked at
		}
		want := `level=WARN msg="no upstream resolver answers" servers=[192.0.2.1:53] err="ask 192.0.2.1:53: connection refused"
level=INFO msg="upstream resolvers answer again" servers=[192.0.2.1:53]
`
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestForwardCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, testZone(), (&network{}).exchange) // silent
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := s.Lookup(ctx, "example.com"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

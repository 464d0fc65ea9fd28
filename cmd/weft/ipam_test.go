package main

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// TestWaiting: what a request waits for is said after a second, then once for
// each change that lasts.
func TestWaiting(t *testing.T) {
	type moment struct {
		after  time.Duration
		reason string
	}
	tests := []struct {
		name    string
		reasons []moment
		lasts   time.Duration
		want    string
	}{
		{"short", []moment{{0, "a"}}, 900 * time.Millisecond, ""},
		{"no reason", nil, time.Minute, ""},
		{"long", []moment{{0, "a"}}, time.Minute, "weft: waiting: a\n"},
		{"changes", []moment{{0, "a"}, {1500 * time.Millisecond, "b"}, {time.Second, "a"}}, time.Minute, "weft: waiting: a\nweft: waiting: b\nweft: waiting: a\n"},
		{"flickers", []moment{{0, "a"}, {1100 * time.Millisecond, "b"}, {100 * time.Millisecond, "a"}}, time.Minute, "weft: waiting: a\n"},
		{"late", []moment{{10 * time.Second, "a"}}, 1500 * time.Millisecond, "weft: waiting: a\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var errs bytes.Buffer
				p := &program{stderr: &errs, patience: time.Second}
				got, err := waiting(t.Context(), p, func(ctx context.Context) (int, error) {
					for _, m := range tt.reasons {
						<-time.After(m.after)
						api.Progress(ctx, m.reason)
					}
					<-time.After(tt.lasts)
					return 7, nil
				})
				if got != 7 || err != nil {
					t.Errorf("waiting: %d, %v", got, err)
				}
				if diff := cmp.Diff(tt.want, errs.String()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestWaitingIsInterrupted: whoever loses patience before we do is told too.
func TestWaitingIsInterrupted(t *testing.T) {
	var errs bytes.Buffer
	p := &program{stderr: &errs, patience: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := waiting(ctx, p, func(ctx context.Context) (int, error) {
		api.Progress(ctx, "host3 is out of reach")
		cancel()
		return 0, ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || errs.String() != "weft: waiting: host3 is out of reach\n" {
		t.Errorf("waiting: %v, stderr %q", err, errs.String())
	}
}

func TestRemarksTellSinceWhen(t *testing.T) {
	now := time.Unix(1763600000, 0)
	s := api.Status{Warnings: []string{"w"}, IPAM: &api.IPAM{Pending: []api.IPAMPending{
		{Kind: "claim", Container: "db", What: "10.42.0.1/12", Why: "host3 is out of reach", Since: now.Add(-90*time.Second - 400*time.Millisecond)},
		{Kind: "allocate", Container: "web", What: "10.32.0.0/12", Since: now.Add(time.Second)}, // a clock was set back
	}}}
	pending := []string{
		"db waits for its address 10.42.0.1/12 (for 1m30s): host3 is out of reach",
		"web waits for an address in 10.32.0.0/12",
	}
	for section, want := range map[string][]string{"": append([]string{"warning: w"}, pending...), "ipam": pending, "dns": nil} {
		if diff := cmp.Diff(want, remarksOf(s, section, now)); diff != "" {
			t.Errorf("%q: %s", section, diff)
		}
	}
}

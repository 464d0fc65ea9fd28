package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Severity of a [Finding], the gravest last.
type Severity string

// The severities.
const (
	OK      Severity = "ok"      // looked at, and as it should be
	Note    Severity = "note"    // to know; nothing is wrong
	Warning Severity = "warning" // it works, not as well as it could, or not for long
	Problem Severity = "problem" // something does not work
)

// Rank orders severities; the gravest has the greatest.
func (s Severity) Rank() int {
	switch s {
	case Problem:
		return 3
	case Warning:
		return 2
	case Note:
		return 1
	case OK:
	}
	return 0
}

// Finding is one thing that was looked at.
type Finding struct {
	ID       string   `json:"id"` // of the kind; does not change between versions
	Severity Severity `json:"severity"`
	Subject  string   `json:"subject,omitempty"` // what it is about when there are several: a peer, a path
	What     string   `json:"what"`              // for people
	Remedy   string   `json:"remedy,omitempty"`  // what to do, with the command where there is one
}

// Held says whether one of the findings says what a warning says, so that it need
// not be said twice.
func Held(list []Finding, warning string) bool {
	return slices.ContainsFunc(list, func(f Finding) bool { return strings.Contains(f.What, warning) })
}

// Diagnosis is everything that was found, the gravest first.
type Diagnosis struct {
	Host     string        `json:"host"` // nickname, or the hostname
	Version  string        `json:"version"`
	Time     time.Time     `json:"time"`
	Took     time.Duration `json:"took"`           // in nanoseconds
	Daemon   bool          `json:"daemon"`         // the daemon looked; otherwise it did not answer
	Peer     string        `json:"peer,omitempty"` // the only one that was looked at
	Findings []Finding     `json:"findings"`
}

// DoctorRequest says what to look at.
type DoctorRequest struct {
	Peer string // the way to that peer only, end to end; empty: everything
}

// Doctor implements [Backend].
func (c *Client) Doctor(ctx context.Context, r DoctorRequest) (Diagnosis, error) {
	return get[Diagnosis](ctx, c, "/v1/doctor", url.Values{"peer": {r.Peer}})
}

func doctorRequest(r *http.Request) DoctorRequest {
	return DoctorRequest{Peer: r.URL.Query().Get("peer")}
}

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxBody bounds a request's body and the text of a problem, in bytes. The
// longest honest request is an attach with a few hundred addresses.
const maxBody = 1 << 20

// problemType says that a body is a [problem] (RFC 9457).
const problemType = "application/problem+json"

// logProblem is the trailer that carries a problem met after the log began.
const logProblem = "Weft-Problem"

// problem is an error on the wire. Type names the class, Detail is the text
// that errors.Error returns on both sides.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// class is how one of the errors that callers test for travels.
type class struct {
	err    error
	typ    string
	title  string
	status int
}

// classes lists what travels, the most particular first; everything else is
// the last one.
func classes() []class {
	return []class{
		{ErrUsage, "urn:weft:problem:usage", "The request is wrong", http.StatusBadRequest},
		{ErrNotFound, "urn:weft:problem:not-found", "What was named does not exist", http.StatusNotFound},
		{ErrConflict, "urn:weft:problem:conflict", "Somebody else holds what was asked for", http.StatusConflict},
		{nil, "about:blank", http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError},
	}
}

func problemOf(err error) problem {
	all := classes()
	c := all[len(all)-1]
	for _, candidate := range all {
		if candidate.err != nil && errors.Is(err, candidate.err) {
			c = candidate
			break
		}
	}
	detail := err.Error()
	if errors.Is(err, context.Canceled) { // a caller that gave up does not read this
		detail = strings.ReplaceAll(detail, context.Canceled.Error(), "weftd was stopped before it was done")
	}
	return problem{Type: c.typ, Title: c.title, Status: c.status, Detail: detail}
}

// err returns the error that the other side saw.
func (p problem) err() error {
	e := &problemError{text: p.Detail}
	for _, c := range classes() {
		if c.typ == p.Type {
			e.class = c.err
		}
	}
	if e.text == "" {
		e.text = fmt.Sprintf("weftd gave no reason (%s, %s)", p.Title, p.Type)
	}
	return e
}

// parseProblem reads what a server wrote as a problem.
func parseProblem(b []byte) (problem, error) {
	var p problem
	if err := json.Unmarshal(b, &p); err != nil {
		return problem{}, fmt.Errorf("parse problem: %w", err)
	}
	return p, nil
}

// problemError is an error whose text says nothing of its class.
type problemError struct {
	class error // nil: none that callers test for
	text  string
}

func (e *problemError) Error() string { return e.text }

func (e *problemError) Unwrap() error { return e.class }

// decode reads one JSON value of a request. Unknown fields are errors, because
// a wish that is not understood must not be dropped; so is anything after the
// value. Errors wrap ErrUsage.
func decode[T any](r io.Reader) (T, error) {
	var v T
	b, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err != nil {
		return v, fmt.Errorf("read request: %w", err)
	}
	if len(b) > maxBody {
		return v, usage("request is larger than %d bytes", maxBody)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, usage("request is not understood: %v", err)
	}
	if rest := bytes.TrimLeft(b[d.InputOffset():], " \t\r\n"); len(rest) != 0 {
		return v, usage("request goes on after its end")
	}
	return v, nil
}

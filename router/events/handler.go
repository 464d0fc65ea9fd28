package events

import (
	"context"
	"encoding"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weftnet/weft/router/api"
)

// Handler returns a handler that keeps records of level Info and above in the
// ring and hands all that next wants to it.
func (r *Ring) Handler(next slog.Handler) slog.Handler { return &handler{ring: r, next: next} }

// handler is constant; With makes others.
type handler struct {
	ring   *Ring
	next   slog.Handler
	prefix string // of keys, from groups: "a.b."
	attrs  []attr // from With, the last one of a key counts
}

// attr is a field as it is shown.
type attr struct{ key, value string }

// Enabled implements [slog.Handler].
func (h *handler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || h.next.Enabled(ctx, l)
}

// Handle implements [slog.Handler]. It keeps the record also when the log
// cannot be written: a full disk is when one wants to know.
func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelInfo {
		h.ring.add(h.event(record))
	}
	if !h.next.Enabled(ctx, record.Level) {
		return nil
	}
	return h.next.Handle(ctx, record)
}

// WithAttrs implements [slog.Handler].
func (h *handler) WithAttrs(list []slog.Attr) slog.Handler {
	n := *h
	n.next = h.next.WithAttrs(list)
	n.attrs = append([]attr(nil), h.attrs...)
	for _, a := range list {
		n.attrs = appendAttr(n.attrs, h.prefix, a)
	}
	return &n
}

// WithGroup implements [slog.Handler].
func (h *handler) WithGroup(name string) slog.Handler {
	n := *h
	n.next = h.next.WithGroup(name)
	if name != "" {
		n.prefix += name + "."
	}
	return &n
}

func (h *handler) event(record slog.Record) api.Event {
	e := api.Event{Time: record.Time.Round(0), Level: level(record.Level), Message: clip(record.Message)}
	attrs := slices.Clip(h.attrs)
	record.Attrs(func(a slog.Attr) bool {
		attrs = appendAttr(attrs, h.prefix, a)
		return len(attrs) < 2*maxFields
	})
	for _, a := range attrs {
		switch a.key {
		case "part":
			e.Part = a.value
		case "peer":
			e.Peer = a.value
		case "nickname":
			e.Nickname = a.value
		default:
			if e.Fields == nil {
				e.Fields = make(map[string]string, len(attrs))
			}
			if _, known := e.Fields[a.key]; known || len(e.Fields) < maxFields {
				e.Fields[a.key] = a.value
			}
		}
	}
	return e
}

// appendAttr flattens groups.
func appendAttr(list []attr, prefix string, a slog.Attr) []attr {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range v.Group() {
			list = appendAttr(list, prefix, inner)
		}
		return list
	}
	if a.Key == "" {
		return list
	}
	return append(list, attr{clip(prefix + a.Key), clip(text(v))})
}

// text is a value as the log's text form shows it. As in slog's own handlers, a
// value whose method panics, as a nil pointer's may, is shown as one: no record
// may end the daemon.
func text(v slog.Value) (s string) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if p := reflect.ValueOf(v.Any()); p.Kind() == reflect.Pointer && p.IsNil() {
			s = "<nil>"
			return
		}
		s = fmt.Sprintf("!PANIC: %v", r)
	}()
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().Format(time.RFC3339Nano)
	case slog.KindAny:
		switch x := v.Any().(type) {
		case nil:
			return ""
		case error:
			return x.Error()
		case encoding.TextMarshaler:
			if b, err := x.MarshalText(); err == nil {
				return string(b)
			}
		}
		return fmt.Sprintf("%+v", v.Any())
	default:
		return v.String()
	}
}

// clip bounds a text and makes it one that JSON can carry unchanged.
func clip(s string) string {
	if len(s) > maxText {
		cut := maxText - len("…")
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func level(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return api.LevelError
	case l >= slog.LevelWarn:
		return api.LevelWarning
	}
	return api.LevelInfo
}

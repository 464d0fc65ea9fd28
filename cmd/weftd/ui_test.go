package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/weftnet/weft/router/api"
)

// 'weft ui --off' is heard.
func TestPictureOff(t *testing.T) {
	p := &picture{addr: "127.0.0.1:6782"}
	p.show(nil, false, slog.New(slog.DiscardHandler))
	if u, err := p.UI(t.Context(), api.UIRequest{}); err != nil || u.URL == "" {
		t.Fatalf("%+v %v", u, err)
	}
	if u, err := p.UI(t.Context(), api.UIRequest{Off: true}); err != nil || u.URL != "" {
		t.Errorf("turned off: %+v %v", u, err)
	}
	here := context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6782})
	r := httptest.NewRequestWithContext(here, http.MethodGet, "http://127.0.0.1:6782/ui/", nil)
	w := httptest.NewRecorder()
	p.handler().ServeHTTP(w, r)
	if w.Code != http.StatusNotFound {
		t.Errorf("it is off and answers %d: %s", w.Code, w.Body)
	}
}

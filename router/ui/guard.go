package ui

import (
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
)

// policy lets the page have what comes from its own address and nothing else:
// no script or style inside of the page, nothing from elsewhere, no frame
// around it, no form, and no text that becomes markup.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// ServeHTTP implements [http.Handler] for everything below [Root].
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
	switch {
	case !local(r):
		http.Error(w, "the picture is shown on the host itself; from elsewhere: ssh -L 6782:127.0.0.1:6782 HOST", http.StatusForbidden)
	case foreign(r):
		http.Error(w, "this address is for a browser of this host that was sent here by nobody else", http.StatusForbidden)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "the picture is only to be looked at", http.StatusMethodNotAllowed)
	case !u.on.Load():
		http.Error(w, "the picture is off: 'weft ui' turns it on", http.StatusNotFound)
	case r.URL.Path == Root && r.URL.Query().Has("code"):
		u.welcome(w, r)
	case !u.invited(r):
		u.show(w, "closed.html", http.StatusUnauthorized)
	default:
		u.mux.ServeHTTP(w, r)
	}
}

// local says that a connection came in over loopback: the page is not encrypted
// on its way.
func local(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	ap, err := netip.ParseAddrPort(addr.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// foreign says that a request was made by a page of another site, or under a
// name of another site that was given our address (DNS rebinding).
func foreign(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if host != "localhost" && (err != nil || !addr.Unmap().IsLoopback()) {
		return true
	}
	for _, origin := range r.Header.Values("Origin") {
		if origin != "http://"+r.Host {
			return true
		}
	}
	// Only following an address to the page itself may begin elsewhere, and is
	// worth nothing without a code: no cookie comes along.
	site, mode := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Sec-Fetch-Mode")
	return site != "" && site != "none" && site != "same-origin" && mode != "navigate"
}

// welcome takes a code. The page that answers leads on by itself: after a
// redirect, a browser that came from elsewhere would keep the cookie to itself,
// and the code has to leave the address bar.
func (u *UI) welcome(w http.ResponseWriter, r *http.Request) {
	session, ok := u.accept(r.URL.Query().Get("code"))
	switch {
	case ok:
		http.SetCookie(w, &http.Cookie{
			Name: u.cookie, Value: session.code, Path: Root, MaxAge: int(sessionTime.Seconds()), HttpOnly: true, SameSite: http.SameSiteStrictMode,
		})
	case !u.invited(r):
		u.show(w, "closed.html", http.StatusUnauthorized)
		return
	}
	u.show(w, "welcome.html", http.StatusOK)
}

// file serves the page and its parts.
func (u *UI) file(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, Root)
	if name == "" {
		name = "index.html"
	}
	u.show(w, name, http.StatusOK)
}

// show writes one of the embedded files.
func (u *UI) show(w http.ResponseWriter, name string, status int) {
	b, err := fs.ReadFile(page, path.Join("page", path.Clean("/"+name)))
	if err != nil {
		http.Error(w, "there is no such page", http.StatusNotFound)
		return
	}
	kind := mime.TypeByExtension(path.Ext(name))
	switch path.Ext(name) { // what the host's tables say is not asked
	case ".html":
		kind = "text/html; charset=utf-8"
	case ".js":
		kind = "text/javascript; charset=utf-8"
	case ".css":
		kind = "text/css; charset=utf-8"
	case ".svg":
		kind = "image/svg+xml"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(b) // the caller is gone; nobody to tell
}

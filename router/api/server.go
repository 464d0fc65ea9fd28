package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/weftnet/weft/router/socket"
)

// stopGrace is how long requests may take to end once the server stops. Their
// contexts end at once, so this is time for undoing.
const stopGrace = 5 * time.Second

// Server puts a [Backend] behind HTTP. It is safe for concurrent use.
type Server struct {
	// Constant after NewServer.
	backend Backend
	log     *slog.Logger
	mux     *http.ServeMux
}

// NewServer returns a server in front of b. A nil log is silence.
func NewServer(b Backend, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{backend: b, log: log, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /v1/status", query(func(ctx context.Context, _ *http.Request) (Status, error) {
		return b.Status(ctx)
	}))
	s.mux.HandleFunc("GET /v1/why", query(func(ctx context.Context, r *http.Request) (Why, error) {
		return b.Why(ctx, r.URL.Query().Get("peer"))
	}))
	s.mux.HandleFunc("GET /v1/doctor", query(func(ctx context.Context, r *http.Request) (Diagnosis, error) {
		return b.Doctor(ctx, doctorRequest(r))
	}))
	s.mux.HandleFunc("GET /v1/ps", query(func(ctx context.Context, r *http.Request) ([]Attachment, error) {
		return b.PS(ctx, r.URL.Query()["container"])
	}))
	s.mux.HandleFunc("GET /v1/dns/lookup", query(func(ctx context.Context, r *http.Request) (Addresses, error) {
		return b.DNSLookup(ctx, r.URL.Query().Get("name"))
	}))
	s.mux.HandleFunc("GET /v1/token", query(func(ctx context.Context, _ *http.Request) (Token, error) {
		return b.Token(ctx)
	}))
	s.mux.HandleFunc("POST /v1/connect", command(b.Connect))
	s.mux.HandleFunc("POST /v1/forget", command(b.Forget))
	s.mux.HandleFunc("POST /v1/attach", waiting(b.Attach))
	s.mux.HandleFunc("POST /v1/detach", request(b.Detach))
	s.mux.HandleFunc("POST /v1/endpoint/reserve", request(b.Reserve))
	s.mux.HandleFunc("POST /v1/endpoint/unreserve", command(b.Unreserve))
	s.mux.HandleFunc("POST /v1/endpoint/add", request(b.AddEndpoint))
	s.mux.HandleFunc("POST /v1/endpoint/join", request(b.JoinEndpoint))
	s.mux.HandleFunc("POST /v1/endpoint/leave", command(b.LeaveEndpoint))
	s.mux.HandleFunc("POST /v1/endpoint/remove", command(b.RemoveEndpoint))
	s.mux.HandleFunc("POST /v1/expose", waiting(b.Expose))
	s.mux.HandleFunc("POST /v1/hide", request(b.Hide))
	s.mux.HandleFunc("POST /v1/dns/add", command(b.DNSAdd))
	s.mux.HandleFunc("POST /v1/dns/remove", command(b.DNSRemove))
	s.mux.HandleFunc("POST /v1/ipam/prime", waiting(func(ctx context.Context, _ struct{}) (struct{}, error) {
		return struct{}{}, b.Prime(ctx)
	}))
	s.mux.HandleFunc("POST /v1/ipam/remove", waiting(b.RemovePeers))
	s.mux.HandleFunc("POST /v1/ipam/handover", waiting(func(ctx context.Context, _ struct{}) (HandOver, error) {
		return b.HandOver(ctx)
	}))
	s.mux.HandleFunc("POST /v1/stop", command(func(ctx context.Context, _ struct{}) error { return b.Stop(ctx) }))
	s.mux.HandleFunc("POST /v1/ui", request(b.UI))
	s.mux.HandleFunc("GET /v1/logs", s.logs)
	s.mux.HandleFunc("GET /v1/events", s.events)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem{
			Type: "about:blank", Title: http.StatusText(http.StatusNotFound), Status: http.StatusNotFound,
			Detail: "weftd does not know " + r.Method + " " + r.URL.Path + "; are weft and weftd of one version?",
		})
	})
	return s
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers on ln until ctx ends, which also ends the contexts of running
// requests. It closes ln and returns nil when ctx was the reason.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelError),
	}
	return socket.Serve(ctx, h, ln, stopGrace)
}

// query answers a request that has no body.
func query[Out any](f func(context.Context, *http.Request) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out, err := f(r.Context(), r)
		answer(w, out, err)
	}
}

// request answers a request that has a body.
func request[In, Out any](f func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in, err := decode[In](r.Body)
		if err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		out, err := f(r.Context(), in)
		answer(w, out, err)
	}
}

// command answers a request that gives nothing but success.
func command[In any](f func(context.Context, In) error) http.HandlerFunc {
	return request(func(ctx context.Context, in In) (struct{}, error) { return struct{}{}, f(ctx, in) })
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // the caller is gone; nobody to tell
}

func writeProblem(w http.ResponseWriter, p problem) {
	b, err := json.Marshal(p)
	if err != nil {
		panic("api: a problem is four plain fields: " + err.Error())
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n'))
}

// logs streams. An error before the first byte is an ordinary problem, a later
// one travels in the trailer.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	follow, err := strconv.ParseBool(r.URL.Query().Get("follow"))
	if err != nil {
		writeProblem(w, problemOf(usage("follow: want true or false")))
		return
	}
	out := &stream{w: w, control: http.NewResponseController(w), kind: "text/plain; charset=utf-8"}
	if follow {
		out.start() // the log may be silent for long, and the caller waits for a status
	}
	if err := s.backend.Logs(r.Context(), follow, out); err != nil {
		out.fail(err)
		return
	}
	out.start()
}

// stream sends what is written at once.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	kind    string // of content
	started bool
}

// fail says why nothing, or nothing more, comes.
func (s *stream) fail(err error) {
	if !s.started {
		writeProblem(s.w, problemOf(err))
		return
	}
	if b, merr := json.Marshal(problemOf(err)); merr == nil {
		s.w.Header().Set(http.TrailerPrefix+logProblem, string(b))
	}
}

func (s *stream) start() {
	if s.started {
		return
	}
	s.started = true
	s.w.Header().Set("Content-Type", s.kind)
	s.w.WriteHeader(http.StatusOK)
	_ = s.control.Flush()
}

func (s *stream) Write(p []byte) (int, error) {
	s.start()
	n, err := s.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, s.control.Flush()
}

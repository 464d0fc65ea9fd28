package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Client asks a daemon on its unix socket. Errors hold the same classes and
// texts as those of the [Backend] behind it; when nobody answers they wrap
// [ErrUnreachable], and when the socket may not be opened, fs.ErrPermission.
// It is safe for concurrent use and keeps no connection open.
type Client struct {
	// Constant after NewClient.
	socket   string
	http     *http.Client
	patience time.Duration // with a daemon that does not answer
}

var _ Backend = (*Client)(nil)

// NewClient returns a client of the daemon at socket. It does not dial.
func NewClient(socket string) *Client {
	c := &Client{socket: socket, patience: answerTime}
	c.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
	}}
	return c
}

// WithPatience returns a client that waits for so long for a daemon that does
// not answer.
func (c *Client) WithPatience(d time.Duration) *Client {
	other := *c
	other.patience = d
	return &other
}

// dialError keeps a refused dial apart from a connection that broke later.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, &dialError{fmt.Errorf("open %s: %w; run as root or as a member of group %s", c.socket, syscall.EACCES, Group)}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR):
		return nil, &dialError{fmt.Errorf("%w at %s; start it with 'weft launch'", ErrUnreachable, c.socket)}
	}
	return nil, &dialError{fmt.Errorf("open %s: %w", c.socket, err)}
}

// Pid returns the process that listens on the socket; zero when it lives in
// another process namespace.
func (c *Client) Pid(ctx context.Context) (int, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask for the process of weftd: %w", err)
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the process of weftd: %w", err)
	}
	return int(cred.Pid), nil
}

// Status implements [Backend].
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status", nil)
}

// Why implements [Backend].
func (c *Client) Why(ctx context.Context, peer string) (Why, error) {
	return get[Why](ctx, c, "/v1/why", url.Values{"peer": {peer}})
}

// Connect implements [Backend].
func (c *Client) Connect(ctx context.Context, r ConnectRequest) error {
	_, err := post[struct{}](ctx, c, "/v1/connect", r)
	return err
}

// Forget implements [Backend].
func (c *Client) Forget(ctx context.Context, targets []string) error {
	_, err := post[struct{}](ctx, c, "/v1/forget", targets)
	return err
}

// Attach implements [Backend].
func (c *Client) Attach(ctx context.Context, r AttachRequest) (Addresses, error) {
	return wait[Addresses](ctx, c, "/v1/attach", r)
}

// Detach implements [Backend].
func (c *Client) Detach(ctx context.Context, r DetachRequest) (Addresses, error) {
	return post[Addresses](ctx, c, "/v1/detach", r)
}

// Reserve implements [Backend].
func (c *Client) Reserve(ctx context.Context, r ReserveRequest) (netip.Prefix, error) {
	return post[netip.Prefix](ctx, c, "/v1/endpoint/reserve", r)
}

// Unreserve implements [Backend].
func (c *Client) Unreserve(ctx context.Context, addr netip.Addr) error {
	_, err := post[struct{}](ctx, c, "/v1/endpoint/unreserve", addr)
	return err
}

// AddEndpoint implements [Backend].
func (c *Client) AddEndpoint(ctx context.Context, r EndpointRequest) (Endpoint, error) {
	return post[Endpoint](ctx, c, "/v1/endpoint/add", r)
}

// JoinEndpoint implements [Backend].
func (c *Client) JoinEndpoint(ctx context.Context, r EndpointJoin) (Endpoint, error) {
	return post[Endpoint](ctx, c, "/v1/endpoint/join", r)
}

// LeaveEndpoint implements [Backend].
func (c *Client) LeaveEndpoint(ctx context.Context, id string) error {
	_, err := post[struct{}](ctx, c, "/v1/endpoint/leave", id)
	return err
}

// RemoveEndpoint implements [Backend].
func (c *Client) RemoveEndpoint(ctx context.Context, id string) error {
	_, err := post[struct{}](ctx, c, "/v1/endpoint/remove", id)
	return err
}

// Expose implements [Backend].
func (c *Client) Expose(ctx context.Context, r ExposeRequest) (Addresses, error) {
	return wait[Addresses](ctx, c, "/v1/expose", r)
}

// Hide implements [Backend].
func (c *Client) Hide(ctx context.Context, r HideRequest) (Addresses, error) {
	return post[Addresses](ctx, c, "/v1/hide", r)
}

// DNSAdd implements [Backend].
func (c *Client) DNSAdd(ctx context.Context, r NameRequest) error {
	_, err := post[struct{}](ctx, c, "/v1/dns/add", r)
	return err
}

// DNSRemove implements [Backend].
func (c *Client) DNSRemove(ctx context.Context, r NameRequest) error {
	_, err := post[struct{}](ctx, c, "/v1/dns/remove", r)
	return err
}

// DNSLookup implements [Backend].
func (c *Client) DNSLookup(ctx context.Context, name string) (Addresses, error) {
	return get[Addresses](ctx, c, "/v1/dns/lookup", url.Values{"name": {name}})
}

// PS implements [Backend].
func (c *Client) PS(ctx context.Context, containers []string) ([]Attachment, error) {
	return get[[]Attachment](ctx, c, "/v1/ps", url.Values{"container": containers})
}

// Prime implements [Backend].
func (c *Client) Prime(ctx context.Context) error {
	_, err := wait[struct{}](ctx, c, "/v1/ipam/prime", struct{}{})
	return err
}

// RemovePeers implements [Backend].
func (c *Client) RemovePeers(ctx context.Context, r RemoveRequest) ([]Removed, error) {
	return wait[[]Removed](ctx, c, "/v1/ipam/remove", r)
}

// HandOver implements [Backend].
func (c *Client) HandOver(ctx context.Context) (HandOver, error) {
	return wait[HandOver](ctx, c, "/v1/ipam/handover", struct{}{})
}

// Token implements [Backend].
func (c *Client) Token(ctx context.Context) (Token, error) {
	return get[Token](ctx, c, "/v1/token", nil)
}

// Stop implements [Backend].
func (c *Client) Stop(ctx context.Context) error {
	_, err := post[struct{}](ctx, c, "/v1/stop", struct{}{})
	return err
}

// Logs implements [Backend].
func (c *Client) Logs(ctx context.Context, follow bool, w io.Writer) error {
	res, err := c.do(ctx, http.MethodGet, "/v1/logs", url.Values{"follow": {strconv.FormatBool(follow)}}, nil, "")
	if err != nil {
		if follow && ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		if follow && ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("read the log: %w", err)
	}
	if text := res.Trailer.Get(logProblem); text != "" {
		p, err := parseProblem([]byte(text))
		if err != nil {
			return err
		}
		return p.err()
	}
	return nil
}

func get[Out any](ctx context.Context, c *Client, path string, q url.Values) (Out, error) {
	return read[Out](c.do(ctx, http.MethodGet, path, q, nil, ""))
}

func post[Out any](ctx context.Context, c *Client, path string, in any) (Out, error) {
	b, err := json.Marshal(in)
	if err != nil {
		var none Out
		return none, fmt.Errorf("ask weftd: %w", err)
	}
	return read[Out](c.do(ctx, http.MethodPost, path, nil, b, ""))
}

// wait is post of a request that may have to wait for other hosts; it reports
// why as [Progress] of ctx.
func wait[Out any](ctx context.Context, c *Client, path string, in any) (Out, error) {
	if !wantsProgress(ctx) {
		return post[Out](ctx, c, path, in)
	}
	var none Out
	b, err := json.Marshal(in)
	if err != nil {
		return none, fmt.Errorf("ask weftd: %w", err)
	}
	res, err := c.do(ctx, http.MethodPost, path, nil, b, streamType)
	if err == nil && contentType(res) == streamType {
		defer res.Body.Close()
		return readStream[Out](ctx, res.Body)
	}
	return read[Out](res, err)
}

// contentType returns the kind of a response without its parameters.
func contentType(res *http.Response) string {
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return kind
}

// read takes the answer from a response and closes it.
func read[Out any](res *http.Response, err error) (Out, error) {
	var out, none Out
	if err != nil {
		return none, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		return none, answerError(err)
	}
	return out, nil
}

// do sends a request and returns a successful response; the caller closes its
// body. The form that the caller takes besides JSON may be empty. A daemon that
// is silent gives an error that wraps [ErrSilent].
func (c *Client) do(ctx context.Context, method, path string, q url.Values, body []byte, accept string) (*http.Response, error) {
	ctx, heard := c.listen(ctx, method != http.MethodGet)
	res, err := c.send(ctx, method, path, q, body, accept)
	if err != nil {
		heard(nil)
		if silent, ok := errors.AsType[*silentError](context.Cause(ctx)); ok {
			return nil, silent
		}
		return nil, err
	}
	res.Body = heard(res.Body)
	return res, nil
}

// send is do without an eye on the daemon's silence.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body []byte, accept string) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "weft", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask weftd: %w", err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	if accept != "" {
		req.Header.Set("Accept", accept+", application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, requestError(err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return nil, answerError(err)
	}
	if contentType(res) == problemType {
		p, err := parseProblem(b)
		if err != nil {
			return nil, err
		}
		return nil, p.err()
	}
	return nil, fmt.Errorf("weftd answered %s to %s %s; are weft and weftd of one version?", res.Status, method, path)
}

// requestError takes off the wrapping in which net/http repeats method and
// address, which mean nothing on a unix socket.
func requestError(err error) error {
	var d *dialError
	if errors.As(err, &d) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return d.err
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if hungUp(err) {
		return answerError(err)
	}
	return fmt.Errorf("ask weftd: %w", err)
}

// answerError says why there is no answer, or no whole one.
func answerError(err error) error {
	if hungUp(err) {
		return fmt.Errorf("weftd ended before it answered: %w", err)
	}
	return fmt.Errorf("read the answer of weftd: %w", err)
}

// hungUp says whether the other end closed the connection, which has several
// forms; net/http has no name for one of them.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		err.Error() == "http: server closed idle connection"
}

package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/moby/moby/client"
)

// Dialer returns what opens connections to the engine that DOCKER_HOST and the
// other variables of Docker's client name, and the path of its unix socket, if
// that is what it has. It connects to nothing.
func Dialer() (dial func(context.Context) (net.Conn, error), socket string, err error) {
	c, err := client.New(client.FromEnv)
	if err != nil {
		return nil, "", fmt.Errorf("docker client: %w", err)
	}
	if path, ok := strings.CutPrefix(c.DaemonHost(), "unix://"); ok {
		socket = path
	}
	return c.Dialer(), socket, nil
}

// engine asks the engine on our own behalf, in the version that it speaks best:
// what we ask for is the same in all since 1.32.
type engine struct{ http *http.Client }

// engineError is what the engine says when it refuses.
type engineError struct {
	status int
	text   string
}

func (e *engineError) Error() string { return e.text }

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*engineError](err)
	return ok && e.status == status
}

// maxOwn is what we read of an answer to ourselves.
const maxOwn = 64 << 20

// call asks for path, sends in and reads out; either may be nil.
func (e *engine) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	r, err := e.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return fmt.Errorf("the Docker engine does not answer: %w", err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, maxOwn))
	if err != nil {
		return fmt.Errorf("the Docker engine's answer broke off: %w", err)
	}
	if r.StatusCode >= 300 {
		var m struct{ Message string }
		if json.Unmarshal(b, &m) != nil || m.Message == "" {
			m.Message = r.Status
		}
		return &engineError{r.StatusCode, m.Message}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the Docker engine's answer to %s: %w", path, err)
	}
	return nil
}

// inspected is what we read of a container.
type inspected struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status     string
		Running    bool
		Restarting bool
	}
	Config          struct{ Env []string }
	HostConfig      struct{ NetworkMode string }
	NetworkSettings struct{ Networks map[string]*place }
}

// place is a container's on one network.
type place struct {
	IPAMConfig *struct {
		IPv4Address string `json:",omitempty"`
	} `json:",omitempty"`
	DriverOpts map[string]string `json:",omitempty"`
}

func (e *engine) inspect(ctx context.Context, id string) (inspected, error) {
	var c inspected
	err := e.call(ctx, http.MethodGet, "/containers/"+url.PathEscape(id)+"/json", nil, &c)
	return c, err
}

// connect puts a container that does not run on a network.
func (e *engine) connect(ctx context.Context, network, id string, at place) error {
	return e.call(ctx, http.MethodPost, "/networks/"+url.PathEscape(network)+"/connect", map[string]any{"Container": id, "EndpointConfig": at}, nil)
}

func (e *engine) disconnect(ctx context.Context, network, id string) error {
	return e.call(ctx, http.MethodPost, "/networks/"+url.PathEscape(network)+"/disconnect", map[string]any{"Container": id, "Force": true}, nil)
}

// remove removes a container with its anonymous volumes.
func (e *engine) remove(ctx context.Context, id string) error {
	return e.call(ctx, http.MethodDelete, "/containers/"+url.PathEscape(id)+"?force=1&v=1", nil, nil)
}

// message is a refusal as the engine would say it.
func (r *refusal) message() []byte {
	b, err := json.Marshal(map[string]string{"message": r.text})
	if err != nil {
		panic("proxy: a string is always JSON: " + err.Error())
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		r.status, http.StatusText(r.status), len(b), b)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
)

// How Docker's client is told where the engine is, and where we keep what it
// was told before.
const (
	dockerHost   = "DOCKER_HOST"
	formerHost   = "ORIG_DOCKER_HOST"
	answerWithin = 2 * time.Second
)

func (p *program) envCommand() *cobra.Command {
	var restore bool
	cmd := &cobra.Command{
		Use:   "env [--restore]",
		Short: "Print shell lines that point Docker's client at the switch",
		Long: `Print a shell line that points Docker's client at the proxy of this host, through which plain docker run gets the
switch; with --restore one that takes it back. Nothing is printed when the proxy does not run.`,
		Example: "  eval $(weft env)\n  eval $(weft env --restore)",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if restore {
				return p.print(p.restoreLine())
			}
			endpoint, err := p.proxyEndpoint(cmd)
			if err != nil || endpoint == "" {
				return err
			}
			former, _ := p.variable(dockerHost)
			if former == endpoint { // evaluated twice
				former, _ = p.variable(formerHost)
			}
			return p.print(fmt.Appendf(nil, "export %s=%s %s=%s\n", dockerHost, quote(endpoint), formerHost, quote(former)))
		},
	}
	cmd.Flags().BoolVar(&restore, "restore", false, "point Docker's client back to where it pointed before")
	return cmd
}

func (p *program) configCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "config",
		Short:   "Print the arguments that point Docker's client at the switch",
		Long:    "Print the arguments that point Docker's client at the proxy of this host. Nothing is printed when it does not run.",
		Example: "  docker $(weft config) run …",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			endpoint, err := p.proxyEndpoint(cmd)
			if err != nil || endpoint == "" {
				return err
			}
			return p.print([]byte("-H " + endpoint + "\n"))
		},
	}
}

// restoreLine undoes env. It is one line: eval $(…) makes one of several.
func (p *program) restoreLine() []byte {
	former, ok := p.variable(formerHost)
	switch {
	case !ok:
		return nil
	case former == "":
		return fmt.Appendf(nil, "unset %s %s\n", dockerHost, formerHost)
	}
	return fmt.Appendf(nil, "export %s=%s; unset %s\n", dockerHost, quote(former), formerHost)
}

// proxyEndpoint returns where the proxy answers; nothing when it does not. The
// proxy itself is asked, not the daemon's API: who may use Docker may use it,
// and need not be in the group weft.
func (p *program) proxyEndpoint(cmd *cobra.Command) (string, error) {
	s, err := settings.Load(settings.Client, p.source(cmd), nil)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), answerWithin)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", s.ProxySocket())
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("open %s: permission denied; run as root or as a member of Docker's group", s.ProxySocket())
	case err != nil:
		return "", nil // nobody serves there, and that is no error
	}
	_ = c.Close()
	return s.ProxyEndpoint(), nil
}

// variable returns the last value of an environment variable.
func (p *program) variable(name string) (string, bool) {
	for _, kv := range slices.Backward(p.environ) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// quote makes one word for a shell; what needs no quotes gets none.
func quote(s string) string {
	if plain := regexp.MustCompile(`^[A-Za-z0-9_.:/@%+,-]*$`); plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

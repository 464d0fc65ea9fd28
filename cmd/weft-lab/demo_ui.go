package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// statusAddr is where a host's daemon serves the picture.
var statusAddr = netip.MustParseAddrPort("127.0.0.1:6782")

func demoUICommand(name *string) *cobra.Command {
	var port uint16
	c := &cobra.Command{
		Use: "ui", Short: "the picture of the demo, for a browser of this machine; starts the demo when it does not run", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, name := cmd.OutOrStdout(), cmp.Or(*name, demoName)
			l, err := lab.Open(name)
			if err != nil {
				if err := runDemo(cmd.Context(), out, name); err != nil {
					return err
				}
				if l, err = lab.Open(name); err != nil {
					return err
				}
			}
			defer l.Close()
			return showDemo(cmd.Context(), out, name, l.Host("host1"), port)
		},
	}
	c.Flags().Uint16Var(&port, "port", statusAddr.Port(), "`PORT` of this machine where a browser finds it, or another one when it is taken; 0: any")
	return c
}

// showDemo prints an address that opens the picture of host1.
func showDemo(ctx context.Context, out io.Writer, name string, h *lab.Host, want uint16) error {
	r := h.Run(ctx, "weft", "ui", "--open=false")
	if r.Err != nil {
		return r.Err
	}
	u, err := url.Parse(strings.TrimSpace(r.Stdout))
	if err != nil {
		return fmt.Errorf("weft ui: %w", err)
	}
	// A forwarder that was started before is still there.
	port, err := os.ReadFile(forwardFile(h))
	if errors.Is(err, fs.ErrNotExist) {
		port, err = startForward(ctx, name, h, want)
	}
	if err != nil {
		return err
	}
	u.Host = net.JoinHostPort("127.0.0.1", strings.TrimSpace(string(port)))
	fmt.Fprintf(out, `
Open this in a browser of this machine; it is good once, for ten minutes:

  %s

Things to look at: click a path, or a host; then, in another terminal,

  bin/weft-lab cut host1 host3      the path between the two goes through host2
  bin/weft-lab cut host3            host3's cable is pulled
  bin/weft-lab heal                 and everything is put back

make demo-ui prints another address, make demo-down removes everything.
On a machine without a browser: ssh -L %[2]s:127.0.0.1:%[2]s MACHINE, and open the same address at home.
`, u, u.Port())
	return nil
}

// forwardFile holds the port of a host's forwarder as long as the host is there.
func forwardFile(h *lab.Host) string { return h.LogFile("ui-port") }

// startForward starts a process that leads from this machine into the host. It
// ends with the host.
func startForward(ctx context.Context, name string, h *lab.Host, port uint16) ([]byte, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, "forward", "--lab", name, "--port", fmt.Sprint(port), h.Name(), statusAddr.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it stays when the terminal goes
	log, err := os.Create(h.LogFile("ui-forward.log"))   // and not our own, which others may wait for
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Dir, cmd.Stderr = "/", log
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the forwarder: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	text, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the forwarder did not start, see %s: %w", log.Name(), errors.Join(err, cmd.Wait()))
	}
	return []byte(text), os.WriteFile(forwardFile(h), []byte(text), 0o600)
}

// forwardCommand is the forwarder. It says its port, and is silent then.
func forwardCommand(open func() (*lab.Lab, error)) *cobra.Command {
	var port uint16
	c := &cobra.Command{
		Use: "forward HOST ADDRESS:PORT", Short: "lead from 127.0.0.1 of this machine to a port of a host, until the host ends",
		Args: args(cobra.ExactArgs(2)), Hidden: true,
		RunE: func(cmd *cobra.Command, a []string) error {
			to, err := netip.ParseAddrPort(a[1])
			if err != nil {
				return usagef("%s: want ADDRESS:PORT", a[1])
			}
			l, err := open()
			if err != nil {
				return err
			}
			p, err := l.Place(a[0])
			if err != nil {
				return err
			}
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil { // it is taken
				ln, err = net.Listen("tcp", "127.0.0.1:0")
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), ln.Addr().(*net.TCPAddr).Port)
			ended := make(chan error, 1)
			go func() { ended <- p.Wait() }()
			go forward(cmd.Context(), ln, p, to)
			select {
			case err = <-ended:
			case <-cmd.Context().Done():
			}
			return errors.Join(err, ln.Close())
		},
	}
	c.Flags().Uint16Var(&port, "port", 0, "`PORT` of this machine, or another one when it is taken")
	return c
}

// forward serves until the listener is closed.
func forward(ctx context.Context, ln net.Listener, p *lab.Place, to netip.AddrPort) {
	for {
		in, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = in.Close() }()
			out, err := p.Dial(ctx, "tcp", to)
			if err != nil {
				return // the browser says that nobody answers
			}
			defer func() { _ = out.Close() }()
			var both sync.WaitGroup
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				both.Go(func() {
					_, _ = io.Copy(way[0], way[1]) // until one end is closed
					_ = way[0].(*net.TCPConn).CloseWrite()
				})
			}
			both.Wait()
		}()
	}
}

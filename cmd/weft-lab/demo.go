package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

const demoName = "demo"

// demoCommand takes the name of its lab from --lab, when that is given.
func demoCommand(name *string) *cobra.Command {
	c := &cobra.Command{
		Use: "demo", Short: "three hosts with a container each, joined by weft, left running", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDemo(cmd.Context(), cmd.OutOrStdout(), cmp.Or(*name, demoName))
		},
	}
	c.AddCommand(demoUICommand(name))
	return c
}

// demo is what the steps share.
type demo struct {
	out        io.Writer
	name       string
	lab        *lab.Lab
	containers []*lab.Container
}

func runDemo(ctx context.Context, out io.Writer, name string) error {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes networks and hosts: run it as root, as 'sudo make demo'")
	}
	if _, err := lab.Open(name); err == nil {
		return errors.New("the demo is running already; look at it with 'bin/weft-lab exec host1 weft status', or end it with 'make demo-down'")
	} else if !errors.Is(err, fs.ErrNotExist) {
		if err := lab.Down(name); err != nil { // left by a machine that was switched off, or worse
			return err
		}
	}
	for _, p := range []string{"weft", "weftd"} {
		if _, err := os.Stat(filepath.Join(binDir(), p)); err != nil {
			return fmt.Errorf("%s is not next to weft-lab: make build: %w", p, err)
		}
	}
	d := &demo{out: out, name: name}
	err := d.run(ctx)
	if err != nil && d.lab != nil {
		d.evidence(context.WithoutCancel(ctx))
		return errors.Join(err, d.lab.Down())
	}
	if err != nil {
		return err
	}
	d.lab.Close()
	return nil
}

func (d *demo) run(ctx context.Context) error {
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"starting three hosts on a network of their own", d.hosts},
		{"starting a container on each", d.startContainers},
		{"weft launch on host1, which makes the secret of the cluster", d.first},
		{"weft launch on host2 and host3, which join host1 by its address", d.join},
		{"waiting until all see all", d.mesh},
		{"putting the containers on the switch at addresses that weft finds, with names", d.attach},
		{"pinging by name from host1's container, through the tunnels", d.ping},
		{"what weft says on host1", d.status},
	}
	for _, s := range steps {
		if err := step(d.out, s.what, func() error { return s.do(ctx) }); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	if err := d.lab.Save(); err != nil {
		return err
	}
	fmt.Fprint(d.out, tryThis)
	return nil
}

func (d *demo) hosts(ctx context.Context) (err error) {
	d.lab, err = lab.Up(ctx, lab.Flat(d.name, 3), lab.Options{Keep: true, BinDir: binDir()})
	return err
}

func (d *demo) startContainers(ctx context.Context) error {
	for i, h := range d.lab.Hosts() {
		c, err := h.Container(ctx, fmt.Sprintf("c%d", i+1), lab.ContainerOptions{
			Resolvers: []netip.Addr{netip.AddrFrom4([4]byte{169, 254, 67, 83})}, Search: []string{"weft.internal."},
		})
		if err != nil {
			return err
		}
		d.containers = append(d.containers, c)
	}
	return nil
}

func (d *demo) first(ctx context.Context) error {
	return d.lab.Host("host1").Run(ctx, "weft", "launch").Err
}

func (d *demo) join(ctx context.Context) error {
	h1 := d.lab.Host("host1")
	token := h1.Run(ctx, "weft", "token")
	if token.Err != nil {
		return token.Err
	}
	for _, h := range d.lab.Hosts()[1:] {
		r := h.Run(ctx, "weft", "launch", "--token", strings.TrimSpace(token.Stdout), h1.Addr().String())
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// mesh waits until every host has two established connections.
func (d *demo) mesh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, h := range d.lab.Hosts() {
		for {
			r := h.Run(ctx, "weft", "status", "connections")
			if r.Err == nil && strings.Count(r.Stdout, " established ") == 2 {
				break
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s has no two connections after a minute:\n%s", h.Name(), r.Stdout)
			}
		}
	}
	return nil
}

func (d *demo) attach(ctx context.Context) error {
	for i, c := range d.containers {
		for _, command := range [][]string{
			{"weft", "attach", c.Ref()},
			{"weft", "dns-add", c.Ref(), "-h", fmt.Sprintf("c%d.weft.internal", i+1)},
		} {
			d.show(c.Host(), command)
			r := c.Host().Run(ctx, command...)
			if r.Err != nil {
				return r.Err
			}
			d.indent(r.Stdout)
		}
	}
	return nil
}

func (d *demo) show(h *lab.Host, command []string) {
	fmt.Fprintf(d.out, "  %s# %s\n", h.Name(), strings.Join(command, " "))
}

// ping asks for the name as a program in the container would, and pings what
// it gets; a fresh name may need a moment to reach the other hosts.
func (d *demo) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, name := range []string{"c2", "c3.weft.internal"} {
		for {
			addrs, err := d.containers[0].Lookup(ctx, name, dns.TypeA)
			if err == nil && len(addrs) > 0 {
				break
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("the name %s is not known on host1: %w", name, errors.Join(ctx.Err(), err))
			}
		}
		if _, err := exec.LookPath("ping"); err == nil {
			r := d.containers[0].Run(ctx, "ping", "-c", "2", "-i", "0.2", name)
			if r.Err != nil {
				return r.Err
			}
			d.indent(r.Stdout)
			continue
		}
		addrs, err := d.containers[0].Lookup(ctx, name, dns.TypeA)
		if err != nil {
			return err
		}
		took, err := d.containers[0].Ping(ctx, addrs[0], 56, nil)
		if err != nil {
			return err
		}
		fmt.Fprintf(d.out, "  %s (%s) answers in %s\n", name, addrs[0], took.Round(time.Microsecond))
	}
	return nil
}

func (d *demo) status(ctx context.Context) error {
	for _, h := range d.lab.Hosts() {
		commands := []string{"status connections"}
		if h.Name() == "host1" {
			commands = []string{"status", "status connections", "status dns"}
		}
		for _, command := range commands {
			if err := d.say(ctx, h, command, nil); err != nil {
				return err
			}
		}
	}
	// Who has how many addresses is told once a second.
	all := func(out string) bool { return strings.Count(out, "(1 active)") == len(d.containers) }
	return d.say(ctx, d.lab.Host("host1"), "status ipam", all)
}

// say shows a command of weft with its output, once that is as it should be.
func (d *demo) say(ctx context.Context, h *lab.Host, command string, complete func(string) bool) error {
	args := append([]string{"weft"}, strings.Fields(command)...)
	d.show(h, args)
	for deadline := time.Now().Add(10 * time.Second); ; {
		r := h.Run(ctx, args...)
		if r.Err != nil {
			return r.Err
		}
		if complete == nil || complete(r.Stdout) || time.Now().After(deadline) {
			d.indent(r.Stdout)
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (d *demo) indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(d.out, "    %s\n", strings.TrimRight(line, "\n"))
	}
}

// evidence prints what may explain a failure.
func (d *demo) evidence(ctx context.Context) {
	for _, h := range d.lab.Hosts() {
		r := h.Run(ctx, "tail", "-n", "20", "/run/weft/weftd.log")
		fmt.Fprintf(d.out, "last lines of the log of %s:\n", h.Name())
		d.indent(r.Stdout + r.Stderr)
	}
}

const tryThis = `
The three hosts stay. Things to try (bin/weft-lab from here; bin/ comes first in every host's PATH):

  bin/weft-lab exec host1 weft status                   what a host knows
  bin/weft-lab exec host1/c1 ping c3                    from container to container, by name
  bin/weft-lab exec host2 weft ps                       who is attached
  bin/weft-lab exec host3 weft status ipam              whose addresses are whose
  bin/weft-lab exec host2 weft expose                   put the host itself on the switch
  bin/weft-lab capture lan | tcpdump -nr -              all that the network between the hosts sees
                                                        (tcpdump takes WireGuard's port 6784 for BFD)
  bin/weft-lab cut host3                                pull host3's cable, wait ten seconds, and look:
  bin/weft-lab exec host1 weft status connections
  bin/weft-lab heal                                     and put it back
  bin/weft-lab exec host1 sh                            look around: ip link, wg, nft list ruleset
  make demo-ui                                          all of it as a picture in a browser
  make demo-down                                        remove everything
`

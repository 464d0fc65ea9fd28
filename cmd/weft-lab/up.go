package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// upOptions say where a topology comes from.
type upOptions struct {
	shape, name string
	n           int
	seed        uint64
	print       bool
}

func upCommand() *cobra.Command {
	o := upOptions{n: 3}
	c := &cobra.Command{
		Use:   "up TOPOLOGY.yaml | up --topology SHAPE",
		Short: "make hosts and networks, of a file or of a known shape, and leave them running",
		Long: `Makes the hosts and networks that a YAML file describes, or those of a shape:
` + strings.Join(lab.Shapes(), ", ") + `.

  weft-lab up --topology chain -n 4           host1 to host4, each sees the next only
  weft-lab up --topology behind-nats --print  the file to begin with

What a file may say:

  name: two
  networks:
    - {name: lan, subnets: [192.0.2.0/24, "2001:db8:1::/64"]}
    - {name: wan, subnets: [198.51.100.0/24], mtu: 1400}
  hosts:
    - name: router
      links: [{network: wan}, {network: lan}]
      forward: true                         # it leads from network to network
      nat: {mapping: port-preserving, unsolicited: drop}   # or random; or answer
      hide_mtu: true                        # nobody learns that a packet was too big
      max_udp: 700                          # longer UDP packets are lost
    - {name: host1, gateway: router, links: [{network: lan}], containers: [c1]}
    - name: host2
      firewall: true                        # only answers come in
      links: [{network: wan, addresses: [198.51.100.7/24], rate_kbit: 50000, mtu: 1300}]
  faults:
    - {from: host1, to: host2, percent: 5}

Weft's own programs, when they are next to weft-lab, come first in every PATH.`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			t, err := o.topology(a)
			if err != nil {
				return err
			}
			if o.print {
				return printTopology(cmd.OutOrStdout(), t)
			}
			var l *lab.Lab
			err = step(cmd.ErrOrStderr(), fmt.Sprintf("starting %d hosts", len(t.Hosts)), func() error {
				l, err = lab.Up(cmd.Context(), t, lab.Options{Keep: true, BinDir: binDir()})
				return err
			})
			if err != nil {
				return err
			}
			l.Close()
			return list(cmd.OutOrStdout(), t.Name)
		},
	}
	f := c.Flags()
	f.StringVar(&o.shape, "topology", "", "a shape instead of a file: "+strings.Join(lab.Shapes(), ", "))
	f.IntVarP(&o.n, "hosts", "n", o.n, "how many hosts a shape has")
	f.Uint64Var(&o.seed, "seed", 0, "which of the random shapes")
	f.StringVar(&o.name, "name", "", "the lab's name, instead of the file's or the shape's")
	f.BoolVar(&o.print, "print", false, "make nothing, write the topology as a file")
	return c
}

// topology reads the file, or makes the shape.
func (o upOptions) topology(a []string) (t lab.Topology, err error) {
	switch {
	case (o.shape == "") == (len(a) == 0):
		return t, usagef("name a file or, with --topology, a shape: %s", strings.Join(lab.Shapes(), ", "))
	case o.shape != "":
		t, err = lab.Shaped(o.shape, cmp.Or(o.name, o.shape), o.n, o.seed)
		if err != nil {
			return t, usageError{err}
		}
		return t, nil
	}
	text, err := os.ReadFile(a[0])
	if err != nil {
		return t, err
	}
	if t, err = parseTopology(text); err != nil {
		return t, fmt.Errorf("%s: %w", a[0], err)
	}
	t.Name = cmp.Or(o.name, t.Name)
	return t, nil
}

func printTopology(w io.Writer, t lab.Topology) error {
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	return errors.Join(e.Encode(t), e.Close())
}

// parseTopology reads a topology strictly: a key that is not known is an error.
func parseTopology(text []byte) (lab.Topology, error) {
	var t lab.Topology
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&t); err != nil {
		return t, err
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return t, errors.New("more than one document")
	}
	return t, nil
}

func drawCommand(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{
		Use: "draw", Short: "a picture of a lab and of who reaches whom, as Markdown with Mermaid diagrams", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			defer l.Close()
			_, err = io.WriteString(cmd.OutOrStdout(), l.Draw("Lab "+l.Name()))
			return err
		},
	}
}

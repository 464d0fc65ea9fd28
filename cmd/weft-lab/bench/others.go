package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// missing says why a way cannot be measured on this machine; empty: it can.
func missing(name string) string {
	need := map[string][]string{tinc: {"tincd"}, nebula: {"nebula", "nebula-cert"}}[name]
	for _, p := range need {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Sprintf("%s is not installed (Debian package %s)", p, name)
		}
	}
	return ""
}

// version returns the first word with a digit that a program says of itself.
func version(ctx context.Context, p *lab.Place, args ...string) string {
	for f := range strings.FieldsSeq(p.Run(ctx, args...).Stdout) {
		if strings.ContainsAny(f, "0123456789") {
			return f
		}
	}
	return ""
}

// addTinc connects the plain hosts with tinc's own defaults: a router, with the
// ciphers that it takes by itself.
func (s *site) addTinc(ctx context.Context) error {
	var dirs [2]string
	for i, h := range s.plain {
		dirs[i] = s.file("tinc-" + h.Name())
		if err := os.MkdirAll(filepath.Join(dirs[i], "hosts"), 0o700); err != nil {
			return err
		}
		for name, text := range map[string]string{
			"tinc.conf":         fmt.Sprintf("Name = %s\nInterface = tinc0\nConnectTo = %s\n", h.Name(), s.plain[1-i].Name()),
			"hosts/" + h.Name(): fmt.Sprintf("Address = %s\nSubnet = 10.95.0.%d/32\n", h.Addr(), i+1),
			"tinc-up":           fmt.Sprintf("#!/bin/sh\nip addr add 10.95.0.%d/24 dev \"$INTERFACE\"\nip link set \"$INTERFACE\" up\n", i+1),
		} {
			if err := os.WriteFile(filepath.Join(dirs[i], name), []byte(text), 0o700); err != nil {
				return err
			}
		}
		if err := h.Run(ctx, "tincd", "--config", dirs[i], "--generate-keys=2048").Err; err != nil {
			return err
		}
	}
	for i, h := range s.plain {
		public, err := os.ReadFile(filepath.Join(dirs[i], "hosts", h.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(dirs[1-i], "hosts", h.Name()), public, 0o600)
		}
		if err != nil {
			return err
		}
	}
	for i, h := range s.plain {
		_, err := h.Start(ctx, s.file("tinc-"+h.Name()+".log"), "tincd", "--config", dirs[i], "--no-detach", "--pidfile", filepath.Join(dirs[i], "pid"))
		if err != nil {
			return err
		}
	}
	return s.addRouted(ctx, &way{name: tinc, title: "tinc " + version(ctx, s.plain[0].Place, "tincd", "--version")}, "tincd", "tinc0")
}

const nebulaConfig = `
pki: {ca: %[1]s/ca.crt, cert: %[1]s/%[2]s.crt, key: %[1]s/%[2]s.key}
static_host_map: {"10.96.0.1": ["%[3]s:4242"]}
lighthouse: {am_lighthouse: %[4]t, hosts: [%[5]s]}
listen: {host: 0.0.0.0, port: 4242}
tun: {dev: nebula0}
logging: {level: warning, format: text}
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`

// addNebula connects the plain hosts with Nebula's own defaults. The second host
// learns from the first one, which is the lighthouse, where that one is.
func (s *site) addNebula(ctx context.Context) error {
	dir := s.file(nebula)
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = sh(ctx, s.plain[0].Place, `cd "$1"
			nebula-cert ca -name bench
			nebula-cert sign -name plain1 -ip 10.96.0.1/24
			nebula-cert sign -name plain2 -ip 10.96.0.2/24`, dir)
	}
	if err != nil {
		return err
	}
	for i, h := range s.plain {
		f := filepath.Join(dir, h.Name()+".yaml")
		lighthouse := ""
		if i == 1 {
			lighthouse = `"10.96.0.1"`
		}
		text := fmt.Sprintf(nebulaConfig, dir, h.Name(), s.plain[0].Addr(), i == 0, lighthouse)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			return err
		}
		if _, err := h.Start(ctx, s.file("nebula-"+h.Name()+".log"), nebula, "-config", f); err != nil {
			return err
		}
	}
	return s.addRouted(ctx, &way{name: nebula, title: "Nebula " + version(ctx, s.plain[0].Place, nebula, "-version")}, nebula, "nebula0")
}

// addRouted adds a way between the plain hosts once its interface is there.
func (s *site) addRouted(ctx context.Context, w *way, program, device string) error {
	err := until(ctx, 20*time.Second, func() error {
		a, err := s.plain[1].Addrs(device)
		if err == nil && len(a) == 0 {
			err = fmt.Errorf("%s has no address", device)
		}
		for _, p := range a {
			if p.Addr().Is4() {
				w.at = p.Addr()
			}
		}
		return err
	})
	if err == nil && !w.at.IsValid() {
		err = fmt.Errorf("%s has no IPv4 address", device)
	}
	if err != nil {
		return errors.Join(err, s.said(w.name))
	}
	w.between, w.from, w.to = "hosts", s.plain[0].Place, s.plain[1].Place
	if err := errors.Join(s.daemons(w, program), s.add(ctx, w)); err != nil {
		return errors.Join(err, s.said(w.name))
	}
	return nil
}

// said is what the programs of a way have printed.
func (s *site) said(name string) error {
	files, err := filepath.Glob(s.file(name + "-*.log"))
	for _, f := range files {
		b, e := os.ReadFile(f)
		err = errors.Join(err, e, fmt.Errorf("%s: %s", filepath.Base(f), strings.TrimSpace(string(b))))
	}
	return err
}

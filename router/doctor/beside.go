package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/kernel"
)

// LookBeside is what is found without a daemon, or beside one that does not answer
// at its socket. There need be no patient.
func LookBeside(ctx context.Context, c Config, socket string) (api.Diagnosis, error) {
	begun := time.Now()
	host, err := os.Hostname()
	if err != nil {
		return api.Diagnosis{}, err
	}
	f := Facts{Datapath: c.Datapath, Port: c.Port, Version: c.Version, Names: Names{Off: true}}
	f.Process = process(ctx, socket)
	steps := []Step{Rules(), Abilities(), NeighbourTables("/"), Engine("/", c.Plugin), SettingsHere()}
	if _, err := os.Stat(c.StateDir); err == nil {
		steps = append(steps, Room(c.StateDir, true))
	}
	if f.Process.Pid == 0 {
		steps = append(steps, Ports(c.Port))
	}
	f = NewGatherer().Gather(ctx, f, steps...)
	return api.Diagnosis{Host: host, Version: c.Version, Time: begun, Took: time.Since(begun), Findings: Check(f)}, nil
}

// process says how the daemon's process does.
func process(ctx context.Context, socket string) Daemon {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c := api.NewClient(socket)
	pid, err := c.Pid(ctx)
	if err != nil {
		return Daemon{}
	}
	p := Daemon{Pid: pid, Stopped: api.Stopped(pid)}
	if p.Stopped {
		return p
	}
	if _, err := c.Status(ctx); err != nil {
		p.Err = err.Error()
	}
	return p
}

// SettingsHere is [Settings] of the namespace that this process is in.
func SettingsHere() Step {
	return Step{Name: "sysctls", Run: func(ctx context.Context) (func(*Facts), error) {
		k, err := kernel.New()
		if err != nil {
			return nil, err
		}
		defer k.Close()
		return Settings(k).Run(ctx)
	}}
}

// Ports looks whether another program has the ports of a daemon that is not
// running.
func Ports(port uint16) Step {
	return Step{Name: "ports", Run: func(ctx context.Context) (func(*Facts), error) {
		var taken []string
		for _, w := range wantedPorts(port) {
			var lc net.ListenConfig
			var err error
			if w.proto == "tcp" {
				var ln net.Listener
				if ln, err = lc.Listen(ctx, "tcp", fmt.Sprintf(":%d", w.port)); err == nil {
					_ = ln.Close()
				}
			} else {
				var c net.PacketConn
				if c, err = lc.ListenPacket(ctx, "udp", fmt.Sprintf(":%d", w.port)); err == nil {
					_ = c.Close()
				}
			}
			if err != nil {
				taken = append(taken, w.String())
			}
		}
		return func(f *Facts) { f.Taken = taken }, nil
	}}
}

// Command weft is the command line: it turns arguments into one call of
// api.Backend and the answer into text that people and scripts read. Its
// `launch` and `reset` execute weftd.
//
// It knows nothing of networks. What a request means, and whether it is
// allowed, the daemon decides; here only what can be seen from the arguments
// alone is refused.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() { os.Exit(run(time.Second)) }

// run is the program. It explains what takes longer than patience.
func run(patience time.Duration) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0] // weftd is then looked for in PATH
	}
	p := &program{
		stdin:      os.Stdin,
		stdout:     os.Stdout,
		stderr:     os.Stderr,
		environ:    os.Environ(),
		euid:       os.Geteuid(),
		executable: exe,
		dial:       dialSocket,
		patience:   patience,
	}
	return p.run(ctx, os.Args[1:])
}

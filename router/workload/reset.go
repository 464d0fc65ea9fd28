package workload

import (
	"errors"
	"path/filepath"

	"github.com/weftnet/weft/router/attach"
)

// WithdrawDNS is for a host that is reset: it takes back what was done for
// names inside containers of an engine, which go on without us, as far as the
// journal in a state directory knows them. No journal is no error.
func WithdrawDNS(stateDir string, withdraw func(path string, ns attach.Namespace) error) error {
	j, err := openJournal(filepath.Join(stateDir, "workloads.json"), nil)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range j.state.Endpoints {
		if e.settled() && !e.WithoutDNS {
			errs = append(errs, withdraw(e.Path, e.NS))
		}
	}
	return errors.Join(errs...)
}

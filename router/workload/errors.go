package workload

import (
	"fmt"

	"github.com/weftnet/weft/router/api"
)

// classified is an error whose class (api.ErrUsage…) does not show in its text.
type classified struct {
	class error
	err   error
}

func (e *classified) Error() string   { return e.err.Error() }
func (e *classified) Unwrap() []error { return []error{e.class, e.err} }

func usage(format string, a ...any) error {
	return &classified{api.ErrUsage, fmt.Errorf(format, a...)}
}

func notFound(format string, a ...any) error {
	return &classified{api.ErrNotFound, fmt.Errorf(format, a...)}
}

func conflict(format string, a ...any) error {
	return &classified{api.ErrConflict, fmt.Errorf(format, a...)}
}

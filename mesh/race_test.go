//go:build race

package mesh

import "time"

// reachTime is shorter with the race detector; `make unit` runs the whole hour
// without it.
const reachTime = 6 * time.Minute

//go:build !race

package mesh

import "time"

const reachTime = time.Hour

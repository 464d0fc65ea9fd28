//go:build race

package path

// lossRuns is less with the race detector; `make unit` does all without it.
const lossRuns = 8

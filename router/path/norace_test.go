//go:build !race

package path

// lossRuns is how many seeds TestLoss tries.
const lossRuns = 40

//go:build race

package ipam

// raceCost is how much slower the race detector makes the simulation: `make
// unit` runs the long form without it.
const raceCost = 10

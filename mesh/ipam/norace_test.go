//go:build !race

package ipam

const raceCost = 1

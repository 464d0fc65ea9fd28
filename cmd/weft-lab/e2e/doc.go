// Package e2e holds the end-to-end tests and benchmarks: real programs on the
// hosts of a lab, looked at only as a user or a neighbour on the wire could. It
// has no code of its own besides tests; `go test -c` makes one static program
// that also runs in the QEMU guest of the kernel tests.
//
// Flags: -weft-bin is the directory of weft and weftd, -datapath the data path
// that daemons are told to use, -artefacts the directory for what failed tests
// leave.
package e2e

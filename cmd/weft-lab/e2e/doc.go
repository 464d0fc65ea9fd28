// Package e2e holds the end-to-end tests and benchmarks: real programs on the
// hosts of a lab, looked at only as a user or a neighbour on the wire could. It
// has no code of its own besides tests; `go test -c` makes one static program
// that also runs in the QEMU guest of the kernel tests.
//
// Flags: -weft-bin is the directory of weft and weftd, -datapath the data path
// that daemons are told to use, -artefacts the directory for what failed tests
// leave. With -datapath kernel, -mixed lets every second host forward in userspace;
// -all also runs what skip_test.go leaves out.
//
// Tests run side by side, for most of what they do is wait; which beside which is
// in turns_test.go. One that needs all of the machine calls neither parallel nor
// t.Parallel.
package e2e

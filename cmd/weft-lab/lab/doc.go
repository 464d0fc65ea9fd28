// Package lab makes hosts on one machine: each has its own network, mount, PID
// and UTS namespaces, its own /run, /etc, /var/lib, host name and machine id,
// and is plugged into networks that exist only in a namespace of the lab. It
// owns everything that it makes and takes it down again, also after its owner
// was killed.
//
// One thing is the machine's: with eight hosts or more a lab raises the limits of
// the kernel's table of neighbours (net.ipv4.neigh.default.gc_thresh1 to 3, and
// those of IPv6), which all namespaces share, and leaves them raised.
//
// It knows nothing about weft. It needs root, overlayfs, veth, bridges and, for
// faults, the nft command.
//
// # One program, several roles
//
// The first process of a host is this same program started again under another
// name, so every program that uses the package calls [Init] before anything
// else:
//
//	func main() {
//		lab.Init()
//		…
//	}
//
// # Lifetime
//
// A lab made without [Options.Keep] lives as long as its owner: the first
// processes hold the reading end of a pipe and end when it closes, and with a
// first process the kernel ends everything in its host. A lab made with Keep
// stays until [Down].
package lab

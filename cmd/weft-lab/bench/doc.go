// Package bench compares the ways on which traffic can go from host to host, on
// one machine and in one run: bare veth, kernel VXLAN, wireguard-go from host to
// host and routed from container to container, kernel VXLAN over wireguard-go,
// weft, weft through a relay, and tinc and Nebula where they are installed. It
// owns the ways, the measurements and how results are told.
//
// All ways are up from the beginning to the end. In each round every figure is
// taken on every way before the next figure is, so that whatever else the
// machine does meets all of them; what counts is the median of the rounds and
// its ratio to another way's of the same run. It asserts nothing: what is slow is
// no error.
//
// TCP streams are iperf3's. Requests, answers and UDP are this program's own, on
// blocking sockets. Both ends, and all daemons between them, share the
// processors of one machine.
package bench

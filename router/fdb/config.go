package fdb

import (
	"net"
	"net/netip"
	"slices"
)

// MAC is a hardware address of six octets. It has the layout of kernel.MAC, so
// that one converts to the other.
type MAC [6]byte

// String prints the address as `ip` does.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Config is the desired state of a switch port, whichever forwards.
type Config struct {
	Name    string     // device, "weft-vx"
	Bridge  string     // that it is a port of
	VNI     uint32     // 24 bits, not zero
	Port    uint16     // UDP, at both ends
	Local   netip.Addr // our overlay address
	MTU     int        // of the switch
	Remotes []Remote   // sorted by Overlay
	Known   []Known    // attachments of other hosts, sorted by MAC
}

// Remote is another host that frames are sent to.
type Remote struct {
	Overlay netip.Addr
	// Whole is the largest inner IP packet (of a container) that passes the
	// path in one piece; 0: all.
	Whole int
}

// Known is an attachment of another host that its owner told the cluster of:
// unlike what is learnt from frames it is exact and does not age.
type Known struct {
	MAC   MAC
	At    netip.Addr   // overlay address of its host
	Addrs []netip.Addr // its addresses on the switch
}

// Equal says whether both ask for the same; the order of what is listed counts.
func (c Config) Equal(d Config) bool {
	return c.Name == d.Name && c.Bridge == d.Bridge && c.VNI == d.VNI && c.Port == d.Port &&
		c.Local == d.Local && c.MTU == d.MTU &&
		slices.Equal(c.Remotes, d.Remotes) && slices.EqualFunc(c.Known, d.Known, Known.Equal)
}

// Equal says whether both are the same attachment with the same addresses.
func (k Known) Equal(l Known) bool {
	return k.MAC == l.MAC && k.At == l.At && slices.Equal(k.Addrs, l.Addrs)
}

// Clone returns a copy that shares nothing with c.
func (c Config) Clone() Config {
	c.Remotes = slices.Clone(c.Remotes)
	c.Known = slices.Clone(c.Known)
	for i := range c.Known {
		c.Known[i].Addrs = slices.Clone(c.Known[i].Addrs)
	}
	return c
}

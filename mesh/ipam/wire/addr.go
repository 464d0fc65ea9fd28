package wire

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/mesh/ipam/space"
)

// Prefix codes a prefix, which has no host bits.
func (c *Coder) Prefix(v *netip.Prefix) {
	addr := v.Addr().AsSlice()
	size := byte(len(addr))
	c.octet(&size)
	if c.reading {
		addr = c.take(int(size))
	} else {
		c.Raw(addr)
	}
	bits := byte(v.Bits())
	c.octet(&bits)
	if c.reading && c.err == nil {
		a, _ := netip.AddrFromSlice(addr)
		*v = netip.PrefixFrom(a, int(bits))
	}
	c.Must(c.err != nil || v.IsValid() && !v.Addr().Is4In6() && *v == v.Masked())
}

// Space codes the range of the addresses and blocks that follow.
func (c *Coder) Space(v *netip.Prefix) {
	c.Prefix(v)
	if c.err == nil {
		c.geo, c.err = space.NewGeometry(*v)
	}
}

// addr codes an address of the range as its distance from start.
func (c *Coder) addr(v *netip.Addr, start space.Num) {
	var d space.Num
	if !c.reading {
		if c.err != nil || !c.geo.Contains(*v) || space.NumOf(*v).Less(start) {
			c.fail(fmt.Errorf("address %v is not in %v", *v, c.geo.Range()))
			return
		}
		d = space.NumOf(*v).Sub(start)
	}
	c.num(&d)
	if !c.reading {
		return
	}
	last := space.NumOf(c.geo.Last(c.geo.Blocks() - 1))
	if c.err != nil || last.Sub(start).Less(d) {
		c.Must(false)
		return
	}
	*v = c.geo.Addr(start.Add(d))
}

// optional codes an address of the range that may be zero.
func (c *Coder) optional(v *netip.Addr) {
	is := v.IsValid()
	c.Flag(&is)
	if is && c.err == nil {
		c.addr(v, c.start())
	}
}

// start returns where the first address of a list is counted from.
func (c *Coder) start() space.Num { return space.NumOf(c.geo.Range().Addr()) }

// after returns where the address after prev is counted from.
func (c *Coder) after(prev netip.Addr) space.Num {
	if !prev.IsValid() {
		return c.start()
	}
	return space.NumOf(prev)
}

// subnet codes a part of the range.
func (c *Coder) subnet(v *netip.Prefix) {
	r := c.geo.Range()
	bits, addr := byte(v.Bits()), v.Addr()
	c.octet(&bits)
	c.addr(&addr, c.start())
	if c.reading && c.err == nil {
		*v = netip.PrefixFrom(addr, int(bits))
	}
	c.Must(c.err != nil || v.IsValid() && v.Bits() >= r.Bits() && *v == v.Masked())
}

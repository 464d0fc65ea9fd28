package ipam

import (
	"fmt"
	"net/netip"
)

// prefix codes a prefix, which has no host bits.
func (c *coder) prefix(v *netip.Prefix) {
	addr := v.Addr().AsSlice()
	size := byte(len(addr))
	c.octet(&size)
	if c.reading {
		addr = c.take(int(size))
	} else {
		c.raw(addr)
	}
	bits := byte(v.Bits())
	c.octet(&bits)
	if c.reading && c.err == nil {
		a, _ := netip.AddrFromSlice(addr)
		*v = netip.PrefixFrom(a, int(bits))
	}
	c.must(c.err != nil || v.IsValid() && !v.Addr().Is4In6() && *v == v.Masked())
}

// addr codes an address of the range as its distance from start.
func (c *coder) addr(v *netip.Addr, start num) {
	last := c.geo.base.add(hostMask(c.geo.Range()))
	var d num
	if !c.reading {
		if c.err != nil || !c.geo.Contains(*v) || toNum(*v).less(start) {
			c.fail(fmt.Errorf("address %v is not in %v", *v, c.geo.Range()))
			return
		}
		d = toNum(*v).sub(start)
	}
	c.num(&d)
	if !c.reading {
		return
	}
	if c.err != nil || last.sub(start).less(d) {
		c.must(false)
		return
	}
	*v = c.geo.addr(start.add(d))
}

// optional codes an address of the range that may be zero.
func (c *coder) optional(v *netip.Addr) {
	is := v.IsValid()
	c.flag(&is)
	if is && c.err == nil {
		c.addr(v, c.geo.base)
	}
}

// after returns where the address after prev is counted from.
func (c *coder) after(prev netip.Addr) num {
	if !prev.IsValid() {
		return c.geo.base
	}
	return toNum(prev)
}

// subnet codes a part of the range.
func (c *coder) subnet(v *netip.Prefix) {
	r := c.geo.Range()
	bits, addr := byte(v.Bits()), v.Addr()
	c.octet(&bits)
	c.addr(&addr, c.geo.base)
	if c.reading && c.err == nil {
		*v = netip.PrefixFrom(addr, int(bits))
	}
	c.must(c.err != nil || v.IsValid() && v.Bits() >= r.Bits() && *v == v.Masked())
}

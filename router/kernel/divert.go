package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Diversion makes multicast packets that leave by one interface leave by
// another: those that a forwarding table may prune (groupOf in router/fdb has
// the same rule). It ends with the process that made it, however that ends:
// then all of them leave as they are.
type Diversion interface {
	// Except makes packets of a group leave as they are, or not any more.
	Except(group netip.Addr, on bool) error
	// Stands says whether it still is where it was made: nobody took it away,
	// and the interface that it is at is there.
	Stands() bool
	// Close ends it.
	Close() error
}

// exceptions is how many groups can be excepted from a diversion.
const exceptions = 1 << 16

// diversion is a program where packets leave an interface. What holds it there
// is a link that lives as long as its descriptor.
type diversion struct {
	at     link.Link
	groups *ebpf.Map
}

// Divert leads the multicast packets that leave by one interface to another, but
// for those of some groups. A kernel that cannot (before Linux 6.6, or without
// BPF) gives an error wrapping [errors.ErrUnsupported], one that does not let us
// [fs.ErrPermission].
func (k *Kernel) Divert(from, to string, except []netip.Addr) (Diversion, error) {
	d, err := k.divert(from, to, except)
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENOSYS) {
		err = fault{err, errors.ErrUnsupported}
	}
	if err != nil {
		return nil, fmt.Errorf("divert multicast from %s to %s: %w", from, to, translate(err))
	}
	return d, nil
}

func (k *Kernel) divert(from, to string, except []netip.Addr) (*diversion, error) {
	f, err := k.find(from)
	if err != nil {
		return nil, err
	}
	t, err := k.find(to)
	if err != nil {
		return nil, err
	}
	groups, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "weft_groups", Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: exceptions,
		Flags: unix.BPF_F_NO_PREALLOC,
	})
	if err != nil {
		return nil, err
	}
	d := &diversion{groups: groups}
	for _, g := range except {
		if err := d.Except(g, true); err != nil {
			return nil, errors.Join(err, groups.Close())
		}
	}
	program, err := newDiverter(groups, t.Attrs().Index)
	if err != nil {
		return nil, errors.Join(err, groups.Close())
	}
	err = k.Do(func() error {
		d.at, err = link.AttachTCX(link.TCXOptions{Interface: f.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress})
		return err
	})
	_ = program.Close() // the link has it
	if err != nil {
		return nil, errors.Join(err, groups.Close())
	}
	return d, nil
}

func newDiverter(groups *ebpf.Map, to int) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weft_divert", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: diverter(groups.FD(), to),
	})
}

func (d *diversion) Except(group netip.Addr, on bool) error {
	key := group.As16() // IPv4 as IPv6 has it, and so does the program
	var err error
	if on {
		err = d.groups.Put(key, uint32(1))
	} else if err = d.groups.Delete(key); errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("except multicast group %s: %w", group, err)
	}
	return nil
}

func (d *diversion) Stands() bool {
	info, err := d.at.Info()
	return err == nil && info.TCX() != nil && info.TCX().Ifindex != 0
}

func (d *diversion) Close() error { return errors.Join(d.at.Close(), d.groups.Close()) }

// Offsets of struct __sk_buff (linux/bpf.h), and what the program returns so
// that others after it are asked, too.
const (
	skbProtocol    = 16
	skbVLANPresent = 20
	skbData        = 76
	skbDataEnd     = 80
	tcxNext        = -1
)

// diverter is the program. It loads the headers of a frame to the stack so that
// all that it looks at is aligned: octet i is at head+i.
func diverter(groups, to int) asm.Instructions {
	const head = -62
	const out = "as it is"
	at := func(octet int16) int16 { return head + octet }
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		// Most frames are for one MAC address: they are to cost little.
		asm.LoadMem(asm.R2, asm.R6, skbData, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, 1),
		asm.JGT.Reg(asm.R4, asm.R3, out),
		asm.LoadMem(asm.R2, asm.R2, 0, asm.Byte),
		asm.And.Imm(asm.R2, 1),
		asm.JEq.Imm(asm.R2, 0, out),
		asm.LoadMem(asm.R2, asm.R6, skbVLANPresent, asm.Word),
		asm.JNE.Imm(asm.R2, 0, out),
		asm.LoadMem(asm.R7, asm.R6, skbProtocol, asm.Word),
		asm.HostTo(asm.BE, asm.R7, asm.Half),
		asm.JEq.Imm(asm.R7, unix.ETH_P_IPV6, "ipv6"),
		asm.JNE.Imm(asm.R7, unix.ETH_P_IP, out),
	}
	load := func(n int32) {
		p = append(p,
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, 0),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, head),
			asm.Mov.Imm(asm.R4, n),
			asm.FnSkbLoadBytes.Call(),
			asm.JNE.Imm(asm.R0, 0, out),
		)
	}
	load(14 + 20)
	p = append(p,
		// Version 4; not IGMP; 224.0.0.0/4 without 224.0.0.0/24.
		asm.LoadMem(asm.R2, asm.RFP, at(14), asm.Byte),
		asm.RSh.Imm(asm.R2, 4),
		asm.JNE.Imm(asm.R2, 4, out),
		asm.LoadMem(asm.R2, asm.RFP, at(14+9), asm.Byte),
		asm.JEq.Imm(asm.R2, unix.IPPROTO_IGMP, out),
		asm.LoadMem(asm.R7, asm.RFP, at(14+16), asm.Word),
		asm.Mov.Reg(asm.R8, asm.R7),
		asm.HostTo(asm.BE, asm.R8, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.RSh.Imm(asm.R2, 28),
		asm.JNE.Imm(asm.R2, 0xe, out),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.RSh.Imm(asm.R2, 8),
		asm.JEq.Imm(asm.R2, 0xe00000, out),
		// The MAC address is 01:00:5e and the last 23 bits.
		asm.LoadMem(asm.R2, asm.RFP, at(0), asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.JNE.Imm(asm.R2, 0x0100, out),
		asm.LoadMem(asm.R2, asm.RFP, at(2), asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.And.Imm(asm.R8, 0x7fffff),
		asm.Or.Imm(asm.R8, 0x5e000000),
		asm.JNE.Reg(asm.R2, asm.R8, out),
		// The key ::ffff:a.b.c.d, where that of IPv6 is.
		asm.Mov.Imm(asm.R2, 0),
		asm.StoreMem(asm.RFP, at(38), asm.R2, asm.DWord),
		asm.StoreImm(asm.RFP, at(46), 0, asm.Half),
		asm.StoreImm(asm.RFP, at(48), 0xffff, asm.Half),
		asm.StoreMem(asm.RFP, at(50), asm.R7, asm.Word),
		asm.Ja.Label("group"),
	)
	first := len(p)
	load(14 + 40)
	p[first] = p[first].WithSymbol("ipv6")
	p = append(p,
		// Version 6; no hop-by-hop header, which MLD has; ff00::/8 beyond the link.
		asm.LoadMem(asm.R2, asm.RFP, at(14), asm.Byte),
		asm.RSh.Imm(asm.R2, 4),
		asm.JNE.Imm(asm.R2, 6, out),
		asm.LoadMem(asm.R2, asm.RFP, at(14+6), asm.Byte),
		asm.JEq.Imm(asm.R2, 0, out),
		asm.LoadMem(asm.R2, asm.RFP, at(38), asm.Byte),
		asm.JNE.Imm(asm.R2, 0xff, out),
		asm.LoadMem(asm.R2, asm.RFP, at(39), asm.Byte),
		asm.And.Imm(asm.R2, 15),
		asm.JLE.Imm(asm.R2, 2, out),
		// The MAC address is 33:33 and the last 32 bits.
		asm.LoadMem(asm.R2, asm.RFP, at(0), asm.Half),
		asm.JNE.Imm(asm.R2, 0x3333, out),
		asm.LoadMem(asm.R2, asm.RFP, at(2), asm.Word),
		asm.LoadMem(asm.R3, asm.RFP, at(50), asm.Word),
		asm.JNE.Reg(asm.R2, asm.R3, out),

		asm.LoadMapPtr(asm.R1, groups).WithSymbol("group"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(at(38))),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, out),
		asm.Mov.Imm(asm.R1, int32(to)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),

		asm.Mov.Imm(asm.R0, tcxNext).WithSymbol(out),
		asm.Return(),
	)
	return p
}

// Deafen makes an interface drop all that comes to it, for as long as it is
// there.
func (k *Kernel) Deafen(name string) error {
	const xdpDrop, generic = 1, 1 << 1 // XDP_DROP, XDP_FLAGS_SKB_MODE
	return k.change(name, "drop what comes", func(l netlink.Link) error {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "weft_deaf", Type: ebpf.XDP, License: "Apache-2.0",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpDrop), asm.Return()},
		})
		if err != nil {
			return err
		}
		defer func() { _ = program.Close() }() // the interface has it
		return k.Do(func() error { return netlink.LinkSetXdpFdWithFlags(l, program.FD(), generic) })
	})
}

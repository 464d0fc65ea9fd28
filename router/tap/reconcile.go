package tap

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/port"
)

// reconcile goes from what is to what c says, and names the differences.
func (p *Port) reconcile(c fdb.Config) (repaired []string, err error) {
	p.stands = false
	made, err := p.ensure(c.Name, c.Bridge)
	if err != nil {
		return nil, fmt.Errorf("switch port: %w", err)
	}
	if made != "" {
		repaired = []string{made}
	}
	l, err := p.kernel.Link(c.Name)
	if err != nil {
		return repaired, fmt.Errorf("switch port: %w", err)
	}
	words, _, err := port.Fit(p.kernel, l, c)
	if made == "" { // otherwise they follow from it
		repaired = words
	}
	if err != nil {
		return repaired, fmt.Errorf("switch port: %w", err)
	}
	p.stands = true
	return repaired, nil
}

// ensure opens the device unless it is open, and says what was wrong.
func (p *Port) ensure(name, bridge string) (made string, err error) {
	l, err := p.kernel.Link(name)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if f := p.tap.Load(); f != nil {
		if now, err := p.nameOf(f, l, exists); err == nil && now == name {
			return "", nil
		}
		// It was deleted, or renamed, which is somebody else's from now on.
		if err := p.dropLocked(); err != nil {
			return "", err
		}
	}
	switch {
	case !exists:
		made = fmt.Sprintf("device %s was gone", name)
	case l.Kind == "vxlan":
		// What a daemon left that forwarded by the kernel. Here the table answers
		// for neighbours, and nobody would keep true what the kernel was told.
		made = fmt.Sprintf("device %s was the kernel's VXLAN", name)
		if err := errors.Join(p.kernel.DelLink(name), port.Forget(p.kernel, bridge)); err != nil {
			return "", err
		}
	case l.Kind != "tun":
		return "", fmt.Errorf("an interface %s of another kind (%q) is in the way: rename or remove it", name, l.Kind)
	default:
		made = fmt.Sprintf("device %s was not open", name)
	}
	f, err := p.open(p.kernel, name)
	if exists && l.Kind == "tun" && errors.Is(err, unix.EINVAL) {
		// A TUN device, or one with several queues: neither can be changed.
		made = fmt.Sprintf("device %s was no TAP device of ours", name)
		if err := p.kernel.DelLink(name); err != nil {
			return "", err
		}
		f, err = p.open(p.kernel, name)
	}
	if err != nil {
		return "", err
	}
	if err := p.take(f); err != nil {
		return "", errors.Join(err, f.close())
	}
	return made, nil
}

// nameOf asks the kernel which device f is.
func (p *Port) nameOf(f *file, l kernel.Link, exists bool) (string, error) {
	if f.fake {
		if !exists {
			return "", errGone
		}
		return l.Name, nil
	}
	return f.name()
}

// take makes f the device that frames go through.
func (p *Port) take(f *file) error {
	can := abilities{}
	if p.mode == Auto {
		can = p.works()
	}
	if !f.fake {
		uso, err := f.offer(can)
		if err != nil {
			return err
		}
		can.udp = uso
		if err := f.keep(); err != nil {
			return err
		}
	}
	p.joins.Store(can.tcp)
	p.uso.Store(can.udp)
	p.refused.Store(0)
	for _, c := range p.readers {
		if err := c.poll.add(f); err != nil {
			return err
		}
	}
	p.tap.Store(f)
	p.log.Info("switch port open", "offload", p.offloads())
	return nil
}

// dropLocked closes the device without deleting it.
func (p *Port) dropLocked() error {
	f := p.tap.Swap(nil)
	if f == nil {
		return nil
	}
	for _, c := range p.readers {
		c.poll.remove(f)
	}
	return f.close()
}

// removeTAP deletes a TAP device; nil when there is none.
func removeTAP(k Kernel, name string) error {
	l, err := k.Link(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case l.Kind != "tun":
		return nil
	}
	return k.DelLink(name)
}

// lost is called when reading found that the device was deleted. Check makes
// it anew; meanwhile nobody should wait for this one.
func (p *Port) lost(f *file) {
	if p.tap.CompareAndSwap(f, nil) {
		_ = f.close()
		p.log.Warn("the switch port's device was deleted")
	}
}

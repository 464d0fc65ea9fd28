package main

import (
	"github.com/weftnet/weft/router"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/tap"
	"github.com/weftnet/weft/router/vxlan"
	"github.com/weftnet/weft/router/wireguard"
)

// wireSwitch chooses the switch port: frames are forwarded where packets are
// encrypted, or each of them would cross into the kernel and back.
func (d *daemon) wireSwitch(c *router.Config) {
	if d.device.Mode() == wireguard.Kernel {
		d.vxlan = vxlan.NewPruning(d.kernel, router.WireGuardName, d.log.With("part", "vxlan"))
		c.Port = d.vxlan
		return
	}
	// A daemon with the other data path that was killed left it.
	if err := vxlan.RemoveMulticast(d.kernel); err != nil {
		d.log.Warn("cannot remove the device for multicast groups", "err", err)
	}
	c.Port = d.tap
	c.Switch = func() *api.SwitchStatus { return switchStatus(d.tap.Stats()) }
}

// offloadMode turns the checked word of --offload into the port's.
func offloadMode(word string) tap.Mode {
	if word == "off" {
		return tap.Off
	}
	return tap.Auto
}

func switchStatus(s tap.Stats) *api.SwitchStatus {
	return &api.SwitchStatus{
		Offload:    s.Offload,
		SentFrames: s.SentFrames, SentBytes: s.SentBytes,
		ReceivedFrames: s.ReceivedFrames, ReceivedBytes: s.ReceivedBytes,
		SuperSent: s.SuperRead, SuperReceived: s.SuperWritten,
		Flooded: s.Flooded, Answered: s.Answered, TooBig: s.TooBig,
		Dropped: s.Dropped,
		Remotes: s.Remotes, Known: s.Known, Learnt: s.Learnt, Moves: s.Moves, Refused: s.Refused, Astray: s.Astray,
	}
}

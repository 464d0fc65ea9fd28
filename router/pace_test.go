package router

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/wireguard"
)

// slowDevice takes its time, as one with many peers does.
type slowDevice struct {
	fakeDevice
	takes time.Duration
	sets  int
}

func (d *slowDevice) Set(c wireguard.Config) error {
	time.Sleep(d.takes)
	d.mu.Lock()
	d.sets++
	d.mu.Unlock()
	return d.fakeDevice.Set(c)
}

func (d *slowDevice) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sets
}

// While views come faster than they can be followed, a sixth of the time goes
// into that; the last one is followed all the same, and soon when it is quiet.
func TestManyViewsAreFollowedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, views := newWorld(), make(chan mesh.View, 1)
		d := &slowDevice{fakeDevice: fakeDevice{w}, takes: 50 * time.Millisecond}
		r := New(Config{Observer: silent{}, Host: host(1), Mesh: fakeMesh{w, views}, Device: d, Tunnels: fakeTunnels{w}, Relay: fakeRelay{}, Port: fakePort{w}, Bridge: fakeBridge{w}})
		ctx, stop := context.WithCancel(t.Context())
		defer func() {
			stop()
			<-r.ended
		}()
		go func() { _ = r.Run(ctx) }()
		<-r.Built()
		time.Sleep(10 * time.Second)
		synctest.Wait()

		var v mesh.View
		before := d.count()
		for i := range 100 { // for 3 s
			v.Peers = append(v.Peers[:i:i], peerOf(t, byte(i+2), fmt.Sprintf("host%d", i+2)))
			select {
			case <-views:
			default:
			}
			views <- v
			time.Sleep(30 * time.Millisecond)
		}
		synctest.Wait()
		if n := d.count() - before; n < 8 || n > 12 {
			t.Errorf("the device was set %d times in 3 s; a sixth of the time makes 10", n)
		}
		time.Sleep(restMost)
		synctest.Wait()
		if len(w.peers) != len(v.Peers) {
			t.Errorf("%d of %d peers", len(w.peers), len(v.Peers))
		}

		time.Sleep(10 * time.Second)
		views <- mesh.View{}
		time.Sleep(d.takes)
		synctest.Wait()
		if len(w.peers) != 0 {
			t.Error("a single view was not followed at once")
		}

		// However long it takes, the next one is not put off for long.
		d.takes = 10 * time.Second
		views <- v
		time.Sleep(d.takes)
		views <- mesh.View{}
		time.Sleep(2*restMost + d.takes)
		synctest.Wait()
		if len(w.peers) != 0 {
			t.Error("the last view was put off for too long")
		}
	})
}

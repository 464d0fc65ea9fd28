package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// watchBuffer holds some 10,000 notifications: a host that attaches 200
	// containers at once sends that many.
	watchBuffer = 8 << 20
	// watchPause is between losing notifications and asking for them again,
	// so that a storm of changes costs ten looks per second and no more.
	watchPause = 100 * time.Millisecond
)

// errLost says that notifications were dropped because we read too slowly.
var errLost = errors.New("notifications lost")

// Watch calls f for changes in the namespace until ctx ends, and then returns
// nil. The first call comes when notifications are on, and names every kind,
// so whoever looks then misses nothing. f is called by one goroutine at a time
// and must not block. When notifications were lost, f is told that everything
// changed.
func (k *Kernel) Watch(ctx context.Context, f func(Event)) error {
	for {
		err := k.watch(ctx, f)
		if ctx.Err() == nil && !errors.Is(err, errLost) {
			return fmt.Errorf("watch the kernel: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPause):
		}
	}
}

func (k *Kernel) watch(ctx context.Context, f func(Event)) error {
	var sockets []*nl.NetlinkSocket
	closeAll := func() {
		for _, s := range sockets {
			s.Close()
		}
	}
	err := k.Do(func() error {
		s, err := subscribe(unix.NETLINK_ROUTE,
			unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
			unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
		if err != nil {
			return err
		}
		sockets = append(sockets, s)
		if s, err = subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err == nil {
			sockets = append(sockets, s)
		} else if !errors.Is(err, unix.EPROTONOSUPPORT) { // else: a kernel without netfilter
			return err
		}
		return nil
	})
	if err != nil {
		closeAll()
		return err
	}
	var mu sync.Mutex
	tell := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		f(e)
	}
	tell(AllChanged)
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range sockets {
		group.Go(func() error { return receive(s, tell) })
	}
	group.Go(func() error {
		<-ctx.Done()
		closeAll() // ends receive
		return nil
	})
	return group.Wait()
}

func subscribe(protocol int, groups ...uint) (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return nil, err
	}
	// Forced: rmem_max is small by default. Without CAP_NET_ADMIN what is
	// allowed must do.
	if s.SetReceiveBufferSize(watchBuffer, true) != nil {
		_ = s.SetReceiveBufferSize(watchBuffer, false)
	}
	return s, nil
}

func receive(s *nl.NetlinkSocket, tell func(Event)) error {
	for {
		messages, from, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return errLost
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		if from.Pid != nl.PidKernel {
			continue // anybody may send to a netlink socket
		}
		var e Event
		for _, m := range messages {
			e |= classify(m)
		}
		if e != 0 {
			tell(e)
		}
	}
}

// classify names the kind of one notification; 0 for what is no change.
func classify(m syscall.NetlinkMessage) Event {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return LinkChanged
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return AddrChanged
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return RouteChanged
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return RuleChanged
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		// What is learnt comes and goes with the traffic of containers, who
		// must not be able to keep us busy.
		// The state is at offset 8 of struct ndmsg.
		if len(m.Data) < 10 || binary.NativeEndian.Uint16(m.Data[8:])&unix.NUD_PERMANENT == 0 {
			return 0
		}
		return NeighChanged
	}
	if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
		return FirewallChanged
	}
	return 0
}

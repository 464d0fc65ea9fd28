package workload

import (
	"context"
	"sync"
)

// locks is one lock for each key in use; an unused one costs nothing. The zero
// value is ready.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	free  chan struct{} // holds one token while nobody holds the lock
	users int           // who hold it or wait; guarded by locks.mu
}

// lock waits for the lock of key or the end of ctx.
func (l *locks) lock(ctx context.Context, key string) (unlock func(), err error) {
	return l.lockSaying(ctx, key, func() {})
}

// lockSaying is lock that calls wait if it has to.
func (l *locks) lockSaying(ctx context.Context, key string, wait func()) (unlock func(), err error) {
	k := l.enter(key)
	unlock = func() {
		k.free <- struct{}{}
		l.leave(key, k)
	}
	select {
	case <-k.free:
		return unlock, nil
	default:
	}
	wait()
	select {
	case <-k.free:
		return unlock, nil
	case <-ctx.Done():
		l.leave(key, k)
		return nil, context.Cause(ctx)
	}
}

// try takes the lock of key unless somebody has it.
func (l *locks) try(key string) (unlock func(), ok bool) {
	k := l.enter(key)
	select {
	case <-k.free:
		return func() {
			k.free <- struct{}{}
			l.leave(key, k)
		}, true
	default:
		l.leave(key, k)
		return nil, false
	}
}

func (l *locks) enter(key string) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[key]
	if k == nil {
		k = &lock{free: make(chan struct{}, 1)}
		k.free <- struct{}{}
		if l.held == nil {
			l.held = make(map[string]*lock)
		}
		l.held[key] = k
	}
	k.users++
	return k
}

func (l *locks) leave(key string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, key)
	}
}

package hello

import "container/list"

// recent is a map of bounded size that forgets what was written longest ago.
// Its user guards it.
type recent[K comparable, V any] struct {
	most  int
	order *list.List // of entry[K, V], oldest first
	at    map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{most: most, order: list.New(), at: make(map[K]*list.Element)}
}

func (r *recent[K, V]) get(key K) (value V, ok bool) {
	e := r.at[key]
	if e == nil {
		return value, false
	}
	return e.Value.(entry[K, V]).value, true
}

func (r *recent[K, V]) put(key K, value V) {
	r.drop(key)
	r.at[key] = r.order.PushBack(entry[K, V]{key, value})
	if r.order.Len() > r.most {
		r.drop(r.order.Front().Value.(entry[K, V]).key)
	}
}

func (r *recent[K, V]) drop(key K) {
	if e := r.at[key]; e != nil {
		r.order.Remove(e)
		delete(r.at, key)
	}
}

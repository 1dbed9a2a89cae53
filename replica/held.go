package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/keystead/keystead"
)

// A Held is the state at a position, kept as it was there.
type Held struct {
	store   *Store
	id      entryID
	members *Membership
	chain   Chain

	mu      sync.RWMutex // held for writing while the snapshot is let go
	snap    *pebble.Snapshot
	sending int  // streams under way
	old     bool // to be let go after the last of them

	list atomic.Pointer[stateList] // once it was read through
}

// A stateList is what a snapshot begins with: by it each part is checked.
type stateList struct {
	header  StateHeader
	chunks  []keystead.Digest
	outline Outline
	starts  [][]byte // first key of each chunk; the sender's alone
}

// maxUnstable is how many states are kept whose digest no majority has signed yet.
const maxUnstable = 2

// hold keeps the state as of now if a position took effect with the last entry.
func (s *Store) hold() error {
	p, ok := s.opts.Machine.(Portable)
	if !ok {
		return nil
	}
	at, err := p.Positions(View{s.db})
	if err != nil || at.Newest != s.applied.index {
		return err
	}
	s.positions.Store(true)
	h := &Held{store: s, id: s.applied, members: s.members, chain: s.chain, snap: s.db.NewSnapshot()}
	s.mu.Lock()
	s.held = append(s.held, h)
	over := s.unstable(maxUnstable)
	s.mu.Unlock()
	for _, h := range over {
		h.letGo(false)
	}
	if s.opts.Positioned != nil {
		s.opts.Positioned(h)
	}
	return nil
}

// unstable takes out the oldest of those after the stable one that are too many.
func (s *Store) unstable(most int) (over []*Held) {
	n := 0
	for i := len(s.held) - 1; i >= 0; i-- {
		if h := s.held[i]; h.id.index > s.stable {
			if n++; n > most {
				over = append(over, h)
				s.held = slices.Delete(s.held, i, i+1)
			}
		}
	}
	return over
}

// Stable says that a majority signed the digest of the state at a position. From then on
// it is what members that lag are sent, and older ones are let go.
func (s *Store) Stable(index uint64) {
	s.mu.Lock()
	s.stable = index
	n := 0
	for n < len(s.held) && s.held[n].id.index < index {
		n++
	}
	over := slices.Clone(s.held[:n])
	s.held = slices.Delete(s.held, 0, n)
	if h := s.offered; h != nil && h.id.index < index {
		over, s.offered = append(over, h), nil
	}
	s.mu.Unlock()
	for _, h := range over {
		h.letGo(false)
	}
}

// Offer keeps the state as of now, at no position, to be sent to members who can not have
// one that a majority signed, because no majority has a state. Whether they take it is
// for [StoreOptions].Approve.
func (s *Store) Offer() (*Held, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if s.db == nil {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "store"})
	}
	h := &Held{store: s, id: s.applied, members: s.members, chain: s.chain, snap: s.db.NewSnapshot()}
	s.mu.Lock()
	old := s.offered
	s.offered = h
	s.mu.Unlock()
	if old != nil {
		old.letGo(false)
	}
	return h, nil
}

// carriable returns the stable state or the one that is offered, if it is here, was read
// through, and has all members of now; raft takes no snapshot in that does not have its
// own node.
func (s *Store) carriable() *Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	fit := func(h *Held) bool { return h != nil && h.list.Load() != nil && h.has(s.members) }
	for _, h := range s.held {
		if h.id.index == s.stable && fit(h) {
			return h
		}
	}
	if fit(s.offered) {
		return s.offered
	}
	return nil
}

func (h *Held) has(now *Membership) bool {
	return !slices.ContainsFunc(now.Members, func(m Member) bool { _, ok := h.members.ByID(m.ID); return !ok })
}

// releaseAll lets all states go, at once, before their store is closed.
func (s *Store) releaseAll() {
	s.mu.Lock()
	all := s.held
	if s.offered != nil {
		all = append(all, s.offered)
	}
	s.held, s.offered, s.stable = nil, nil, 0
	s.mu.Unlock()
	for _, h := range all {
		h.letGo(true)
	}
}

// letGo lets the state go: at once, or after the streams that are under way.
func (h *Held) letGo(now bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.old = true
	if h.snap != nil && (now || h.sending == 0) {
		_ = h.snap.Close() // it only unlinks
		h.snap = nil
	}
}

// Index is that of the position.
func (h *Held) Index() uint64 { return h.id.index }

// read reads from the state, in pieces short enough for who wants to let it go.
func (h *Held) read(do func(pebble.Reader) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.snap == nil {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonPositionUnknown, Where: fmt.Sprintf("state at position %d", h.id.index), Want: "the state as it was there", Got: "a later one"})
	}
	return do(h.snap)
}

// Read reads the whole state, and returns what names it. It takes as long as reading and
// hashing all of it; nobody waits meanwhile.
func (h *Held) Read(ctx context.Context) (StateHeader, error) {
	l := &stateList{header: StateHeader{Index: h.id.index, Term: h.id.term, Chain: h.chain.Hash}}
	var buf []byte
	for next := []byte{0}; next != nil; {
		if ctx.Err() != nil {
			return l.header, ctx.Err()
		}
		l.starts = append(l.starts, next)
		err := h.read(func(r pebble.Reader) (err error) { buf, next, err = h.store.chunk(r, next, buf[:0]); return err })
		if err != nil {
			return l.header, err
		}
		l.chunks = append(l.chunks, keystead.Sum(buf))
		l.header.Bytes += uint64(len(buf))
	}
	err := h.read(func(r pebble.Reader) (err error) {
		l.outline, err = h.store.opts.Machine.(Portable).Outline(View{r})
		return err
	})
	if err != nil {
		return l.header, err
	}
	l.header.Chunks, l.header.Sum = uint64(len(l.chunks)), sumOf(l.chunks)
	l.header.Size, l.header.Root = l.outline.Size, l.outline.Root
	h.list.Store(l)
	return l.header, nil
}

// chunk appends the pairs of the state from a key on, as many as go into a chunk, and
// returns the key of the next one, or nil after the last.
func (s *Store) chunk(r pebble.Reader, from, b []byte) (chunk, next []byte, err error) {
	var failed error
	more := true
	add := func(key, value []byte) bool {
		n := pairSize(key, value)
		switch {
		case n > maxChunk || len(key) > 1<<16-1:
			failed = fmt.Errorf("a pair of %d bytes at key %.80q: a chunk has at most %d", n, key, maxChunk)
		case len(b) > 0 && len(b)+n > maxChunk:
			next = bytes.Clone(key)
		default:
			b = appendPair(b, key, value)
			return true
		}
		more = false
		return false
	}
	if len(from) == 0 || from[0] < prefixState {
		err = eachOwn(r, from, add)
		from = []byte{prefixState}
	}
	if err == nil && more {
		key := []byte{prefixState}
		err = s.opts.Machine.(Portable).Pairs(View{r}, from[1:], func(k, v []byte) bool {
			key = append(key[:1], k...)
			return add(key, v)
		})
	}
	return b, next, errors.Join(err, failed)
}

// eachOwn visits the replica's own pairs of the state.
func eachOwn(r pebble.Reader, from []byte, visit func(key, value []byte) bool) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{prefixState}})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		if bytes.Equal(it.Key(), keyFormat) {
			continue // of the store, and not of the state
		}
		if !ownKey(it.Key()) {
			err = &keystead.FormatError{Format: "store", Field: "key", Problem: fmt.Sprintf("%.80q is none that the layout keystead-state/1 has", it.Key())}
			break
		}
		if !visit(it.Key(), it.Value()) {
			break
		}
	}
	return errors.Join(err, it.Error(), it.Close())
}

func ownKey(k []byte) bool {
	return bytes.Equal(k, keyApplied) || bytes.Equal(k, keyMembership) || bytes.Equal(k, keyChain) || bytes.HasPrefix(k, prefixOrigin) && len(k) == len(prefixOrigin)+8
}

package replica

import (
	"bytes"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/keystead/keystead"
)

// Snapshot is View with everything that read sees of one moment. Its View is for one
// goroutine.
func (n *Node) Snapshot(read func(View) error) error { return n.store.moment(read) }

func (s *Store) moment(read func(View) error) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "store"})
	}
	m := &moment{Snapshot: s.db.NewSnapshot()}
	return errors.Join(read(View{m}), m.Close())
}

// A moment reads one key at a time from a snapshot. Who reads many gets iterators, which
// keep open what each single read would open anew: one for each kind of key, by
// its first two bytes, for one that goes to and fro between kinds keeps nothing.
type moment struct {
	*pebble.Snapshot
	gets  int
	iters map[[2]byte]*pebble.Iterator
}

const (
	fewGets  = 4  // that are not worth an iterator
	maxIters = 16 // what is of further kinds is read singly
)

// Get implements pebble.Reader. The value is valid until the next call.
func (m *moment) Get(key []byte) ([]byte, io.Closer, error) {
	if m.gets++; m.gets <= fewGets || len(key) < 2 {
		return m.Snapshot.Get(key)
	}
	it := m.iters[[2]byte(key)]
	if it == nil {
		if len(m.iters) == maxIters {
			return m.Snapshot.Get(key)
		}
		var err error
		if it, err = m.NewIter(nil); err != nil {
			return nil, nil, err
		}
		if m.iters == nil {
			m.iters = map[[2]byte]*pebble.Iterator{}
		}
		m.iters[[2]byte(key)] = it
	}
	if !it.SeekPrefixGE(key) || !bytes.Equal(it.Key(), key) {
		if err := it.Error(); err != nil {
			return nil, nil, err
		}
		return nil, nil, pebble.ErrNotFound
	}
	v, err := it.ValueAndErr()
	return v, nothing{}, err
}

// Close ends the moment.
func (m *moment) Close() error {
	var errs []error
	for _, it := range m.iters {
		errs = append(errs, it.Close())
	}
	return errors.Join(append(errs, m.Snapshot.Close())...)
}

// nothing is to be closed.
type nothing struct{}

func (nothing) Close() error { return nil }

// forReads adds to a store's options what reads want: filters, so that a read of one
// key looks into the one table that has it, and not into one of every level.
func forReads(o *pebble.Options) {
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
}

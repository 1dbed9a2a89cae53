package replica

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/keystead/keystead"
)

// Snapshot is View with everything that read sees of one moment.
func (n *Node) Snapshot(read func(View) error) error { return n.store.moment(read) }

func (s *Store) moment(read func(View) error) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "store"})
	}
	moment := s.db.NewSnapshot()
	return errors.Join(read(View{moment}), moment.Close())
}

// forReads adds to a store's options what reads want: filters, so that a read of one
// key looks into the one table that has it, and not into one of every level.
func forReads(o *pebble.Options) {
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
}

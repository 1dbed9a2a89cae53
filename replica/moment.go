package replica

import (
	"errors"

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

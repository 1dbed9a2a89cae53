package replica

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/segment"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Bootstrap makes this empty store the founder id of a new group of voters. Every
// founder must be given the same members, whose ids are 1, 2, …, in this order.
func (s *Store) Bootstrap(id uint64, members []Member) error {
	if s.node.id != 0 || s.applied.index != 0 {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonChangeRefused, Want: "an empty store", Got: fmt.Sprintf("the store of id %d", s.node.id), Where: s.opts.Dir})
	}
	m := &Membership{conf: &pb.ConfState{}}
	for i, founder := range members {
		founder.ID, founder.Voter = uint64(i+1), true
		m.Members = append(m.Members, founder)
		m.conf.Voters = append(m.conf.Voters, founder.ID)
		m.LastID = founder.ID
	}
	if _, ok := m.ByID(id); !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Want: fmt.Sprintf("1 to %d", len(members)), Got: fmt.Sprint(id), Where: "founder id"})
	}
	db, dir, err := s.newState(m, entryID{1, 1}, beginChain(0, 1, keystead.Digest{}, m))
	if err != nil {
		return err
	}
	return s.swap(db, dir, id, &pb.HardState{Term: new(uint64(1)), Commit: new(uint64(1))}, &entryID{1, 1})
}

// Rejoin begins an empty state, that of a member who has nothing yet. What the
// store held before is removed: call it only once a quorum has given out the id.
func (s *Store) Rejoin(id uint64) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	db, dir, err := s.newState(&Membership{conf: &pb.ConfState{}}, entryID{}, Chain{})
	if err != nil {
		return err
	}
	return s.swap(db, dir, id, &pb.HardState{}, &entryID{})
}

// newState opens a new state that holds a membership and a chain at an index.
func (s *Store) newState(m *Membership, applied entryID, chain Chain) (*pebble.DB, string, error) {
	dir, err := s.nextDir()
	if err != nil {
		return nil, "", err
	}
	return s.beginState(dir, [][2][]byte{{keyFormat, be64(stateFormat)}, {keyMembership, m.encode()}, {keyApplied, applied.bytes()}, {keyChain, chain.encode()}})
}

// beginState opens the state in a directory and writes to it, durably. It is not in
// use before the log names it; until then a crash leaves what is removed.
func (s *Store) beginState(dir string, records [][2][]byte) (*pebble.DB, string, error) {
	db, err := s.openDB(dir, s.stateOptions())
	if err != nil {
		return nil, "", err
	}
	b := db.NewBatch()
	for _, kv := range records {
		if err := b.Set(kv[0], kv[1], nil); err != nil {
			return nil, "", errors.Join(err, db.Close())
		}
	}
	if err = s.guard(func() error { return b.Commit(pebble.NoSync) }); err == nil {
		err = s.flush(db)
	}
	if err != nil {
		return nil, "", errors.Join(err, db.Close())
	}
	return db, dir, nil
}

// name makes a directory the one of the state in use, and the node the one of an id;
// if first is given, the log is emptied and begins after it. All of it happens or
// nothing.
func (s *Store) name(dir string, id uint64, hard *pb.HardState, first *entryID) error {
	n, note := nodeRecord{id: id, start: s.node.start, state: dir}, segment.Note{}
	if first != nil {
		n.reset, n.first, note.Void = true, *first, true
	}
	if err := s.setNode(n, note, hard); err != nil {
		return err
	}
	s.mu.Lock()
	s.hard = hard
	s.mu.Unlock()
	if first != nil {
		s.log.reset(*first)
	}
	return nil
}

// swap turns to the state db in dir, as name says, and removes the one before.
func (s *Store) swap(db *pebble.DB, dir string, id uint64, hard *pb.HardState, first *entryID) error {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	oldDir := s.node.state
	if err := s.name(dir, id, hard, first); err != nil {
		return errors.Join(err, db.Close())
	}
	s.releaseAll()
	old := s.db
	s.db = db
	if err := errors.Join(s.guard(old.Close), s.opts.FS.RemoveAll(s.path(oldDir))); err != nil {
		return err
	}
	return s.load()
}

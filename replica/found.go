package replica

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Bootstrap makes this empty store the founder id of a new group of voters. Every
// founder must be given the same members, whose ids are 1, 2, …, in this order.
func (s *Store) Bootstrap(id uint64, members []Member) error {
	if s.id != 0 || s.applied.index != 0 {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonChangeRefused, Want: "an empty store", Got: fmt.Sprintf("the store of id %d", s.id), Where: s.opts.Dir})
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
	if err := s.begin(s.db, id, m, entryID{1, 1}, &pb.HardState{Term: new(uint64(1)), Commit: new(uint64(1))}); err != nil {
		return err
	}
	return errors.Join(s.load(), s.bearWitness())
}

// Rejoin begins an empty state, that of a member who has nothing yet. What the
// store held before is removed: call it only once a quorum has given out the id.
func (s *Store) Rejoin(id uint64) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	dir, err := s.nextDir()
	if err != nil {
		return err
	}
	db, err := s.openDB(dir)
	if err != nil {
		return err
	}
	err = db.Set(keyFormat, be64(storeFormat), nil)
	if err == nil {
		err = s.begin(db, id, &Membership{conf: &pb.ConfState{}}, entryID{}, &pb.HardState{})
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return s.swap(dir)
}

// begin writes the first state of a store, on which a log can grow.
func (s *Store) begin(db *pebble.DB, id uint64, m *Membership, first entryID, hard *pb.HardState) error {
	b := db.NewBatch()
	hs, err := proto.Marshal(hard)
	if err != nil {
		return err
	}
	for _, kv := range [][2][]byte{{keyIdentity, be64(id)}, {keyMembership, m.encode()}, {keyApplied, first.bytes()}, {keyTruncated, first.bytes()}, {keyHard, hs}} {
		if err := b.Set(kv[0], kv[1], nil); err != nil {
			return err
		}
	}
	return s.guard(func() error { return b.Commit(pebble.Sync) })
}

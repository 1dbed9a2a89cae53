package replica

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A RecoveryPlan says what a recovery would go on from. What was acknowledged
// after Last, if anything, is lost by it.
type RecoveryPlan struct {
	Key     keystead.Digest `cbor:"1,keyasint"` // of the node that is to be the only voter
	ID      uint64          `cbor:"2,keyasint"` // its new raft id, or a later one if its log has members in it that are not applied
	Term    uint64          `cbor:"3,keyasint"` // of the last entry that it has
	Last    uint64          `cbor:"4,keyasint"` // and its index
	Applied uint64          `cbor:"5,keyasint"`
	Members []Member        `cbor:"6,keyasint"` // who rejoin it as learners
}

// Digest names the plan, for those who sign it.
func (p RecoveryPlan) Digest() keystead.Digest { return keystead.Sum(encode(p)) }

// Recover reopens a closed group from one node's store: this node becomes the only
// voter under a new id, and every other member a learner that rejoins. All ids of
// before are void: a node that comes back in place, under one of them, takes no part.
// It asks authorise, which checks the signatures of those who may decide that. The node
// with the highest (Term, Last) loses least. The seal, if the group does not trust
// its disks, gets the record by which the node then starts in place.
func Recover(opts StoreOptions, seal Seal, key keystead.Digest, authorise func(RecoveryPlan) error) error {
	s, err := OpenStore(opts)
	if err != nil {
		return err
	}
	return errors.Join(s.recover(seal, key, authorise), s.Close())
}

func (s *Store) recover(seal Seal, key keystead.Digest, authorise func(RecoveryPlan) error) error {
	if err := s.applyTo(s.hard.GetCommit()); err != nil { // the state of a killed node is behind its log
		return err
	}
	old := s.Membership()
	self, ok := old.ByKey(key)
	if !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Got: key.String(), Want: "a member's key", Where: "recovery"})
	}
	last, _ := s.LastIndex()
	term, err := s.Term(last)
	if err != nil {
		return err
	}
	plan := RecoveryPlan{Key: key, ID: old.LastID + 1, Term: term, Last: last, Applied: s.Applied(), Members: old.Members}
	if err := authorise(plan); err != nil {
		return fmt.Errorf("recovery not authorised: %w", err)
	}
	if err := s.applyRest(seal, last); err != nil {
		return err
	}
	old = s.Membership()
	if self, ok = old.ByKey(key); !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Got: key.String(), Want: "a member's key at the end of the log", Where: "recovery"})
	}
	plan.ID = old.LastID + 1
	self.ID, self.Voter = plan.ID, true
	next := &Membership{LastID: plan.ID, Members: []Member{self}, conf: &pb.ConfState{Voters: []uint64{plan.ID}}}
	for _, m := range old.Members {
		if m.Key != key { // its id of before is given up: a node that still has it takes no part, since it does not know of this
			next.LastID++
			m.ID, m.Boot = next.LastID, [16]byte{} // serves no one until it rejoins
			next.Members = append(next.Members, m)
			next.conf.Learners = append(next.conf.Learners, m.ID)
		}
	}
	db, dir, err := s.fork(next)
	if err != nil {
		return err
	}
	hard := &pb.HardState{Term: new(s.hard.GetTerm() + 1), Vote: new(uint64(0)), Commit: new(last)}
	if err := s.swap(db, dir, plan.ID, hard, &entryID{last, term}); err != nil || seal == nil {
		return err
	}
	return seal.Put(s.record())
}

// fork opens a copy of the state with another membership, in which an era of the chain begins.
func (s *Store) fork(m *Membership) (*pebble.DB, string, error) {
	dir, err := s.nextDir()
	if err == nil {
		err = s.flush(s.db)
	}
	if err == nil {
		err = s.guard(func() error { return s.db.Checkpoint(s.path(dir)) })
	}
	if err != nil {
		return nil, "", err
	}
	before, at := s.Chain()
	chain := beginChain(before.Era+1, at, before.Hash, m)
	return s.beginState(dir, [][2][]byte{{keyMembership, m.encode()}, {keyChain, chain.encode()}})
}

// applyRest applies what the log has beyond the state: it may have been acknowledged,
// by nodes that go on as others, and counts as committed from now on. The seal of
// before is destroyed first, so that a node that does not come to the end of this
// does not come back in place.
func (s *Store) applyRest(seal Seal, last uint64) error {
	if seal != nil {
		if _, _, err := seal.Take(); err != nil {
			return err
		}
	}
	return s.applyTo(last)
}

// applyTo brings the state forward to that entry of the log.
func (s *Store) applyTo(last uint64) error {
	for s.Applied() < last {
		entries, err := s.Entries(s.Applied()+1, last+1, 1<<20)
		if err != nil {
			return err
		}
		if _, err := s.Apply(&pb.Message{Entries: entries}); err != nil {
			return err
		}
	}
	return nil
}

package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// load reads the state, but for the state machine's part, into memory, and checks it
// and the log against each other.
func (s *Store) load() (err error) {
	format, err := s.number(s.db, keyFormat)
	if err != nil {
		return err
	}
	if format != stateFormat {
		return s.bad(string(keyFormat), fmt.Sprintf("format %d", stateFormat), fmt.Sprintf("format %d", format))
	}
	if err := s.loadState(); err != nil {
		return err
	}
	if err := s.checkLog(); err != nil {
		return err
	}
	if s.hard.GetCommit() < s.applied.index { // its last write needed no sync
		s.hard.Commit = &s.applied.index
	}
	if p, ok := s.opts.Machine.(Portable); ok {
		at, err := p.Positions(View{s.db})
		if err != nil {
			return err
		}
		s.positions.Store(at.InUse)
	}
	return s.opts.Machine.Open(View{s.db}, s.applied.index)
}

// checkLog checks that the log has all that it must have beside the state.
func (s *Store) checkLog() error {
	s.log.mu.Lock()
	before, last := s.log.truncated.index, s.log.last()
	s.log.mu.Unlock()
	if s.applied.index < before {
		return s.bad(string(keyApplied), fmt.Sprintf("a state at entry %d or later, where the log begins", before), fmt.Sprintf("one at %d", s.applied.index))
	}
	if last < s.applied.index || last < s.hard.GetCommit() {
		return s.bad(logDir, fmt.Sprintf("entries up to %d, which was applied, and %d, which was committed", s.applied.index, s.hard.GetCommit()), fmt.Sprintf("up to %d", last))
	}
	return nil
}

// loadState reads what belongs to the applied index.
func (s *Store) loadState() error {
	applied, err := s.pair(s.db, keyApplied)
	if err != nil {
		return err
	}
	members := &Membership{conf: &pb.ConfState{}}
	if b, ok, err := get(s.db, keyMembership); err != nil {
		return s.corrupt(string(keyMembership), err)
	} else if ok {
		if members, err = decodeMembership(b); err != nil {
			return s.bad(string(keyMembership), "a record that parses", err.Error())
		}
	}
	var chain Chain
	if b, ok, err := get(s.db, keyChain); err != nil {
		return s.corrupt(string(keyChain), err)
	} else if ok {
		if chain, err = decodeChain(b); err != nil {
			return s.bad(string(keyChain), "a record that parses", err.Error())
		}
	}
	origins := map[uint64]uint64{}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefixOrigin, UpperBound: []byte("r/o0")})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		if len(it.Key()) != len(prefixOrigin)+8 || len(it.Value()) != 8 {
			return errors.Join(s.bad(string(it.Key()), "8 bytes", fmt.Sprintf("%d bytes", len(it.Value()))), it.Close())
		}
		origins[binary.BigEndian.Uint64(it.Key()[len(prefixOrigin):])] = binary.BigEndian.Uint64(it.Value())
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return s.corrupt(string(prefixOrigin), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.members, s.origins, s.chain, s.links = applied, members, origins, chain, links{}
	s.links.add(applied.index, chain.Hash)
	s.flushes.begin(applied)
	return nil
}

func (s *Store) number(db *pebble.DB, key []byte) (uint64, error) {
	b, ok, err := get(db, key)
	if err != nil {
		return 0, s.corrupt(string(key), err)
	}
	if ok && len(b) != 8 {
		return 0, s.bad(string(key), "8 bytes", fmt.Sprintf("%d bytes", len(b)))
	}
	if !ok {
		return 0, nil
	}
	return binary.BigEndian.Uint64(b), nil
}

func (s *Store) pair(db *pebble.DB, key []byte) (entryID, error) {
	b, ok, err := get(db, key)
	if err != nil {
		return entryID{}, s.corrupt(string(key), err)
	}
	if !ok {
		return entryID{}, nil
	}
	if len(b) != 16 {
		return entryID{}, s.bad(string(key), "16 bytes", fmt.Sprintf("%d bytes", len(b)))
	}
	return entryID{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (e entryID) bytes() []byte { return binary.BigEndian.AppendUint64(be64(e.index), e.term) }

// Advice for whoever runs a node whose store cannot be read: its peers have all
// that it acknowledged.
const corruptAdvice = "the other members hold everything acknowledged: move the directory away and start the node again, it rejoins as a learner; if a majority is so, keep the directories and recover"

func (s *Store) bad(key string, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStoreCorrupt, Want: want + "; " + corruptAdvice, Got: got,
		Where: fmt.Sprintf("%s key %q", s.opts.Dir, key)})
}

// corrupt says where the storage engine met bytes that are not what was written;
// other errors, such as a full disk, pass.
func (s *Store) corrupt(where string, err error) error {
	if err == nil || !pebble.IsCorruptionError(err) {
		return err
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStoreCorrupt, Want: corruptAdvice, Got: err.Error(),
		Where: fmt.Sprintf("%s key %q", s.opts.Dir, where)})
}

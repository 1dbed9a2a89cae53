package replica

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/defect"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Applied is what came of committed entries, for the loop that waits for it.
type Applied struct {
	message *pb.Message        // the MsgStorageApply that asked for it
	index   uint64             // of the last entry applied
	batches []appliedBatch     // of this node's own
	changes []*pb.ConfChangeV2 // for raft, in order
	members *Membership        // after the last change, or nil
}

// An appliedBatch is the outcome of a batch: a result for each command, or why
// its change of membership was refused.
type appliedBatch struct {
	seq     uint64
	results [][]byte
	err     error
	rest    []byte // of the entry, after the head
}

// applyBuffers are kept from call to call.
type applyBuffers struct {
	commands []Command
	own      []ownBatch
	origins  map[uint64]uint64
	hashes   []keystead.Digest // of the chain, after each entry
	position uint64            // index of the entry that carries a position, or 0
}

// An ownBatch marks which commands of a call came from this node, as one batch.
type ownBatch struct {
	seq      uint64
	from, to int
	err      error
	rest     []byte
}

// Apply applies the committed entries of raft's MsgStorageApply to the state. It
// is not synced: after a crash the log has them still. An entry that carries a position
// is the last of its batch, so that the state can be read as it stands there.
func (s *Store) Apply(m *pb.Message) (Applied, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	a := Applied{message: m}
	for ents := m.GetEntries(); len(ents) > 0; {
		n, err := s.applyRun(ents, &a)
		if err != nil {
			return a, err
		}
		ents = ents[n:]
	}
	return a, nil
}

// applyRun applies entries up to and with the first one that carries a position, and
// returns how many.
func (s *Store) applyRun(ents []*pb.Entry, a *Applied) (n int, err error) {
	buf := &s.batch
	buf.commands, buf.own, buf.origins, buf.position = buf.commands[:0], buf.own[:0], map[uint64]uint64{}, 0
	members, id, chain, size := s.members, s.applied, s.chain, 0
	var changed *Membership
	buf.hashes = buf.hashes[:0]
	for n < len(ents) && buf.position == 0 {
		e := ents[n]
		if e.GetType() != pb.EntryNormal && len(buf.commands) > 0 {
			break // a change of membership is judged by the state as it stands before it
		}
		n++
		if e.GetIndex() <= s.applied.index {
			continue // a snapshot had it
		}
		next, cc, err := s.applyEntry(members, e)
		if err != nil {
			return n, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		if cc != nil {
			members, changed, a.changes = next, next, append(a.changes, cc)
		}
		id = entryID{max(id.index, e.GetIndex()), e.GetTerm()}
		size += int(entrySize(e))
		switch {
		case chain.Start != 0:
			chain.Hash = chain.next(e)
		case buf.position != 0: // in a state that an earlier build made
			chain = beginChain(chain.Era, buf.position, keystead.Digest{}, members)
		}
		buf.hashes = append(buf.hashes, chain.Hash)
	}
	b := s.db.NewBatchWithSize(512 + 2*size)
	defer b.Close()
	var results [][]byte
	if len(buf.commands) > 0 {
		results, err = s.opts.Machine.Apply(&Batch{View{s.db}, b}, buf.commands, make([][]byte, 0, len(buf.commands)))
		if err != nil {
			return n, fmt.Errorf("state machine at index %d: %w", id.index, err)
		}
		if len(results) != len(buf.commands) {
			return n, fmt.Errorf("state machine at index %d: %d results for %d commands", id.index, len(results), len(buf.commands))
		}
	}
	if err := s.commitApply(b, id, changed, &chain); err != nil {
		return n, err
	}
	for _, o := range buf.own {
		a.batches = append(a.batches, appliedBatch{o.seq, results[o.from:o.to:o.to], o.err, o.rest})
	}
	a.index = max(a.index, id.index)
	if changed != nil {
		a.members = changed
	}
	s.publish(id, members, chain)
	if buf.position == id.index {
		if err := s.hold(); err != nil {
			return n, fmt.Errorf("position at index %d: %w", id.index, err)
		}
	}
	return n, s.shorten(uint64(size))
}

// publish shows what a run of entries brought about.
func (s *Store) publish(id entryID, members *Membership, chain Chain) {
	buf := &s.batch
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, h := range buf.hashes {
		s.links.add(id.index-uint64(len(buf.hashes)-1-i), h)
	}
	s.applied, s.members, s.chain = id, members, chain
	for o, seq := range buf.origins {
		s.origins[o] = seq
	}
}

// applyEntry gathers the commands of an entry, or makes its change of membership. An entry
// that no member writes, as a leader that lies may have in its log, has no effect: an
// error would stop every node, again and again. So before a build writes a batch of another
// version, members must have voted that.
func (s *Store) applyEntry(members *Membership, e *pb.Entry) (*Membership, *pb.ConfChangeV2, error) {
	data, change, ok := payload(e)
	if !ok {
		return nil, nil, nil
	}
	if change && len(data) == 0 && members.Joint() {
		return members.leave()
	}
	if len(data) == 0 {
		return nil, nil, nil // a leader's first entry
	}
	origin, seq, rest, err := parseHead(data)
	if err != nil {
		return nil, nil, nil
	}
	buf := &s.batch
	last, seen := buf.origins[origin]
	if !seen {
		last = s.origins[origin]
	}
	if _, ok := members.ByID(origin); !ok || seq <= last && defect.On != defect.ApplyTwice {
		return nil, nil, nil // dead, or doubled by the network
	}
	commands := buf.commands
	if !change {
		if commands, err = appendCommands(commands, e.GetIndex(), e.GetTerm(), rest); err != nil {
			return nil, nil, nil
		}
	}
	buf.origins[origin] = seq
	own := ownBatch{seq: seq, from: len(buf.commands), to: len(buf.commands), rest: rest}
	var next *Membership
	var cc *pb.ConfChangeV2
	if change {
		var c Change
		if own.err = decode(rest, &c); own.err == nil {
			own.err = s.explained(members, &c)
		}
		if own.err == nil {
			next, cc, own.err = members.apply(c)
		}
	} else {
		buf.commands = commands
		own.to = len(buf.commands)
		for _, c := range buf.commands[own.from:] {
			if s.opts.Machine.Position(c.Data) {
				buf.position = e.GetIndex()
			}
		}
	}
	if origin == s.node.id {
		buf.own = append(buf.own, own)
	}
	return next, cc, nil
}

// payload returns what an entry carries, and whether that is a change of membership; false if
// it is in no form that members write.
func payload(e *pb.Entry) (data []byte, change, ok bool) {
	if e.GetType() == pb.EntryNormal {
		return e.GetData(), false, true
	}
	cc := &pb.ConfChangeV2{}
	if e.GetType() != pb.EntryConfChangeV2 || proto.Unmarshal(e.GetData(), cc) != nil {
		return nil, true, false
	}
	return cc.GetContext(), true, true
}

// commitApply writes the effects of a call together with its index.
func (s *Store) commitApply(b *pebble.Batch, id entryID, members *Membership, chain *Chain) error {
	set := func(k, v []byte) {
		if err := b.Set(k, v, nil); err != nil {
			panic(err) // only a batch already in use fails
		}
	}
	set(keyApplied, id.bytes())
	set(keyChain, chain.encode())
	for origin, seq := range s.batch.origins {
		set(append(prefixOrigin[:len(prefixOrigin):len(prefixOrigin)], be64(origin)...), be64(seq))
	}
	if members != nil {
		set(keyMembership, members.encode())
	}
	return s.guard(func() error { return b.Commit(pebble.NoSync) })
}

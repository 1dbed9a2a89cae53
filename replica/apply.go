package replica

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
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
}

// applyBuffers are kept from call to call.
type applyBuffers struct {
	commands []Command
	own      []ownBatch
	origins  map[uint64]uint64
}

// An ownBatch marks which commands of a call came from this node, as one batch.
type ownBatch struct {
	seq      uint64
	from, to int
	err      error
}

// Apply applies the committed entries of raft's MsgStorageApply to the state. It
// is not synced: after a crash the log has them still.
func (s *Store) Apply(m *pb.Message) (Applied, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	a, buf := Applied{message: m}, &s.batch
	buf.commands, buf.own, buf.origins = buf.commands[:0], buf.own[:0], map[uint64]uint64{}
	members, id, size := s.members, s.applied, 0
	for _, e := range m.GetEntries() {
		if e.GetIndex() <= s.applied.index {
			continue // a snapshot had it
		}
		next, cc, err := s.applyEntry(members, e)
		if err != nil {
			return a, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		if cc != nil {
			members, a.members, a.changes = next, next, append(a.changes, cc)
		}
		id = entryID{max(id.index, e.GetIndex()), e.GetTerm()}
		size += int(entrySize(e))
	}
	b := s.db.NewBatchWithSize(512 + 2*size)
	defer b.Close()
	var results [][]byte
	if len(buf.commands) > 0 {
		var err error
		results, err = s.opts.Machine.Apply(&Batch{View{s.db}, b}, buf.commands, make([][]byte, 0, len(buf.commands)))
		if err != nil {
			return a, fmt.Errorf("state machine at index %d: %w", id.index, err)
		}
		if len(results) != len(buf.commands) {
			return a, fmt.Errorf("state machine at index %d: %d results for %d commands", id.index, len(results), len(buf.commands))
		}
	}
	if err := s.commitApply(b, id, a.members); err != nil {
		return a, err
	}
	for _, o := range buf.own {
		a.batches = append(a.batches, appliedBatch{o.seq, results[o.from:o.to:o.to], o.err})
	}
	a.index = id.index
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.members = id, members
	for o, seq := range buf.origins {
		s.origins[o] = seq
	}
	return a, s.shorten(uint64(size))
}

// applyEntry gathers the commands of an entry, or makes its change of membership.
func (s *Store) applyEntry(members *Membership, e *pb.Entry) (*Membership, *pb.ConfChangeV2, error) {
	data := e.GetData()
	change := e.GetType() != pb.EntryNormal
	if change {
		cc := &pb.ConfChangeV2{}
		if err := proto.Unmarshal(data, cc); err != nil {
			return nil, nil, err
		}
		if data = cc.GetContext(); len(data) == 0 {
			return members.leave()
		}
	}
	if len(data) == 0 {
		return nil, nil, nil // a leader's first entry
	}
	origin, seq, rest, err := parseHead(data)
	if err != nil {
		return nil, nil, err
	}
	buf := &s.batch
	last, seen := buf.origins[origin]
	if !seen {
		last = s.origins[origin]
	}
	if _, ok := members.ByID(origin); !ok || seq <= last && defect.On != defect.ApplyTwice {
		return nil, nil, nil // dead, or doubled by the network
	}
	buf.origins[origin] = seq
	own := ownBatch{seq: seq, from: len(buf.commands), to: len(buf.commands)}
	var next *Membership
	var cc *pb.ConfChangeV2
	if change {
		var c Change
		if own.err = decode(rest, &c); own.err == nil {
			next, cc, own.err = members.apply(c)
		}
	} else {
		if buf.commands, err = appendCommands(buf.commands, e.GetIndex(), e.GetTerm(), rest); err != nil {
			return nil, nil, err
		}
		own.to = len(buf.commands)
	}
	if origin == s.node.id {
		buf.own = append(buf.own, own)
	}
	return next, cc, nil
}

// commitApply writes the effects of a call together with its index.
func (s *Store) commitApply(b *pebble.Batch, id entryID, members *Membership) error {
	set := func(k, v []byte) {
		if err := b.Set(k, v, nil); err != nil {
			panic(err) // only a batch already in use fails
		}
	}
	set(keyApplied, id.bytes())
	for origin, seq := range s.batch.origins {
		set(append(prefixOrigin[:len(prefixOrigin):len(prefixOrigin)], be64(origin)...), be64(seq))
	}
	if members != nil {
		set(keyMembership, members.encode())
	}
	return s.guard(func() error { return b.Commit(pebble.NoSync) })
}

package replica

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/keystead/keystead/replica/internal/defect"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// logTail is the log as raft reads it. The whole of it is in memory: what is
// older than RetainBytes is deleted once applied, and whoever needs it is sent a
// snapshot.
type logTail struct {
	mu        sync.Mutex
	truncated entryID     // the entry before the first
	entries   []*pb.Entry // entries[i] has index truncated.index+1+i
	bytes     uint64
}

func (l *logTail) last() uint64 { return l.truncated.index + uint64(len(l.entries)) }

// FirstIndex, LastIndex, Term and Entries are raft's Storage.
func (s *Store) FirstIndex() (uint64, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.truncated.index + 1, nil
}

// LastIndex returns the index of the last entry on disk.
func (s *Store) LastIndex() (uint64, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.last(), nil
}

// Term returns the term of an entry.
func (s *Store) Term(i uint64) (uint64, error) {
	l := &s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case i < l.truncated.index:
		return 0, raft.ErrCompacted
	case i == l.truncated.index:
		return l.truncated.term, nil
	case i > l.last():
		return 0, raft.ErrUnavailable
	}
	return l.entries[i-l.truncated.index-1].GetTerm(), nil
}

// Entries returns the entries in [lo, hi) up to size bytes, at least one.
func (s *Store) Entries(lo, hi, size uint64) ([]*pb.Entry, error) {
	l := &s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if lo <= l.truncated.index {
		return nil, raft.ErrCompacted
	}
	if hi > l.last()+1 {
		return nil, raft.ErrUnavailable
	}
	ents := l.entries[lo-l.truncated.index-1 : hi-l.truncated.index-1]
	var sum uint64
	for i, e := range ents {
		if sum += entrySize(e); sum > size && i > 0 {
			ents = ents[:i]
			break
		}
	}
	return slices.Clone(ents), nil
}

// entrySize is about what the entry takes on the wire.
func entrySize(e *pb.Entry) uint64 { return uint64(len(e.GetData())) + 24 }

// Append does what the messages, raft's MsgStorageAppend, ask for, in one synced
// write. When it returns, their responses may be delivered.
func (s *Store) Append(ms ...*pb.Message) error {
	for i, m := range ms {
		if !raft.IsEmptySnap(m.GetSnapshot()) {
			if err := s.appendBatch(ms[:i]); err != nil {
				return err
			}
			if err := s.install(m); err != nil {
				return err
			}
			return s.Append(ms[i+1:]...)
		}
	}
	return s.appendBatch(ms)
}

func (s *Store) appendBatch(ms []*pb.Message) error {
	size := 256
	for _, m := range ms {
		for _, e := range m.GetEntries() {
			size += len(e.GetData()) + 64
		}
	}
	b := s.journal.NewBatchWithSize(size)
	defer b.Close()
	sync := false
	var hard *pb.HardState
	last, _ := s.LastIndex()
	for _, m := range ms {
		if m.Term != nil {
			hard = &pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		}
		sync = sync || len(m.GetResponses()) > 0
		ents := m.GetEntries()
		if len(ents) == 0 {
			continue
		}
		for _, e := range ents {
			putEntry(b, e)
		}
		next := ents[len(ents)-1].GetIndex()
		if last > next { // another leader's entries, never committed, end here
			if err := b.DeleteRange(logKey(next+1), logKey(last+1), nil); err != nil {
				return err
			}
		}
		last = next
	}
	if hard != nil {
		hs, err := proto.Marshal(hard)
		if err != nil {
			return err
		}
		if err := b.Set(keyHard, hs, nil); err != nil {
			return err
		}
	}
	if b.Empty() { // pebble would not sync for an empty batch what was written before
		if !sync || !s.unsynced {
			return nil
		}
		if err := b.LogData(nil, nil); err != nil {
			return err
		}
	}
	if err := s.guard(func() error { return b.Commit(&pebble.WriteOptions{Sync: sync && defect.On != defect.NoSync}) }); err != nil {
		return err
	}
	s.unsynced = !sync
	if hard != nil {
		s.mu.Lock()
		s.hard = hard
		s.mu.Unlock()
	}
	for _, m := range ms {
		s.log.append(m.GetEntries())
	}
	if !sync {
		return nil // what is not on disk must not be claimed
	}
	return s.bearWitness()
}

// append puts entries at their place; what followed it is gone.
func (l *logTail) append(ents []*pb.Entry) {
	if len(ents) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := ents[0].GetIndex() - l.truncated.index - 1
	for _, e := range l.entries[at:] {
		l.bytes -= entrySize(e)
	}
	clear(l.entries[at:])
	l.entries = append(l.entries[:at], ents...)
	for _, e := range ents {
		l.bytes += entrySize(e)
	}
}

// size returns the bytes of all entries.
func (l *logTail) size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// oldest returns the last entry of those that can go, given up to where the state is
// flushed and how many bytes are retained.
func (l *logTail) oldest(flushed, retain uint64) entryID {
	l.mu.Lock()
	defer l.mu.Unlock()
	to, left := l.truncated, l.bytes
	for _, e := range l.entries {
		if left <= retain || e.GetIndex() > flushed {
			break
		}
		left -= entrySize(e)
		to = entryID{e.GetIndex(), e.GetTerm()}
	}
	return to
}

// cut drops the entries up to and with to from memory.
func (l *logTail) cut(to entryID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := to.index - l.truncated.index
	for _, e := range l.entries[:n] {
		l.bytes -= entrySize(e)
	}
	l.entries = slices.Clone(l.entries[n:])
	l.truncated = to
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const recordHead = 4 + 8 + 1 // crc32c, term, type

func logKey(index uint64) []byte { return binary.BigEndian.AppendUint64([]byte{prefixLog}, index) }

func putEntry(b *pebble.Batch, e *pb.Entry) {
	data := e.GetData()
	d := b.SetDeferred(9, recordHead+len(data))
	d.Key[0] = prefixLog
	binary.BigEndian.PutUint64(d.Key[1:], e.GetIndex())
	binary.BigEndian.PutUint64(d.Value[4:], e.GetTerm())
	d.Value[12] = byte(e.GetType())
	copy(d.Value[recordHead:], data)
	binary.BigEndian.PutUint32(d.Value, recordSum(d.Key, d.Value))
	finish(d)
}

func recordSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value[4:])
}

// loadLog reads the log into memory. A record that is not what was written, and a
// gap, stop the node: what it acknowledged must not silently be less.
func (s *Store) loadLog() error {
	truncated, err := s.pair(s.journal, keyTruncated)
	if err != nil {
		return err
	}
	if s.applied.index < truncated.index {
		return s.bad(keyApplied, fmt.Sprintf("a state at entry %d or later, where the log begins", truncated.index), fmt.Sprintf("one at %d", s.applied.index))
	}
	tail := logTail{truncated: truncated}
	it, err := s.journal.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixLog}, UpperBound: []byte{prefixLog + 1}})
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		k, v := it.Key(), it.Value()
		want := logKey(tail.last() + 1)
		if string(k) != string(want) {
			return s.bad(want, fmt.Sprintf("the record of entry %d", tail.last()+1), fmt.Sprintf("key %q next", k))
		}
		if len(v) < recordHead || recordSum(k, v) != binary.BigEndian.Uint32(v) {
			return s.bad(k, "a record with its checksum", fmt.Sprintf("%d bytes with another", len(v)))
		}
		typ := pb.EntryType(v[12])
		term, index := binary.BigEndian.Uint64(v[4:]), tail.last()+1
		e := &pb.Entry{Index: &index, Term: &term, Type: &typ}
		if len(v) > recordHead {
			e.Data = append([]byte(nil), v[recordHead:]...)
		}
		tail.entries = append(tail.entries, e)
		tail.bytes += entrySize(e)
	}
	if err := it.Error(); err != nil {
		return s.corrupt(string(prefixLog), err)
	}
	last := tail.last()
	if last < s.applied.index || last < s.hard.GetCommit() {
		return s.bad(logKey(last+1), fmt.Sprintf("entries up to %d, which was applied, and %d, which was committed", s.applied.index, s.hard.GetCommit()), fmt.Sprintf("up to %d", last))
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.truncated, s.log.entries, s.log.bytes = tail.truncated, tail.entries, tail.bytes
	return nil
}

package replica

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/keystead/keystead/replica/internal/segment"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// raftLog is the log as raft reads it: the newest entries from memory, and older ones,
// down to the floor, from the segments.
type raftLog struct {
	mu        sync.Mutex
	truncated entryID // the floor: the entry before the first that can be read
	wanted    uint64  // where the floor is to be; see KeepFrom
	tail      logTail
	index     logIndex
}

// last returns the index of the last entry.
func (l *raftLog) last() uint64 { return max(l.truncated.index, l.index.last()) }

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
	if term, err := s.log.term(i); !errors.Is(err, errOnDisk) {
		return term, err
	}
	ents, err := s.readEntries(i, i+1, 0)
	if err != nil {
		return 0, err
	}
	return ents[0].GetTerm(), nil
}

// Entries returns entries from lo on and below hi, up to size bytes but at least one. Of
// those that it must read from disk it returns what one read gives, so as not to hold up
// raft: often about 128 KiB.
func (s *Store) Entries(lo, hi, size uint64) ([]*pb.Entry, error) {
	if ents, err := s.log.entries(lo, hi, size); !errors.Is(err, errOnDisk) {
		return ents, err
	}
	return s.readEntries(lo, hi, size)
}

// errOnDisk says that what was asked for must be read from a segment.
var errOnDisk = errors.New("not in memory")

func (l *raftLog) term(i uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i < l.truncated.index {
		return 0, raft.ErrCompacted
	}
	if i > l.last() {
		return 0, raft.ErrUnavailable
	}
	if term, ok := l.known(i); ok {
		return term, nil
	}
	return 0, errOnDisk
}

// known returns the term of an entry that the log has or begins after, unless only the
// disk knows.
func (l *raftLog) known(i uint64) (uint64, bool) {
	if i == l.truncated.index {
		return l.truncated.term, true
	}
	if i > l.tail.before {
		return l.tail.entries[i-l.tail.before-1].GetTerm(), true
	}
	return l.index.find(i).known(i)
}

func (l *raftLog) entries(lo, hi, size uint64) ([]*pb.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lo <= l.truncated.index {
		return nil, raft.ErrCompacted
	}
	if hi > l.last()+1 {
		return nil, raft.ErrUnavailable
	}
	if lo <= l.tail.before {
		return nil, errOnDisk
	}
	return slices.Clone(limit(l.tail.entries[lo-l.tail.before-1:hi-l.tail.before-1], size)), nil
}

// limit returns the first entries up to size bytes, at least one.
func limit(ents []*pb.Entry, size uint64) []*pb.Entry {
	var sum uint64
	for i, e := range ents {
		if sum += entrySize(e); sum > size && i > 0 {
			return ents[:i]
		}
	}
	return ents
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
	if lost := s.broken.Load(); lost != nil {
		return *lost
	}
	sync := false
	var hard *pb.HardState
	var ents []*pb.Entry
	for _, m := range ms {
		if m.Term != nil {
			hard = &pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		}
		sync = sync || len(m.GetResponses()) > 0
		ents = append(ents, m.GetEntries()...)
	}
	for len(ents) > 0 {
		n := len(limit(ents, maxBody))
		if last := n == len(ents); last {
			break
		}
		if err := s.appendBody(ents[:n], nil, false); err != nil {
			return err
		}
		ents = ents[n:]
	}
	if err := s.appendBody(ents, hard, sync); err != nil || hard == nil {
		return err
	}
	s.mu.Lock()
	s.hard = hard
	s.mu.Unlock()
	return nil
}

// maxBody is how many bytes of entries are written as one body, and so read and checked
// as one: more only if an entry alone is more.
const maxBody = 1 << 20

// appendBody writes entries and then a hard state, which may count on them, if there is
// one.
func (s *Store) appendBody(ents []*pb.Entry, hard *pb.HardState, sync bool) error {
	var note segment.Note
	var r run
	for _, e := range ents {
		note.Index = max(note.Index, e.GetIndex())
		if err := r.add(entryID{e.GetIndex(), e.GetTerm()}); err != nil {
			return err
		}
	}
	var fill func([]byte) []byte
	if hard != nil || len(ents) > 0 {
		fill = func(b []byte) []byte {
			for _, e := range ents {
				b = appendEntry(b, e)
			}
			if hard != nil {
				b = appendHard(b, hard)
			}
			return b
		}
	}
	if err := s.write(note, sync, fill); err != nil || len(ents) == 0 {
		return err
	}
	return s.log.append(s.segments.Place(), r, ents)
}

// write appends to the log. After an error the store is not to be used any more.
func (s *Store) write(note segment.Note, sync bool, fill func([]byte) []byte) error {
	err := s.segments.Append(note, sync, fill)
	if err != nil {
		err = fmt.Errorf("a write failed, and what it left is unknown until the next start: %w", err)
		s.broken.CompareAndSwap(nil, &err)
	}
	return err
}

// append takes note of entries that were written to a place; what followed them is gone.
func (l *raftLog) append(at segment.Place, r run, ents []*pb.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.index.add(at, r); err != nil {
		return err
	}
	for _, e := range ents {
		l.tail.put(e)
	}
	return nil
}

// reset empties the log, which begins after first.
func (l *raftLog) reset(first entryID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.truncated, l.wanted = first, 0
	l.tail, l.index = logTail{before: first.index}, logIndex{voids: l.index.voids + 1}
}

// size returns the bytes of the entries in memory.
func (l *raftLog) size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail.bytes
}

// logTail is the newest entries, in memory.
type logTail struct {
	before  uint64      // index of the entry before the first
	entries []*pb.Entry // entries[i] has index before+1+i
	bytes   uint64
}

// put puts an entry at its place, at most one behind the last; what followed it is gone.
func (l *logTail) put(e *pb.Entry) {
	i := e.GetIndex()
	if i <= l.before {
		*l = logTail{before: i - 1}
	}
	at := i - l.before - 1
	for _, old := range l.entries[at:] {
		l.bytes -= entrySize(old)
	}
	clear(l.entries[at:])
	l.entries = append(l.entries[:at], e)
	l.bytes += entrySize(e)
}

// oldest returns the last entry of those that can go, given up to where the state is
// flushed and how many bytes are retained.
func (l *logTail) oldest(flushed, retain uint64) (to entryID, ok bool) {
	left := l.bytes
	for _, e := range l.entries {
		if left <= retain || e.GetIndex() > flushed {
			break
		}
		left -= entrySize(e)
		to, ok = entryID{e.GetIndex(), e.GetTerm()}, true
	}
	return to, ok
}

// cut drops the entries up to and with to.
func (l *logTail) cut(to uint64) {
	n := to - l.before
	for _, e := range l.entries[:n] {
		l.bytes -= entrySize(e)
	}
	l.entries = slices.Clone(l.entries[n:])
	l.before = to
}

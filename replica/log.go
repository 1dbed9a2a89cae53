package replica

import (
	"fmt"
	"slices"
	"sync"

	"github.com/keystead/keystead/replica/internal/segment"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
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
	if lost := s.broken.Load(); lost != nil {
		return *lost
	}
	sync := false
	var hard *pb.HardState
	var note segment.Note
	for _, m := range ms {
		if m.Term != nil {
			hard = &pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		}
		sync = sync || len(m.GetResponses()) > 0
		for _, e := range m.GetEntries() {
			note.Index = max(note.Index, e.GetIndex())
		}
	}
	var fill func([]byte) []byte
	if hard != nil || note.Index > 0 {
		fill = func(b []byte) []byte {
			for _, m := range ms {
				for _, e := range m.GetEntries() {
					b = appendEntry(b, e)
				}
			}
			if hard != nil {
				b = appendHard(b, hard)
			}
			return b
		}
	}
	if err := s.write(note, sync, fill); err != nil {
		return err
	}
	if hard != nil {
		s.mu.Lock()
		s.hard = hard
		s.mu.Unlock()
	}
	for _, m := range ms {
		s.log.append(m.GetEntries())
	}
	return nil
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

// reset empties the log, which begins after first.
func (l *logTail) reset(first entryID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.truncated, l.entries, l.bytes = first, nil, 0
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

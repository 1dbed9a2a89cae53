package replica

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/defect"
	"github.com/keystead/keystead/replica/internal/segment"
	pb "go.etcd.io/raft/v3/raftpb"
)

const logDir = "log"

var stateName = regexp.MustCompile(`^(state-[0-9]{6,18})?$`)

// openLog reads the segments into memory: the entries, the hard state and the node's
// own record. What is not what was written, and a gap, stop the node: what it
// acknowledged must not silently be less.
func (s *Store) openLog() error {
	if err := s.refuseOlder(); err != nil {
		return err
	}
	if err := makeDir(s.opts.FS, s.path(logDir)); err != nil {
		return err
	}
	l := &logTail{}
	s.hard = &pb.HardState{}
	read := func(body []byte) (note segment.Note, err error) {
		err = (&records{b: body}).each(func(e *pb.Entry) error {
			note.Index = max(note.Index, e.GetIndex())
			return l.replay(e)
		}, func(h *pb.HardState) {
			s.hard = h
		}, func(n nodeRecord) {
			s.node = n
			if s.node.reset {
				s.node.reset = false
				note = segment.Note{Void: true}
				l.truncated, l.entries = entryID{}, nil
			}
		})
		return note, err
	}
	var err error
	s.segments, err = segment.Open(segment.Options{FS: s.opts.FS, Dir: s.path(logDir), Bytes: max(s.opts.RetainBytes/4, 1), Head: s.logHead,
		NoSync: func() bool { return defect.On == defect.NoSync }}, read)
	var format *keystead.FormatError
	if errors.As(err, &format) {
		return s.bad(logDir, "what was written to the log", err.Error())
	}
	if err != nil {
		return err
	}
	return s.trim(l)
}

// replay puts an entry, as it was read, at its place. The first may have any index: what
// is before it was cut.
func (l *logTail) replay(e *pb.Entry) error {
	i := e.GetIndex()
	if i == 0 {
		return &keystead.FormatError{Format: "log-record", Field: "index", Problem: "is 0"}
	}
	if len(l.entries) == 0 || i <= l.truncated.index {
		clear(l.entries)
		l.truncated, l.entries = entryID{index: i - 1}, l.entries[:0]
	}
	if i > l.last()+1 {
		return &keystead.FormatError{Format: "log-record", Field: "index", Problem: fmt.Sprintf("is %d after %d", i, l.last())}
	}
	kept := &pb.Entry{Index: e.Index, Term: e.Term, Type: e.Type}
	if len(e.GetData()) > 0 {
		kept.Data = slices.Clone(e.GetData())
	}
	l.entries = append(l.entries[:i-l.truncated.index-1], kept)
	return nil
}

// trim makes what was read the log in use, from where the node's record says it begins.
func (s *Store) trim(l *logTail) error {
	first := s.node.first
	if cut := min(max(first.index, l.truncated.index)-l.truncated.index, uint64(len(l.entries))); cut > 0 {
		l.entries = slices.Clone(l.entries[cut:])
		l.truncated.index += cut
	}
	if len(l.entries) == 0 {
		l.truncated.index = first.index
	}
	if l.truncated.index != first.index {
		return s.bad(logDir, fmt.Sprintf("the record of entry %d", first.index+1), fmt.Sprintf("that of %d first", l.truncated.index+1))
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.truncated, s.log.entries, s.log.bytes = first, l.entries, 0
	for _, e := range l.entries {
		s.log.bytes += entrySize(e)
	}
	return nil
}

// logHead is what the head of a segment says, and the last entry not needed.
func (s *Store) logHead() ([]byte, uint64) {
	n := s.node
	s.log.mu.Lock()
	n.first = s.log.truncated
	s.log.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return appendHard(n.append(nil), s.hard), n.first.index
}

// refuseOlder refuses a store whose log is in pebble: of format 1 or 2.
func (s *Store) refuseOlder() error {
	names, err := s.opts.FS.List(s.opts.Dir)
	if err != nil || !slices.Contains(names, "witness") && !slices.Contains(names, "journal") {
		return err
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStoreCorrupt, Where: s.opts.Dir,
		Want: "a log in segments, format 3; restart the nodes one after the other: move each one's directory away and start it with this build, it rejoins as a learner; it is promoted before the next",
		Got:  "a log in pebble, of format 2 or older, left as it is"})
}

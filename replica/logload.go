package replica

import (
	"fmt"
	"math"
	"regexp"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/defect"
	"github.com/keystead/keystead/replica/internal/segment"
	pb "go.etcd.io/raft/v3/raftpb"
)

const logDir = "log"

var stateName = regexp.MustCompile(`^(state-[0-9]{6,18})?$`)

// openLog reads the segments: the hard state, the node's own record, where each entry is,
// and the newest of them into memory. What is not what was written, and a gap, stop the
// node: what it acknowledged must not silently be less.
func (s *Store) openLog() error {
	if err := s.refuseOlder(); err != nil {
		return err
	}
	if err := makeDir(s.opts.FS, s.path(logDir)); err != nil {
		return err
	}
	s.hard = &pb.HardState{}
	s.flushes.begin(entryID{})
	var err error
	s.segments, err = segment.Open(segment.Options{FS: s.opts.FS, Dir: s.path(logDir), Bytes: max(s.opts.RetainBytes/4, 1), MaxBytes: s.opts.MaxLogBytes,
		Head: s.logHead, NoSync: func() bool { return defect.On == defect.NoSync }}, s.scan)
	if err != nil {
		return s.unreadable(err)
	}
	return s.loadTail()
}

// scan takes in a body of the log.
func (s *Store) scan(at segment.Place, body []byte) (note segment.Note, err error) {
	var r run
	err = (&records{b: body}).each(func(e entryRecord) error {
		note.Index = max(note.Index, e.index)
		return r.add(e.entryID)
	}, func(h *pb.HardState) {
		s.hard = h
	}, func(n nodeRecord) {
		s.node = n
		if s.node.reset {
			s.node.reset = false
			note, r, s.log.index = segment.Note{Void: true}, run{}, logIndex{}
		}
	})
	if err == nil && r.first.index > 0 {
		err = s.log.index.add(at, r)
	}
	return note, err
}

// loadTail makes what was scanned the log in use, from where the node's record says it
// begins, and reads the newest entries.
func (s *Store) loadTail() error {
	l, first := &s.log, s.node.first
	l.mu.Lock()
	l.index.drop(first.index)
	l.truncated, l.tail.before = first, first.index
	if n := len(l.index.spans); n > 0 {
		if begins := l.index.spans[0].first.index; begins > first.index+1 {
			l.mu.Unlock()
			return s.bad(logDir, fmt.Sprintf("the record of entry %d", first.index+1), fmt.Sprintf("that of %d first", begins))
		}
		if !s.opts.CutWithMemory {
			l.tail.before = max(first.index, l.index.newest(s.opts.RetainBytes)-1)
		}
	}
	from, to := l.tail.before+1, l.last()+1
	l.mu.Unlock()
	for from < to {
		ents, err := s.readEntries(from, to, math.MaxUint64)
		if err != nil {
			return err
		}
		l.mu.Lock()
		for _, e := range ents {
			l.tail.put(e)
		}
		l.mu.Unlock()
		from += uint64(len(ents))
	}
	return nil
}

// newest returns the first entry of the newest spans that have so many bytes.
func (x *logIndex) newest(bytes uint64) uint64 {
	n := len(x.spans) - 1
	for sum := uint64(0); n > 0; n-- {
		if sum += x.spans[n].at.To - x.spans[n].at.From; sum >= bytes {
			break
		}
	}
	return x.spans[n].first.index
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

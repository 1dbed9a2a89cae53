package replica

import (
	"errors"
	"slices"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/segment"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// logCache is what was last read of the segments: a member that lags is sent entries in
// order, and a message's begin where those of the last ended.
type logCache struct {
	mu     sync.Mutex
	blocks [2]logBlock // the one last used first
}

// A logBlock is the entries of a place, as they stood when it was written.
type logBlock struct {
	at   segment.Place
	tail logTail
}

// readEntries is Entries for what is not in memory: of one span.
func (s *Store) readEntries(lo, hi, size uint64) ([]*pb.Entry, error) {
	for {
		at, voids, err := s.log.span(lo)
		if err != nil {
			return nil, err
		}
		block, failed := s.cache.read(s.segments, at.at)
		_, now, err := s.log.span(lo)
		if err != nil {
			return nil, err // the file may be another's by now
		}
		if now != voids {
			continue
		}
		if failed == nil && (lo <= block.before || at.last.index > block.before+uint64(len(block.entries))) {
			failed = gap(lo, block.before)
		}
		if failed != nil {
			return nil, s.unreadable(failed)
		}
		ents := block.entries[lo-block.before-1 : min(hi-1, at.last.index)-block.before]
		return slices.Clone(limit(ents, size)), nil
	}
}

// unreadable says what was found where entries should be.
func (s *Store) unreadable(err error) error {
	if format := (*keystead.FormatError)(nil); errors.As(err, &format) {
		return s.bad(logDir, "what was written to the log", err.Error())
	}
	return err
}

// span returns the span of an entry that may be read, and how often entries were
// overwritten so far.
func (l *raftLog) span(i uint64) (at span, voids uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i <= l.truncated.index {
		return span{}, 0, raft.ErrCompacted
	}
	if i > l.last() {
		return span{}, 0, raft.ErrUnavailable
	}
	return *l.index.find(i), l.index.voids, nil
}

// read returns the entries of a place, with those that were overwritten elsewhere.
func (c *logCache) read(from *segment.Log, at segment.Place) (logTail, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := slices.IndexFunc(c.blocks[:], func(b logBlock) bool { return b.at == at }); n >= 0 {
		c.blocks[0], c.blocks[n] = c.blocks[n], c.blocks[0]
		return c.blocks[0].tail, nil
	}
	b := logBlock{at: at}
	err := from.Read(at, func(_ segment.Place, body []byte) error {
		return (&records{b: body}).each(b.put, func(*pb.HardState) {}, func(nodeRecord) {})
	})
	if err != nil {
		return logTail{}, err
	}
	c.blocks[0], c.blocks[1] = b, c.blocks[0]
	return b.tail, nil
}

// put takes an entry in; the first may have any index.
func (b *logBlock) put(r entryRecord) error {
	last := b.tail.before + uint64(len(b.tail.entries))
	if len(b.tail.entries) == 0 {
		b.tail.before = r.index - 1
	} else if r.index > last+1 {
		return gap(r.index, last)
	}
	b.tail.put(r.entry())
	return nil
}

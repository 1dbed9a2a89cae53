package replica

import (
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// flushes keeps track of how much of the state is on disk. The state has no
// write-ahead log: a crash takes it back to its last flush, and the raft log, which
// is therefore not cut beyond that, brings it forward again.
type flushes struct {
	durable atomic.Pointer[entryID] // flushed up to here

	pending bool            // a flush is under way, of
	target  entryID         // the state up to here,
	done    <-chan struct{} // closed at its end
	applied uint64          // bytes of entries applied since the last flush began
	failed  chan error      // the engine's word that it could not write
}

// begin starts over from a state as it was opened.
func (f *flushes) begin(at entryID) {
	f.durable.Store(&at)
	f.pending, f.applied = false, 0
}

// end takes note that the pending flush is done.
func (f *flushes) end() {
	f.durable.Store(&entryID{f.target.index, f.target.term})
	f.pending = false
}

// fail is told by the engine. It tries again for ever, so who waits must give up.
func (f *flushes) fail(err error) {
	select {
	case f.failed <- err:
	default:
	}
}

// flush writes all of the state to disk.
func (s *Store) flush(db *pebble.DB) error {
	done, err := s.startFlush(db)
	if err != nil {
		return err
	}
	return s.await(done)
}

func (s *Store) startFlush(db *pebble.DB) (done <-chan struct{}, err error) {
	select {
	case <-s.flushes.failed: // of earlier
	default:
	}
	if lost := s.broken.Load(); lost != nil {
		return nil, *lost
	}
	err = s.guard(func() error { done, err = db.AsyncFlush(); return err })
	return done, err
}

// await waits for the end of a flush. If the engine could not write, the store is not
// to be used any more.
func (s *Store) await(done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case err := <-s.flushes.failed:
		s.lose(err)
		return err
	}
}

// Settle waits until no flush is under way. What a crash would leave is certain then,
// as a simulation wants it.
func (s *Store) Settle() {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if s.flushes.pending && s.await(s.flushes.done) == nil {
		s.flushes.end()
	}
}

// shorten takes note that size bytes of entries were applied, and cuts the log in memory
// once it holds twice what is retained. For that the state must be on disk: a flush is
// begun each time that as much was applied as is retained, long before its end is
// waited for here. All of it depends on sizes only, and not on how fast disks are.
func (s *Store) shorten(size uint64) error {
	f, retain := &s.flushes, s.opts.RetainBytes
	if f.applied += size; f.applied >= retain && !f.pending {
		done, err := s.startFlush(s.db)
		if err != nil {
			return err
		}
		f.pending, f.target, f.done, f.applied = true, s.applied, done, 0
	}
	if s.log.size() < 2*retain {
		return nil
	}
	if f.pending {
		if err := s.await(f.done); err != nil {
			return err
		}
		f.end()
	}
	_, portable := s.opts.Machine.(Portable)
	floor := s.opts.CutWithMemory || portable && !s.positions.Load() // else nobody calls KeepFrom
	s.log.cut(f.durable.Load().index, retain, floor)
	return nil
}

// cut drops the oldest entries from memory, and with floor from the disk as well.
func (l *raftLog) cut(flushed, retain uint64, floor bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to, ok := l.tail.oldest(flushed, retain)
	if !ok {
		return
	}
	l.tail.cut(to.index)
	if floor {
		l.lift(to)
	}
}

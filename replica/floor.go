package replica

// KeepFrom lets go of the log up to and with the index: entries above it stay readable.
// Their files are used for later ones, or removed, as segments begin. What the state on
// disk does not cover yet is kept until it does. The floor never goes down.
func (s *Store) KeepFrom(index uint64) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.wanted = max(s.log.wanted, index)
	s.log.raise(s.flushes.durable.Load().index)
}

// logHead is what the head of a segment says, and the last entry not needed. Over is up
// to where entries would have to go for the log to be within MaxLogBytes.
func (s *Store) logHead(over uint64) ([]byte, uint64) {
	n := s.node
	durable := *s.flushes.durable.Load()
	s.log.mu.Lock()
	s.log.raise(durable.index)
	before := s.log.truncated.index
	s.log.shed(over, durable)
	n.first = s.log.truncated
	s.log.mu.Unlock()
	if n.first.index > before && s.opts.LogCut != nil {
		s.opts.LogCut(before+1, n.first.index)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return appendHard(n.append(nil), s.hard), n.first.index
}

// raise moves the floor to where it is wanted, but not above what is flushed, nor to an
// entry whose term only the disk knows: then to one before it, in the same span.
func (l *raftLog) raise(flushed uint64) {
	to := min(l.wanted, flushed, l.last())
	if to <= l.truncated.index {
		return
	}
	term, ok := l.known(to)
	if !ok {
		first := l.index.find(to).first
		to, term = first.index, first.term
	}
	l.lift(entryID{to, term})
}

// shed moves the floor to the index or, if only the disk knows that entry's term, to the
// next that is known, but not above what is flushed.
func (l *raftLog) shed(to uint64, flushed entryID) {
	if to <= l.truncated.index {
		return
	}
	for ; to < flushed.index; to++ {
		if term, ok := l.known(to); ok {
			l.lift(entryID{to, term})
			return
		}
	}
	l.lift(flushed)
}

// lift moves the floor up to an entry that the log has.
func (l *raftLog) lift(to entryID) {
	if to.index > l.truncated.index {
		l.truncated = to
		l.index.drop(to.index)
	}
}

package replica

import (
	"fmt"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
)

func (s *Store) openDB(dir string) (*pebble.DB, error) {
	var db *pebble.DB
	err := s.guard(func() (err error) {
		db, err = pebble.Open(s.path(dir), s.pebbleOptions())
		return err
	})
	return db, s.corrupt(dir, err)
}

// pebbleOptions are for a log that is written once and soon deleted, and a state
// that is written in batches: few flushes, and corruption told from a torn tail.
func (s *Store) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          s.opts.FS,
		FormatMajorVersion:          pebble.FormatWALSyncChunks,
		MemTableSize:                s.opts.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		Cache:                       s.opts.Cache,
		Logger:                      engineLogger{s.opts.Logf},
		// Reads that meet corruption return it; pebble's default would end the process.
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}},
	}
	return o
}

// engineLogger hands on what pebble reports, and turns its fatal errors, after
// which it must not be used, into a panic that the store recovers.
type engineLogger struct{ logf func(string) }

func (l engineLogger) Infof(string, ...any) {}
func (l engineLogger) Errorf(format string, args ...any) {
	if l.logf != nil {
		l.logf(fmt.Sprintf(format, args...))
	}
}
func (l engineLogger) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			panic(fmt.Errorf("%w (%s)", err, format))
		}
	}
	panic(fmt.Errorf(format, args...))
}

// guard runs a write and returns a fatal error of the engine as an error. The
// engine is not touched again: its locks may be held for ever, and what the disk
// holds is unknown until the store is opened anew.
func (s *Store) guard(write func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(error)
			if _, bug := p.(runtime.Error); !ok || bug {
				panic(p)
			}
			s.broken.Store(true)
			err = fmt.Errorf("%s: a write failed, and what it left is unknown until the next start: %w", s.opts.Dir, e)
		}
	}()
	return write()
}

package replica

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// openDB opens a database of the engine. What one of the engine's goroutines meets meanwhile
// ends that goroutine (engineLogger), and Open would wait for it for ever: a full disk, say.
// It is left behind then, and the store is given up.
func (s *Store) openDB(dir string, opts *pebble.Options) (*pebble.DB, error) {
	select {
	case <-s.flushes.failed: // of earlier
	default:
	}
	var db *pebble.DB
	opened := make(chan error, 1)
	go func() {
		opened <- s.guard(func() (err error) {
			db, err = pebble.Open(s.path(dir), opts)
			return err
		})
	}()
	select {
	case err := <-opened:
		return db, s.corrupt(dir, err)
	case err := <-s.flushes.failed:
		s.lose(err)
		return nil, fmt.Errorf("%s: %w", s.path(dir), err)
	}
}

// stateOptions are for a state that is written in batches and flushed now and then;
// what was not is in the raft log.
func (s *Store) stateOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          s.gate(s.opts.FS),
		FormatMajorVersion:          pebble.FormatValueSeparation,
		DisableWAL:                  true,
		MemTableSize:                s.opts.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       24,
		Cache:                       s.opts.Cache,
		Logger:                      engineLogger{s.opts.Logf, s.lose},
		EventListener: &pebble.EventListener{
			// Reads that meet corruption return it; pebble's default would end the process.
			DataCorruption:  func(pebble.DataCorruptionInfo) {},
			BackgroundError: s.flushes.fail,
		},
	}
	// Large values are mostly written once and in the order of their keys, beside small
	// records in any order, with which compactions would copy them again and again. So
	// they go to files of their own.
	o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{Enabled: true, MinimumSize: 256, MaxBlobReferenceDepth: 10, RewriteMinimumAge: 5 * time.Minute, TargetGarbageRatio: 0.3}
	}
	forReads(o)
	return o
}

// engineLogger hands on what pebble reports. After a fatal error pebble must not be
// used: one that a call met is a panic that the store recovers, one that its own
// goroutine met ends that goroutine.
type engineLogger struct {
	logf func(string)
	lost func(error) // told of errors that no call meets
}

func (l engineLogger) Infof(string, ...any) {}
func (l engineLogger) Errorf(format string, args ...any) {
	if l.logf != nil {
		l.logf(fmt.Sprintf(format, args...))
	}
}
func (l engineLogger) Fatalf(format string, args ...any) {
	fatal := fmt.Errorf(format, args...)
	for _, a := range args {
		if err, ok := a.(error); ok {
			fatal = fmt.Errorf("%w (%s)", err, format)
		}
	}
	if guarded() {
		panic(fatal)
	}
	l.lost(fatal)
	runtime.Goexit()
}

// guarded reports whether guard will recover a panic of this goroutine.
func guarded() bool {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "(*Store).guard") {
			return true
		}
		if !more {
			return false
		}
	}
}

// lose gives up the store, for an error that one of the engine's goroutines met.
func (s *Store) lose(err error) {
	s.broken.CompareAndSwap(nil, &err)
	s.flushes.fail(err)
}

// gate keeps the engine from writing any more once the store is broken: what its
// other goroutines still do must not make worse what is on the disk.
func (s *Store) gate(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if err := s.broken.Load(); err != nil && op.Kind != errorfs.OpFileClose && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return *err
		}
		return nil
	}))
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
			err = fmt.Errorf("%s: a write failed, and what it left is unknown until the next start: %w", s.opts.Dir, e)
			s.broken.CompareAndSwap(nil, &err)
		}
	}()
	return write()
}

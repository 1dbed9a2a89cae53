package replica

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/keystead/keystead"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// TestLogCrashes clones the disk as a crash before each write to the log would leave it,
// with none, some or all of what was not synced, through floors that move, cuts for size
// and suffixes that are overwritten: the store opens, its log covers what the state on disk
// does not, has all that was acknowledged, and nothing that was overwritten.
func TestLogCrashes(t *testing.T) {
	for name, most := range map[string]uint64{"kept": 0, "cut": 5 << 10} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var m *logModel
			crashes := 0
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if m == nil || op.Kind.ReadOrWrite() != errorfs.OpIsWrite || !strings.Contains(op.Path, "data/log") {
					return nil
				}
				for _, percent := range []int{0, 60, 100} {
					crashes++
					disk := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: m.rng})
					if err := m.survives(disk); err != nil {
						t.Fatalf("crash %d, before %v of %s with %d%%: %v", crashes, op.Kind, op.Path, percent, err)
					}
				}
				return nil
			}))
			made, err := newLogModel(StoreOptions{FS: fs, RetainBytes: 1 << 10, MaxLogBytes: most}, 1, 100)
			if err != nil {
				t.Fatal(err)
			}
			m = made
			for range 120 {
				if err := m.step(); err != nil {
					t.Fatal(err)
				}
			}
			first, _ := m.s.FirstIndex()
			if err := m.s.Close(); err != nil || first < 10 || crashes < 300 || (len(m.cuts) > 0) != (most > 0) {
				t.Errorf("%d crashes, a log from %d, %d cuts, %v", crashes, first, len(m.cuts), err)
			}
		})
	}
}

// survives opens the store on what a crash left of its disk.
func (m *logModel) survives(disk vfs.FS) (err error) {
	for _, have := range [][]*pb.Entry{m.entries, m.pending} {
		c := *m
		c.opts.FS, c.opts.Machine, c.opts.LogCut, c.entries = disk, &tally{}, nil, have
		if err := c.open(); err != nil {
			return err
		}
		if first, _ := c.s.FirstIndex(); c.s.Applied()+1 < first {
			return fmt.Errorf("a state at %d, a log from %d", c.s.Applied(), first)
		}
		if err = errors.Join(c.check(true), c.s.Close()); err == nil {
			return nil
		}
	}
	return err
}

// longLog is a store whose log is mostly on disk only, and the model of it.
func longLog(t *testing.T, opts StoreOptions) *logModel {
	t.Helper()
	if opts.RetainBytes == 0 {
		opts.RetainBytes = 1 << 10
	}
	m, err := newLogModel(opts, 7, 100)
	for i := 0; err == nil && i < 200; i++ {
		if err = m.append(); err == nil {
			err = m.apply()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.s.Close() })
	return m
}

// onDisk returns the spans of what is not in memory.
func (m *logModel) onDisk() (spans []span) {
	for _, s := range m.s.log.index.spans {
		if s.last.index <= m.s.log.tail.before {
			spans = append(spans, s)
		}
	}
	return spans
}

// TestLogDamaged: where entries that are read are not what was written, the reader is told
// so, by the reason, and nothing else.
func TestLogDamaged(t *testing.T) {
	mem := vfs.NewMem()
	m := longLog(t, StoreOptions{FS: mem})
	spans := m.onDisk()
	if len(spans) < 10 {
		t.Fatalf("only %d spans", len(spans))
	}
	other := readAll(t, mem, m.s.logPath(spans[len(spans)-1]))
	for _, s := range spans[:8] {
		path := m.s.logPath(s)
		whole := readAll(t, mem, path)
		refused := func(what string) {
			t.Helper()
			m.s.cache = logCache{}
			if _, err := m.s.Entries(s.first.index, s.last.index+1, 1<<20); !errors.Is(err, keystead.ReasonStoreCorrupt) {
				t.Errorf("segment %d, %s: want store-corrupt, got %v", s.at.Number, what, err)
			}
		}
		for at := s.at.From; at < s.at.To; at++ {
			broken := slices.Clone(whole)
			broken[at] ^= 0x10
			writeAll(t, mem, path, broken)
			refused(fmt.Sprintf("byte %d altered", at))
		}
		writeAll(t, mem, path, whole[:s.at.To-1])
		refused("cut short")
		writeAll(t, mem, path, other)
		refused("another's content")
		if err := mem.Remove(path); err != nil {
			t.Fatal(err)
		}
		refused("missing")
		writeAll(t, mem, path, whole)
		if err := m.same(s.first.index, s.last.index+1, 1<<20); err != nil {
			t.Errorf("put back: %v", err)
		}
	}
}

// logPath is the file that a span is in.
func (s *Store) logPath(of span) string {
	return s.opts.FS.PathJoin(s.path(logDir), fmt.Sprintf("%016x.log", of.at.Number))
}

// TestLogReadFails: a disk that cannot be read says so, and what it gave is not kept for
// what it holds.
func TestLogReadFails(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpOpen, errorfs.OpFileReadAt} {
		var fail atomic.Bool
		m := longLog(t, StoreOptions{FS: errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == kind && strings.Contains(op.Path, "data/log/") && fail.Load() {
				return syscall.EIO
			}
			return nil
		}))})
		s := m.onDisk()[0]
		fail.Store(true)
		if _, err := m.s.Entries(s.first.index, s.last.index+1, 1<<20); !errors.Is(err, syscall.EIO) || errors.Is(err, keystead.ReasonStoreCorrupt) {
			t.Errorf("%v: want the disk's error, got %v", kind, err)
		}
		fail.Store(false)
		if err := m.same(s.first.index, s.last.index+1, 1<<20); err != nil {
			t.Error(err)
		}
	}
}

// TestLogWriteFails fails each write to the log in turn, before it has any effect: what was
// acknowledged is read all the same, by this process and the next.
func TestLogWriteFails(t *testing.T) {
	for at := 1; ; at++ {
		mem := vfs.NewMem()
		n, armed := 0, false
		m, err := newLogModel(StoreOptions{RetainBytes: 1 << 10, MaxLogBytes: 5 << 10, FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if armed && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose && strings.Contains(op.Path, "data/log/") {
				if n++; n == at {
					return syscall.ENOSPC
				}
			}
			return nil
		}))}, 3, 100)
		if err != nil {
			t.Fatal(err)
		}
		armed = true
		for step := 0; step < 120 && err == nil; step++ {
			err = m.step()
		}
		if err == nil {
			if at < 100 {
				t.Errorf("only %d writes", at)
			}
			_ = m.s.Close()
			return
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("write %d: want no space, got %v", at, err)
		}
		if err := m.check(true); err != nil {
			t.Fatalf("write %d: %v", at, err)
		}
		if err := m.survives(clone(t, mem)); err != nil {
			t.Fatalf("write %d, and started anew: %v", at, err)
		}
		_ = m.s.Close() // its error is known
	}
}

// logBytes is what the files of the log hold, those to be used again left out.
func (m *logModel) logBytes() (sum uint64) {
	var last uint64
	for i, s := range m.s.log.index.spans {
		if i == 0 || s.at.Number != last {
			sum += s.at.To
		} else {
			sum += s.at.To - s.at.From
		}
		last = s.at.Number
	}
	return sum
}

// TestLogCut: a log that exceeds its bound is cut at its oldest end and the hook is told of
// all that is gone, but nothing goes that the state on disk does not cover, and then
// writes go on.
func TestLogCut(t *testing.T) {
	const most = 6 << 10
	m := longLog(t, StoreOptions{FS: vfs.NewMem(), MaxLogBytes: most})
	gone := uint64(1)
	for _, c := range m.cuts {
		if c[0] != gone+1 || c[1] < c[0] {
			t.Fatalf("cuts are %v", m.cuts)
		}
		gone = c[1]
	}
	if first, _ := m.s.FirstIndex(); first != gone+1 || gone == 1 || m.logBytes() > most || m.logBytes() < most/2 {
		t.Errorf("a log from %d of %d bytes, cut to %d", first, m.logBytes(), gone)
	}
	covered := m.s.flushes.durable.Load().index
	for m.logBytes() < 4*most { // with nothing applied
		ents := m.made(m.last()+1, 3)
		if err := m.s.Append(&pb.Message{Entries: ents, Responses: []*pb.Message{{}}}); err != nil {
			t.Fatal(err)
		}
		m.entries = append(m.entries, ents...)
	}
	if first, _ := m.s.FirstIndex(); first != covered+1 {
		t.Errorf("a log from %d, with a state up to %d on disk", first, covered)
	}
	if err := m.check(true); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 100 && m.logBytes() > most; i++ {
		if err := errors.Join(m.append(), m.apply()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(m.check(true), m.s.Close(), m.open(), m.check(true)); err != nil || m.logBytes() > most {
		t.Errorf("a log of %d bytes, with the state on disk; %v", m.logBytes(), err)
	}
}

// TestKeepFrom: everything is kept until the floor moves, which is not above what the
// state on disk covers, nor down again; then files go as segments begin.
func TestKeepFrom(t *testing.T) {
	mem := vfs.NewMem()
	m := longLog(t, StoreOptions{FS: mem})
	first := func() uint64 { first, _ := m.s.FirstIndex(); return first }
	files := func() int { names, _ := mem.List("data/log"); return len(names) }
	if first() != 2 {
		t.Errorf("a log from %d with no floor", first())
	}
	covered, most := m.s.flushes.durable.Load().index, files()
	m.s.KeepFrom(covered / 2)
	if first() != covered/2+1 {
		t.Errorf("with a floor of %d, a log from %d", covered/2, first())
	}
	m.s.KeepFrom(1)
	if first() != covered/2+1 {
		t.Errorf("the floor went down to %d", first())
	}
	m.s.KeepFrom(1 << 60)
	if first() != covered+1 {
		t.Errorf("with %d covered, a log from %d", covered, first())
	}
	m.floor = m.last() + 1000
	for range 200 {
		if err := errors.Join(m.append(), m.apply(), m.check(false)); err != nil {
			t.Fatal(err)
		}
	}
	if first() <= covered+1 || files() > most/2 {
		t.Errorf("with no floor, a log from %d, and %d files of %d", first(), files(), most)
	}
}

// TestLogAtOnce reads, moves the floor and writes at the same time: what is read of
// committed entries is what was written.
func TestLogAtOnce(t *testing.T) {
	m, err := newLogModel(StoreOptions{FS: vfs.NewMem(), RetainBytes: 1 << 10, MaxLogBytes: 20 << 10}, 9, 100)
	if err != nil {
		t.Fatal(err)
	}
	var committed atomic.Uint64
	var wg sync.WaitGroup
	done := make(chan struct{})
	read := make([][]*pb.Entry, 2)
	for r := range read {
		wg.Go(func() {
			for i := uint64(0); ; i++ {
				select {
				case <-done:
					return
				default:
				}
				until := committed.Load()
				first, _ := m.s.FirstIndex()
				if first >= until {
					continue
				}
				lo := first + i*7919%(until-first)
				ents, err := m.s.Entries(lo, until+1, 1<<10)
				if errors.Is(err, raft.ErrCompacted) {
					continue
				}
				if _, terms := m.s.Term(lo); err != nil || terms != nil && !errors.Is(terms, raft.ErrCompacted) {
					t.Errorf("entry %d: %v, %v", lo, err, terms)
					return
				}
				read[r] = append(read[r], ents...)
				if i%16 == 0 {
					m.s.KeepFrom(first + (lo-first)/4)
				}
			}
		})
	}
	for i := 0; i < 1500 && err == nil; i++ {
		if err = m.append(); err == nil {
			err = m.apply()
		}
		committed.Store(m.committed)
	}
	close(done)
	wg.Wait()
	if err := errors.Join(err, m.s.Close()); err != nil {
		t.Fatal(err)
	}
	for r := range read {
		for _, e := range read[r] {
			if want := m.entries[e.GetIndex()-2]; e.GetTerm() != want.GetTerm() || !bytes.Equal(e.GetData(), want.GetData()) {
				t.Fatalf("entry %d of term %d was read as one of term %d", e.GetIndex(), want.GetTerm(), e.GetTerm())
			}
		}
		if len(read[r]) < 1000 {
			t.Errorf("only %d entries were read", len(read[r]))
		}
	}
}

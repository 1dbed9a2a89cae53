package replica

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// small is a store that keeps little log.
func small(t *testing.T, fs vfs.FS) *Store {
	t.Helper()
	s, err := OpenStore(StoreOptions{FS: fs, Dir: "data", Machine: &tally{}, MemTableBytes: 1 << 20, RetainBytes: 1 << 10, CutWithMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	if s.ID() == 0 {
		if err := s.Bootstrap(1, []Member{{Key: keystead.Sum([]byte("a"))}}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// grow appends and applies one entry.
func grow(s *Store, index uint64) error {
	e := entry(index, index, fmt.Sprintf("command-%d", index))
	if err := s.Append(&pb.Message{Entries: []*pb.Entry{e}, Responses: []*pb.Message{{}}}); err != nil {
		return err
	}
	_, err := s.Apply(&pb.Message{Entries: []*pb.Entry{e}})
	return err
}

// TestCutLogLeavesState: whenever a crash comes, the log begins no later than where
// the state on disk ends, and applying the log again brings everything back.
func TestCutLogLeavesState(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := small(t, fs)
	defer s.Close()
	const last = 400
	cut := false
	for i := uint64(2); i <= last; i++ {
		if err := grow(s, i); err != nil {
			t.Fatal(err)
		}
		if i%7 != 0 {
			continue
		}
		c := small(t, fs.CrashClone(vfs.CrashCloneCfg{}))
		first, _ := c.FirstIndex()
		cut = cut || first > 2
		if c.Applied()+1 < first {
			t.Fatalf("after entry %d: a state at %d, a log from %d", i, c.Applied(), first)
		}
		ents, err := c.Entries(max(first, c.Applied()+1), i+1, 1<<30)
		if err == nil && len(ents) > 0 {
			_, err = c.Apply(&pb.Message{Entries: ents})
		}
		n := 0
		err = errors.Join(err, c.View(func(v View) error {
			return v.Scan(nil, nil, func(_, _ []byte) bool { n++; return true })
		}), c.Close())
		if err != nil || n != int(i-1) {
			t.Fatalf("after entry %d: %d commands in the state, %v", i, n, err)
		}
	}
	if !cut {
		t.Error("the log was never cut")
	}
}

// TestFlushFails: a disk that takes the log and not the state stops the store, with
// the disk's own error, and does not hang it.
func TestFlushFails(t *testing.T) {
	for _, kind := range []string{".sst", "MANIFEST"} {
		t.Run(kind, func(t *testing.T) {
			var full atomic.Bool
			mem := vfs.NewMem()
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, "state-") && strings.Contains(op.Path, kind) {
					return syscall.ENOSPC
				}
				return nil
			}))
			s := small(t, fs)
			if err := grow(s, 2); err != nil {
				t.Fatal(err)
			}
			full.Store(true)
			var err error
			for i := uint64(3); i < 1000 && err == nil; i++ {
				err = grow(s, i)
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("want no space, got %v", err)
			}
			if err := s.Seal(FileSeal{FS: fs, Path: "sealed"}); err == nil {
				t.Error("a store that could not be written was sealed")
			}
			_ = s.Close()               // its error is known
			s = small(t, clone(t, mem)) // the next process, for this one's engine may hold its locks for ever
			defer s.Close()
			if last, _ := s.LastIndex(); last < 3 {
				t.Errorf("opened with a log up to %d", last)
			}
		})
	}
}

// TestOlderFormats: a store whose log is in pebble is refused, and nothing of it removed.
func TestOlderFormats(t *testing.T) {
	for _, of := range []string{"journal", "witness"} { // format 2 has both, format 1 the second
		fs := vfs.NewMem()
		if err := errors.Join(fs.MkdirAll("data/state-000009", 0o700), fs.MkdirAll("data/"+of, 0o700)); err != nil {
			t.Fatal(err)
		}
		_, err := OpenStore(StoreOptions{FS: fs, Dir: "data", Machine: &tally{}})
		if !errors.Is(err, keystead.ReasonStoreCorrupt) || !strings.Contains(err.Error(), "format 2 or older") {
			t.Errorf("%s: want store-corrupt for its format, got %v", of, err)
		}
		if _, err := fs.Stat("data/state-000009"); err != nil {
			t.Error(err)
		}
	}
}

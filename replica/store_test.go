package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/segment"
	pb "go.etcd.io/raft/v3/raftpb"
)

// tally is a state machine that keeps its commands, by index and offset.
type tally struct{ opened uint64 }

func (m *tally) Open(_ View, applied uint64) error { m.opened = applied; return nil }
func (m *tally) Position([]byte) bool              { return false }

func (m *tally) Apply(w *Batch, commands []Command, results [][]byte) ([][]byte, error) {
	for _, c := range commands {
		w.Set(fmt.Appendf(nil, "%06d/%06d", c.Index, c.Offset), c.Data)
		results = append(results, nil)
	}
	return results, nil
}

func founder(t *testing.T, fs vfs.FS) *Store {
	t.Helper()
	s, err := OpenStore(StoreOptions{FS: fs, Dir: "data", Machine: &tally{}, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if s.ID() == 0 {
		if err := s.Bootstrap(1, []Member{{Key: keystead.Sum([]byte("a"))}, {Key: keystead.Sum([]byte("b"))}}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func entry(index, seq uint64, commands ...string) *pb.Entry {
	data := appendHead(nil, 1, seq)
	for _, c := range commands {
		data = append(append(data, byte(len(c))), c...)
	}
	return &pb.Entry{Index: &index, Term: new(uint64(1)), Type: pb.EntryNormal.Enum(), Data: data}
}

// fill appends and applies entries 2 to last.
func fill(t *testing.T, s *Store, last uint64) {
	t.Helper()
	var ents []*pb.Entry
	for i := uint64(2); i <= last; i++ {
		ents = append(ents, entry(i, i, fmt.Sprintf("command-%d", i)))
	}
	if err := s.Append(&pb.Message{Entries: ents, Responses: []*pb.Message{{}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(&pb.Message{Entries: ents}); err != nil {
		t.Fatal(err)
	}
}

// TestCrashKeepsLog: what was appended survives a crash, and the state, which was
// not synced, is at an index of the past, never of the future.
func TestCrashKeepsLog(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := founder(t, fs)
	fill(t, s, 9)
	after := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = founder(t, after)
	defer s.Close()
	if last, _ := s.LastIndex(); last != 9 {
		t.Errorf("want a log up to 9, got %d", last)
	}
	if s.Applied() > 9 || s.Applied() < 1 {
		t.Errorf("want an applied index of 1 to 9, got %d", s.Applied())
	}
	ents, err := s.Entries(2, 10, 1<<20)
	if err != nil || len(ents) != 8 || !bytes.Contains(ents[7].GetData(), []byte("command-9")) {
		t.Errorf("entries: %v, %v", ents, err)
	}
}

// TestKilledProcess: what the operating system had been given survives the end of
// the process, what was in its memory does not. The witness must not claim that.
func TestKilledProcess(t *testing.T) {
	fs := vfs.NewMem()
	s := founder(t, fs)
	defer s.Close()
	fill(t, s, 9)
	if err := s.Append(&pb.Message{Term: new(uint64(7)), Vote: new(uint64(0)), Commit: new(uint64(9))}); err != nil { // needs no sync, says raft
		t.Fatal(err)
	}
	killed, err := OpenStore(StoreOptions{FS: clone(t, fs), Dir: "data", Machine: &tally{}})
	if err != nil {
		t.Fatal(err)
	}
	defer killed.Close()
	if last, _ := killed.LastIndex(); last != 9 {
		t.Errorf("want a log up to 9, got %d", last)
	}
}

// TestSyncOfNothing: a response may rest on a write that needed no sync of its own,
// and then must wait for one.
func TestSyncOfNothing(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := founder(t, fs)
	defer s.Close()
	if err := s.Append(&pb.Message{Term: new(uint64(7)), Vote: new(uint64(0)), Commit: new(uint64(1))}); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(&pb.Message{Responses: []*pb.Message{{}}}); err != nil {
		t.Fatal(err)
	}
	crashed := founder(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	defer crashed.Close()
	if hard, _, _ := crashed.InitialState(); hard.GetTerm() != 7 {
		t.Errorf("want term 7, got %d", hard.GetTerm())
	}
}

// TestCorruptRecords: whatever is wrong with a record stops the node before it
// serves anything, and the refusal names the key and says what to do.
func TestCorruptRecords(t *testing.T) {
	hard := func(s *Store) error {
		return s.write(segment.Note{}, true, func(b []byte) []byte { return append(b, recordHard, 1) })
	}
	replace := func(e *pb.Entry) func(*Store) error {
		return func(s *Store) error {
			return s.write(segment.Note{Index: e.GetIndex()}, true, func(b []byte) []byte { return appendEntry(b, e) })
		}
	}
	odd := entry(10, 10, "x")
	odd.Type = new(pb.EntryType(77))
	for _, tc := range []struct {
		name  string
		wreck func(*Store) error
		where string
	}{
		{"an entry missing", replace(entry(11, 11, "x")), logDir},
		{"the last entry missing", replace(entry(8, 8, "x")), logDir},
		{"entry 0", replace(entry(0, 8, "x")), logDir},
		{"an entry of no type", replace(odd), logDir},
		{"hard state", hard, logDir},
		{"a record of a newer build", func(s *Store) error {
			return s.write(segment.Note{}, true, func(b []byte) []byte { return append(b, 99) })
		}, logDir},
		{"a state elsewhere", func(s *Store) error {
			return s.setNode(nodeRecord{id: 1, state: "../../etc"}, segment.Note{}, nil)
		}, logDir},
		{"applied index", func(s *Store) error { return s.db.Set(keyApplied, []byte("short"), pebble.NoSync) }, "r/applied"},
		{"membership", func(s *Store) error { return s.db.Set(keyMembership, []byte("short"), pebble.NoSync) }, "r/membership"},
		{"origin", func(s *Store) error { return s.db.Set([]byte("r/o/x"), be64(1), pebble.NoSync) }, "r/o/x"},
		{"format of the state", func(s *Store) error { return s.db.Set(keyFormat, be64(99), pebble.NoSync) }, "r/format"},
		{"a state from before the log", func(s *Store) error {
			return s.setNode(nodeRecord{reset: true, id: 1, first: entryID{99, 1}, state: s.node.state}, segment.Note{Void: true}, nil)
		}, "r/applied"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := founder(t, fs)
			fill(t, s, 9)
			if err := errors.Join(tc.wreck(s), s.flush(s.db), s.Close()); err != nil {
				t.Fatal(err)
			}
			_, err := OpenStore(StoreOptions{FS: fs, Dir: "data", Machine: &tally{}})
			if !errors.Is(err, keystead.ReasonStoreCorrupt) {
				t.Fatalf("want store-corrupt, got %v", err)
			}
			var deny *keystead.DenyError
			errors.As(err, &deny)
			f := deny.Findings[0]
			if want := fmt.Sprintf("%q", tc.where); !strings.Contains(f.Where, want) || !strings.Contains(f.Want, "rejoins as a learner") {
				t.Errorf("want the key %s and advice, got %v", want, f)
			}
		})
	}
}

// TestCorruptFiles flips bits of the files themselves. Some are in places that
// nothing depends on; where one is noticed it must be as a refusal, and where it
// is not, all that was acknowledged must be there.
func TestCorruptFiles(t *testing.T) {
	t.Run("log", func(t *testing.T) { corruptFiles(t, logDir, func(*Store) error { return nil }) })
	t.Run("state", func(t *testing.T) { corruptFiles(t, "state-000002", func(s *Store) error { return s.flush(s.db) }) })
}

func corruptFiles(t *testing.T, dir string, before func(*Store) error) {
	fs := vfs.NewMem()
	s := founder(t, fs)
	fill(t, s, 9)
	if err := errors.Join(before(s), s.Close()); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List("data/" + dir)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, name := range names {
		path := "data/" + dir + "/" + name
		whole := readAll(t, fs, path)
		for at := 0; at < len(whole); at += 1 + len(whole)/40 {
			broken := slices.Clone(whole)
			broken[at] ^= 0x10
			writeAll(t, fs, path, broken)
			refused += checkWhole(t, clone(t, fs), fmt.Sprintf("%s, byte %d", name, at))
		}
		writeAll(t, fs, path, whole)
	}
	if refused == 0 {
		t.Error("no flipped bit was noticed")
	}
}

// checkWhole opens the store; it must refuse or have everything. It returns 1 if
// it refused.
func checkWhole(t *testing.T, fs vfs.FS, what string) int {
	t.Helper()
	s, err := OpenStore(StoreOptions{FS: fs, Dir: "data", Machine: &tally{}})
	if err != nil {
		return 1
	}
	defer s.Close()
	if last, _ := s.LastIndex(); last != 9 || s.ID() != 1 {
		t.Errorf("%s: opened as id %d with a log up to %d", what, s.ID(), last)
	}
	return 0
}

func clone(t *testing.T, from vfs.FS) vfs.FS {
	t.Helper()
	to := vfs.NewMem()
	if ok, err := vfs.Clone(from, to, "data", "data"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	return to
}

func readAll(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeAll(t *testing.T, fs vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(slices.Clone(b)); err != nil { // pebble's test builds write over what they were given
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSnapshotStream: a snapshot arrives whole or not at all.
func TestSnapshotStream(t *testing.T) {
	s := founder(t, vfs.NewMem())
	defer s.Close()
	fill(t, s, 9)
	stream := checkpoint(t, s)
	to := founder(t, vfs.NewMem())
	defer to.Close()
	meta, err := to.Receive(context.Background(), bytes.NewReader(stream))
	if err != nil || meta.GetIndex() != 9 {
		t.Fatalf("%v, %v", meta, err)
	}
	if err := to.Append(&pb.Message{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(9)), Snapshot: &pb.Snapshot{Metadata: meta}, Responses: []*pb.Message{{}}}); err != nil {
		t.Fatal(err)
	}
	if to.Applied() != 9 || to.opts.Machine.(*tally).opened != 9 {
		t.Errorf("applied %d, machine opened at %d", to.Applied(), to.opts.Machine.(*tally).opened)
	}
	for at := 0; at < len(stream); at += 1 + len(stream)/300 {
		broken := slices.Clone(stream)
		broken[at] ^= 1
		if _, err := to.Receive(context.Background(), bytes.NewReader(broken)); err == nil {
			t.Errorf("byte %d altered, and received", at)
		}
		var format *keystead.FormatError
		if _, err := to.Receive(context.Background(), bytes.NewReader(stream[:at])); !errors.As(err, &format) {
			t.Errorf("cut at %d: want a FormatError, got %v", at, err)
		}
	}
}

func checkpoint(t testing.TB, s *Store) []byte {
	t.Helper()
	cp, err := s.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := cp.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := cp.Remove(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBatchesOnce: a batch is applied once, whatever raft commits, and nobody who
// is not a member has one applied.
func TestBatchesOnce(t *testing.T) {
	s := founder(t, vfs.NewMem())
	defer s.Close()
	stranger := entry(6, 9, "stranger")
	stranger.Data[8] = 77
	m := &pb.Message{Entries: []*pb.Entry{entry(2, 5, "a", "b"), entry(3, 5, "a", "b"), entry(4, 4, "late"), entry(5, 6, "c"), stranger}}
	if err := s.Append(&pb.Message{Entries: m.Entries, Responses: []*pb.Message{{}}}); err != nil {
		t.Fatal(err)
	}
	a, err := s.Apply(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.batches) != 2 || a.batches[0].seq != 5 || a.batches[1].seq != 6 || a.index != 6 {
		t.Errorf("got batches %+v up to %d", a.batches, a.index)
	}
	var got []string
	err = s.View(func(v View) error {
		return v.Scan(nil, nil, func(_, value []byte) bool { got = append(got, string(value)); return true })
	})
	if err != nil || !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("applied %q, %v", got, err)
	}
}

// TestPoison: what no member writes, and a leader that lies may have in its log, has no
// effect. An error would stop every node at it, for good.
func TestPoison(t *testing.T) {
	s := founder(t, vfs.NewMem())
	defer s.Close()
	change := pb.EntryConfChangeV2.Enum()
	other := entry(2, 1, "x").GetData()
	other[0] = 2
	for _, e := range []*pb.Entry{
		{Data: []byte{1, 2, 3}},
		{Data: other},
		{Data: appendHead(nil, 1, 1<<50)[:batchHead-1]},
		{Data: append(appendHead(nil, 1, 1<<50), 200, 1, 'x')},
		{Type: change, Data: []byte{0xff}},
		{Type: change}, // the end of a change that is not under way
		{Type: change, Data: other},
		{Type: pb.EntryConfChange.Enum(), Data: []byte{8, 1}},
	} {
		before := s.Applied()
		e.Index, e.Term = new(before+1), new(uint64(1))
		if err := s.Append(&pb.Message{Entries: []*pb.Entry{e}, Responses: []*pb.Message{{}}}); err != nil {
			t.Fatal(err)
		}
		a, err := s.Apply(&pb.Message{Entries: []*pb.Entry{e}})
		if err != nil || s.Applied() != before+1 || len(a.batches)+len(a.changes) > 0 {
			t.Errorf("%v %x: applied up to %d, with %+v, %v", e.GetType(), e.GetData(), s.Applied(), a, err)
		}
	}
	if _, err := s.Apply(&pb.Message{Entries: []*pb.Entry{entry(s.Applied()+1, 1, "x")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.View(func(v View) error {
		n := 0
		err := v.Scan(nil, nil, func(_, value []byte) bool { n++; return true })
		if n != 1 {
			t.Errorf("%d values, want the one of a batch as members write them", n)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestSeals: only the record of the very store that was closed serves, and once.
func TestSeals(t *testing.T) {
	fs := vfs.NewMem()
	s := founder(t, fs)
	fill(t, s, 5)
	seal := FileSeal{FS: fs, Path: "sealed"}
	if err := s.Unseal(seal); !errors.Is(err, keystead.ReasonUnsealed) {
		t.Errorf("no record: want unsealed, got %v", err)
	}
	old := clone(t, fs)
	fill(t, s, 9)
	if err := errors.Join(s.Seal(seal), s.Close()); err != nil {
		t.Fatal(err)
	}
	record := readAll(t, fs, "sealed")

	s = founder(t, fs)
	if err := s.Unseal(seal); err != nil {
		t.Errorf("a valid record: %v", err)
	}
	if err := s.Unseal(seal); !errors.Is(err, keystead.ReasonUnsealed) {
		t.Errorf("the same again: want unsealed, got %v", err)
	}
	if err := s.started(); err != nil {
		t.Fatal(err)
	}
	writeAll(t, fs, "sealed", record)
	if err := s.Unseal(seal); !errors.Is(err, keystead.ReasonUnsealed) {
		t.Errorf("a record put back after a start: want unsealed, got %v", err)
	}
	s.Close()

	s = founder(t, old)
	defer s.Close()
	writeAll(t, fs, "sealed", record)
	if err := s.Unseal(seal); !errors.Is(err, keystead.ReasonDiskRolledBack) {
		t.Errorf("an old disk: want disk-rolled-back, got %v", err)
	}
	writeAll(t, fs, "sealed", []byte("garbage"))
	if err := s.Unseal(seal); !errors.Is(err, keystead.ReasonUnsealed) {
		t.Errorf("garbage: want unsealed, got %v", err)
	}
}

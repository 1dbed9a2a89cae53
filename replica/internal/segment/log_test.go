package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/keystead/keystead"
)

// A journal is a log of numbered bodies, as a state that is cut would be: a head says
// which number is the oldest kept.
type journal struct {
	log  *Log
	fs   vfs.FS
	have []uint64 // as read, and appended since
	kept uint64   // numbers up to this are not needed
	size uint64   // of bodies, at most
}

func open(fs vfs.FS) (*journal, error) { return openOf(fs, 90) }

func openOf(fs vfs.FS, size uint64) (*journal, error) {
	j := &journal{fs: fs, size: size}
	err := errors.Join(fs.MkdirAll("log", 0o700), syncDir(fs, "/"))
	if err != nil {
		return nil, err
	}
	j.log, err = Open(Options{FS: fs, Dir: "log", Bytes: 3 * size, Head: func(uint64) ([]byte, uint64) {
		return fmt.Appendf(nil, "head %d", j.kept), j.kept
	}}, func(_ Place, body []byte) (Note, error) {
		var n uint64
		if rest, ok := strings.CutPrefix(string(body), "head "); ok {
			_, err := fmt.Sscan(rest, &j.kept)
			return Note{}, err
		}
		if _, err := fmt.Sscanf(string(body), "body %d", &n); err != nil {
			return Note{}, err
		}
		j.have = append(j.have, n)
		return Note{Index: n}, nil
	})
	return j, err
}

func (j *journal) append(n uint64, sync bool) error {
	err := j.log.Append(Note{Index: n}, sync, func(b []byte) []byte {
		return append(fmt.Appendf(b, "body %d ", n), strings.Repeat("x", int(n*37%90*j.size/90))...)
	})
	if err == nil {
		j.have = append(j.have, n)
	}
	return err
}

// check wants the numbers after those not needed to be first, first+1, and so on to
// at least acked.
func (j *journal) check(acked uint64) error {
	have := slices.DeleteFunc(slices.Clone(j.have), func(n uint64) bool { return n <= j.kept })
	for i, n := range have {
		if n != j.kept+1+uint64(i) {
			return fmt.Errorf("%d is followed by %v", j.kept, have)
		}
	}
	if last := j.kept + uint64(len(have)); last < acked {
		return fmt.Errorf("only up to %d, with %d acknowledged", last, acked)
	}
	return nil
}

// run appends numbers after those there are, some unsynced, and keeps the newest 12.
func (j *journal) run(to uint64, acked *uint64) error {
	for n := j.kept + 1; n <= to; n++ {
		if slices.Contains(j.have, n) {
			continue
		}
		sync := n%3 != 0
		if err := j.append(n, sync); err != nil {
			return err
		}
		if sync {
			*acked = n
		}
		if n > 12 && n%5 == 0 {
			j.kept = n - 12
		}
	}
	return nil
}

// TestCrashAtEveryOperation clones the disk as a crash before each operation of the file
// system would leave it, with none, some or all of what was not synced: the log
// opens, has all that was acknowledged, and goes on so after another crash.
func TestCrashAtEveryOperation(t *testing.T) {
	t.Run("small", func(t *testing.T) { crashEverywhere(t, 90) })
	t.Run("of several blocks", func(t *testing.T) { crashEverywhere(t, 20_000) })
}

func crashEverywhere(t *testing.T, size uint64) {
	mem := vfs.NewCrashableMem()
	rng := rand.New(rand.NewPCG(1, 2))
	var acked uint64
	crashes := 0
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		for _, percent := range []int{0, 40, 70, 100} {
			crashes++
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			what := fmt.Sprintf("crash %d, before %v of %s with %d%%", crashes, op.Kind, op.Path, percent)
			again, at := clone, acked
			for range 2 {
				j, err := openOf(again, size)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if err := j.check(at); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if err := j.run(at+9, &at); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if err := j.check(at); err != nil {
					t.Fatalf("%s, and went on: %v", what, err)
				}
				again = clone.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
				_ = j.log.Close() // what is not synced is not to be
			}
		}
		return nil
	}))
	j, err := openOf(fs, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.run(60, &acked); err != nil {
		t.Fatal(err)
	}
	if names, _ := mem.List("log"); len(names) != len(j.log.chain)+len(j.log.free)+1 || len(j.log.free) > max(minFree, len(j.log.chain)) || len(j.log.free) == 0 {
		t.Errorf("%d needed, %d to be used again, of %v", len(j.log.chain), len(j.log.free), names)
	}
}

// TestReadThenCrash: what a killed process left in the page cache was read, and counts as
// synced from the next head on; so it is.
func TestReadThenCrash(t *testing.T) {
	mem := vfs.NewCrashableMem()
	j, err := open(mem)
	if err := errors.Join(err, j.append(1, true), j.append(2, false)); err != nil {
		t.Fatal(err)
	}
	if j, err = open(mem); err != nil { // the process was killed, the machine runs on
		t.Fatal(err)
	}
	if err := j.append(3, true); err != nil {
		t.Fatal(err)
	}
	if j, err = open(mem.CrashClone(vfs.CrashCloneCfg{})); err != nil {
		t.Fatal(err)
	}
	if err := j.check(3); err != nil {
		t.Error(err)
	}
}

// TestFailedWrites fails each operation in turn, before it has any effect: that append
// says so, and every later one; the next start has what was acknowledged.
func TestFailedWrites(t *testing.T) {
	for at := 1; ; at++ {
		mem := vfs.NewMem()
		n, armed, failed := 0, false, false
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if armed && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose {
				if n++; n == at {
					failed = true
					return syscall.ENOSPC
				}
			}
			return nil
		}))
		j, err := open(fs)
		if err != nil {
			t.Fatal(err)
		}
		armed = true
		var acked uint64
		err = j.run(40, &acked)
		if !failed {
			return
		}
		if !errors.Is(err, syscall.ENOSPC) || !errors.Is(j.append(99, true), syscall.ENOSPC) {
			t.Fatalf("operation %d: want no space, for good, got %v", at, err)
		}
		if j, err = open(mem); err != nil {
			t.Fatalf("operation %d: %v", at, err)
		}
		if err := j.check(acked); err != nil {
			t.Fatalf("operation %d: %v", at, err)
		}
	}
}

// liar is a file system that fails what it did, or did not do what it reports.
type liar struct {
	vfs.FS
	persistedAll, lost atomic.Bool
}

type liarFile struct {
	vfs.File
	l *liar
}

func (l *liar) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.Create(name, c)
	return &liarFile{f, l}, err
}

func (l *liar) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.ReuseForWrite(old, name, c)
	return &liarFile{f, l}, err
}

func (f *liarFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	if f.l.persistedAll.Load() {
		return 0, errors.Join(syscall.EIO, f.File.Sync())
	}
	return n, err
}

func (f *liarFile) SyncData() error {
	if f.l.lost.Load() {
		return nil
	}
	return f.File.SyncData()
}

// TestFailedButPersisted: a write that failed and is there all the same breaks nothing:
// it is read at the next start, in its place.
func TestFailedButPersisted(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := &liar{FS: mem}
	j, err := open(l)
	if err := errors.Join(err, j.append(1, true)); err != nil {
		t.Fatal(err)
	}
	l.persistedAll.Store(true)
	if err := j.append(2, true); !errors.Is(err, syscall.EIO) {
		t.Fatalf("want the error, got %v", err)
	}
	if j, err = open(mem.CrashClone(vfs.CrashCloneCfg{})); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.check(2), j.append(3, true), j.check(3)); err != nil {
		t.Error(err)
	}
}

// TestReportedButLost: a disk that reports a sync which it did not do is found out where
// anything later is left: the mark, or a segment that builds on it.
func TestReportedButLost(t *testing.T) {
	for name, later := range map[string]func(*journal, *vfs.MemFS) vfs.FS{
		"by the mark": func(_ *journal, mem *vfs.MemFS) vfs.FS {
			clone := mem.CrashClone(vfs.CrashCloneCfg{})
			if _, err := vfs.Clone(mem, clone, "log/mark", "log/mark"); err != nil {
				t.Fatal(err)
			}
			return clone
		},
		"by the next segment": func(j *journal, mem *vfs.MemFS) vfs.FS {
			for n := uint64(3); len(j.log.chain) < 2; n++ {
				if err := j.append(n, true); err != nil {
					t.Fatal(err)
				}
			}
			return mem.CrashClone(vfs.CrashCloneCfg{})
		},
	} {
		mem := vfs.NewCrashableMem()
		l := &liar{FS: mem}
		j, err := open(l)
		if err := errors.Join(err, j.append(1, true)); err != nil {
			t.Fatal(err)
		}
		l.lost.Store(true)
		if err := j.append(2, true); err != nil {
			t.Fatal(err)
		}
		var format *keystead.FormatError
		if _, err := open(later(j, mem)); !errors.As(err, &format) {
			t.Errorf("%s: want a FormatError, got %v", name, err)
		}
	}
}

// filled is a log of several segments, used-again ones among them, all synced.
func filled(t testing.TB) (*vfs.MemFS, *journal) {
	mem := vfs.NewMem()
	j, err := open(mem)
	var acked uint64
	if err := errors.Join(err, j.run(50, &acked), j.log.Close()); err != nil {
		t.Fatal(err)
	}
	return mem, j
}

// TestFlippedBits flips a bit of every byte of every file in force. With the mark, it is
// refused or nothing is missing. Without it, nothing before the last write is.
func TestFlippedBits(t *testing.T) {
	mem, j := filled(t)
	refused := 0
	for _, p := range j.log.chain {
		path := j.log.path(p.number)
		whole := contents(t, mem, path)
		for at := range whole {
			broken := slices.Clone(whole)
			broken[at] ^= 0x10
			put(t, mem, path, broken)
			for _, marked := range []bool{true, false} {
				clone := copied(t, mem)
				least := uint64(50)
				if !marked {
					least--
					if err := clone.Remove("log/mark"); err != nil {
						t.Fatal(err)
					}
				}
				got, err := open(clone)
				var format *keystead.FormatError
				switch {
				case errors.As(err, &format):
					refused++
				case err != nil:
					t.Fatalf("%s, byte %d: %v", path, at, err)
				default:
					if err := got.check(least); err != nil {
						t.Fatalf("%s, byte %d, mark %v: %v", path, at, marked, err)
					}
				}
			}
		}
		put(t, mem, path, whole)
	}
	if refused == 0 {
		t.Error("no flipped bit was noticed")
	}
}

// TestMissingFiles: a segment that is needed and not there is noticed, the last one by
// the mark.
func TestMissingFiles(t *testing.T) {
	mem, j := filled(t)
	for _, p := range j.log.chain {
		clone := copied(t, mem)
		if err := clone.Remove(j.log.path(p.number)); err != nil {
			t.Fatal(err)
		}
		var format *keystead.FormatError
		if _, err := open(clone); !errors.As(err, &format) {
			t.Errorf("without segment %d: want a FormatError, got %v", p.number, err)
		}
	}
}

// TestOldDisk: files of the past under the mark of now are refused.
func TestOldDisk(t *testing.T) {
	mem := vfs.NewMem()
	j, err := open(mem)
	if err := errors.Join(err, j.append(1, true)); err != nil {
		t.Fatal(err)
	}
	past := contents(t, mem, j.log.path(1))
	if err := j.append(2, true); err != nil {
		t.Fatal(err)
	}
	put(t, mem, j.log.path(1), past)
	var format *keystead.FormatError
	if _, err := open(mem); !errors.As(err, &format) || format.Field != "end" {
		t.Errorf("want a FormatError of the end, got %v", err)
	}
}

// TestUnknownVersion: a segment of a newer build is refused by its version.
func TestUnknownVersion(t *testing.T) {
	mem, j := filled(t)
	path := j.log.path(j.log.last().number)
	b := contents(t, mem, path)
	b[7]++
	put(t, mem, path, b)
	var format *keystead.FormatError
	if _, err := open(mem); !errors.As(err, &format) || format.Field != "version" {
		t.Errorf("want a FormatError of the version, got %v", err)
	}
}

// TestTwoWithoutHead: a crash can leave one file without a head, and not two.
func TestTwoWithoutHead(t *testing.T) {
	mem, j := filled(t)
	put(t, mem, j.log.path(j.log.next), nil)
	if _, err := open(copied(t, mem)); err != nil {
		t.Errorf("one: %v", err)
	}
	put(t, mem, j.log.path(j.log.next+1), nil)
	var format *keystead.FormatError
	if _, err := open(mem); !errors.As(err, &format) || format.Field != "head" {
		t.Errorf("two: want a FormatError of the head, got %v", err)
	}
}

// TestRestartsLeaveNoFiles: starts that write no index take up no room.
func TestRestartsLeaveNoFiles(t *testing.T) {
	mem := vfs.NewMem()
	for range 50 {
		j, err := open(mem)
		if err := errors.Join(err, j.log.Append(Note{}, true, func(b []byte) []byte { return append(b, "head 0"...) }), j.log.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if names, _ := mem.List("log"); len(names) > minFree+3 {
		t.Errorf("%d files: %v", len(names), names)
	}
}

// FuzzOpen gives the reader any bytes as the newest segment, alone and behind another:
// it opens or says what is wrong, and what it opened goes on.
func FuzzOpen(f *testing.F) {
	mem, j := filled(f)
	for _, p := range j.log.chain {
		b := contents(f, mem, j.log.path(p.number))
		b[23], b[39], b[47] = 2, 0, 2 // number, prev and first, for a checksum made anew
		f.Add(b, true)
		f.Add(contents(f, mem, j.log.path(p.number)), false)
	}
	f.Add((&head{number: 2, first: 2, body: []byte("head 0")}).append(nil), true)
	f.Fuzz(func(t *testing.T, b []byte, alone bool) {
		mem := vfs.NewMem()
		if err := mem.MkdirAll("log", 0o700); err != nil {
			t.Fatal(err)
		}
		if !alone {
			first := (&head{number: 1, first: 1, body: []byte("head 0")}).append(nil)
			put(t, mem, "log/0000000000000001.log", first)
		}
		put(t, mem, "log/0000000000000002.log", b)
		j, err := open(mem)
		if err != nil {
			return
		}
		had := len(j.have)
		if err := errors.Join(j.append(1<<40, true), j.log.Close()); err != nil {
			t.Fatal(err)
		}
		if j, err = open(mem); err != nil || len(j.have) == 0 || j.have[len(j.have)-1] != 1<<40 {
			t.Fatalf("had %d bodies, and opens with %d: %v", had, len(j.have), err)
		}
	})
}

func contents(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if n, err := f.ReadAt(b, 0); n != len(b) {
		t.Fatal(n, err)
	}
	return b
}

func put(t testing.TB, fs vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write(slices.Clone(b))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func copied(t testing.TB, from vfs.FS) *vfs.MemFS {
	t.Helper()
	to := vfs.NewMem()
	if ok, err := vfs.Clone(from, to, "log", "log"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	return to
}

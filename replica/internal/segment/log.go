package segment

import (
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options say where a log is and how it is cut into files.
type Options struct {
	FS    vfs.FS
	Dir   string // exists
	Bytes uint64 // a file takes no further body beyond this

	// MaxBytes bounds the files in force, as far as Head lets them go; 0 is no bound.
	MaxBytes uint64

	// Head states, for a new file, all that is in force of earlier ones, in at most 4 KiB,
	// and which files it lets go: those whose bodies have no index above keep. To stay
	// within MaxBytes, keep would have to be at least over.
	Head func(over uint64) (body []byte, keep uint64)

	// NoSync leaves out the syncs: a fault built in on purpose.
	NoSync func() bool
}

// A Note says what a body is worth later.
type Note struct {
	Index uint64 // the highest that the body has, for Options.Head; 0 for none
	Void  bool   // nothing before it has any index that counts
}

// A Place is where a body is: its batch in a segment. No other batch ever has the same.
type Place struct {
	Number   uint64 // of the segment
	From, To uint64 // offsets in it
}

// A Log is open for appending. It is not safe for concurrent use, but for Read.
type Log struct {
	opts   Options
	chain  []part   // files whose bodies are needed, oldest first; the last is written to if file is open
	free   []string // names of files that hold nothing needed, for good
	next   uint64   // number of the next file
	file   vfs.File // nil before the first body
	offset uint64   // end of the last one's bodies
	synced uint64   // of that
	place  Place    // of the last body appended
	room   uint64   // allocated of it
	mark   vfs.File
	buf    []byte
	err    error // of a write or sync: what the disk holds is unknown until the log is opened anew
}

type part struct {
	number, end uint64
	index       uint64 // the highest of its bodies
}

func (p *part) note(n Note) { p.index = max(p.index, n.Index) }

const (
	minFree    = 8        // files kept to be used again, or as many as are in force
	maxRemoved = 4        // files removed at a time: a write waits for that
	chunk      = 1 << 20  // allocated at a time
	small      = 64 << 10 // and not before a file has this
	keepBuffer = 4 << 20  // bytes of buffer kept between writes
)

// Append writes the body that fill appends to the slice it is given, and with sync
// also has it, and all before it, on disk when it returns. A nil fill only syncs.
func (l *Log) Append(note Note, sync bool, fill func([]byte) []byte) error {
	if l.err != nil {
		return l.err
	}
	l.err = l.append(note, sync, fill)
	return l.err
}

func (l *Log) append(note Note, sync bool, fill func([]byte) []byte) error {
	if fill != nil {
		if l.file == nil || l.offset >= l.opts.Bytes {
			if err := l.roll(); err != nil {
				return err
			}
		}
		l.buf = append(l.buf[:0], make([]byte, batchSize)...)
		l.buf = fill(l.buf)
		if uint64(len(l.buf)-batchSize) > math.MaxUint32 {
			return fmt.Errorf("a log body of %d bytes", len(l.buf))
		}
		seal(l.buf, l.last().number, l.offset, l.synced)
		l.allocate(uint64(len(l.buf)))
		from := l.offset
		if err := l.write(l.buf); err != nil {
			return err
		}
		l.place = Place{l.last().number, from, l.offset}
		if cap(l.buf) > keepBuffer {
			l.buf = nil
		}
		if note.Void {
			for i := range l.chain {
				l.chain[i].index = 0
			}
		}
		l.last().note(note)
	}
	if !sync || l.Synced() {
		return nil
	}
	return l.sync()
}

// Place returns where the body is that was appended last.
func (l *Log) Place() Place { return l.place }

// Synced reports whether all that was appended is on disk.
func (l *Log) Synced() bool { return l.file == nil || l.synced == l.offset }

func (l *Log) last() *part { return &l.chain[len(l.chain)-1] }

func (l *Log) write(b []byte) error {
	n := uint64(len(b)) // a vfs.File may write over what it is given
	if _, err := l.file.Write(b); err != nil {
		return fmt.Errorf("%s: %w", l.path(l.last().number), err)
	}
	l.offset += n
	l.last().end = l.offset
	return nil
}

func (l *Log) sync() error {
	if l.opts.NoSync == nil || !l.opts.NoSync() {
		if err := l.file.SyncData(); err != nil {
			return fmt.Errorf("%s: %w", l.path(l.last().number), err)
		}
	}
	l.synced = l.offset
	return l.writeMark()
}

// allocate asks for room ahead. Where it can not be had, the write will say so.
func (l *Log) allocate(n uint64) {
	if l.offset < small || l.offset+n <= l.room {
		return
	}
	ahead := (l.offset + n - l.room + chunk - 1) / chunk * chunk
	_ = l.file.Preallocate(int64(l.room), int64(ahead))
	l.room += ahead
}

// roll begins another file: with a head that is on disk, under a name that is, before
// anything is written behind it.
func (l *Log) roll() error {
	inherited := l.file == nil // the newest file is of an earlier process
	if !inherited {
		if !l.Synced() {
			if err := l.sync(); err != nil {
				return err
			}
		}
		err := l.file.Close()
		if l.file = nil; err != nil {
			return err
		}
	}
	body, keep := l.opts.Head(l.over())
	if len(body) > maxHead {
		return fmt.Errorf("a segment's head of %d bytes", len(body))
	}
	kept, freed := l.drop(keep)
	if n := len(kept); n > 0 && inherited {
		if err := l.settle(kept[n-1].number); err != nil {
			return err
		}
	}
	h := head{number: l.next, first: l.next, body: body}
	if n := len(kept); n > 0 {
		h.prev, h.prevEnd, h.first = kept[n-1].number, kept[n-1].end, kept[0].number
	}
	var err error
	if l.file, err = l.create(h.number); err != nil {
		return err
	}
	l.next++
	l.chain, l.offset, l.synced = append(kept, part{number: h.number}), 0, 0
	if err := l.write(h.append(nil)); err != nil {
		return err
	}
	if err := errors.Join(l.file.Sync(), syncDir(l.opts.FS, l.opts.Dir)); err != nil {
		return err
	}
	l.synced = l.offset
	l.free = append(l.free, freed...)
	for range min(maxRemoved, len(l.free)-max(minFree, len(l.chain))) {
		if err := l.opts.FS.Remove(l.free[0]); err != nil {
			return err
		}
		l.free = l.free[1:]
	}
	return nil
}

// over returns the highest index of the oldest files that are too many, with one more,
// under Options.MaxBytes; 0 for none.
func (l *Log) over() (index uint64) {
	sum := l.opts.Bytes
	for _, p := range l.chain {
		sum += p.end
	}
	for _, p := range l.chain {
		if l.opts.MaxBytes == 0 || sum <= l.opts.MaxBytes {
			break
		}
		sum -= p.end
		index = max(index, p.index)
	}
	return index
}

// drop parts the files that are needed from those that are not. None is touched
// before the head that does without it is on disk.
func (l *Log) drop(keep uint64) (kept []part, freed []string) {
	kept = append(kept, l.chain...)
	for len(kept) > 0 && kept[0].index <= keep {
		freed = append(freed, l.path(kept[0].number))
		kept = kept[1:]
	}
	for len(kept) > 0 && kept[len(kept)-1].index == 0 { // its head is outdated, and that was all
		freed = append(freed, l.path(kept[len(kept)-1].number))
		kept = kept[:len(kept)-1]
	}
	return kept, freed
}

// create opens the file of a segment, one that was used before if there is one:
// writing over blocks needs no change of the file system's own records.
func (l *Log) create(number uint64) (vfs.File, error) {
	if l.room = 0; len(l.free) == 0 {
		return l.opts.FS.Create(l.path(number), vfs.WriteCategoryUnspecified)
	}
	old := l.free[0]
	l.free = l.free[1:]
	f, err := l.opts.FS.ReuseForWrite(old, l.path(number), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil {
		l.room = uint64(info.Size())
	}
	return f, nil
}

// settle syncs a file that an earlier process wrote: what was read of it may not have
// been on disk.
func (l *Log) settle(number uint64) error {
	f, err := l.opts.FS.OpenReadWrite(l.path(number), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close closes the files. What was not synced is not.
func (l *Log) Close() error {
	var errs []error
	for _, f := range []vfs.File{l.file, l.mark} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	l.file, l.mark = nil, nil
	if l.err == nil {
		l.err = errors.New("the log is closed")
	}
	return errors.Join(errs...)
}

func (l *Log) path(number uint64) string {
	return l.opts.FS.PathJoin(l.opts.Dir, fmt.Sprintf("%016x.log", number))
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

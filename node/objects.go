package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/serve"
)

// MaxObject bounds an object, in bytes.
const MaxObject = 64 << 20

// What waits counts for more than its bytes: a file takes a block and an inode at least.
const (
	leastObject = 4 << 10 // bytes that one counts for
	maxObjects  = 16384   // that wait, altogether
	objectsEach = 2048    // of them from one address
)

// objects keeps bytes by their digest in a directory: those that the ledger or the
// genesis entry names for good, others in a directory below it for a while. A file is
// under its name only when it was written and synced whole; who reads one checks
// its digest again.
type objects struct {
	fs    vfs.FS
	dir   string
	limit int64         // bytes of all that wait
	age   time.Duration // how long one waits

	mu      sync.Mutex
	waiting map[keystead.Digest]waiting
	held    held                // of waiting, and of what is being written
	by      map[netip.Addr]held // of it, by who sent it
	serial  int                 // of files being written
}

// held is how much room objects take.
type held struct {
	bytes int64
	files int
}

type waiting struct {
	size  int64
	since time.Time
	from  netip.Addr
}

// openObjects opens the directory and makes it if it is not there. What was being
// written when the node stopped is removed; what waited waits anew.
func openObjects(fs vfs.FS, dir string, limit int64, age time.Duration, now time.Time) (*objects, error) {
	o := &objects{fs: fs, dir: dir, limit: limit, age: age, waiting: map[keystead.Digest]waiting{}, by: map[netip.Addr]held{}}
	if err := fs.MkdirAll(o.pending(), 0o700); err != nil {
		return nil, err
	}
	names, err := fs.List(o.pending())
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		path := fs.PathJoin(o.pending(), name)
		d, err := keystead.ParseDigest("sha256:" + name)
		if err != nil {
			if err := fs.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		st, err := fs.Stat(path)
		if err != nil {
			return nil, err
		}
		size := max(st.Size(), leastObject)
		o.waiting[d] = waiting{size: size, since: now}
		o.count(size, 1, netip.Addr{})
	}
	return o, o.syncDirs(fs.PathDir(dir))
}

func (o *objects) pending() string { return o.fs.PathJoin(o.dir, "pending") }

func (o *objects) path(dir string, d keystead.Digest) string {
	return o.fs.PathJoin(dir, hex.EncodeToString(d[:]))
}

// syncDirs makes names durable that came and went.
func (o *objects) syncDirs(more ...string) error {
	for _, dir := range append([]string{o.pending(), o.dir}, more...) {
		f, err := o.fs.OpenDir(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// put keeps what the reader gives, for a while, and returns its digest.
func (o *objects) put(r io.Reader, now time.Time) (keystead.Digest, error) {
	return o.take(r, now, netip.Addr{})
}

// take is put of what somebody sent from an address. An eighth of the room is for what the node
// itself wants, from other nodes; of the rest one address has half of all at most.
func (o *objects) take(r io.Reader, now time.Time, from netip.Addr) (keystead.Digest, error) {
	w, err := o.create(from)
	if err != nil {
		return keystead.Digest{}, err
	}
	if _, err := io.Copy(w, r); err != nil {
		return keystead.Digest{}, errors.Join(err, w.discard())
	}
	return w.commit(now)
}

// incoming is an object that is being written.
type incoming struct {
	o    *objects
	path string
	file vfs.File
	sum  hash.Hash
	size int64 // bytes that came
	room int64 // bytes that it counts for
	from netip.Addr
}

func (o *objects) create(from netip.Addr) (*incoming, error) {
	if err := o.reserve(leastObject, 1, from); err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.serial++
	path := o.fs.PathJoin(o.pending(), fmt.Sprintf("%d.new", o.serial))
	o.mu.Unlock()
	f, err := o.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		o.release(leastObject, from)
		return nil, err
	}
	return &incoming{o: o, path: path, file: f, sum: sha256.New(), room: leastObject, from: from}, nil
}

// Write takes the next bytes, as long as there is room for them.
func (w *incoming) Write(b []byte) (int, error) {
	if w.size+int64(len(b)) > MaxObject {
		return 0, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: "object", Want: fmt.Sprintf("at most %d bytes", MaxObject), Got: "more"})
	}
	w.size += int64(len(b))
	if more := w.size - w.room; more > 0 {
		if err := w.o.reserve(more, 0, w.from); err != nil {
			return 0, err
		}
		w.room += more
	}
	w.sum.Write(b)
	return w.file.Write(append([]byte(nil), b...)) // a vfs.File may change what it is given
}

// reserve takes room for bytes, and files, that wait.
func (o *objects) reserve(n int64, files int, from netip.Addr) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "objects", Got: "more"}
	all, one := o.held, o.by[from]
	sent := from.IsValid()
	each := sent && !serve.Own(from)
	switch {
	case all.bytes+n > o.limit, sent && all.bytes+n > o.limit-o.limit/8:
		f.Want = fmt.Sprintf("at most %d bytes that no entry names yet", o.limit)
	case all.files+files > maxObjects, sent && all.files+files > maxObjects-maxObjects/8:
		f.Want = fmt.Sprintf("at most %d objects that no entry names yet", maxObjects)
	case each && one.bytes+n > o.limit/2:
		f.Want = fmt.Sprintf("at most %d bytes from one address that no entry names yet", o.limit/2)
	case each && one.files+files > objectsEach:
		f.Want = fmt.Sprintf("at most %d objects from one address that no entry names yet", objectsEach)
	default:
		o.count(n, files, from)
		return nil
	}
	return keystead.Deny(f)
}

// count counts what came, or went; with the lock held.
func (o *objects) count(n int64, files int, from netip.Addr) {
	o.held.bytes, o.held.files = o.held.bytes+n, o.held.files+files
	x := o.by[from]
	x.bytes, x.files = x.bytes+n, x.files+files
	if o.by[from] = x; x == (held{}) {
		delete(o.by, from)
	}
}

// release gives up the room of one object.
func (o *objects) release(n int64, from netip.Addr) {
	o.mu.Lock()
	o.count(-n, -1, from)
	o.mu.Unlock()
}

// discard removes what was written.
func (w *incoming) discard() error {
	w.o.release(w.room, w.from)
	return errors.Join(w.file.Close(), w.o.fs.Remove(w.path))
}

// commit puts the object under its name.
func (w *incoming) commit(now time.Time) (d keystead.Digest, err error) {
	w.sum.Sum(d[:0])
	o := w.o
	if err := w.file.Sync(); err != nil {
		return d, errors.Join(err, w.discard())
	}
	o.mu.Lock()
	_, waits := o.waiting[d]
	o.mu.Unlock()
	if waits || o.kept(d) {
		return d, w.discard()
	}
	if err := w.file.Close(); err != nil {
		o.release(w.room, w.from)
		return d, errors.Join(err, o.fs.Remove(w.path))
	}
	if err := o.fs.Rename(w.path, o.path(o.pending(), d)); err != nil {
		o.release(w.room, w.from)
		return d, err
	}
	o.mu.Lock()
	x, twice := o.waiting[d]
	if twice { // two wrote the same at once
		o.count(-w.room, -1, w.from)
	} else {
		x = waiting{size: w.room, from: w.from}
	}
	x.since = now
	o.waiting[d] = x
	o.mu.Unlock()
	return d, o.syncDirs()
}

// kept reports whether the object is here for good.
func (o *objects) kept(d keystead.Digest) bool {
	_, err := o.fs.Stat(o.path(o.dir, d))
	return err == nil
}

// has reports whether the object is here at all.
func (o *objects) has(d keystead.Digest) bool {
	o.mu.Lock()
	_, waits := o.waiting[d]
	o.mu.Unlock()
	return waits || o.kept(d)
}

// keep keeps an object that waits for good. One that is not here is object-missing.
func (o *objects) keep(d keystead.Digest) error {
	if o.kept(d) {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	w, waits := o.waiting[d]
	if !waits {
		return objectMissing(d)
	}
	if err := o.fs.Rename(o.path(o.pending(), d), o.path(o.dir, d)); err != nil {
		return err
	}
	delete(o.waiting, d)
	o.count(-w.size, -1, w.from)
	return o.syncDirs()
}

// sweep forgets what has waited long enough.
func (o *objects) sweep(now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for d, w := range o.waiting {
		if now.Sub(w.since) < o.age {
			continue
		}
		errs = append(errs, o.fs.Remove(o.path(o.pending(), d)))
		delete(o.waiting, d)
		o.count(-w.size, -1, w.from)
	}
	return errors.Join(errs...)
}

// open opens an object to be sent to someone who checks it.
func (o *objects) open(d keystead.Digest) (io.ReadCloser, error) {
	f, err := o.fs.Open(o.path(o.dir, d))
	if errors.Is(err, os.ErrNotExist) {
		f, err = o.fs.Open(o.path(o.pending(), d))
	}
	if errors.Is(err, os.ErrNotExist) { // or it moved from there to here in between
		f, err = o.fs.Open(o.path(o.dir, d))
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, objectMissing(d)
	}
	return f, err
}

// get returns an object, whose digest it checks.
func (o *objects) get(d keystead.Digest) ([]byte, error) {
	f, err := o.open(d)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxObject+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if got := keystead.Sum(b); got != d {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonStoreCorrupt, Where: "object", Want: d.String(), Got: got.String()})
	}
	return b, nil
}

func objectMissing(d keystead.Digest) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMissing, Where: "objects", Want: d.String(), Got: "no such object here"})
}

// PutObject keeps an object for good in the directory of a node that does not run:
// one that the genesis entry names.
func PutObject(dir string, content []byte) error {
	if len(content) > MaxObject {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: "object", Want: fmt.Sprintf("at most %d bytes", MaxObject), Got: fmt.Sprintf("%d bytes", len(content))})
	}
	o, err := openObjects(vfs.Default, vfs.Default.PathJoin(dir, objectsDir), MaxObject, time.Hour, time.Now())
	if err != nil {
		return err
	}
	d, err := o.put(strings.NewReader(string(content)), time.Now())
	if err != nil {
		return err
	}
	return o.keep(d)
}

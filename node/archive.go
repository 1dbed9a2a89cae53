package node

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/archive"
)

// The files of an archive, each named by the digest of the verdict.
const (
	recordSuffix = ".record" // sealed
	labelSuffix  = ".label"  // with the record's key
	newSuffix    = ".new"    // of a file that is being written
)

// archives keep sealed records in a directory, each with its label beside it. A record
// counts once its label is there, whole; to destroy it, its label is overwritten first.
type archives struct {
	fs    vfs.FS
	dir   string
	quota int64    // bytes of all records
	terms sync.Map // role to digest: terms whose objects are kept for good

	mu      sync.Mutex
	kept    map[keystead.Digest]archived
	hosts   map[string]int64 // bytes of each host
	total   int64            // bytes, with what is being written
	writing map[keystead.Digest]chan struct{}
	pushed  func(host string, verdict keystead.Digest) // told of what had to make room; may be nil
}

type archived struct {
	host string
	time uint64 // of judgement, Unix milliseconds of the domain clock
	size int64
}

// openArchives opens the directory, and makes it if it is not there. What was not
// written whole, or not destroyed whole, when the node stopped is removed.
func openArchives(fs vfs.FS, dir string, quota int64) (*archives, error) {
	a := &archives{fs: fs, dir: dir, quota: quota, kept: map[keystead.Digest]archived{}, hosts: map[string]int64{}, writing: map[keystead.Digest]chan struct{}{}}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names) // NAME.label before NAME.record
	for _, name := range names {
		if err := a.load(name); err != nil {
			return nil, err
		}
	}
	return a, a.sync(dir, fs.PathDir(dir))
}

// load takes up one file of the directory.
func (a *archives) load(name string) error {
	stem, suffix, _ := strings.Cut(name, ".")
	d, err := keystead.ParseDigest("sha256:" + stem)
	switch {
	case err != nil || "."+suffix != recordSuffix && "."+suffix != labelSuffix:
		if strings.HasSuffix(name, newSuffix) {
			return a.fs.Remove(a.fs.PathJoin(a.dir, name))
		}
		return nil // none of ours
	case "."+suffix == recordSuffix:
		if _, ok := a.kept[d]; !ok { // destroyed, but for this; or never whole
			return a.fs.Remove(a.path(d, recordSuffix))
		}
		return nil
	}
	raw, err := a.read(d, labelSuffix, 4<<10)
	if err != nil {
		return err
	}
	l, err := archive.ParseLabel(raw)
	if err != nil || l.Verdict != d { // destroyed, but for this
		return a.fs.Remove(a.path(d, labelSuffix))
	}
	a.note(d, archived{l.Host, l.Time, int64(l.Size)})
	a.total += int64(l.Size)
	return nil
}

func (a *archives) note(d keystead.Digest, x archived) {
	a.kept[d] = x
	a.hosts[x.host] += x.size
}

func (a *archives) path(d keystead.Digest, suffix string) string {
	return a.fs.PathJoin(a.dir, hex.EncodeToString(d[:])+suffix)
}

// sync makes names durable that came and went.
func (a *archives) sync(dirs ...string) error {
	for _, dir := range dirs {
		f, err := a.fs.OpenDir(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether a record is kept.
func (a *archives) has(d keystead.Digest) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.kept[d]
	return ok
}

// put keeps a sealed record for good: it is on disk when put returns. One that is kept
// already, or is being written by another, is not written again. Without room, the
// oldest records of the host that uses the most make it; one that could never fit is
// archive-full.
func (a *archives) put(l *archive.Label, sealed []byte) error {
	d, size := l.Verdict, int64(len(sealed))
	a.mu.Lock()
	if _, ok := a.kept[d]; ok {
		a.mu.Unlock()
		return nil
	}
	if other := a.writing[d]; other != nil {
		a.mu.Unlock()
		<-other
		if a.has(d) {
			return nil
		}
		return a.put(l, sealed)
	}
	if size > a.quota {
		a.mu.Unlock()
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonArchiveFull, Where: "archive: evidence of host " + l.Host, Want: fmt.Sprintf("at most %d bytes (archive.quota-mib)", a.quota), Got: fmt.Sprintf("%d bytes", size)})
	}
	leave := a.makeRoom(size)
	a.total += size
	done := make(chan struct{})
	a.writing[d] = done
	a.mu.Unlock()

	var errs []error
	for _, x := range leave {
		errs = append(errs, a.destroy(x))
	}
	err := errors.Join(append(errs, a.write(l, sealed))...)
	a.mu.Lock()
	defer a.mu.Unlock()
	if delete(a.writing, d); err == nil {
		a.note(d, archived{l.Host, l.Time, size})
	} else {
		a.total -= size
	}
	close(done)
	return err
}

// write writes the record, and then the label, which makes it count.
func (a *archives) write(l *archive.Label, sealed []byte) error {
	err := a.writeFile(a.path(l.Verdict, recordSuffix), sealed)
	if err == nil {
		err = a.sync(a.dir) // a label never stands without its record
	}
	if err == nil {
		err = a.writeFile(a.path(l.Verdict, labelSuffix), l.Bytes())
	}
	if err == nil {
		err = a.sync(a.dir)
	}
	return err
}

func (a *archives) writeFile(path string, content []byte) error {
	f, err := a.fs.Create(path+newSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(slices.Clone(content)) // a vfs.File may change what it is given
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, a.fs.Remove(path+newSuffix))
	}
	return a.fs.Rename(path+newSuffix, path)
}

// makeRoom forgets records, for their files to be destroyed, until there is room for
// size more bytes; rather more than that, so that it is not called each time.
func (a *archives) makeRoom(size int64) (leave []keystead.Digest) {
	if a.total+size <= a.quota {
		return nil
	}
	of := map[string][]keystead.Digest{}
	for d, x := range a.kept {
		of[x.host] = append(of[x.host], d)
	}
	for _, list := range of {
		slices.SortFunc(list, func(x, y keystead.Digest) int { return cmp.Compare(a.kept[x].time, a.kept[y].time) })
	}
	for a.total+size > a.quota-a.quota/64 && len(of) > 0 {
		most := ""
		for host := range of {
			if most == "" || a.hosts[host] > a.hosts[most] || a.hosts[host] == a.hosts[most] && host < most {
				most = host
			}
		}
		d := of[most][0]
		if of[most] = of[most][1:]; len(of[most]) == 0 {
			delete(of, most)
		}
		a.forget(d)
		leave = append(leave, d)
		if a.pushed != nil {
			a.pushed(most, d)
		}
	}
	return leave
}

// forget takes a record out of what is kept. Its files stay.
func (a *archives) forget(d keystead.Digest) {
	x := a.kept[d]
	delete(a.kept, d)
	a.total -= x.size
	if a.hosts[x.host] -= x.size; a.hosts[x.host] == 0 {
		delete(a.hosts, x.host)
	}
}

// destroy overwrites the label, and with it the record's key, and removes both files. A
// medium that keeps old blocks, or a copy of the disk, may still have them.
func (a *archives) destroy(d keystead.Digest) error {
	path := a.path(d, labelSuffix)
	if st, err := a.fs.Stat(path); err == nil {
		f, err := a.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(make([]byte, st.Size()), 0)
		if err == nil {
			err = f.Sync()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := a.fs.Remove(path); err != nil {
			return err
		}
	}
	if err := a.sync(a.dir); err != nil {
		return err
	}
	if err := a.fs.Remove(a.path(d, recordSuffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// sweep destroys the records of judgements from before a time of the domain clock, in
// Unix milliseconds, and returns how many.
func (a *archives) sweep(before uint64) (n int, err error) {
	a.mu.Lock()
	var leave []keystead.Digest
	for d, x := range a.kept {
		if x.time < before {
			leave = append(leave, d)
		}
	}
	for _, d := range leave {
		a.forget(d)
	}
	a.mu.Unlock()
	var errs []error
	for _, d := range leave {
		errs = append(errs, a.destroy(d))
	}
	return len(leave), errors.Join(errs...)
}

// get returns a sealed record with its label. Refusals: archive-missing,
// archive-key-missing, archive-altered.
func (a *archives) get(d keystead.Digest) (l archive.Label, sealed []byte, err error) {
	where := "archived record " + d.String()
	if !a.has(d) {
		return l, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonArchiveMissing, Where: where, Want: "a record on this node", Got: "none"})
	}
	raw, err := a.read(d, labelSuffix, 4<<10)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonArchiveKeyMissing, Where: where, Want: "the label with its key", Got: "none"})
	}
	if err != nil {
		return l, nil, err
	}
	if l, err = archive.ParseLabel(raw); err != nil {
		return l, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonArchiveAltered, Where: where, Want: "its label", Got: err.Error()})
	}
	sealed, err = a.read(d, recordSuffix, archive.MaxRecord+64)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonArchiveMissing, Where: where, Want: "the record beside its label", Got: "none"})
	}
	return l, sealed, err
}

func (a *archives) read(d keystead.Digest, suffix string, most int64) ([]byte, error) {
	f, err := a.fs.Open(a.path(d, suffix))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	return b, errors.Join(err, f.Close())
}

// usage returns how many records are kept, in how many bytes.
func (a *archives) usage() (records int, bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.kept), a.total
}

// sweepEvery is how often a node looks for records whose time is over.
const sweepEvery = 10 * time.Second

package replica

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
)

// A Seal keeps a record of a clean shutdown, where whoever can roll back the disk
// can not. A node that shows a valid one restarts in place; any other may have
// lost what it promised, its vote included, and rejoins as a learner under a new id.
type Seal interface {
	// Put keeps the record of a shutdown.
	Put(SealRecord) error
	// Take returns the record and destroys it, so that it serves one restart.
	// ok is false if there is none.
	Take() (r SealRecord, ok bool, err error)
}

// A SealRecord says what a store held when its node closed it.
type SealRecord struct {
	ID, Start, Term, Vote, Last, Applied uint64
}

// record returns what a seal on the store as it stands would say.
func (s *Store) record() SealRecord {
	last, _ := s.LastIndex()
	s.mu.Lock()
	defer s.mu.Unlock()
	return SealRecord{s.node.id, s.node.start, s.hard.GetTerm(), s.hard.GetVote(), last, s.applied.index}
}

// Seal leaves a record of the store as it is closed.
func (s *Store) Seal(seal Seal) error {
	if err := s.flush(s.db); err != nil { // a record holds for the state as it is on disk
		return err
	}
	return seal.Put(s.record())
}

// Unseal reports, as an error, why a store may not be restarted in place.
func (s *Store) Unseal(seal Seal) error {
	if seal == nil {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonUnsealed, Want: "a record of a clean shutdown", Got: "no seal is configured", Where: s.opts.Dir})
	}
	got, ok, err := seal.Take()
	if err != nil {
		return err
	}
	if !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonUnsealed, Want: "a record of a clean shutdown", Got: "none", Where: s.opts.Dir})
	}
	if have := s.record(); got != have {
		reason := keystead.ReasonUnsealed
		if have.Start < got.Start || have.Last < got.Last || have.Term < got.Term {
			reason = keystead.ReasonDiskRolledBack
		}
		return keystead.Deny(keystead.Finding{Reason: reason, Want: fmt.Sprintf("the store of the record, %+v", got), Got: fmt.Sprintf("%+v", have), Where: s.opts.Dir})
	}
	return nil
}

// FileSeal keeps the record in a file. It shows that the node was closed in order,
// not that the disk is the same: who rolls back the store can roll back the file.
type FileSeal struct {
	FS   vfs.FS
	Path string
}

// Put writes the file and syncs it.
func (f FileSeal) Put(r SealRecord) error {
	w, err := f.FS.Create(f.Path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = w.Write(encode(r))
	if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
		return err
	}
	return errors.Join(f.FS.Rename(f.Path+".new", f.Path), syncDir(f.FS, f.FS.PathDir(f.Path)))
}

// Take reads the file and removes it, for good before it returns.
func (f FileSeal) Take() (SealRecord, bool, error) {
	var r SealRecord
	in, err := f.FS.Open(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	b, err := io.ReadAll(io.LimitReader(in, 4096))
	if err := errors.Join(err, in.Close(), f.FS.Remove(f.Path), syncDir(f.FS, f.FS.PathDir(f.Path))); err != nil {
		return r, false, err
	}
	if err := decode(b, &r); err != nil {
		return r, false, nil // cut short by a crash: no record
	}
	return r, true, nil
}

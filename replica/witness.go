package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
)

// A witness is a small file beside the store that says how far the store had
// come. It is written after each synced write to the log and not synced itself: what it says is
// a lower bound, whether or not the last of it reached the disk. The engine takes
// damage near the end of its write-ahead log for a write that a crash cut short,
// and would open without what was acknowledged; the witness tells the two apart.
//
// Neither of its two measures ever falls, in this order of their parts: the node's
// id and its term, and the id with the last entry's term and index.
//
//	4 bytes   crc32c of the rest
//	8 bytes   id
//	8 bytes   term
//	16 bytes  term and index of the last entry
type witness struct{ id, term, lastTerm, last uint64 }

const witnessSize = 4 + 8 + 8 + 16

// measure returns the witness of the store as it stands.
func (s *Store) measure() witness {
	w := witness{id: s.id}
	w.last, _ = s.LastIndex()
	w.lastTerm, _ = s.Term(w.last)
	s.mu.Lock()
	defer s.mu.Unlock()
	w.term = s.hard.GetTerm()
	return w
}

// bearWitness notes how far the store has come.
func (s *Store) bearWitness() error {
	w := s.measure()
	b := make([]byte, 4, witnessSize)
	for _, n := range []uint64{w.id, w.term, w.lastTerm, w.last} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	_, err := s.witnessFile.WriteAt(b, 0)
	return err
}

// hearWitness opens the file and checks the store against it.
func (s *Store) hearWitness() error {
	path := s.path("witness")
	b := make([]byte, witnessSize)
	if f, err := s.opts.FS.Open(path); err == nil {
		_, err = f.ReadAt(b, 0)
		if err := f.Close(); err != nil {
			return err
		}
		if err == nil && binary.BigEndian.Uint32(b) == crc32.Checksum(b[4:], castagnoli) {
			n := func(i int) uint64 { return binary.BigEndian.Uint64(b[4+8*i:]) }
			if err := s.compare(witness{n(0), n(1), n(2), n(3)}); err != nil {
				return err
			}
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var err error
	s.witnessFile, err = s.opts.FS.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	return err
}

func (s *Store) compare(was witness) error {
	is := s.measure()
	if is.id > was.id || is.id == was.id && is.term >= was.term && (is.lastTerm > was.lastTerm || is.lastTerm == was.lastTerm && is.last >= was.last) {
		return nil
	}
	say := func(w witness) string {
		return fmt.Sprintf("id %d in term %d with a log up to entry %d of term %d", w.id, w.term, w.last, w.lastTerm)
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStoreCorrupt, Want: "at least " + say(was) + "; " + corruptAdvice, Got: say(is), Where: s.path("witness")})
}

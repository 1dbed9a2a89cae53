package replica

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A snapshot travels as a stream, version 1. Numbers are big endian.
//
//	8 bytes   "ksnap" 0 0 1
//	4 bytes   length of a raftpb.SnapshotMetadata, at most 64 KiB, and it
//	then for each file of a pebble checkpoint, sorted by name:
//	  1 byte  length of the name, 1 to 64, and the name
//	  8 bytes length of the file, and it
//	1 byte    0
//	32 bytes  SHA-256 of all of the above
const (
	snapshotMagic     = "ksnap\x00\x00\x01"
	maxSnapshotMeta   = 64 << 10
	maxSnapshotName   = 64
	maxSnapshotFiles  = 1 << 20
	snapshotChunk     = 256 << 10 // read and written at a time
	defaultMaxReceive = 1 << 40   // bytes of all files together
)

var snapshotName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// A Checkpoint is the state at one applied index, as files that stay as they are.
type Checkpoint struct {
	fs       vfs.FS
	dir      string
	Metadata *pb.SnapshotMetadata
}

// Checkpoint makes a checkpoint of the state as of now. The caller removes it
// after use.
func (s *Store) Checkpoint() (*Checkpoint, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.checkpoints++
	c := &Checkpoint{fs: s.opts.FS, dir: s.path(fmt.Sprintf("checkpoint-%06d", s.checkpoints)), Metadata: snapshotOf(s.applied, s.members).GetMetadata()}
	if err := s.opts.FS.RemoveAll(c.dir); err != nil {
		return nil, err
	}
	if err := s.flush(s.db); err != nil {
		return nil, err
	}
	if err := s.guard(func() error { return s.db.Checkpoint(c.dir) }); err != nil {
		return nil, errors.Join(err, s.opts.FS.RemoveAll(c.dir))
	}
	return c, nil
}

// Remove removes the checkpoint's files.
func (c *Checkpoint) Remove() error { return c.fs.RemoveAll(c.dir) }

// WriteTo writes the checkpoint as a stream.
func (c *Checkpoint) WriteTo(w io.Writer) (int64, error) {
	h := &summer{w: bufio.NewWriterSize(w, snapshotChunk), h: sha256.New()}
	err := c.write(h)
	if err == nil {
		_, err = h.Write(h.h.Sum(nil))
	}
	return h.n, errors.Join(err, h.w.Flush())
}

func (c *Checkpoint) write(w *summer) error {
	meta, err := proto.Marshal(c.Metadata)
	if err != nil {
		return err
	}
	w.text(snapshotMagic)
	w.uint32(uint32(len(meta)))
	w.text(string(meta))
	names, err := c.fs.List(c.dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := c.writeFile(w, name); err != nil {
			return err
		}
	}
	w.text("\x00")
	return w.err
}

func (c *Checkpoint) writeFile(w *summer, name string) error {
	f, err := c.fs.Open(c.fs.PathJoin(c.dir, name), vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.text(string(rune(len(name))) + name)
	w.text(string(binary.BigEndian.AppendUint64(nil, uint64(info.Size()))))
	if n, err := io.Copy(w, io.LimitReader(f, info.Size())); err != nil || n != info.Size() {
		return errors.Join(err, fmt.Errorf("%s: %d bytes of %d", name, n, info.Size()))
	}
	return w.err
}

// summer writes and sums; it keeps its first error.
type summer struct {
	w   *bufio.Writer
	h   hash.Hash
	n   int64
	err error
}

func (s *summer) Write(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.h.Write(b)
	n, err := s.w.Write(b)
	s.n += int64(n)
	s.err = err
	return n, err
}

func (s *summer) text(t string)   { _, _ = s.Write([]byte(t)) }
func (s *summer) uint32(n uint32) { _, _ = s.Write(binary.BigEndian.AppendUint32(nil, n)) }

// install makes a received snapshot this node's state.
func (s *Store) install(m *pb.Message) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	meta := m.GetSnapshot().GetMetadata()
	id := entryID{meta.GetIndex(), meta.GetTerm()}
	s.mu.Lock()
	dir, ok := s.received[id]
	delete(s.received, id)
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("raft took a snapshot at index %d that was not received", id.index)
	}
	db, err := s.openDB(dir, s.stateOptions())
	if err != nil {
		return err
	}
	if err := s.checkApplied(db, id); err != nil {
		return errors.Join(err, db.Close())
	}
	hard := s.hard
	if m.Term != nil {
		hard = &pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	hard = &pb.HardState{Term: new(hard.GetTerm()), Vote: new(hard.GetVote()), Commit: new(max(hard.GetCommit(), id.index))}
	return s.swap(db, dir, s.node.id, hard, &id)
}

// checkApplied checks that the state in db is the one that its message described.
func (s *Store) checkApplied(db *pebble.DB, id entryID) error {
	applied, ok, err := get(db, keyApplied)
	if err != nil {
		return s.corrupt("snapshot", err)
	}
	if !ok || !bytes.Equal(applied, id.bytes()) {
		return s.bad(string(keyApplied), fmt.Sprintf("%x, as the snapshot's message says", id.bytes()), fmt.Sprintf("%x", applied))
	}
	return nil
}

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

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// receiveFiles reads a snapshot's stream into files of dir and syncs them. Nothing
// of it is to be used if it returns an error.
func receiveFiles(r io.Reader, fs vfs.FS, dir string, limit uint64) (*pb.SnapshotMetadata, error) {
	in := &sumReader{r: bufio.NewReaderSize(r, snapshotChunk), h: sha256.New()}
	if magic := in.bytes("magic", len(snapshotMagic)); in.err == nil && string(magic) != snapshotMagic {
		return nil, in.fail("magic", "is not that of a snapshot, version 1")
	}
	size := binary.BigEndian.Uint32(in.bytes("metadata length", 4))
	if in.err == nil && size > maxSnapshotMeta {
		return nil, in.fail("metadata length", "is over 64 KiB")
	}
	meta := &pb.SnapshotMetadata{}
	if raw := in.bytes("metadata", int(size)); in.err == nil {
		if err := proto.Unmarshal(raw, meta); err != nil || meta.GetIndex() == 0 || meta.GetConfState() == nil {
			return nil, in.fail("metadata", "does not parse")
		}
	}
	for i, last := 0, ""; ; i++ {
		n := int(in.bytes("name length", 1)[0])
		if in.err != nil || n == 0 {
			break
		}
		name := string(in.bytes("name", min(n, maxSnapshotName)))
		length := binary.BigEndian.Uint64(in.bytes("file length", 8))
		switch {
		case in.err != nil:
			return nil, in.err
		case n > maxSnapshotName || !snapshotName.MatchString(name) || name <= last || i == maxSnapshotFiles:
			return nil, in.fail("name", fmt.Sprintf("is %q, which no checkpoint has there", name))
		case length > limit:
			return nil, in.fail("file length", "exceeds the bound on a snapshot")
		}
		limit -= length
		last = name
		if err := receiveFile(in, fs, fs.PathJoin(dir, name), int64(length)); err != nil {
			return nil, err
		}
	}
	sum := in.h.Sum(nil)
	if got := in.bytes("digest", sha256.Size); in.err == nil && !bytes.Equal(got, sum) {
		return nil, in.fail("digest", "is not that of the bytes received")
	}
	if in.err != nil {
		return nil, in.err
	}
	return meta, syncDir(fs, dir)
}

func receiveFile(in *sumReader, fs vfs.FS, path string, length int64) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	n, err := io.CopyN(f, in, length)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = in.fail("file", fmt.Sprintf("ends after %d bytes of %d", n, length))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// sumReader reads and sums; it keeps its first error and then returns zeros.
type sumReader struct {
	r   *bufio.Reader
	h   hash.Hash
	n   int64
	err error
}

func (s *sumReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.h.Write(b[:n])
	s.n += int64(n)
	return n, err
}

func (s *sumReader) bytes(field string, n int) []byte {
	b := make([]byte, n)
	if s.err != nil {
		return b
	}
	if _, err := io.ReadFull(s, b); err != nil {
		s.err = err
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			s.err = s.fail(field, "is cut short")
		}
		clear(b)
	}
	return b
}

func (s *sumReader) fail(field, problem string) error {
	return &keystead.FormatError{Format: "snapshot", Offset: s.n, Field: field, Problem: problem}
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// discard removes received snapshots that raft did not take, and now never will.
func (s *Store) discard() error {
	var errs []error
	for id, dir := range s.received {
		if id.index <= s.applied.index {
			errs = append(errs, s.opts.FS.RemoveAll(s.path(dir)))
			delete(s.received, id)
		}
	}
	return errors.Join(errs...)
}

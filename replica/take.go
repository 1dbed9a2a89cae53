package replica

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Receive reads a snapshot's stream into a directory of its own. Nothing of it is written
// before it was checked against its list, and the list before [StoreOptions].Approve has
// accepted it. The state becomes this node's when raft takes the snapshot; see Append.
func (s *Store) Receive(ctx context.Context, r io.Reader) (*pb.SnapshotMetadata, error) {
	if !s.receiving.TryLock() {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "snapshot", Want: "one at a time", Got: "another"})
	}
	defer s.receiving.Unlock()
	s.applyMu.Lock() // the name of a directory is one user's
	dir, err := s.nextDir()
	if err == nil {
		err = s.opts.FS.MkdirAll(s.path(dir), 0o700)
	}
	s.applyMu.Unlock()
	if err != nil {
		return nil, err
	}
	meta, err := s.receive(ctx, bufio.NewReaderSize(r, snapshotChunk), dir)
	if err != nil {
		return nil, errors.Join(err, s.opts.FS.RemoveAll(s.path(dir)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := entryID{meta.GetIndex(), meta.GetTerm()}
	if old, ok := s.received[id]; ok {
		err = s.opts.FS.RemoveAll(s.path(old))
	}
	s.received[id] = dir
	return meta, errors.Join(err, s.discard())
}

func (s *Store) receive(ctx context.Context, r *bufio.Reader, dir string) (*pb.SnapshotMetadata, error) {
	magic, err := r.Peek(len(carryMagic))
	if err != nil {
		return nil, &keystead.FormatError{Format: "snapshot", Field: "magic", Problem: "is cut short"}
	}
	p, portable := s.opts.Machine.(Portable)
	if string(magic) != carryMagic {
		if portable && (s.opts.TakeFiles == nil || !s.opts.TakeFiles()) {
			return nil, unproven("snapshot", "the state at a position whose digest a majority signed", "the files of a state, which nobody signed")
		}
		return receiveFiles(r, s.opts.FS, s.path(dir), defaultMaxReceive)
	}
	if !portable {
		return nil, &keystead.FormatError{Format: "snapshot", Field: "magic", Problem: "is of a portable state, which this machine does not have"}
	}
	in := &listReader{r: r}
	l, err := in.list()
	if err != nil {
		return nil, err
	}
	taker, err := p.Take(l.outline)
	if err != nil {
		return nil, err
	}
	if s.opts.Approve != nil {
		if err := s.opts.Approve(ctx, l.header, l.outline.Proof); err != nil {
			return nil, err
		}
	}
	return s.take(ctx, in, l, taker, dir)
}

// listReader reads a stream of version 2. It keeps its first error and then returns zeros.
type listReader struct {
	r   *bufio.Reader
	n   int64
	err error
}

func (in *listReader) fail(field, problem string, args ...any) error {
	if in.err == nil {
		in.err = &keystead.FormatError{Format: "snapshot", Offset: in.n, Field: field, Problem: fmt.Sprintf(problem, args...)}
	}
	return in.err
}

// bytes reads n bytes, which were bounded. Room is made as they come.
func (in *listReader) bytes(n int, field string, into []byte) []byte {
	const step = 1 << 20
	into = into[:0]
	for in.err == nil && len(into) < n {
		k := min(step, n-len(into))
		into = append(into, make([]byte, k)...)
		m, err := io.ReadFull(in.r, into[len(into)-k:])
		in.n += int64(m)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			_ = in.fail(field, "is cut short")
		} else if err != nil {
			in.err = err
		}
	}
	if in.err != nil {
		return make([]byte, min(n, 8))
	}
	return into
}

func (in *listReader) number(size int, most uint64, field string) uint64 {
	b := in.bytes(size, field, nil)
	n := uint64(0)
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	if n > most {
		_ = in.fail(field, "is %d, at most %d are accepted", n, most)
	}
	if in.err != nil {
		return 0
	}
	return n
}

func (in *listReader) digests(n uint64, field string) (out []keystead.Digest) {
	for i := uint64(0); i < n && in.err == nil; i++ {
		out = append(out, keystead.Digest(append(in.bytes(len(keystead.Digest{}), field, nil), make([]byte, 32)...)[:32]))
	}
	return out
}

// list reads the list, and checks what it says of itself.
func (in *listReader) list() (*stateList, error) {
	in.bytes(len(carryMagic), "magic", nil)
	c := cursor.New("snapshot", binary.BigEndian, in.bytes(headerSize, "header", nil))
	l := &stateList{header: readHeader(c)}
	h := &l.header
	switch {
	case in.err != nil:
		return nil, in.err
	case h.Index == 0 || h.Chunks == 0 || h.Chunks > maxListed || h.Bytes > h.Chunks*maxChunk:
		return nil, in.fail("header", "says %d bytes in %d chunks at index %d", h.Bytes, h.Chunks, h.Index)
	}
	l.chunks = in.digests(h.Chunks, "chunks")
	l.outline = Outline{Size: h.Size, Root: h.Root, Runs: in.digests(in.number(8, maxListed, "runs"), "runs")}
	l.outline.Proof = in.bytes(int(in.number(4, maxProof, "proof length")), "proof", nil)
	if in.err != nil {
		return nil, in.err
	}
	if got := sumOf(l.chunks); got != h.Sum {
		return nil, unproven("list", "hashes of chunks under "+h.Sum.String(), "%v", got)
	}
	return l, nil
}

// take writes the parts that the list describes to a new state, each once it was checked.
func (s *Store) take(ctx context.Context, in *listReader, l *stateList, taker Taker, dir string) (*pb.SnapshotMetadata, error) {
	db, err := s.openDB(dir, s.stateOptions())
	if err != nil {
		return nil, err
	}
	meta, err := s.takeInto(ctx, db, in, l, taker)
	if err == nil {
		err = s.flush(db)
	}
	return meta, errors.Join(err, s.guard(db.Close))
}

func (s *Store) takeInto(ctx context.Context, db *pebble.DB, in *listReader, l *stateList, taker Taker) (*pb.SnapshotMetadata, error) {
	if err := s.takeChunks(ctx, db, in, l); err != nil {
		return nil, err
	}
	if err := s.takeRuns(ctx, db, in, l, taker); err != nil {
		return nil, err
	}
	b := db.NewBatch()
	defer b.Close()
	if err := b.Set(keyFormat, be64(stateFormat), nil); err != nil {
		return nil, err
	}
	if err := s.guard(func() error { return b.Commit(pebble.NoSync) }); err != nil {
		return nil, err
	}
	members, err := checkTaken(db, &l.header)
	if err != nil {
		return nil, err
	}
	return snapshotOf(entryID{l.header.Index, l.header.Term}, members).GetMetadata(), taker.Done(View{db})
}

// takeChunks takes the pairs in.
func (s *Store) takeChunks(ctx context.Context, db *pebble.DB, in *listReader, l *stateList) error {
	var chunk, last []byte
	total := uint64(0)
	for i, want := range l.chunks {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		chunk = in.bytes(int(in.number(4, maxChunk, "chunk length")), "chunk", chunk)
		if in.err != nil {
			return in.err
		}
		if got := keystead.Sum(chunk); got != want {
			return unproven(fmt.Sprintf("chunk %d", i), "the one of hash "+want.String(), "%v", got)
		}
		total += uint64(len(chunk))
		b := db.NewBatchWithSize(len(chunk) + len(chunk)/4)
		end, err := eachPair(chunk, last, func(key, value []byte) error {
			if key[0] != prefixState && !ownKey(key) {
				return in.fail("key", "%.80q is none of a state", key)
			}
			return b.Set(key, value, nil)
		})
		last = append([]byte(nil), end...)
		if err == nil {
			err = s.guard(func() error { return b.Commit(pebble.NoSync) })
		}
		if err := errors.Join(err, b.Close()); err != nil {
			return err
		}
	}
	if total != l.header.Bytes {
		return unproven("chunks", fmt.Sprintf("%d bytes", l.header.Bytes), "%d", total)
	}
	return nil
}

// takeRuns takes the entries in.
func (s *Store) takeRuns(ctx context.Context, db *pebble.DB, in *listReader, l *stateList, taker Taker) error {
	for range l.outline.Runs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		entries, size := make([][]byte, in.number(4, maxRun, "run length")), uint64(0)
		for i := range entries {
			n := in.number(4, maxRunSize-size, "entry length")
			size += n
			entries[i] = in.bytes(int(n), "entry", nil)
		}
		if in.err != nil {
			return in.err
		}
		b := db.NewBatchWithSize(int(size) + 64<<10)
		err := taker.Add(&Batch{View{db}, b}, entries)
		if err == nil {
			err = s.guard(func() error { return b.Commit(pebble.NoSync) })
		}
		if err := errors.Join(err, b.Close()); err != nil {
			return err
		}
	}
	return nil
}

// checkTaken checks that the replica's own part of a state is what its header says.
func checkTaken(db *pebble.DB, h *StateHeader) (*Membership, error) {
	applied, _, err := get(db, keyApplied)
	if err != nil {
		return nil, err
	}
	if want := (entryID{h.Index, h.Term}).bytes(); !bytes.Equal(applied, want) {
		return nil, unproven(string(keyApplied), fmt.Sprintf("%x", want), "%x", applied)
	}
	raw, _, err := get(db, keyChain)
	if err != nil {
		return nil, err
	}
	chain, err := decodeChain(raw)
	if err == nil && chain.Hash != h.Chain {
		err = unproven(string(keyChain), h.Chain.String(), "%v", chain.Hash)
	}
	if err != nil {
		return nil, err
	}
	if raw, _, err = get(db, keyMembership); err != nil {
		return nil, err
	}
	return decodeMembership(raw)
}

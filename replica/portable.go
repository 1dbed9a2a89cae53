package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// A Portable state machine is one whose state does not depend on how a store lays it out.
// Members can compare digests of it, and hand it on in parts that are checked one by one.
// A machine that is not portable travels as the files of its store.
type Portable interface {
	// Positions says which positions the state has.
	Positions(state View) (Positions, error)

	// Pairs yields the logical pairs of the state with keys from the given one on, in
	// order: the same on every member, whatever its build.
	Pairs(state View, from []byte, yield func(key, value []byte) bool) error

	// Outline describes what of the state is not in its pairs: entries of a tree.
	Outline(state View) (Outline, error)

	// Run returns the entries of a run, by its number.
	Run(state View, number uint64) ([][]byte, error)

	// Take verifies an outline, and begins to take in what it describes.
	Take(o Outline) (Taker, error)
}

// A Taker takes in the entries of a tree.
type Taker interface {
	// Add writes the entries of the next run, once they are known to be the tree's.
	Add(w *Batch, entries [][]byte) error
	// Done checks the state as a whole, after all pairs and runs. An error means that it
	// is not to be used.
	Done(state View) error
}

// Positions are the places in the log at which members compare their states.
type Positions struct {
	InUse  bool   // else states travel as files
	Newest uint64 // log index of the newest; 0 for none
	Stable uint64 // of the last whose digest a majority signed
}

// An Outline describes the entries of a tree: its size and root, the Merkle hash of each
// run of them, and what says who may vouch for a state, which the replica does not read.
type Outline struct {
	Size  uint64
	Root  keystead.Digest
	Runs  []keystead.Digest
	Proof []byte
}

// A StateHeader names the whole state of a member at a position (docs/spec/state.md).
type StateHeader struct {
	Index, Term uint64          // of the position's log entry
	Chain       keystead.Digest // hash of the log's chain after it
	Size        uint64          // of the tree
	Root        keystead.Digest // of the tree
	Chunks      uint64          // of the pairs
	Bytes       uint64          // of all chunks
	Sum         keystead.Digest // Merkle tree hash of the chunks' hashes
}

const headerSize = 3*8 + 2*8 + 3*len(keystead.Digest{})

func (h *StateHeader) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, h.Index), h.Term)
	b = binary.BigEndian.AppendUint64(append(b, h.Chain[:]...), h.Size)
	b = binary.BigEndian.AppendUint64(append(b, h.Root[:]...), h.Chunks)
	return append(binary.BigEndian.AppendUint64(b, h.Bytes), h.Sum[:]...)
}

func readHeader(c *cursor.Cursor) (h StateHeader) {
	digest := func(field string) (d keystead.Digest) { copy(d[:], c.Bytes(len(d), field)); return d }
	h.Index, h.Term, h.Chain, h.Size = c.U64("index"), c.U64("term"), digest("chain"), c.U64("size")
	h.Root, h.Chunks, h.Bytes, h.Sum = digest("root"), c.U64("chunks"), c.U64("bytes"), digest("sum")
	return h
}

// Digest is what members sign.
func (h *StateHeader) Digest() keystead.Digest {
	return keystead.Sum(h.append([]byte("keystead-state/1\n")))
}

// sumOf returns the Merkle tree hash (RFC 6962) over the hashes of chunks.
func sumOf(chunks []keystead.Digest) keystead.Digest {
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for i := range chunks {
		if err := r.Append(rfc6962.DefaultHasher.HashLeaf(chunks[i][:]), nil); err != nil {
			panic(err) // a range that begins at 0 takes every leaf
		}
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		panic(err)
	}
	if root == nil {
		return keystead.Sum(nil)
	}
	return keystead.Digest(root)
}

// Bounds of what a snapshot holds in one piece.
const (
	maxChunk   = 4 << 20          // bytes
	maxListed  = 2 << 20          // chunks, and runs
	maxProof   = 64 << 20         // bytes
	maxRun     = 256              // entries
	maxRunSize = maxRun * 1 << 20 // bytes
)

// appendPair appends a pair of a chunk.
func appendPair(b, key, value []byte) []byte {
	return cursor.AppendSized32(cursor.AppendSized16(b, key), value)
}

func pairSize(key, value []byte) int { return 2 + len(key) + 4 + len(value) }

// eachPair visits the pairs of a chunk, which ascend from after the key last.
func eachPair(chunk, last []byte, visit func(key, value []byte) error) ([]byte, error) {
	c := cursor.New("state chunk", binary.BigEndian, chunk)
	for c.Len() > 0 {
		key, value := c.Sized16(1<<16-1, "key"), c.Sized32(maxChunk, "value")
		if c.Err() == nil && string(key) <= string(last) {
			c.Fail("key", "%.80x comes after %.80x", key, last)
		}
		if c.Err() != nil {
			return nil, c.Err()
		}
		if err := visit(key, value); err != nil {
			return nil, err
		}
		last = key
	}
	return last, c.Err()
}

func unproven(where, want, got string, args ...any) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSnapshotUnproven, Where: where, Want: want, Got: fmt.Sprintf(got, args...)})
}

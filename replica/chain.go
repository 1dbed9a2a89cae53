package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A Chain names every entry that was applied, in order, by one hash: commands, changes of
// membership, and raft's own empty entries. Two members whose chains have one era and one
// start, and one hash at one index, have applied the same entries.
//
//	hash at start  SHA-256("keystead chain/1\n" | era (8) | start (8) | hash of the era before, or zeroes | membership as of start)
//	at each next   SHA-256(hash before | index (8) | term (8) | type (1) | data)
//
// Numbers are big endian; the membership is as it is stored, and in an encoding that it
// has only one of. It begins with the group, or where a position is applied in a state
// that an earlier build made.
type Chain struct {
	Era   uint64          // how often members reopened the group from one disk
	Start uint64          // index of the entry that it begins with; 0 before it has begun
	Hash  keystead.Digest // after the last entry applied
}

func (c *Chain) encode() []byte {
	return append(binary.BigEndian.AppendUint64(be64(c.Era), c.Start), c.Hash[:]...)
}

func decodeChain(b []byte) (c Chain, err error) {
	r := cursor.New("chain record", binary.BigEndian, b)
	c.Era, c.Start = r.U64("era"), r.U64("start")
	copy(c.Hash[:], r.Bytes(len(c.Hash), "hash"))
	r.End()
	return c, r.Err()
}

// beginChain returns the chain that begins at an index, after that of the era before.
func beginChain(era, start uint64, before keystead.Digest, m *Membership) Chain {
	b := append([]byte("keystead chain/1\n"), be64(era)...)
	b = append(binary.BigEndian.AppendUint64(b, start), before[:]...)
	b = append(b, m.encode()...)
	return Chain{Era: era, Start: start, Hash: keystead.Sum(b)}
}

// next returns the hash after one more entry.
func (c *Chain) next(e *pb.Entry) keystead.Digest {
	h := sha256.New()
	h.Write(c.Hash[:])
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], e.GetIndex())
	binary.BigEndian.PutUint64(head[8:], e.GetTerm())
	head[16] = byte(e.GetType())
	h.Write(head[:])
	h.Write(e.GetData())
	var d keystead.Digest
	h.Sum(d[:0])
	return d
}

// maxLinks is how many of the last hashes are remembered at least: enough to compare with
// a member that lags by some seconds.
const maxLinks = 1 << 16

// links are the hashes after the last entries.
type links struct {
	last   uint64 // index of the last one
	hashes []keystead.Digest
}

// add takes the hash after an entry. One that does not follow begins anew.
func (l *links) add(index uint64, h keystead.Digest) {
	if index != l.last+1 {
		l.hashes = l.hashes[:0]
	}
	if len(l.hashes) == 2*maxLinks {
		l.hashes = slices.Delete(l.hashes, 0, maxLinks)
	}
	l.last, l.hashes = index, append(l.hashes, h)
}

func (l *links) at(index uint64) (h keystead.Digest, ok bool) {
	back := l.last - index
	if index > l.last || back >= uint64(len(l.hashes)) {
		return h, false
	}
	return l.hashes[uint64(len(l.hashes))-1-back], true
}

// Chain returns the chain after the last entry applied, and that entry's index.
func (s *Store) Chain() (Chain, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chain, s.applied.index
}

// Link returns the chain's hash after an entry of the last ones, in the present era.
func (s *Store) Link(index uint64) (keystead.Digest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index < s.chain.Start || s.chain.Start == 0 {
		return keystead.Digest{}, false
	}
	return s.links.at(index)
}

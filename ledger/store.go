package ledger

import (
	"encoding/binary"

	"github.com/keystead/keystead"
)

// Reader reads an ordered key-value store at one point.
type Reader interface {
	// Get returns the value at key. It stays valid until the next call.
	Get(key []byte) (value []byte, found bool, err error)
	// Scan visits the pairs with from <= key < to in order, until visit returns
	// false. Key and value are valid during the visit only.
	Scan(from, to []byte, visit func(key, value []byte) bool) error
}

// Writer collects the effects of Apply. It must copy what it is given. All of a
// batch becomes visible at once, or none of it.
type Writer interface {
	Set(key, value []byte) error
	Delete(key []byte) error
}

// The key spaces of the store, by first byte. Numbers in keys are big-endian.
const (
	spaceHead       = 'a' // the one head record
	spaceSubject    = 'b' // type/subject: version of the judged subject
	spaceLatest     = 'c' // the last checkpoint that a majority signed, a note
	spaceVotes      = 'd' // node name: its last checkpoint signatures
	spaceEntry      = 'e' // leaf index: the entry
	spaceCall       = 'g' // contract/key: stored, written by calls
	spaceCalled     = 'h' // contract: its last call
	spaceJudged     = 'j' // type/key: stored, written by effective entries
	spaceContract   = 'k' // contract/key: stored, written by transactions
	spaceTile       = 'm' // tile level, tile index: a full tile of tree hashes
	spaceLast       = 'l' // node name: time of its last tick
	spaceRenewal    = 'n' // host name: the last renewal of its lease
	spacePositions  = 'o' // the one record of stable positions
	spaceProposal   = 'p' // digest: proposal record
	spacePosition   = 'q' // log index: a position and the digests signed at it
	spaceRoster     = 'r' // sequence: leaf index of the entry that made the roster
	spaceSuspension = 's' // host name: the last suspension of its lease
	spaceTick       = 't' // log index and offset of a tick: clock, tree size, nonce
	spaceAlarm      = 'x' // number: alarm record
)

func numberKey(space byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{space}, n)
}

func nameKey[T string | []byte](space byte, name T) []byte {
	return append([]byte{space}, name...)
}

// head is the fixed part of the state. FormatVersion is the first field, so that
// a later build can tell before it reads on.
type head struct {
	applied uint64 // log index of the last entry applied
	offset  uint64 // and which one of those in that log entry
	term    uint64 // its term
	size    uint64 // leaves in the tree
	clock   uint64 // domain clock, Unix milliseconds
	alarms  uint64 // raised so far
	domain  keystead.Digest
	logged  uint64 // bytes of entries since the last position; written from the first one on
}

// StateVersion is the version of the layout of the store. It only ever grows.
//
//	1  the key spaces of store.go but n and s, tiles of height 8
//	2  n and s: renewals and suspensions; values of 256 bytes or more that make up half of their entry are stored in it only
//	3  o and q: positions; the head counts the log's bytes. A store is of version 2 until its first position
//	4  g and h: calls of contracts. A store is of version 3, or 2, until its first call
const StateVersion = 4

const headSize = 2 + 7*8 + 32

func (h *head) encode(version uint16) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, headSize), version)
	for _, n := range []uint64{h.applied, h.offset, h.term, h.size, h.clock, h.alarms} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, h.domain[:]...)
	if version < 3 {
		return b
	}
	return binary.BigEndian.AppendUint64(b, h.logged)
}

func decodeHead(b []byte) (head, error) {
	c := record("head", b)
	version := c.U16("version")
	if version < 2 || version > StateVersion {
		c.Fail("version", "state version %d; this build knows 2 to %d", version, StateVersion)
	}
	h := head{applied: c.U64("applied"), offset: c.U64("offset"), term: c.U64("term"), size: c.U64("size"), clock: c.U64("clock"), alarms: c.U64("alarms")}
	copy(h.domain[:], c.Bytes(32, "domain"))
	if version >= 3 {
		h.logged = c.U64("logged")
	}
	c.End()
	return h, c.Err()
}

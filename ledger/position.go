package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// The forms of a position entry: its first byte.
const (
	formPosition = 1
	formDigest   = 2
)

// PositionEntry returns the entry that asks for a position. Its place in the log says
// which one. Any node may propose it; it takes effect when one is due.
func PositionEntry() []byte { return append(receipt.Header(receipt.KindPosition), formPosition) }

// IsPosition reports whether an entry asks for a position, by its bytes alone.
func IsPosition(entry []byte) bool { return string(entry) == string(PositionEntry()) }

// StateDigest is what one node computed of its whole state at a position, signed.
type StateDigest struct {
	Position uint64          // log index
	Digest   keystead.Digest // docs/spec/state.md
	Bytes    uint64          // of the pairs that it covers
	Chain    keystead.Digest // of the log up to the position
	Signed
}

// Sign signs the digest as the node of that name.
func (s StateDigest) Sign(k *key.Node, node string, domain keystead.Digest) StateDigest {
	s.Signed = Signed{Node: node, Signature: k.Sign(s.message(domain))}
	return s
}

// Verify checks that the key signed the digest, for the domain.
func (s *StateDigest) Verify(k key.NodePublic, domain keystead.Digest) error {
	if !k.Verify(s.message(domain), s.Signature) {
		return deny(keystead.ReasonSignatureInvalid, s.where(), "a signature by "+s.Node, "another")
	}
	return nil
}

// Same reports whether two nodes say the same.
func (s *StateDigest) Same(o *StateDigest) bool {
	return s.Position == o.Position && s.Digest == o.Digest && s.Bytes == o.Bytes && s.Chain == o.Chain
}

func (s *StateDigest) where() string { return fmt.Sprintf("state at position %d", s.Position) }

func (s *StateDigest) body(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint64(b, s.Position), s.Digest[:]...)
	return append(binary.BigEndian.AppendUint64(b, s.Bytes), s.Chain[:]...)
}

func (s *StateDigest) message(domain keystead.Digest) []byte {
	return s.body(append([]byte("keystead state-digest/1\n"), domain[:]...))
}

// Entry returns the digest as an entry.
func (s *StateDigest) Entry() []byte {
	return appendSigned(s.body(append(receipt.Header(receipt.KindPosition), formDigest)), s.Signed)
}

// ParseStateDigest reads a state digest's entry; it checks no signature.
func ParseStateDigest(entry []byte) (StateDigest, error) {
	position, s, err := parsePosition(entry)
	if err == nil && position {
		err = &keystead.FormatError{Format: "position", Offset: 2, Field: "form", Problem: "asks for a position, and is no digest"}
	}
	return s, err
}

// parsePosition reads an entry of either form.
func parsePosition(entry []byte) (position bool, s StateDigest, err error) {
	b, err := body(entry, receipt.KindPosition)
	if err != nil {
		return false, s, err
	}
	c := record("position", b)
	switch form := c.U8("form"); form {
	case formPosition:
		position = true
	case formDigest:
		s = readStateDigest(c, c.U64("position"))
	default:
		c.Fail("form", "%d is not known", form)
	}
	c.End()
	if c.Err() != nil {
		return false, StateDigest{}, c.Err()
	}
	return position, s, nil
}

func readStateDigest(c *cursor.Cursor, position uint64) StateDigest {
	return StateDigest{Position: position, Digest: digest(c, "digest"), Bytes: c.U64("bytes"), Chain: digest(c, "chain"), Signed: readSigned(c)}
}

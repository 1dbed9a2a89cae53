package ledger

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

func deny(r keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
}

// record starts reading an entry's body or a record of the store.
func record(format string, b []byte) *cursor.Cursor {
	return cursor.New(format, binary.BigEndian, b)
}

// body returns the body of an entry of the kind.
func body(entry []byte, want receipt.Kind) ([]byte, error) {
	k, b, err := receipt.Split(entry)
	if err == nil && k != want {
		err = &keystead.FormatError{Format: want.String(), Offset: 1, Field: "kind", Problem: "is a " + k.String() + " entry"}
	}
	return b, err
}

// Check says what is wrong with the form of an entry. A node calls it before it
// has anything replicated: an entry of an unknown version stops every node, and a
// malformed one is replicated in vain.
func Check(entry []byte) error {
	k, _, err := receipt.Split(entry)
	if err != nil {
		return err
	}
	switch k {
	case receipt.KindGenesis:
		_, err = receipt.ParseGenesis(entry)
	case receipt.KindRoster:
		_, err = receipt.ParseChange(entry)
	case receipt.KindTransaction:
		_, err = parseTransaction(entry)
	case receipt.KindEffective:
		_, err = ParseEffective(entry)
	case receipt.KindProposal:
		_, err = ParseProposal(entry)
	case receipt.KindEndorsement:
		_, err = ParseEndorsement(entry)
	case receipt.KindTick:
		_, err = ParseTicks(entry)
	case receipt.KindCheckpoint:
		_, err = ParseVote(entry)
	case receipt.KindRenewals, receipt.KindEarlyRenewals:
		_, err = ParseRenewals(entry)
	case receipt.KindSuspension:
		_, err = ParseSuspension(entry)
	case receipt.KindCall:
		_, err = parseCall(entry)
	case receipt.KindPosition:
		_, _, err = parsePosition(entry)
	}
	return err
}

// count reads a two-byte number of things.
func count(c *cursor.Cursor, field string, limit int) int {
	n := int(c.U16(field))
	if n > limit {
		c.Fail(field, "%d, at most %d are accepted", n, limit)
		return 0
	}
	return n
}

// name reads a name: 1 to 64 of a-z, 0-9, dot and dash.
func name(c *cursor.Cursor, field string) []byte {
	b := c.Sized16(maxName, field)
	if c.Err() == nil && !validName(b) {
		c.Fail(field, "%.64q is not 1 to %d of a-z, 0-9, dot and dash", b, maxName)
	}
	return b
}

func validName(b []byte) bool {
	for _, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-') {
			return false
		}
	}
	return len(b) > 0 && len(b) <= maxName
}

func digest(c *cursor.Cursor, field string) (d keystead.Digest) {
	copy(d[:], c.Bytes(len(d), field))
	return d
}

// Signed is a node's signature under the node's name.
type Signed struct {
	Node      string
	Signature key.NodeSignature
}

const maxSigned = 64 // as many as a roster has nodes

func appendSigned(b []byte, s Signed) []byte {
	return append(cursor.AppendSized16(b, s.Node), s.Signature[:]...)
}

func readSigned(c *cursor.Cursor) (s Signed) {
	s.Node = string(name(c, "node"))
	copy(s.Signature[:], c.Bytes(len(s.Signature), "signature"))
	return s
}

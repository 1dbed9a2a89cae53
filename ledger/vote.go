package ledger

import (
	"encoding/binary"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

func millis(n int64) string { return strconv.FormatInt(n, 10) + " ms" }

// Vote is one node's signature over the tree head at a size: nodes send theirs
// through the log, after the leaves, so that all count the same ones.
type Vote struct {
	Size uint64
	Root keystead.Digest
	Signed
}

// NewVote signs a tree head as the node of that name.
func NewVote(k *key.Node, node string, head receipt.TreeHead) Vote {
	return Vote{head.Size, head.Root, Signed{node, head.Sign(k)}}
}

// Entry returns the vote as an entry.
func (v *Vote) Entry() []byte {
	b := binary.BigEndian.AppendUint64(receipt.Header(receipt.KindCheckpoint), v.Size)
	return appendSigned(append(b, v.Root[:]...), v.Signed)
}

// ParseVote reads a vote; it checks no signature.
func ParseVote(entry []byte) (v Vote, err error) {
	b, err := body(entry, receipt.KindCheckpoint)
	if err != nil {
		return v, err
	}
	c := record("checkpoint", b)
	v.Size, v.Root = c.U64("size"), digest(c, "root")
	v.Signed = readSigned(c)
	c.End()
	return v, c.Err()
}

package heads

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// Log is a place in a node's log: the last entry that it applied, and the hash that chains
// all entries up to it (replica.Chain).
type Log struct {
	Era   uint64 // how often members reopened the domain from one disk
	Start uint64 // index at which the chain begins; 0: the node has none, and says nothing of its log
	Index uint64
	Hash  keystead.Digest
}

// Statement is what a node says of itself. Tree is of a size that the node has reached,
// not necessarily the one at Log.
type Statement struct {
	Log       Log
	Tree      receipt.TreeHead
	Node      string
	Signature key.NodeSignature
}

// Version of the encoding: its first byte. It only ever grows.
//
//	1  as in docs/spec/heads.md
const Version = 1

const maxName = 64

// New signs a statement as the node of that name.
func New(k *key.Node, node string, log Log, tree receipt.TreeHead) Statement {
	s := Statement{Log: log, Tree: tree, Node: node}
	s.Signature = k.Sign(s.message())
	return s
}

// Verify reports whether the key signed the statement, and it is of that domain.
func (s *Statement) Verify(k key.NodePublic, domain keystead.Digest) bool {
	return s.Tree.Domain == domain && k.Verify(s.message(), s.Signature)
}

func (s *Statement) message() []byte { return s.body([]byte("keystead head/1\n")) }

func (s *Statement) body(b []byte) []byte {
	b = append(b, s.Tree.Domain[:]...)
	for _, n := range []uint64{s.Log.Era, s.Log.Start, s.Log.Index} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, s.Log.Hash[:]...)
	b = append(binary.BigEndian.AppendUint64(b, s.Tree.Size), s.Tree.Root[:]...)
	b = append(binary.BigEndian.AppendUint64(b, s.Tree.Roster), s.Tree.Entry[:]...)
	return cursor.AppendSized16(b, s.Node)
}

// Bytes returns the statement's one encoding.
func (s *Statement) Bytes() []byte { return append(s.body([]byte{Version}), s.Signature[:]...) }

// Parse reads a statement; it checks no signature. It fails with a *keystead.FormatError.
func Parse(b []byte) (s Statement, err error) {
	c := cursor.New("head", binary.BigEndian, b)
	if v := c.U8("version"); c.Err() == nil && v != Version {
		c.Fail("version", "%d is not known", v)
	}
	digest := func(field string) (d keystead.Digest) { copy(d[:], c.Bytes(len(d), field)); return d }
	s.Tree.Domain = digest("domain")
	s.Log = Log{Era: c.U64("era"), Start: c.U64("start"), Index: c.U64("index"), Hash: digest("hash")}
	s.Tree.Size, s.Tree.Root = c.U64("size"), digest("root")
	s.Tree.Roster, s.Tree.Entry = c.U64("roster"), digest("roster entry")
	s.Node = string(c.Sized16(maxName, "node"))
	copy(s.Signature[:], c.Bytes(len(s.Signature), "signature"))
	c.End()
	if c.Err() != nil {
		return Statement{}, c.Err()
	}
	return s, nil
}

package ledger

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// Prover makes receipts under one checkpoint. It keeps what receipts have in
// common, so making one costs two or three reads. Use it from one goroutine.
type Prover struct {
	view  View
	head  receipt.TreeHead
	note  []byte
	chain [][]byte
	nodes *nodeSource
}

// ErrNoCheckpoint says that no majority has signed a checkpoint yet.
var ErrNoCheckpoint = errors.New("ledger: no majority has signed a checkpoint yet")

// NewProver returns a prover under the last checkpoint that a majority signed.
func NewProver(r Reader) (*Prover, error) {
	v := NewView(r)
	note, err := v.Checkpoint()
	if err != nil {
		return nil, err
	}
	if note == nil {
		return nil, ErrNoCheckpoint
	}
	head, err := receipt.ParseCheckpoint(note)
	if err != nil {
		return nil, err
	}
	chain, err := v.Chain(head.Roster)
	return &Prover{v, head, note, chain, newNodeSource(r, head.Size)}, err
}

// Head returns the tree head that the prover's receipts end in.
func (p *Prover) Head() receipt.TreeHead { return p.head }

// Receipt proves a leaf.
func (p *Prover) Receipt(leaf uint64) (*receipt.Receipt, error) {
	if leaf >= p.head.Size {
		return nil, fmt.Errorf("leaf %d is not yet under a checkpoint; the last one has size %d", leaf, p.head.Size)
	}
	entry, err := p.view.unchecked(leaf) // checked under the checkpoint, below
	if err != nil {
		return nil, err
	}
	nodes, err := proof.Inclusion(leaf, p.head.Size)
	if err != nil {
		return nil, err
	}
	hashes, err := path(nodes, p.nodes.node)
	if err == nil {
		err = p.check(leaf, entry, hashes)
	}
	return &receipt.Receipt{Entry: entry, Chain: p.chain, Index: leaf, Path: hashes, Checkpoint: p.note}, err
}

// check verifies that an entry is the leaf under the checkpoint.
func (p *Prover) check(leaf uint64, entry []byte, hashes []hash) error {
	h := receipt.LeafHash(entry)
	siblings := make([][]byte, len(hashes))
	for i := range hashes {
		siblings[i] = hashes[i][:]
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, leaf, p.head.Size, h[:], siblings, p.head.Root[:]); err != nil {
		return deny(keystead.ReasonStoreCorrupt, "entry "+strconv.FormatUint(leaf, 10), "the leaf under root "+p.head.Root.String(), err.Error())
	}
	return nil
}

// Consistency proves that the tree of an older checkpoint is the start of this one's.
func (p *Prover) Consistency(old []byte) (*receipt.Consistency, error) {
	from, err := receipt.ParseCheckpoint(old)
	if err != nil {
		return nil, err
	}
	nodes, err := proof.Consistency(from.Size, p.head.Size)
	if err != nil {
		return nil, err
	}
	hashes, err := path(nodes, p.nodes.node)
	return &receipt.Consistency{Chain: p.chain, Path: hashes, Old: old, New: p.note}, err
}

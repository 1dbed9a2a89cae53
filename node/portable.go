package node

import (
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

var _ replica.Portable = (*machine)(nil)

// Positions implements replica.Portable.
func (x *machine) Positions(state replica.View) (replica.Positions, error) {
	v := ledger.NewView(state)
	version, err := v.EntryVersion()
	if err != nil || version < 4 {
		return replica.Positions{}, err
	}
	p, err := v.Positions()
	out := replica.Positions{InUse: true, Stable: p.Stable}
	if n := len(p.Kept); n > 0 {
		out.Newest = p.Kept[n-1].Index
	}
	return out, err
}

// Pairs implements replica.Portable.
func (x *machine) Pairs(state replica.View, from []byte, yield func(key, value []byte) bool) error {
	return ledger.NewView(state).Pairs(from, yield)
}

// Outline implements replica.Portable. What says who may vouch is the chain of rosters.
func (x *machine) Outline(state replica.View) (o replica.Outline, err error) {
	v := ledger.NewView(state)
	runs, err := v.Runs()
	if err != nil {
		return o, err
	}
	o = replica.Outline{Size: runs.Size, Root: runs.Root, Runs: runs.Hashes}
	chain, err := v.Rosters()
	o.Proof = receipt.EncodeChain(chain)
	return o, err
}

// Run implements replica.Portable.
func (x *machine) Run(state replica.View, number uint64) ([][]byte, error) {
	return ledger.NewView(state).Run(number)
}

// Take implements replica.Portable.
func (x *machine) Take(o replica.Outline) (replica.Taker, error) {
	runs := ledger.Runs{Size: o.Size, Root: o.Root, Hashes: o.Runs}
	if err := runs.Verify(); err != nil {
		return nil, err
	}
	return &taker{machine: x, proof: o.Proof, leaves: ledger.NewLeaves(runs)}, nil
}

// taker takes in the entries of a ledger.
type taker struct {
	machine *machine
	proof   []byte
	leaves  *ledger.Leaves
}

func (t *taker) Add(w *replica.Batch, entries [][]byte) error {
	return t.leaves.Add(entries, writer{w})
}

// Done opens the ledger as it will be opened, and compares its rosters with those by which
// the state was vouched for.
func (t *taker) Done(state replica.View) error {
	if _, err := ledger.Open(state, t.machine.domain); err != nil {
		return err
	}
	o, err := t.machine.Outline(state)
	if err == nil && string(o.Proof) != string(t.proof) {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonSnapshotUnproven, Where: "rosters of the state", Want: "those by which it was vouched for", Got: "others"})
	}
	return err
}

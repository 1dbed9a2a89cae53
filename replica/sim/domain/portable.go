package domain

import (
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

var _ replica.Portable = (*machine)(nil)

// Position implements replica.StateMachine.
func (x *machine) Position(command []byte) bool { return ledger.IsPosition(command) }

// Positions implements replica.Portable.
func (x *machine) Positions(state replica.View) (replica.Positions, error) {
	p, err := ledger.NewView(state).Positions()
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

// Outline implements replica.Portable.
func (x *machine) Outline(state replica.View) (o replica.Outline, err error) {
	v := ledger.NewView(state)
	runs, err := v.Runs()
	if err != nil {
		return o, err
	}
	chain, err := v.Rosters()
	o = replica.Outline{Size: runs.Size, Root: runs.Root, Runs: runs.Hashes}
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
	return taker{x, ledger.NewLeaves(runs)}, runs.Verify()
}

// taker takes in the entries of a ledger.
type taker struct {
	machine *machine
	leaves  *ledger.Leaves
}

func (t taker) Add(w *replica.Batch, entries [][]byte) error { return t.leaves.Add(entries, writer{w}) }

func (t taker) Done(state replica.View) error {
	_, err := ledger.Open(state, t.machine.id)
	return err
}

// rosterOf returns the last roster of a chain that proves itself from the genesis entry.
func (d *Domain) rosterOf(proof []byte) (r receipt.Roster, err error) {
	chain, err := receipt.ParseChain(proof)
	if err != nil {
		return r, err
	}
	_, rosters, err := receipt.VerifyChain(chain, d.id)
	if err != nil {
		return r, err
	}
	return rosters[len(rosters)-1], nil
}

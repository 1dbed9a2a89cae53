package domain

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
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
	for _, e := range chain {
		o.Proof = cursor.AppendSized32(o.Proof, e)
	}
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
	c := cursor.New("roster chain", binary.BigEndian, proof)
	var g receipt.Genesis
	var before []byte
	for i := uint64(0); c.Len() > 0 && err == nil; i++ {
		entry := c.Sized32(receipt.MaxEntry, "entry")
		switch {
		case c.Err() != nil:
			return r, c.Err()
		case i == 0:
			g, err = receipt.VerifyGenesis(entry, d.id)
			r = g.Roster
		default:
			var next receipt.Change
			next, err = g.VerifyChange(entry, d.id, i, keystead.Sum(before), &r)
			r = next.Roster
		}
		before = entry
	}
	return r, err
}

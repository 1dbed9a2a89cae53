package ledger_test

import (
	"fmt"
	"testing"

	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// A put is executed, applied, put under a checkpoint, and proven.
func Example() {
	d := newDomain(&testing.T{}, 3) // keys, a store, and a machine that has applied the genesis entry

	request := ledger.RequestID{ID: [16]byte{1}, Deadline: d.machine.Clock() + 10_000}
	put := ledger.Op{Key: "colour", Value: []byte("red"), Compare: &ledger.Compare{Absent: true}}
	t, err := ledger.Execute(ledger.NewView(d.store), request, []ledger.Op{put})
	if err != nil {
		fmt.Println(err)
		return
	}
	entry, err := t.Entry()
	if err != nil {
		fmt.Println(err)
		return
	}
	d.perLog, d.log = 1, append(d.log, ledger.Committed{Index: 2, Term: 1, Data: entry})
	w := newBatch()
	applied, err := d.machine.Apply(d.log[1:], w)
	if err != nil {
		fmt.Println(err)
		return
	}
	d.store.commit(w)
	fmt.Println("leaf", applied.Results[0].Leaf, "known before:", applied.Results[0].ID == receipt.LeafHash(entry))

	d.checkpoint("node-1", "node-2") // two of three nodes sign the tree head
	proof := d.receipt(applied.Results[0].Leaf)
	p, err := receipt.NewVerifier(d.id).Verify(proof)
	fmt.Println(p.Kind, p.Index, "of", p.Head.Size, err)
	// Output:
	// leaf 1 known before: true
	// transaction 1 of 2 <nil>
}

package node

import (
	"crypto/rand"
	"testing"

	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/replica"
)

// TestReplacedState: a node whose state a snapshot replaced compares anew. What others said
// that the state before had not is no proof against them once they agree with this one.
func TestReplacedState(t *testing.T) {
	n := single(t)
	k, err := key.NewNode(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	log := ownLog{n.core}.Log()
	tree, ok, err := n.headAt(n.machine.size())
	if err != nil || !ok {
		t.Fatalf("no tree: %v", err)
	}
	other := log
	other.Hash[0] ^= 1
	for _, replaced := range []bool{false, true} {
		name := map[bool]string{false: "n2", true: "n3"}[replaced]
		says := func(l heads.Log) (p *heads.Proof) {
			err := n.compareHeads(func(b *heads.Book, own heads.Own) (err error) {
				p, err = b.Hear(heads.New(k, name, l, tree), k.Public(), true, own, now())
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		if p := says(other); p != nil {
			t.Fatalf("one statement is proof: %v", p)
		}
		if replaced { // as the store does when it turns to another state
			if err := n.replica.View(func(v replica.View) error { return n.states.opened(ledger.NewView(v)) }); err != nil {
				t.Fatal(err)
			}
		}
		if p := says(log); (p == nil) != replaced {
			t.Errorf("after a snapshot %v: proof %v", replaced, p)
		}
	}
}

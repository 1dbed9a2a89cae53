package domain

import (
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// machine makes a ledger the state machine of a simulated host.
type machine struct {
	id     keystead.Digest
	m      *ledger.Machine
	asked  uint64   // the largest size of the tree that some node has signed
	clocks []uint64 // domain clocks of ticks that were applied and not looked at yet

	suspended map[string]bool // subjects

	confirmed
	opens int // how often a state was opened
}

// Open implements replica.StateMachine.
func (x *machine) Open(state replica.View, _ uint64) (err error) {
	if x.m, err = ledger.Open(state, x.id); err != nil {
		return err
	}
	s, err := ledger.NewView(state).Status()
	x.reopen(s)
	x.asked = 0
	x.opens++
	return err
}

// writer adds the errors that replica.Batch has no need for.
type writer struct{ b *replica.Batch }

func (w writer) Set(k, v []byte) error { w.b.Set(k, v); return nil }
func (w writer) Delete(k []byte) error { w.b.Delete(k); return nil }

// Apply implements replica.StateMachine.
func (x *machine) Apply(w *replica.Batch, commands []replica.Command, results [][]byte) ([][]byte, error) {
	entries := make([]ledger.Committed, len(commands))
	for i := range commands {
		entries[i] = ledger.Committed(commands[i])
	}
	a, err := x.m.Apply(entries, writer{w})
	if err != nil {
		return results, err
	}
	for i, r := range a.Results {
		if r.Kind == receipt.KindSuspension && r.Recorded {
			if s, err := ledger.ParseSuspension(commands[i].Data); err == nil {
				x.suspended[s.Host] = true
			}
		}
		results = append(results, r.Append(nil))
		if r.Kind == receipt.KindTick && r.Err == nil {
			x.clocks = append(x.clocks, x.m.Clock())
		}
	}
	if a.Voted != nil {
		x.asked = max(x.asked, a.Voted.Size)
	}
	return results, nil
}

// standing is a log and a tree, as heads compares by.
type standing struct {
	store *replica.Store
	m     *machine
}

// Log implements heads.Own.
func (s standing) Log() heads.Log {
	c, index := s.store.Chain()
	return heads.Log{Era: c.Era, Start: c.Start, Index: index, Hash: c.Hash}
}

// Link implements heads.Own.
func (s standing) Link(index uint64) (keystead.Digest, bool) { return s.store.Link(index) }

// Head implements heads.Own.
func (s standing) Head(size uint64) (receipt.TreeHead, bool, error) {
	if size == 0 || size > s.m.m.Size() {
		return receipt.TreeHead{}, false, nil
	}
	h, err := s.m.m.Head(size)
	return h, true, err
}

// says signs where it stands.
func (s standing) says(n *Node) (heads.Statement, bool) {
	size := s.m.m.Size()
	tree, ok, err := s.Head(size)
	if err != nil || !ok {
		return heads.Statement{}, false
	}
	return heads.New(n.key, n.name, s.Log(), tree), true
}

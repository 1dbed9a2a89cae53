package node

import (
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// effect says which leaf the effective entry of a proposal became.
type effect struct {
	proposal keystead.Digest
	outcome  part.Outcome
	at       time.Time
}

// effect takes note of an entry that was applied, if it is an effective one.
func (h *heard) effect(r *ledger.Result, entry []byte) {
	if r.Kind != receipt.KindEffective || !r.Recorded {
		return
	}
	if e, err := ledger.ParseEffective(entry); err == nil {
		h.effects = append(h.effects, effect{proposal: e.Verdict.Proposal, outcome: part.Outcome{Applied: true, Leaf: r.Leaf, ID: r.ID}, at: time.Now()})
	}
}

// effects remembers, as long as the ledger remembers proposals, what became of each:
// its leaf is what a receipt is asked for.
type effects struct {
	mu    sync.Mutex
	by    map[keystead.Digest]part.Outcome
	order []effect // the oldest first
}

func (x *effects) hear(news []effect) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.by == nil {
		x.by = map[keystead.Digest]part.Outcome{}
	}
	for _, e := range news {
		x.by[e.proposal] = e.outcome
	}
	x.order = append(x.order, news...)
	for len(x.order) > 0 && time.Since(x.order[0].at) > 2*courtPatience {
		delete(x.by, x.order[0].proposal)
		x.order = x.order[1:]
	}
}

// of completes the outcome of a proposal that took effect. The leaf is 0 if that
// came to this node within a snapshot.
func (x *effects) of(proposal []byte, o part.Outcome) part.Outcome {
	x.mu.Lock()
	defer x.mu.Unlock()
	if known, ok := x.by[keystead.Sum(proposal)]; ok && o.Applied {
		return known
	}
	return o
}

// enrolled returns the outcome of a roster change that is in force, or was: handed
// in again, because its first answer was lost, it is answered the same.
func (n *Node) enrolled(entry []byte) (part.Outcome, bool) {
	change, err := receipt.ParseChange(entry)
	if err != nil {
		return part.Outcome{}, false // some other entry
	}
	if _, sequence, _ := n.machine.roster(); change.Sequence == 0 || change.Sequence > sequence {
		return part.Outcome{}, false
	}
	o := part.Outcome{Applied: true, ID: receipt.LeafHash(entry)}
	same := false
	err = n.view(func(v ledger.View) error {
		known, leaf, err := v.Roster(change.Sequence)
		same, o.Leaf = err == nil && keystead.Sum(known) == keystead.Sum(entry), leaf
		return err
	})
	return o, err == nil && same
}

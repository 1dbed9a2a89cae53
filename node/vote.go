package node

import (
	"errors"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
)

// Checkpoints: one node signs the tree as it stands and sends its signature through
// the log; whoever applies that signs the tree of the same size. The leader begins,
// at most every voteEvery; if it does not, any other node does after voteLate.
const (
	voteEvery = 25 * time.Millisecond
	voteLate  = 100 * time.Millisecond
)

// voter knows which sizes this node has signed and which it was asked to.
type voter struct {
	mu     sync.Mutex
	wake   chan struct{}
	size   uint64 // of the tree
	asked  uint64 // the largest size that another node has signed
	signed uint64 // the largest that this one has
}

// hear takes note of applied entries.
func (v *voter) hear(h heard) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.size = h.size
	if h.voted != nil {
		v.asked = max(v.asked, h.voted.Size)
	}
	if v.wake == nil {
		v.wake = make(chan struct{}, 1)
	}
	if v.asked > v.signed || v.size > v.signed {
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
}

func (v *voter) channel() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.wake == nil {
		v.wake = make(chan struct{}, 1)
	}
	return v.wake
}

// next returns the size to sign now, or 0 and how long to wait before asking again;
// 0 for until something is applied.
func (v *voter) next(leads bool, last, now time.Time) (size uint64, wait time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.asked > v.signed {
		return v.asked, 0
	}
	if v.size == v.signed {
		return 0, 0
	}
	due := voteLate
	if leads {
		due = voteEvery
	}
	if wait := due - now.Sub(last); wait > 0 {
		return 0, wait
	}
	return v.size, 0
}

func (v *voter) done(size uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.signed = max(v.signed, size)
}

// voteLoop signs checkpoints.
func (n *pulse) voteLoop() {
	wake := n.voter.channel()
	last := time.Now()
	for {
		s := n.replica.Status()
		size, wait := n.voter.next(s.Leader == s.ID, last, time.Now())
		if size > 0 {
			last = time.Now()
			if n.vote(size) {
				continue
			}
			wait = voteLate // the log did not take it
		}
		if wait == 0 {
			wait = time.Hour
		}
		timer := time.NewTimer(wait)
		select {
		case <-wake:
		case <-timer.C:
		case <-n.running.Done():
		}
		timer.Stop()
		if n.running.Err() != nil {
			return
		}
	}
}

// vote signs the tree at a size, if this node has a key for it: a tree from before the
// roster of now is signed by the keys of then, and soon followed by a larger one. It
// reports false if the signature did not reach the log and is to be sent again.
func (n *pulse) vote(size uint64) bool {
	head, ok, err := n.headAt(size)
	if err == nil && !ok {
		return false // a snapshot put an earlier state here, which has to grow again
	}
	if err != nil {
		n.log.Warn("checkpoint not signed", "size", size, "because", err)
	} else if k, err := n.signer(); err != nil && !errors.Is(err, keystead.ReasonKeyPending) {
		return false // the gate is closed: once it is open, the tree may not have grown
	} else if err == nil && n.machine.signs(head) {
		vote := ledger.NewVote(k, n.name, head)
		if !n.proposeOwn(func() ([]byte, error) { return vote.Entry(), nil }) {
			return false
		}
	}
	n.voter.done(size)
	return true
}

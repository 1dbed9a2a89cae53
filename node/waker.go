package node

import (
	"context"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// heights are how far the state has come.
type heights struct {
	applied uint64 // log index
	size    uint64 // leaves of the tree
	covered uint64 // leaves under the newest checkpoint that a majority signed
}

func heightsOf(v ledger.View) (h heights, err error) {
	s, err := v.Status()
	if err != nil {
		return h, err
	}
	h.applied, h.size = s.Applied, s.Size
	note, err := v.Checkpoint()
	if err != nil || note == nil {
		return h, err
	}
	head, err := receipt.ParseCheckpoint(note)
	h.covered = head.Size
	return h, err
}

// waker looks at how far the state has come, once for all who wait for that: a thousand
// waiting calls cost no more than one.
type waker struct {
	mu      sync.Mutex
	seen    heights // as last looked at
	waiting map[*sleeper]bool
	awake   bool          // a goroutine looks, as long as somebody waits
	kick    chan struct{} // has it look at once
}

type sleeper struct {
	enough func(heights) bool
	woken  chan error
}

// wakePatience is how long a look is put off when no bell rang: one may have rung before the
// state showed what it rang for.
const wakePatience = 100 * time.Millisecond

// reach waits until the state has come far enough.
func (b *books) reach(ctx context.Context, enough func(heights) bool) error {
	w, s := &b.waker, &sleeper{enough, make(chan error, 1)}
	w.mu.Lock()
	if enough(w.seen) { // the state never goes back
		w.mu.Unlock()
		return nil
	}
	if w.waiting == nil {
		w.waiting, w.kick = map[*sleeper]bool{}, make(chan struct{}, 1)
	}
	w.waiting[s] = true
	if !w.awake {
		w.awake = true
		go b.look()
	}
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default: // it is about to look
	}
	select {
	case err := <-s.woken:
		return err
	case <-ctx.Done():
	}
	w.mu.Lock()
	delete(w.waiting, s)
	w.mu.Unlock()
	return ctx.Err()
}

// look wakes those for whom the state has come far enough, until nobody waits.
func (b *books) look() {
	w := &b.waker
	for {
		rung := b.grown.wait()
		var now heights
		err := b.view(func(v ledger.View) (err error) {
			now, err = heightsOf(v)
			return err
		})
		select {
		case <-b.replica.Done():
			err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "node"})
		default:
		}
		w.mu.Lock()
		if err == nil {
			w.seen = now
		}
		for s := range w.waiting {
			if err != nil || s.enough(now) {
				delete(w.waiting, s)
				s.woken <- err
			}
		}
		w.awake = len(w.waiting) > 0
		done := !w.awake
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-rung:
		case <-w.kick:
		case <-time.After(wakePatience):
		case <-b.replica.Done():
		}
	}
}
